"""Files without a partner, unreadable files, and files that are no plain pair of image and mask.

Sets of retinal vessels have masks of the field of view: pixels outside are not annotated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.check.issues import IssueKind, Observation
from septum.check.reading import Files
from septum.check.statistics import PairStatistics
from septum.errors import SeptumError
from septum.folders import leads_nowhere
from septum.io.annotations.raster import Filled, list_names
from septum.pairing.foreign import annotations_beside
from septum.pairing.names import mask_key, stem_key
from septum.pairing.pair import Pairing
from septum.words import list_some, pluralize

UNPAIRED_IMAGE = IssueKind(
    "unpaired-image",
    "warning",
    "image",
    "without a mask",
    "left out",
    todo="draw a mask for each, or give its mask the name of the image",
)
UNPAIRED_MASK = IssueKind(
    "unpaired-mask",
    "warning",
    "mask",
    "without an image",
    "left out",
    todo="add the image of each, or give each the name of its image",
)
DEEPER_IMAGE = IssueKind(
    "deeper-image",
    "warning",
    "image",
    "in a subfolder, while other images lie directly in the folder that also holds the masks",
    "passed over, with their masks",
    todo="move each to the other images",
)
UNREAD_FORMAT = IssueKind(
    "unread-format",
    "warning",
    "file",
    "of a format that is not read",
    "passed over",
    todo="save images as PNG or TIFF, volumes as NIfTI or OME-TIFF",
)
UNREADABLE = IssueKind(
    "unreadable", "warning", "file", "that cannot be read", "left out", todo="export each again", leaves_out=True
)
NOT_FETCHED = IssueKind(
    "not-fetched",
    "warning",
    "link",
    "that leads nowhere",
    "left out",
    todo="fetch the files, as with `git annex get` or `datalad get`",
    leaves_out=True,
)
GOLD_UNREADABLE = IssueKind(
    "gold-unreadable", "warning", "gold mask", "that cannot be read", "not used for scores", todo="export each again"
)
SECOND_ANNOTATOR = IssueKind(
    "second-annotator", "mended", "mask", "of a second annotator", "those of the first annotator are used"
)
MASK_FOLDER = IssueKind("mask-folder", "mended", "mask", "with one file per object", "each file is one object")
SPARE_DRAWN = IssueKind(
    "spare-drawn", "mended", "file", "of drawn objects for an image that has a mask", "the mask is used"
)
DRAWN = IssueKind("drawn", "mended", "mask", "of drawn objects", "filled by the centers of pixels")
DRAWN_OVERLAP = IssueKind(
    "drawn-overlap", "mended", "mask", "with drawn objects that overlap", "the later one is on top"
)
DRAWN_CUT = IssueKind("drawn-cut", "mended", "mask", "with drawn objects across the border", "they are cut there")
DRAWN_NOTE = IssueKind("drawn-note", "mended", "mask", "with objects of a special kind", "read as named here")
DRAWN_CLASSES = IssueKind("drawn-classes", "mended", mend="each object gets an id")
NAMED_CLASSES = IssueKind("named-classes", "mended", mend="the names are kept with the model")
UNNAMED_CLASS = IssueKind(
    "unnamed-class", "warning", mend="learned as a class of its own", todo="correct the masks, or name it there"
)
CLASS_NAMES = IssueKind("class-names", "mended", mend="numbered in the order of their names")
DRAWN_REFUSED = IssueKind(
    "drawn-refused",
    "warning",
    "mask",
    "with shapes that are not objects",
    "the shapes are left out",
    todo="draw outlines around these objects, or delete the shapes",
)
DRAWN_HIDDEN = IssueKind(
    "drawn-hidden",
    "warning",
    "mask",
    "with drawn objects that later ones cover entirely",
    "these objects are lost",
    todo="change the order of the objects, or delete duplicates",
)
FIELD_OF_VIEW = IssueKind(
    "field-of-view", "mended", "mask", "of the field of view", "pixels outside are read as not annotated"
)
FIELD_UNUSABLE = IssueKind(
    "field-unusable",
    "warning",
    "mask",
    "of the field of view that cannot be used",
    "left out",
    todo="export each again in the size of its image",
)
_NAMED = 5
NOTHING_LEFT = IssueKind(
    "nothing-left", "error", text="no pair is left to train on", todo="repair the files that are named here"
)
ALL_TO_FIX = IssueKind(
    "all-to-fix", "error", text="no pair can be trained on as it is", fix="repairs the pairs that are named here"
)
KINDS = (
    UNPAIRED_IMAGE,
    UNPAIRED_MASK,
    DEEPER_IMAGE,
    UNREAD_FORMAT,
    UNREADABLE,
    NOT_FETCHED,
    GOLD_UNREADABLE,
    SECOND_ANNOTATOR,
    MASK_FOLDER,
    SPARE_DRAWN,
    DRAWN,
    DRAWN_OVERLAP,
    DRAWN_CUT,
    DRAWN_NOTE,
    DRAWN_CLASSES,
    CLASS_NAMES,
    NAMED_CLASSES,
    UNNAMED_CLASS,
    DRAWN_REFUSED,
    DRAWN_HIDDEN,
    FIELD_OF_VIEW,
    FIELD_UNUSABLE,
    NOTHING_LEFT,
    ALL_TO_FIX,
)


def detect(pairing: Pairing, pairs: Sequence[PairStatistics]) -> Iterator[Observation]:
    """Yield files without a partner, masks of a second annotator or of no field of view, and masks of several files."""
    unannotated = [p.image for p in pairing.pairs if p.mask is None and p.gold is None]
    alone = (*pairing.unmatched_images, *unannotated)
    drawn = annotations_beside(alone) if pairing.layout in ("folders", "files") else {}
    for path in alone:
        beside = drawn.get(path)
        text = "" if beside is None else f"but {beside.path.name} of {beside.kind}, not an image: {beside.todo}"
        yield Observation(NOT_FETCHED, path) if leads_nowhere(path) else Observation(UNPAIRED_IMAGE, path, text)
    counts = Counter((file.kind, file.path.parent.name) for file in pairing.unread)
    where = ", ".join(f"{count} {suffix} in {folder}" for (suffix, folder), count in counts.items())
    for file in pairing.unread:
        yield Observation(UNREAD_FORMAT, file.path, text=f"{UNREAD_FORMAT.text} ({where})")
    deeper = {stem_key(path) for path, role in pairing.set_aside if role == "subfolder"}
    for path in pairing.unmatched_masks:
        if leads_nowhere(path):
            yield Observation(NOT_FETCHED, path)
        elif deeper.isdisjoint((stem_key(path), mask_key(path))):
            yield Observation(UNPAIRED_MASK, path)
    for path, role in pairing.set_aside:
        if role == "second annotator":
            yield Observation(SECOND_ANNOTATOR, path)
        elif role == "drawn objects":
            yield Observation(SPARE_DRAWN, path)
        elif role == "subfolder":
            yield Observation(DEEPER_IMAGE, path)
        elif role == "field of view":
            yield Observation(FIELD_UNUSABLE, path, "no image of this name")
    for pair in pairs:
        if pair.mask.is_dir() and pair.mask_stats is not None:
            objects = pluralize(len(pair.census[0].values), "object") if pair.census else ""
            yield Observation(MASK_FOLDER, pair.mask, objects)


def detect_in_pair(pair: PairStatistics) -> Iterator[Observation]:
    """Yield the files of a pair that cannot be read, and its mask of the field of view: used, or not usable."""
    for path, reason in pair.unreadable:
        if path not in (pair.image, pair.mask):
            yield Observation(GOLD_UNREADABLE, path, short_reason(reason, path))
        elif leads_nowhere(path):
            yield Observation(NOT_FETCHED, path)
        else:
            yield Observation(UNREADABLE, path, short_reason(reason, path))
    if pair.image_stats is None or pair.mask_stats is None:
        return
    if pair.mask_stats.filled is not None:
        yield from _detect_drawn(pair.mask, pair.mask_stats.filled)
    if pair.field is not None:
        yield Observation(FIELD_OF_VIEW, pair.field)
    if pair.unusable_field is not None:
        path, reason = pair.unusable_field
        yield Observation(FIELD_UNUSABLE, path, short_reason(reason, path))


def _detect_drawn(path: Path, filled: Filled) -> Iterator[Observation]:
    """Yield the issues of drawn objects: their number, overlaps, hidden objects, and shapes that are no object."""
    yield Observation(DRAWN, path, f"{filled.program}, {pluralize(filled.objects, 'object')}")
    if filled.overlapping:
        yield Observation(DRAWN_OVERLAP, path, f"{filled.overlapping} on others, {filled.overlap_px} pixels")
    if filled.hidden:
        yield Observation(DRAWN_HIDDEN, path, list_some(filled.hidden, _NAMED))
    if filled.cut:
        yield Observation(DRAWN_CUT, path, list_some(filled.cut, _NAMED))
    if filled.refused:
        yield Observation(DRAWN_REFUSED, path, list_names(filled.refused))
    for note in filled.notes:
        yield Observation(DRAWN_NOTE, path, note)


def detect_classes(
    pairing: Pairing, pairs: Sequence[PairStatistics], numbers: Mapping[str, int] | None
) -> Iterator[Observation]:
    """Yield the names of classes: those of ``dataset.json``, and those of drawn objects or that they are not used.

    Parameters
    ----------
    pairing, pairs
        The files, and all pairs.
    numbers
        Number of each class by its name, if the classes are read; None if each object is.
    """
    if pairing.notes is not None:
        text = ", ".join(f"{value} {name}" for value, name in pairing.notes.names.items())
        yield Observation(NAMED_CLASSES, text=f"dataset.json names the classes {text}")
        met = {value for pair in pairs for c in pair.census for value in c.values}
        if unnamed := sorted(met - {*pairing.notes.names, *pairing.notes.ignore}) if pairing.notes.names else []:
            yield Observation(UNNAMED_CLASS, text=f"dataset.json names no class {list_some(unnamed, _NAMED)}")
    filled = [pair.mask_stats.filled for pair in pairs if pair.mask_stats and pair.mask_stats.filled]
    names = sorted({name for one in filled for name in one.classes})
    if numbers is not None:
        text = ", ".join(f"{number} {name or '(no class)'}" for name, number in numbers.items())
        yield Observation(CLASS_NAMES, text=f"drawn objects are read as the classes {text}")
    elif len(names) > 1:
        listed = list_some([name or "(no class)" for name in names], _NAMED)
        text = f"drawn objects are of {len(names)} classes ({listed}), which --kind classes learns"
        yield Observation(DRAWN_CLASSES, text=text)


def detect_none_left(trained: int, fixable: int) -> Iterator[Observation]:
    """Yield an error if there is no pair to train on; `fixable` pairs are left out until the copy repairs them."""
    if not trained:
        yield Observation(ALL_TO_FIX if fixable else NOTHING_LEFT)


def short_reason(reason: str, path: Path) -> str:
    """Return the first line of an error without the name of its file, which the issue names already."""
    first = reason.splitlines()[0]
    return first.split(": ", 1)[1] if first.startswith(str(path)) and ": " in first else first


def with_usable_field(pair: PairStatistics, files: Files) -> PairStatistics:
    """Return the pair with its field of view only if the field fits image and mask, else with the reason."""
    if pair.field is None or pair.image_stats is None or pair.mask_stats is None:
        return pair
    try:
        inside = files.field(pair.field, pair.image_stats.sides)
        labels = files.labels(pair.mask, pair.grid)
    except SeptumError as error:
        return replace(pair, field=None, unusable_field=(pair.field, error.given))
    drawn = [frame.array > 0 for frame in labels if frame.array.shape == inside.shape]
    if 2 * sum(np.count_nonzero(d & inside) for d in drawn) >= sum(np.count_nonzero(d) for d in drawn):
        return pair
    return replace(pair, field=None, unusable_field=(pair.field, "most labeled pixels lie outside"))


def mark_outside(frames: NDArray[np.int32], path: Path, files: Files) -> NDArray[np.int32]:
    """Set pixels outside the field of view to `UNANNOTATED`.

    Parameters
    ----------
    frames
        ``(T, *S)`` int32, labels.
    path
        Mask of the field of view.
    files
        Reader of the data set.

    Returns
    -------
    frames
        ``(T, *S)`` int32, the same labels or `UNANNOTATED`.
    """
    return np.where(files.field(path, frames.shape[1:]), frames, np.int32(UNANNOTATED))
