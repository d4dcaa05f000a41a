"""How the paper's three results are measured again: data, splits, scores, and the published figures beside ours.

A protocol is cut into parts: one training each, with what it is trained on and what its model predicts. No image that
is scored is ever among those that its model was trained on, chosen by, or tuned with. docs/reproduction.md says why
each split is as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from septum.errors import DataError, UsageError
from septum.io.open import list_images, read_image
from septum.io.paths import format_path, natural_key
from septum.pairing import ctc
from septum.pairing.pair import Pair

Variant = Literal["gold", "silver"]

# With one sequence only: its first frames train, a gap keeps near copies apart, gold frames of the rest are scored.
TRAIN_SHARE, GAP_SHARE = 0.6, 0.05


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes
    ----------
    score
        As `septum.evaluate.evaluate.evaluate` names it.
    unet
        The U-Net of 2015.
    next_best
        The best other method in the same table; None where the paper names none.
    """

    score: str
    unet: float
    next_best: float | None


@dataclass(frozen=True)
class Protocol:
    """What is fixed about one result.

    Attributes
    ----------
    name, title
        As a person types it, and in words.
    folder
        Name that the data have inside a folder of several data sets.
    metric
        Of `septum.evaluate.evaluate.evaluate`.
    kind
        What masks hold.
    scores
        Names of the scores that are reported, the main one first.
    published
        Figures of the paper.
    tta
        Whether predictions are averaged over turned and mirrored images, as the paper did.
    differs
        What sets our figures apart from those of the paper, whatever the data at hand.
    """

    name: str
    title: str
    folder: str
    metric: Literal["isbi", "ctc"]
    kind: Literal["objects", "classes"]
    scores: tuple[str, ...]
    published: tuple[Published, ...]
    tta: bool
    differs: str


_CTC_DIFFERS = (
    "The paper's figure is of the challenge's own test sequences, whose truth is secret; ours are of frames of its "
    "training sequences that the model never saw."
)
PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            name="isbi2012",
            title="ISBI 2012: membranes in electron microscopy",
            folder="isbi2012",
            metric="isbi",
            kind="classes",
            scores=("V_Rand", "V_Info", "pixel error", "Rand error (2014)", "warping error"),
            published=(
                Published("warping error", 0.000353, 0.000355),
                Published("Rand error (2014)", 0.0382, 0.0305),
                Published("pixel error", 0.0611, 0.0584),
            ),
            tta=True,
            differs=(
                "The paper's figures are of the 30 test sections, ours of the 30 training sections, each predicted by "
                "a model that saw neither it nor its block of neighbors."
            ),
        ),
        Protocol(
            name="dic-hela",
            title="DIC-C2DH-HeLa: HeLa cells on glass",
            folder="DIC-C2DH-HeLa",
            metric="ctc",
            kind="objects",
            scores=("SEG",),
            published=(Published("SEG", 0.7756, 0.46),),
            tta=False,
            differs=_CTC_DIFFERS,
        ),
        Protocol(
            name="phc-u373",
            title="PhC-C2DH-U373: glioblastoma cells in phase contrast",
            folder="PhC-C2DH-U373",
            metric="ctc",
            kind="objects",
            scores=("SEG",),
            published=(Published("SEG", 0.9203, 0.83),),
            tta=False,
            differs=_CTC_DIFFERS,
        ),
    )
}


@dataclass(frozen=True)
class ProtocolPart:
    """One training of a protocol.

    Attributes
    ----------
    name
        Unique; the name of its folder.
    says
        What it is, in one sentence.
    training
        Files to train on, each with its place in a data folder.
    held_out
        Names of the images that choose the best weights; None: as training chooses.
    inputs
        Images to predict.
    results
        Folder for the predictions, below ``predicted/``; ``""`` is that folder itself.
    truth
        Files of truth for `inputs`, each with its place below ``truth/``.
    test
        The inputs are test sections whose truth is not part of the protocol.
    """

    name: str
    says: str
    training: tuple[tuple[Path, str], ...]
    held_out: tuple[str, ...] | None
    inputs: tuple[Path, ...]
    results: str = ""
    truth: tuple[tuple[Path, str], ...] = ()
    test: bool = False
    notes: tuple[str, ...] = field(default=())


