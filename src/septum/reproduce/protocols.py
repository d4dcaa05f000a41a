"""Protocols of the three results of the paper: data, splits, scores, and the published figures.

A protocol consists of parts, one training each, with its training images and the images that its model predicts. No
scored image is among those that its model was trained on, selected by or tuned with. docs/explanation/reproduction.md
gives the reasons for each split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from septum.errors import DataError, UsageError
from septum.io.files import list_images, read_image
from septum.io.formats import format_path, natural_key
from septum.pairing import ctc
from septum.pairing.pair import Pair
from septum.reproduce.settings import DatasetName, Variant
from septum.settings import MaskKind

# With one sequence only: its first frames are for training, a gap separates near-duplicates, gold frames of the rest
# are scored.
TRAIN_SHARE, GAP_SHARE = 0.6, 0.05


@dataclass(frozen=True)
class Published:
    """A figure of the paper: the score, its value of the U-Net of 2015, and that of the best other method or None."""

    score: str
    unet: float
    next_best: float | None


@dataclass(frozen=True)
class Protocol:
    """The fixed conditions of one result.

    Attributes
    ----------
    name, title : str
        Name on the command line, and a description.
    folder : str
        Name of the data set in a folder of several data sets.
    metric : str
        Group of scores of `septum.evaluation.evaluate.evaluate`.
    kind : str
        Meaning of the mask values.
    scores : tuple of str
        Names of the reported scores, the main one first.
    published : tuple of Published
        Figures of the paper.
    tta : bool
        Whether predictions are averaged over rotated and mirrored images, as in the paper.
    differs : str
        Difference of the conditions from those of the paper, for every data set.
    """

    name: DatasetName
    title: str
    folder: str
    metric: Literal["isbi", "ctc"]
    kind: MaskKind
    scores: tuple[str, ...]
    published: tuple[Published, ...]
    tta: bool
    differs: str


_CTC_DIFFERS = (
    "The figure of the paper is of the test sequences of the challenge, whose truth is secret; ours is of frames of "
    "its training sequences that the model was not trained on."
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
                "The figures of the paper are of the 30 test sections, ours of the 30 training sections, each "
                "predicted by a model that was trained neither on it nor on its block of adjacent sections."
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
    name : str
        Unique name; that of its folder.
    description : str
        Description in one sentence.
    training : tuple
        Files to train on, each with its place in a data folder.
    held_out : tuple of str or None
        Names of the images of the validation set; None: as training chooses.
    inputs : tuple of Path
        Images to predict.
    results : str
        Folder for the predictions, below ``predicted/``; ``""`` is that folder itself.
    truth : tuple
        Files of truth for `inputs`, each with its place below ``truth/``.
    test : bool
        Whether the inputs are test sections, whose truth is not part of the protocol.
    notes : tuple of str
        Notes on this part for readers of the figures.
    """

    name: str
    description: str
    training: tuple[tuple[Path, str], ...]
    held_out: tuple[str, ...] | None
    inputs: tuple[Path, ...]
    results: str = ""
    truth: tuple[tuple[Path, str], ...] = ()
    test: bool = False
    notes: tuple[str, ...] = ()


def section_parts(data: Path, folds: int) -> list[ProtocolPart]:
    """Return the parts of a data set of sections: contiguous folds, and one training on all for the test sections.

    Parameters
    ----------
    data
        A folder with ``train/images``, ``train/masks`` and, if there are test sections, ``test/images``.
    folds
        Number of blocks of adjacent sections; each is predicted by a model that was trained on the others.

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
            f"{format_path(data / 'train')}: {len(images)} images and {len(masks)} masks with different names",
            "a mask for each section",
            "get the data again: septum fetch isbi2012",
        )
    if not 2 <= folds <= len(images):
        raise UsageError(
            f"--folds {folds} of {len(images)} sections", f"2 to {len(images)}", "give another number of --folds"
        )
    parts = []
    for number, block in enumerate(np.array_split(np.arange(len(images)), folds), start=1):
        held = {int(i) for i in block}
        rest = [i for i in range(len(images)) if i not in held]
        parts.append(
            ProtocolPart(
                name=f"fold-{number}",
                description=f"trains on {len(rest)} sections, predicts {images[block[0]].stem} to "
                f"{images[block[-1]].stem}",
                training=_sections([images[i] for i in rest], [masks[i] for i in rest]),
                held_out=(),
                inputs=tuple(images[i] for i in sorted(held)),
                truth=tuple((masks[i], masks[i].name) for i in sorted(held)),
            )
        )
    tests = list_images([data / "test" / "images"]) if (data / "test" / "images").is_dir() else []
    if tests:
        description = f"trains on all {len(images)} sections, predicts the {len(tests)} test sections"
        training = _sections(images, masks)
        parts.append(ProtocolPart("final", description, training, held_out=(), inputs=tuple(tests), test=True))
    return parts


def _sections(images: Sequence[Path], masks: Sequence[Path]) -> tuple[tuple[Path, str], ...]:
    return tuple(
        (path, f"{kind}/{path.name}") for kind, paths in (("images", images), ("masks", masks)) for path in paths
    )


def sequence_parts(data: Path, variant: Variant) -> list[ProtocolPart]:
    """Return the parts of a data set of the Cell Tracking Challenge.

    With two sequences that have gold truth, each is trained on once and predicts the gold frames of the other. With
    one, its first 60 % are trained on, 5 % are left out, and the gold frames of the rest are predicted.

    Parameters
    ----------
    data
        The folder with ``01``, ``01_GT``, ...
    variant
        Truth to train on. ``"gold"``: frames annotated by people, with the tracking markers, by which training
        recognizes incomplete frames; without markers, frames with fewer cells than the silver truth are left out.
        ``"silver"``: all frames, with the truth that the challenge computed from the results of its participants.

    Raises
    ------
    DataError
        If there is no truth of this kind.
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
    note = f"only sequence {name} is available: {begin - end} frames between training and test are left out"
    tests = _gold(frames[name][begin:])
    if not tests:
        raise DataError(
            f"{format_path(data)}: no gold truth after frame {begin}", "gold frames to score", "get both sequences"
        )
    return [_sequence_part(name, name, frames[name][:end], tests, variant, notes=(note,))]


