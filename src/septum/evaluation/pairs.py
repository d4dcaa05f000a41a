"""Pair predicted files with their truth, by names alone. No image is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from septum.errors import DataError, UsageError
from septum.folders import check_spelling
from septum.io.annotations.formats import drawn_format
from septum.io.files import images_below, list_images
from septum.io.formats import format_path, image_stem, split_scene
from septum.pairing.drawn import drawn_below, match_drawn, no_image
from septum.pairing.folders import BySubfolder, by_subfolder, match_below, match_by_subfolder
from septum.pairing.foreign import ForeignFile, unread_images
from septum.pairing.names import composed
from septum.words import list_some

_TRUTH = re.compile(r"man_(seg|track)_?(\d+)(?:_(\d+))?\.tiff?", re.IGNORECASE)
_SEQUENCE = re.compile(r"(\d+)_(GT|ST)", re.IGNORECASE)
_RESULT = re.compile(r"mask\d+", re.IGNORECASE)


@dataclass(frozen=True)
class ScoredPair:
    """One predicted file and its truth.

    Attributes
    ----------
    name
        Unique among the pairs of one prediction, and the same for the same truth in another prediction.
    predicted, truth
        The files.
    ignore
        Mask of pixels that do not count, or None.
    sequence
        Sequence of the Cell Tracking Challenge, otherwise ``""``.
    section
        Z slice of the prediction that the truth belongs to; None for the whole.
    markers
        True if the truth holds tracking markers (DET), not outlines.
    """

    name: str
    predicted: Path
    truth: Path
    ignore: Path | None = None
    sequence: str = ""
    section: int | None = None
    markers: bool = False


@dataclass(frozen=True)
class ScoredPairs:
    """The pairs of one prediction, and the files without a partner.

    Attributes
    ----------
    predicted
        File or folder of the predictions.
    items
        The pairs in natural order.
    challenge
        True if the truth has the layout of the Cell Tracking Challenge: it may contain only some of the objects.
    missing
        Truth files without a prediction.
    unscored
        Predictions without truth.
    unread
        Files of formats that are not read, in the folders of predictions and of truth.
    """

    predicted: Path
    items: tuple[ScoredPair, ...]
    challenge: bool
    missing: tuple[Path, ...]
    unscored: tuple[Path, ...]
    unread: tuple[ForeignFile, ...] = ()


def pair_with_truth(predicted: Path, truth: Path, *, ignore: Path | None = None) -> ScoredPairs:
    """Pair predicted files with truth files.

    Parameters
    ----------
    predicted, truth
        Two files; two folders, matched by name as images and masks are; or results and truth of the Cell Tracking
        Challenge: ``01_RES`` (or any folder of numbered frames) and ``01_GT``, ``01_GT/SEG``, or the two data sets.
    ignore
        One mask for all, or a folder of masks named like the truth.

    Raises
    ------
    UsageError
        If a path does not exist or one is a folder and the other a file.
    DataError
        If nothing fits.
    """
    for path in (predicted, truth, *([] if ignore is None else [ignore])):
        if not split_scene(path)[0].exists():
            raise UsageError(f"{format_path(path)} does not exist", "a file or a folder", check_spelling(path))
    if predicted.is_dir() and drawn_format(truth) is not None:
        pairs = _drawn(predicted, [truth], truth.parent)
        return pairs if ignore is None else _with_ignored(pairs, ignore)
    if predicted.is_dir() != truth.is_dir():
        given = f"{format_path(predicted)} and {format_path(truth)}: one is a folder, the other a file"
        raise UsageError(given, "two files or two folders", "name the file inside the folder, or both folders")
    if truth.is_dir() and (folders := _sequences(truth)):
        pairs = _challenge(predicted, folders)
    elif truth.is_dir():
        pairs = _folders(predicted, truth)
    else:
        pairs = ScoredPairs(
            predicted, (ScoredPair(image_stem(truth), predicted, truth),), challenge=False, missing=(), unscored=()
        )
    return pairs if ignore is None else _with_ignored(pairs, ignore)


def _folders(predicted: Path, truth: Path) -> ScoredPairs:
    if not images_below(truth) and (drawn := drawn_below(truth)):
        return _drawn(predicted, drawn, truth)
    files, truths = list_images([predicted]), list_images([truth])
    matches = match_below(predicted, truth)
    pairs, missing, unscored = matches.pairs, matches.masks_left, matches.images_left
    if not pairs:
        # "cell1_mask.tif" for the truth "cell1.tif": the ending for masks is on the other side.
        turned = match_below(truth, predicted)
        pairs, missing, unscored = [(p, t) for t, p in turned.pairs], turned.images_left, turned.masks_left
    if not pairs:
        first, second = (list_some((format_path(p.name) for p in paths), 3) for paths in (files, truths))
        raise DataError(
            f"no prediction fits a truth by name: predictions {first}; truth {second}",
            "names alike, such as cell1.tif and cell1.tif or cell1_mask.tif",
            "rename the predictions after the truth",
        )
    items = tuple(ScoredPair(_name(t, truth), p, t) for p, t in pairs)
    unread = (*unread_images(predicted), *unread_images(truth))
    return ScoredPairs(predicted, items, False, tuple(missing), tuple(unscored), unread)


def _drawn(predicted: Path, truths: Sequence[Path], root: Path) -> ScoredPairs:
    """Pair predicted files with files of drawn objects."""
    matches = match_drawn(images_below(predicted), truths, predicted, root)
    if not matches.pairs:
        raise no_image(matches.images_left, matches.masks_left)
    items = tuple(ScoredPair(_name(image, predicted), image, place) for image, place in matches.pairs)
    return ScoredPairs(predicted, items, False, tuple(matches.masks_left), tuple(matches.images_left))


def _name(path: Path, folder: Path) -> str:
    """Return the stem of a file, with the subfolders of `folder` that it lies in."""
    return (path.relative_to(folder).parent / composed(image_stem(path))).as_posix()


def _sequences(truth: Path) -> dict[str, Path]:
    """Return the truth folders of the challenge by sequence; silver truth only where there is no gold truth."""
    if _has_truth(truth):
        named = _SEQUENCE.fullmatch(truth.absolute().name) or _SEQUENCE.fullmatch(truth.absolute().parent.name)
        return {named[1] if named else "": truth}
    folders: dict[str, Path] = {}
    for folder in sorted(p for p in truth.iterdir() if p.is_dir()):
        named = _SEQUENCE.fullmatch(folder.name)
        if named and _has_truth(folder):
            folders.setdefault(named[1], folder)  # "01_GT" sorts before "01_ST"
    return folders


def _has_truth(folder: Path) -> bool:
    return bool(_truths(folder))


def _truths(folder: Path) -> list[tuple[int, int | None, bool, Path]]:
    """Return (frame, slice, True for markers, file) of the truth in `folder`, its ``SEG`` and its ``TRA``."""
    truths = []
    for place in (folder, folder / "SEG", folder / "TRA"):
        for path in place.iterdir() if place.is_dir() else ():
            if hit := _TRUTH.fullmatch(path.name):
                truths.append((int(hit[2]), int(hit[3]) if hit[3] else None, hit[1].lower() == "track", path))
    return sorted(truths, key=lambda t: (t[2], t[0], -1 if t[1] is None else t[1]))


def _challenge(predicted: Path, folders: dict[str, Path]) -> ScoredPairs:
    items: list[ScoredPair] = []
    missing: list[Path] = []
    unscored: list[Path] = []
    for sequence, folder in folders.items():
        frames = _frames(_results(predicted, sequence, alone=len(folders) == 1))
        truths = _truths(folder)
        for frame, section, markers, path in truths:
            if frame in frames:
                name = f"{sequence}_{path.stem}".lstrip("_")
                items.append(ScoredPair(name, frames[frame], path, None, sequence, section, markers))
            else:
                missing.append(path)
        scored = {frame for frame, *_ in truths}
        unscored += [path for frame, path in frames.items() if frame not in scored]
    if not items:
        raise DataError(
            f"{format_path(predicted)}: no frame that the truth names, such as {format_path(missing[0].name)}",
            "results named by frame, such as mask002.tif or t002.tif",
            "name the folder that holds them",
        )
    return ScoredPairs(predicted, tuple(items), challenge=True, missing=tuple(missing), unscored=tuple(unscored))


def _results(predicted: Path, sequence: str, *, alone: bool) -> Path:
    """Return the folder with the frames of a sequence."""
    for name in (f"{sequence}_RES", sequence):
        if sequence and (predicted / name).is_dir():
            return predicted / name
    if alone:
        return predicted
    raise UsageError(
        f"{format_path(predicted)}: no results of sequence {sequence}",
        f"a folder {sequence}_RES in it",
        "name the truth of one sequence, or put the results into one folder per sequence",
    )


def _frames(folder: Path) -> dict[int, Path]:
    """Return the result files by the frame number at the end of the name; only ``maskTTT`` files if there are any."""
    files = list_images([folder])
    official = [p for p in files if _RESULT.fullmatch(image_stem(p))]
    frames: dict[int, Path] = {}
    for path in official or files:
        number = re.search(r"\d+$", image_stem(path))
        if number is None:
            continue
        frame = int(number[0])
        if frame in frames:
            raise DataError(
                f"{format_path(folder)}: {frames[frame].name} and {path.name} are both of frame {frame}",
                "one result per frame",
                "move one of them away",
            )
        frames[frame] = path
    return frames


def _with_ignored(pairs: ScoredPairs, ignore: Path) -> ScoredPairs:
    if not ignore.is_dir():
        masks: dict[Path, Path] = dict.fromkeys((i.truth for i in pairs.items), ignore)
    else:
        truths: BySubfolder = {}
        for item in pairs.items:
            truths.setdefault(tuple(Path(item.name.casefold()).parent.parts), []).append(item.truth)
        masks = dict(match_by_subfolder(truths, by_subfolder(images_below(ignore), ignore)).pairs)
        if lacking := [i.truth for i in pairs.items if i.truth not in masks]:
            raise DataError(
                f"{format_path(ignore)}: no mask for {format_names(lacking)}",
                "one mask for each truth, named alike",
                "add an empty mask where every pixel counts",
            )
    items = tuple(
        ScoredPair(i.name, i.predicted, i.truth, masks[i.truth], i.sequence, i.section, i.markers) for i in pairs.items
    )
    return replace(pairs, items=items)


def format_names(paths: Sequence[Path], folder: Path | None = None) -> str:
    """Return the first three names, with the subfolders of `folder` they lie in, and the number of further ones."""
    listed = ", ".join(format_path(_below(path, folder)) for path in paths[:3])
    return listed if len(paths) <= 3 else f"{listed} and {len(paths) - 3} more"


def _below(path: Path, folder: Path | None) -> str:
    return path.relative_to(folder).as_posix() if folder is not None and folder in path.parents else path.name