def section_parts(data: Path, folds: int) -> list[ProtocolPart]:
    """Return the parts of a data set of sections: contiguous folds, and all of it for the test sections.

    Parameters
    ----------
    data
        A folder with ``train/images``, ``train/masks`` and, where test sections are at hand, ``test/images``.
    folds
        Blocks of neighboring sections, each predicted by a model that was trained on the others.

    Raises
    ------
    DataError
        If masks are missing.
    UsageError
        If there are fewer sections than folds.
    """
    images, masks = (list_images([data / "train" / part]) for part in ("images", "masks"))
    if [p.stem for p in images] != [p.stem for p in masks]:
        raise DataError(
            f"{format_path(data / 'train')}: {len(images)} images and {len(masks)} masks that are not named alike",
            "a mask for each section",
            "get the data again: septum data isbi2012",
        )
    if not 2 <= folds <= len(images):
        raise UsageError(f"--folds {folds} of {len(images)} sections", f"2 to {len(images)}", "give another --folds")
    parts = []
    for number, block in enumerate(np.array_split(np.arange(len(images)), folds), start=1):
        held = {int(i) for i in block}
        rest = [i for i in range(len(images)) if i not in held]
        parts.append(
            ProtocolPart(
                name=f"fold-{number}",
                says=f"trains on {len(rest)} sections, predicts {images[block[0]].stem} to {images[block[-1]].stem}",
                training=_sections([images[i] for i in rest], [masks[i] for i in rest]),
                held_out=(),
                inputs=tuple(images[i] for i in sorted(held)),
                truth=tuple((masks[i], masks[i].name) for i in sorted(held)),
            )
        )
    tests = list_images([data / "test" / "images"]) if (data / "test" / "images").is_dir() else []
    if tests:
        says = f"trains on all {len(images)} sections, predicts the {len(tests)} test sections"
        training = _sections(images, masks)
        parts.append(ProtocolPart("final", says, training, held_out=(), inputs=tuple(tests), test=True))
    return parts


def _sections(images: Sequence[Path], masks: Sequence[Path]) -> tuple[tuple[Path, str], ...]:
    return tuple(
        (path, f"{kind}/{path.name}") for kind, paths in (("images", images), ("masks", masks)) for path in paths
    )


def sequence_parts(data: Path, variant: Variant) -> list[ProtocolPart]:
    """Return the parts of a data set of the Cell Tracking Challenge.

    Two sequences with gold truth: train on each, predict the gold frames of the other. One: train on its first 60 %,
    leave a gap of 5 %, predict the gold frames of the rest.

    Parameters
    ----------
    data
        The folder with ``01``, ``01_GT``, ...
    variant
        What is trained on: ``"gold"``, the frames that people annotated, with the tracking markers, by which training
        finds those that name only some of their cells; without markers those that name fewer than the silver truth
        are left out. ``"silver"``: all frames, with the truth that the challenge computed from the results of its
        participants.

    Raises
    ------
    DataError
        If there is no truth of the kind that is asked for.
    """
    sequences = [s for s in ctc.sequences(data) if ctc.truth_folder(data / f"{s.name}_GT")]
    if not sequences:
        raise DataError(f"{format_path(data)}: no sequence with gold truth", "01 and 01_GT/SEG", "get the data again")
    frames = {s.name: ctc.pair_sequences([s]).pairs for s in sequences}
    if len(sequences) >= 2:
        first, second = sequences[0].name, sequences[1].name
        return [
            _sequence_part(one, other, frames[one], _gold(frames[other]), variant)
            for one, other in ((first, second), (second, first))
        ]
    (name,) = frames
    count = len(frames[name])
    end, begin = int(TRAIN_SHARE * count), int(TRAIN_SHARE * count) + int(GAP_SHARE * count)
    note = f"only sequence {name} is at hand: {begin - end} frames between training and test are left out"
    tests = _gold(frames[name][begin:])
    if not tests:
        raise DataError(
            f"{format_path(data)}: no gold truth after frame {begin}", "gold frames to score", "get both sequences"
        )
    return [_sequence_part(name, name, frames[name][:end], tests, variant, notes=(note,))]


def _gold(pairs: Sequence[Pair]) -> list[Pair]:
    return [p for p in pairs if _gold_file(p) is not None]


