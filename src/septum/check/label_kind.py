"""Decide from the values of all masks together whether they hold object ids or classes, and read them accordingly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED, connected_components
from septum.check.background import background_value, common_surrounding, ignored_255, rims
from septum.check.census import Census, attached, own_traits
from septum.check.issues import IssueKind, Observation
from septum.check.masks import COLOR, color_of
from septum.check.statistics import PairStatistics
from septum.errors import DataError
from septum.io.selection import EVERYTHING, Selection
from septum.settings import MaskKind
from septum.words import list_some, pluralize

CLASS_VALUES = IssueKind("class-values", "mended", mend="numbered from 0")
MASK_MIXED = IssueKind(
    "mask-mixed", "mended", text="some masks hold 0 and 1, others 0 and 255", mend="both are read as 0 and 1"
)
IGNORE_255 = IssueKind("ignore-255", "mended", text="255 beside classes numbered from 0", mend="read as not annotated")
IGNORE_RIM = IssueKind("ignore-rim", "mended", mend="read as not annotated")
PIECES = IssueKind(
    "pieces", "mended", text="all objects have the same value", mend="each connected piece is one object"
)
MASK_BINARY = IssueKind(
    "mask-binary", "mended", "mask", "of one value among masks of ids", "each connected piece is one object"
)
KIND_GUESS = IssueKind("kind-guess", "warning")
KIND_UNCLEAR = IssueKind("kind-unclear", "error", todo="give --kind objects or --kind classes")
NO_LABELS = IssueKind("no-labels", "error", todo="draw at least one object or a second class")
TOO_MANY_CLASSES = IssueKind("too-many-classes", "error", todo="if the values are object ids, give --kind objects")
KINDS = (
    CLASS_VALUES,
    MASK_MIXED,
    IGNORE_255,
    IGNORE_RIM,
    PIECES,
    MASK_BINARY,
    KIND_GUESS,
    KIND_UNCLEAR,
    NO_LABELS,
    TOO_MANY_CLASSES,
)

_MOST_CLASSES = 254  # a target is uint8, and 255 is ignored
_WHOLE = 0.75  # share of values in one piece, from which masks may hold ids
_MANY = 64  # more values than this are no classes, unless the user names classes
_FEW = 4
_MOST_PARTS = 16  # values that one structure may have in all sections of a stack; more are cells
_SURE = 8  # images, from which statistics over images are no guess
_NAMED_VALUES = 8


@dataclass(frozen=True)
class LabelKind:
    """Meaning of the values of all masks.

    Attributes
    ----------
    kind
        ``"objects"`` (ids) or ``"classes"``.
    values
        Values of the classes, rising; empty for objects.
    ignore
        Values that mean not annotated, beside -1.
    reason
        One phrase for the report: ``"object ids, 14 to 124 per image"``.
    guess
        The values do not decide it.
    unclear
        Why neither kind fits, as a phrase; ``""`` otherwise.
    pieces
        All objects have one value: each connected piece is one object.
    mixed
        Some masks hold 0 and 1, others 0 and 255, and both mean the same.
    sure
        The layout of the folders implies that masks hold ids.
    background
        Value of the background of masks of ids without 0; 0 if they have none or hold 0.
    """

    kind: MaskKind
    values: tuple[int, ...]
    ignore: tuple[int, ...]
    reason: str
    guess: bool = False
    unclear: str = ""
    pieces: bool = False
    mixed: bool = False
    sure: bool = False
    background: int = 0


@dataclass(frozen=True)
class Rules:
    """How the files of a data set become samples, decided once from all of them.

    Attributes
    ----------
    kind
        ``"objects"``: masks hold ids, 0 background. ``"classes"``.
    class_values
        Value of class k where labels are written; k = 0 is background (or the lowest value). ``(0, 1)`` for objects;
        for masks in color the numbers of the classes.
    mask_values
        Value of class k in the masks as `septum.check.masks.read_labels` reads them; empty for objects.
    ignore
        Mask values that mean not annotated, beside -1: those of the user and those that were found.
    pieces
        All objects have one value: each connected piece becomes an object.
    mixed
        Masks of classes hold two values, 0 and another one, which is not the same everywhere.
    channels, rank
        Of all samples; rank 2 (images) or 3 (volumes).
    gray_as_color
        Gray images among color ones: their channel is repeated.
    pixel_size_um
        Median pixel size per axis, in micrometers; empty if unknown.
    mends
        Codes of all issues that are mended.
    read_axes
        Axes by which image files are read whose own axes do not hold; ``""``: the axes of the files.
    class_names
        Name of each class of `class_values`, where the files state them; empty where they do not.
    selection
        Channels of the image files, and the level of slides and other pyramids, that are read.
    """

    kind: MaskKind
    class_values: tuple[int, ...]
    mask_values: tuple[int, ...]
    ignore: tuple[int, ...]
    pieces: bool
    mixed: bool
    channels: int
    rank: int
    gray_as_color: bool
    pixel_size_um: dict[str, float]
    mends: tuple[str, ...]
    read_axes: str = ""
    class_names: tuple[str, ...] = ()
    selection: Selection = EVERYTHING

    @property
    def reading(self) -> dict[str, Any]:
        """What the header of a model says about how its images are read."""
        named = {name: getattr(self, name) for name in ("class_names", "gray_as_color", "read_axes")}
        read = self.selection
        return {**named, "read_channels": read.channels, "read_level": read.level, "read_um": read.pixel_size}


def detect(label_kind: LabelKind, masks: Sequence[Census], pairs: Sequence[PairStatistics]) -> Iterator[Observation]:
    """Yield issues of the meaning of the mask values of a data set."""
    values = {v for m in masks for v in m.values} | ({0} if any(m.background for m in masks) else set())
    if not values - {0}:
        yield Observation(NO_LABELS, text="every mask is empty: there is nothing to learn")
        return
    if label_kind.unclear:
        yield Observation(KIND_UNCLEAR, text=f"masks hold {label_kind.unclear}")
    elif label_kind.guess:
        other = "classes" if label_kind.kind == "objects" else "objects"
        text = f"masks are read as {label_kind.reason}, but this is a guess; if it is wrong, add --kind {other}"
        yield Observation(KIND_GUESS, text=text)
    if label_kind.kind == "objects":
        if label_kind.pieces:
            yield Observation(PIECES)
        for pair in pairs:
            if pair.binary_frames:
                yield Observation(MASK_BINARY, pair.mask)
    elif len(label_kind.values) < 2:
        text = f"every mask holds {label_kind.values[0]} only: there is nothing to distinguish"
        yield Observation(NO_LABELS, text=text)
    elif len(label_kind.values) > _MOST_CLASSES:
        text = f"{len(label_kind.values)} classes, more than {_MOST_CLASSES}"
        yield Observation(TOO_MANY_CLASSES, text=text)
    elif label_kind.mixed:
        yield Observation(MASK_MIXED)
    elif label_kind.values != tuple(range(len(label_kind.values))) and label_kind.values[-1] < COLOR:
        text = f"classes have the values {list_some(label_kind.values, _NAMED_VALUES)}"
        yield Observation(CLASS_VALUES, text=text)
    if label_kind.ignore and label_kind.values == tuple(range(len(label_kind.values))) != ():
        yield Observation(IGNORE_255)
    elif label_kind.ignore:
        yield Observation(IGNORE_RIM, text=f"{label_kind.ignore[0]} only along the borders of other values")


def with_binary_frames(pairs: Mapping[int, PairStatistics], label_kind: LabelKind) -> dict[int, PairStatistics]:
    """Return the pairs, by index, with the frames of a set of ids in which all objects have one value."""
    return {
        index: replace(pair, binary_frames=tuple(t for t, c in enumerate(pair.census) if is_binary(c, label_kind)))
        for index, pair in pairs.items()
    }


def infer_label_kind(
    masks: Sequence[Census], *, objects: bool | None = None, kind: MaskKind | None = None, sources: int | None = None
) -> LabelKind:
    """Infer from all masks whether their values are object ids or classes.

    The user (`kind`), the mask files that state it, and the layout of the folders (`objects`) decide first, in this
    order; files that contradict one another, or plain values (`is_plain`), leave it unclear. Otherwise, in this order:

    1. One value beside the background, in all masks: classes. Whether its pieces are objects cannot be known.
       Masks of 0 and 1 beside masks of 0 and 255 mean the same.
    2. Consecutive values from 0, and 255: 255 is not annotated, as many tools write it. So is 255, or 65535, that lies
       only along the borders of other values, as in Pascal VOC.
    3. Values that mostly lie in several pieces each: classes, since an id names one object. More than 64 of them are
       neither (typical of smoothed masks).
    4. Values in one piece each: ids, unless each value has a place, a size or a brightness of its own in every image
       (`septum.check.census.own_traits`), or up to four values touch one another nearly wherever several are in an
       image, as parts of one structure do. These are classes. A decision from fewer than eight images, from touching,
       for up to four values as ids, or against traits that are likely, is a guess, and reported as one. Pages of one
       stack show the same structures again, in which ids keep their places as organs do: from fewer than three stacks
       or separate images, more than 16 values are ids.

    Masks of ids without 0 may have another value for the background (`septum.check.background.background_value`).

    Parameters
    ----------
    masks
        One census per plane or volume.
    objects
        True if the layout of the folders implies ids, False if classes; None if it implies nothing.
    kind
        The kind named by the user, or None.
    sources
        Number of stacks, sequences and separate images that the masks belong to; None: each mask is a separate image.
    """
    filled = [m for m in masks if m.values]
    values = sorted({v for m in masks for v in m.values})
    background = any(m.background for m in masks)
    every = ([0] if background else []) + values
    stated = Counter(m.stated for m in masks if m.stated)
    if kind is None and (found := _stated(masks, values, stated, sources)) is not None:
        return found
    kind = kind or ("classes" if stated or objects is False else None)
    if kind == "objects" or (kind is None and objects):
        return _ids(masks, values, source="as asked" if kind else "as the layout says", sure=kind is None)
    if values == [1, 255] and background and all(len(m.values) == 1 for m in filled):
        return LabelKind("classes", (0, 255), (), "0 and 1 in some, 0 and 255 in others, read as the same", mixed=True)
    ignore = ignored_255(every) or (rims(filled) if len(every) > 2 else ())
    every = [value for value in every if value not in ignore]
    classes = LabelKind("classes", tuple(every), ignore, _classes_of(every))
    if kind == "classes" or len(every) <= 2:
        return classes
    if sum(m.whole for m in filled) / max(1, sum(len(m.values) for m in filled)) < _WHOLE:
        if len(values) <= _MANY:
            return classes
        unclear = f"{len(values)} values, most of them in several pieces: neither object ids nor classes"
        return LabelKind("objects", (), (), "object ids", guess=True, unclear=unclear)
    tracked = sources is not None and sources < 3 and len(values) > _MOST_PARTS
    named = [value for value in values if value not in (*ignore, common_surrounding(filled))]
    traits = own_traits(filled, named) if len(values) <= _MANY and not tracked else "none"
    if traits == "certain":
        reason = classes.reason + ", each with a place or look of its own"
        return replace(classes, reason=reason, guess=len(filled) < _SURE)
    if len(values) <= _FEW and attached(filled):
        return replace(classes, reason=classes.reason + ", which touch one another", guess=True)
    return _ids(masks, values, guess=traits == "likely" or max(len(m.values) for m in filled) <= _FEW)


def _stated(
    masks: Sequence[Census], values: Sequence[int], stated: Mapping[MaskKind, int], sources: int | None
) -> LabelKind | None:
    """Return the ids that some files state; unclear if others contradict that; None otherwise.

    If all state it, 0 is the background, and -1 is not annotated.
    """
    silent = [m for m in masks if m.values and not m.stated] if stated else []
    if len(stated) > 1:
        return _unclear(stated)
    if silent and is_plain(other := infer_label_kind(silent, sources=sources), *stated):
        return _unclear(stated, f" and {other.reason} in {pluralize(len(silent), 'other')}")
    if "objects" not in stated:
        return None
    found = _ids(masks, values, source="as the files state", sure=not silent)
    return found if silent else replace(found, ignore=(), background=0)


def _unclear(stated: Mapping[MaskKind, int], rest: str = "") -> LabelKind:
    said = " and ".join(f"{kind} in {pluralize(n, 'mask')}" for kind, n in sorted(stated.items()))
    return LabelKind(
        "objects", (), (), "object ids", guess=True, unclear=f"{said}, as the files state,{rest}".rstrip(",")
    )


def is_plain(found: LabelKind, besides: MaskKind) -> bool:
    """Return True if values, more than one beside the background, say plainly that they are no `besides`."""
    return found.kind != besides and not (found.guess or found.unclear or 0 < len(found.values) <= 2)


def is_binary(mask: Census, label_kind: LabelKind) -> bool:
    """Return True if all objects of a mask have one value although the data set has ids: its pieces are the objects.

    In a set of ids a single value in several pieces is no id if it is the largest value of 8 or 16 bits, or if there
    are four pieces and more: an object that is seen in pieces has two or three.
    """
    decided = label_kind.kind != "objects" or label_kind.sure or label_kind.pieces
    if decided or len(mask.values) != 1 or mask.whole:
        return False
    return mask.values[0] in (255, 65535) or mask.pieces >= 4


def _classes_of(values: Sequence[int]) -> str:
    """Return ``"classes: values 0, 1, 2"``."""
    return f"classes: {'value' if len(values) == 1 else 'values'} " + ", ".join(map(_name, values[:_MANY]))


def _name(value: int) -> str:
    return str(value) if value < COLOR else "#" + "".join(f"{c:02x}" for c in color_of(value))


def _ids(
    masks: Sequence[Census], values: Sequence[int], *, source: str = "", guess: bool = False, sure: bool = False
) -> LabelKind:
    """Read the values as ids; pieces are objects if all masks have the same single value, unless `sure`."""
    filled = [m for m in masks if m.values]
    pieces = len(values) == 1 or (list(values) == [1, 255] and all(len(m.values) == 1 for m in filled))
    pieces = pieces and not sure and any(m.pieces > 1 for m in filled)
    ignore, background = (rims(filled), background_value(masks)) if not pieces else ((), 0)
    counts = [m.pieces if pieces else len(set(m.values) - {*ignore, background}) for m in filled] or [0]
    span = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    meaning = "objects, one per connected piece" if pieces else "object ids"
    reason = f"{meaning}, {span} per image" + (f" ({source})" if source else "")
    return LabelKind("objects", (), ignore, reason, guess=guess, pieces=pieces, sure=sure, background=background)


def to_mask(labels: NDArray[np.int32], rules: Rules, *, pieces: bool = False) -> NDArray[np.int32]:
    """Turn labels as read from a file into object ids or class numbers.

    Parameters
    ----------
    labels
        ``(*S)`` int32 labels from `septum.check.masks.read_labels`.
    rules
        Meaning of the values.
    pieces
        The connected pieces are the objects, whatever their values.

    Returns
    -------
    mask
        ``(*S)`` int32: ids with 0 background, or classes 0 .. K - 1; `UNANNOTATED` where not annotated. The array
        itself if the labels are ids already.
    """
    if rules.kind == "classes":
        if rules.mixed:
            return np.where(labels > 0, np.int32(1), labels)
        return to_classes(labels, rules.mask_values, rules.ignore)
    if pieces:
        return np.where(labels == UNANNOTATED, np.int32(UNANNOTATED), connected_components(labels > 0))
    return labels


def to_classes(
    labels: NDArray[np.integer[Any]], values: Sequence[int], ignore: Sequence[int] = ()
) -> NDArray[np.int32]:
    """Turn the values of classes into class numbers from 0.

    Parameters
    ----------
    labels
        ``(*S)`` integers: values of classes, or `UNANNOTATED`.
    values
        Values of the classes, rising; ``values[k]`` becomes class k.
    ignore
        Values that mean not annotated, beside `UNANNOTATED`.

    Returns
    -------
    classes
        ``(*S)`` int32, 0 .. K - 1 or `UNANNOTATED`.

    Raises
    ------
    DataError
        If a mask holds another value.
    """
    known = np.asarray(values, np.int64)
    index = np.searchsorted(known, labels).clip(0, len(known) - 1)
    classes = np.where(known[index] == labels, index, UNANNOTATED).astype(np.int32)
    strange = (classes == UNANNOTATED) & ~np.isin(labels, [UNANNOTATED, *ignore])
    if strange.any():
        raise DataError(
            f"a mask with the value {int(labels[strange][0])}",
            "values " + ", ".join(map(str, values)),
            "find the file with: septum check DATA",
        )
    return classes