def _gold(pairs: Sequence[Pair]) -> list[Pair]:
    return [p for p in pairs if _gold_file(p) is not None]


def _gold_file(pair: Pair) -> Path | None:
    """Return the gold truth of a frame; it is the `mask` of a pair without silver truth."""
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
    """Return the part that trains on frames of sequence `one` and predicts frames of sequence `other`."""
    files: list[tuple[Path, str]] = []
    used = [p for p in training if (_gold_file(p) if variant == "gold" else _silver_file(p))]
    if variant == "gold":
        incomplete = [p for p in used if not _markers(p) and not _is_complete(p)]
        used = [p for p in used if p not in incomplete]
        if incomplete:
            left = ", ".join(p.image.stem for p in incomplete)
            notes = (*notes, f"incomplete gold frames are not trained on: {left}")
    if not used:
        raise DataError(
            f"sequence {one}: no frame with {variant} truth", "frames to train on", "try the other --variant"
        )
    for pair in used:
        files.append((pair.image, f"{one}/{pair.image.name}"))
        gold, silver = _gold_file(pair), _silver_file(pair)
        if gold is not None:
            files.append((gold, f"{one}_GT/SEG/{gold.name}"))
        if variant == "gold" and (tracked := _markers(pair)):  # training recognizes missing cells by them
            files.append((tracked, f"{one}_GT/TRA/{tracked.name}"))
        if silver is not None and variant == "silver":
            files.append((silver, f"{one}_ST/SEG/{silver.name}"))
    golds = [(gold, f"{other}_GT/SEG/{gold.name}") for p in tests if (gold := _gold_file(p))]
    return ProtocolPart(
        name=f"train-{one}",
        description=f"trains on {len(used)} frames of sequence {one} ({variant} truth), "
        f"predicts {len(tests)} of {other}",
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


def _is_complete(pair: Pair) -> bool:
    """Return True if the gold truth of a frame has as many objects as its silver truth, or there is none."""
    gold, silver = _gold_file(pair), _silver_file(pair)
    assert gold is not None
    return silver is None or _count_objects(gold) >= _count_objects(silver)


def _count_objects(path: Path) -> int:
    values = np.unique(read_image(path, labels=True).array)
    return int((values > 0).sum())


def find_data(protocol: Protocol, folder: Path) -> Path:
    """Return the folder of the data of a protocol: `folder`, or the one in it that is named after the data set.

    Raises
    ------
    UsageError
        If there is none; with the command that downloads it.
    """
    candidates = [folder, folder / protocol.folder, folder / protocol.name]
    for candidate in candidates:
        if candidate.is_dir() and _has_layout(protocol, candidate):
            return candidate
    layout = "train/images, train/masks and test/images" if protocol.metric == "isbi" else "01, 01_GT/SEG and 01_ST/SEG"
    if protocol.metric == "isbi":
        layout += ", or train-volume.tif, train-labels.tif and test-volume.tif"
    raise UsageError(
        f"{format_path(folder)}: does not hold the data of {protocol.name}",
        f"a folder with {layout}",
        f"give it with --data, or download it: septum fetch {protocol.name}",
    )


def _has_layout(protocol: Protocol, folder: Path) -> bool:
    if protocol.metric == "ctc":
        return bool(ctc.sequences(folder))
    return (folder / "train" / "images").is_dir() or stacks_at(folder) is not None


def stacks_at(folder: Path) -> Path | None:
    """Return the folder with the stacks of the challenge, `folder` or one in it; None if there is none."""
    for candidate in (folder, *sorted((p for p in folder.iterdir() if p.is_dir()), key=natural_key)):
        if (candidate / "train-volume.tif").is_file() and (candidate / "train-labels.tif").is_file():
            return candidate
    return None