def _gold_file(pair: Pair) -> Path | None:
    """Return the gold truth of a frame: `mask` is it where there is no silver one."""
    path = pair.gold or pair.mask
    return path if path is not None and path.parent.parent.name.upper().endswith("_GT") else None


def _silver_file(pair: Pair) -> Path | None:
    return pair.mask if pair.mask is not None and pair.mask.parent.parent.name.upper().endswith("_ST") else None


def _sequence_part(
    one: str,
    other: str,
    training: Sequence[Pair],
    tests: Sequence[Pair],
    variant: Variant,
    *,
    notes: tuple[str, ...] = (),
) -> ProtocolPart:
    """Return the training on frames of sequence `one` whose model predicts frames of sequence `other`."""
    files: list[tuple[Path, str]] = []
    used = [p for p in training if (_gold_file(p) if variant == "gold" else _silver_file(p))]
    if variant == "gold":
        partial = [p for p in used if not _markers(p) and not _named_in_full(p)]
        used = [p for p in used if p not in partial]
        if partial:
            left = ", ".join(p.image.stem for p in partial)
            notes = (*notes, f"gold frames that name only some of their cells are not trained on: {left}")
    if not used:
        raise DataError(f"sequence {one}: no frame with {variant} truth to train on", "some", "try the other --variant")
    for pair in used:
        files.append((pair.image, f"{one}/{pair.image.name}"))
        gold, silver = _gold_file(pair), _silver_file(pair)
        if gold is not None:
            files.append((gold, f"{one}_GT/SEG/{gold.name}"))
        if variant == "gold" and (tracked := _markers(pair)):  # they tell training which cells are not named
            files.append((tracked, f"{one}_GT/TRA/{tracked.name}"))
        if silver is not None and variant == "silver":
            files.append((silver, f"{one}_ST/SEG/{silver.name}"))
    golds = [(gold, f"{other}_GT/SEG/{gold.name}") for p in tests if (gold := _gold_file(p))]
    return ProtocolPart(
        name=f"train-{one}",
        says=f"trains on {len(used)} frames of sequence {one} ({variant} truth), predicts {len(tests)} of {other}",
        training=tuple(files),
        held_out=None,
        inputs=tuple(p.image for p in tests),
        results=f"{other}_RES",
        truth=tuple(golds),
        notes=notes,
    )


def _markers(pair: Pair) -> Path | None:
    gold = _gold_file(pair)
    return None if gold is None else ctc.markers(gold)


def _named_in_full(pair: Pair) -> bool:
    """Say whether the gold truth of a frame names as many objects as its silver truth, if it has one."""
    gold, silver = _gold_file(pair), _silver_file(pair)
    assert gold is not None
    return silver is None or _count(gold) >= _count(silver)


def _count(path: Path) -> int:
    values = np.unique(read_image(path, labels=True).array)
    return int((values > 0).sum())


def find_data(protocol: Protocol, folder: Path) -> Path:
    """Return the folder of a protocol's data: `folder`, or the one inside it that is named after the data set.

    Raises
    ------
    UsageError
        If it is not there; how to fetch it is said.
    """
    candidates = [folder, folder / protocol.folder, folder / protocol.name]
    for candidate in candidates:
        if candidate.is_dir() and _looks_right(protocol, candidate):
            return candidate
    layout = "train/images, train/masks and test/images" if protocol.metric == "isbi" else "01, 01_GT/SEG and 01_ST/SEG"
    if protocol.metric == "isbi":
        layout += ", or train-volume.tif, train-labels.tif and test-volume.tif"
    raise UsageError(
        f"{format_path(folder)}: does not hold the data of {protocol.name}",
        f"a folder with {layout}",
        f"name it with --data, or fetch it: septum data {protocol.name}",
    )


def _looks_right(protocol: Protocol, folder: Path) -> bool:
    if protocol.metric == "ctc":
        return bool(ctc.sequences(folder))
    return (folder / "train" / "images").is_dir() or stacks_at(folder) is not None


def stacks_at(folder: Path) -> Path | None:
    """Return the folder of the challenge's stacks that `folder` is or holds; None if there is none."""
    for candidate in (folder, *sorted((p for p in folder.iterdir() if p.is_dir()), key=natural_key)):
        if (candidate / "train-volume.tif").is_file() and (candidate / "train-labels.tif").is_file():
            return candidate
    return None
