"""Sequences of the Cell Tracking Challenge: ``01/tTTT.tif`` with ``01_GT/SEG`` (gold) and ``01_ST/SEG`` (silver)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from septum.errors import DataError
from septum.io.formats import format_path, natural_key
from septum.pairing.pair import Pair, Pairing

_FRAME = re.compile(r"t(\d+)\.tiff?", re.IGNORECASE)
_TRUTH = re.compile(r"man_seg_?(\d+)(?:_(\d+))?\.tiff?", re.IGNORECASE)


def sequences(folder: Path) -> list[Path]:
    """Return the annotated sequences of a data set, in natural order."""
    folders = [p for p in folder.iterdir() if p.is_dir() and is_sequence(p)]
    return sorted(folders, key=natural_key)


def is_sequence(folder: Path) -> bool:
    """Return True if `folder` is an annotated sequence: ``01`` with ``01_GT/SEG`` or ``01_ST/SEG`` beside it."""
    here = folder.absolute()
    return here.name.isdecimal() and any(
        (here.parent / f"{here.name}_{kind}" / "SEG").is_dir() for kind in ("GT", "ST")
    )


def truth_folder(folder: Path) -> Path | None:
    """Return the folder of ``man_seg`` files that `folder` is or holds in ``SEG``; None if there is none."""
    for candidate in (folder, folder / "SEG"):
        if candidate.is_dir() and any(_TRUTH.fullmatch(p.name) for p in candidate.iterdir()):
            return candidate
    return None


def has_frames(folder: Path) -> bool:
    """Return True if `folder` holds frames ``tTTT.tif``."""
    return any(_FRAME.fullmatch(p.name) for p in folder.iterdir())


def markers(gold: Path) -> Path | None:
    """Return the tracking markers of a frame, one for each of its objects, by its gold mask; None if there are none."""
    hit = _TRUTH.fullmatch(gold.name)
    if hit is None or hit.group(2) is not None:
        return None
    path = gold.parent.parent / "TRA" / f"man_track{hit.group(1)}{gold.suffix}"
    return path if path.is_file() else None


def pair_sequences(folders: Sequence[Path]) -> Pairing:
    """Pair the frames of sequences with the truth beside them.

    The mask is silver where it exists, else gold; gold is gold. A frame with several gold slices (3D) makes one pair
    per slice, of which only the first has the silver mask, so that no frame is trained on twice. Frames without any
    truth are pairs without a mask.
    """
    pairs: list[Pair] = []
    strays: list[Path] = []
    for folder in folders:
        here = folder.absolute()
        truths = {kind: here.parent / f"{here.name}_{kind}" / "SEG" for kind in ("GT", "ST")}
        more, stray = pair_frames(folder, gold=truths["GT"], silver=truths["ST"])
        pairs += more
        strays += stray
    return Pairing(tuple(pairs), "ctc", unmatched_masks=tuple(strays), objects=True)


def pair_frames(folder: Path, *, gold: Path | None, silver: Path | None) -> tuple[list[Pair], list[Path]]:
    """Pair the frames of one sequence with folders of ``man_seg`` files.

    Returns
    -------
    pairs
        See `pair_sequences`.
    strays
        Truth without a frame.

    Raises
    ------
    DataError
        If there is no frame, or two files have the same number.
    """
    frames = {key[0]: path for key, path in _numbered(folder, _FRAME).items()}
    if not frames:
        raise DataError(
            f"{format_path(folder)}: holds no frame",
            "frames named t000.tif, t001.tif, ...",
            "give the frames these names, with the numbers of their truth",
        )
    silvers = _numbered(silver, _TRUTH)
    golds: dict[int, list[tuple[int | None, Path]]] = {}
    strays = [path for key, path in silvers.items() if key[0] not in frames]
    for (frame, section), path in _numbered(gold, _TRUTH).items():
        if frame in frames:
            golds.setdefault(frame, []).append((section, path))
        else:
            strays.append(path)
    pairs = []
    group = folder.absolute().name
    for frame, image in frames.items():
        name = f"{group}_{image.stem}"
        mask = silvers.get((frame, None))
        truths = golds.get(frame, [(None, None)])
        for number, (section, truth) in enumerate(truths):
            unique = name if len(truths) == 1 else f"{name}_z{section:03d}" if section is not None else f"{name}_all"
            own = truth if mask is None else mask if number == 0 else None
            pairs.append(Pair(unique, image, own, truth, section, group, frame))
    return pairs, strays


def _numbered(folder: Path | None, pattern: re.Pattern[str]) -> dict[tuple[int, int | None], Path]:
    """Return the files of `folder` by (frame, slice or None), in this order."""
    files: dict[tuple[int, int | None], Path] = {}
    paths = sorted(folder.iterdir(), key=natural_key) if folder is not None and folder.is_dir() else []
    for path in paths:
        hit = pattern.fullmatch(path.name)
        if hit is None:
            continue
        section = hit.group(2) if pattern.groups > 1 else None
        key = (int(hit.group(1)), None if section is None else int(section))
        if key in files:
            raise DataError(
                f"{format_path(path.parent)}: {files[key].name} and {path.name} have the same number",
                "one file per frame",
                "remove one of the two",
            )
        files[key] = path
    return dict(sorted(files.items(), key=lambda item: (item[0][0], -1 if item[0][1] is None else item[0][1])))
