"""Decide whether masks hold ids of objects or classes, from the values of all masks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from septum.check.census import Census, Trait

Kind = Literal["objects", "classes"]

_WHOLE = 0.75  # share of values in one piece, from which masks may hold ids
_MANY = 64  # more values than this are no classes, unless someone says so
_FEW = 4
_MOST_PARTS = 16  # of one thing seen again and again; more values are cells followed through a stack
_ATTACHED = 0.8  # share of the images
_SURE = 8  # images, from which statistics over images are no guess
_STEADY = 0.12  # deviation of a value's center over images, in parts of the side; 0.29 is anywhere
_EXPLAINED = 0.5  # share of the variance that the value explains


@dataclass(frozen=True)
class Meaning:
    """What the values of masks mean.

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
        Why neither fits, as a phrase; ``""`` otherwise.
    pieces
        Objects are the connected pieces of a mask that has only one value for all of them.
    mixed
        Some masks hold 0 and 1, others 0 and 255, and both mean the same.
    sure
        The layout of the folders says that masks hold ids, so they do.
    """

    kind: Kind
    values: tuple[int, ...]
    ignore: tuple[int, ...]
    reason: str
    guess: bool = False
    unclear: str = ""
    pieces: bool = False
    mixed: bool = False
    sure: bool = False


def infer_label_kind(
    masks: Sequence[Census], *, objects: bool | None = None, kind: Kind | None = None, things: int | None = None
) -> Meaning:
    """Decide what the values of masks mean.

    What is asked for (`kind`) and what the layout of the folders says (`objects`) win. Otherwise, in this order, with
    the reason for each rule:

    1. One value beside the background, in all masks: classes. Whether its pieces are objects, nobody said.
       Masks of 0 and 1 beside masks of 0 and 255 are the same.
    2. Consecutive values from 0 and 255 beside them: 255 is not annotated, as many tools write it.
    3. Values that mostly lie in several pieces each: classes, since an id names one thing. More than 64 of them are
       neither (smoothed masks look so).
    4. Values in one piece each: ids, unless each value lies at its own place in every image (deviation of its center
       below 0.12 of the side on every axis) and there are up to four of them, or most images hold most of them and
       their sizes differ as those of organs do (deviation above a factor of 2; ids that follow cells through time keep
       their place as well, but cells come and go and are alike); or, of up to four values, size or brightness tell
       them apart (explain half of the variance over images), or they touch one another nearly wherever several are
       in an image, as parts of one thing do. These are classes. What rests on fewer than eight images, on touching, or
       reads up to four values as ids, is a guess, and said to be one. Pages of one stack show the same thing again, in
       which ids keep their places as organs do: from fewer than three stacks or images of their own no more than 16
       values are classes.

    Parameters
    ----------
    masks
        One census per plane or volume.
    objects
        What the layout says, or None.
    kind
        What the user says, or None.
    things
        Stacks, sequences and images on their own that the masks are of; as many as masks where not given.
    """
    filled = [m for m in masks if m.values]
    values = sorted({v for m in masks for v in m.values})
    background = any(m.background for m in masks)
    every = ([0] if background else []) + values
    if kind == "objects" or (kind is None and objects):
        return _ids(filled, values, said="as asked" if kind else "as the layout says", sure=kind is None)
    mixed = values == [1, 255] and background and all(len(m.values) == 1 for m in filled)
    if mixed:
        return Meaning("classes", (0, 255), (), "0 and 1 in some, 0 and 255 in others, read as the same", mixed=True)
    ignore = _ignore(every)
    if ignore:
        every = every[:-1]
    classes = Meaning("classes", tuple(every), ignore, "classes: values " + ", ".join(map(_name, every[:_MANY])))
    if kind == "classes" or len(every) <= 2:
        return classes
    whole = sum(m.whole for m in filled) / max(1, sum(len(m.values) for m in filled))
    if whole < _WHOLE:
        if len(values) <= _MANY:
            return classes
        unclear = f"{len(values)} values, most of them in several pieces: neither object ids nor classes"
        return Meaning("objects", (), (), "object ids", guess=True, unclear=unclear)
    again = things is not None and things < 3 and len(values) > _MOST_PARTS
    if len(values) <= _MANY and not again and _anatomy(filled, values):
        reason = classes.reason + ", each with a place or look of its own"
        return Meaning("classes", tuple(every), ignore, reason, guess=len(filled) < _SURE)
    if len(values) <= _FEW and _attached(filled):
        return Meaning("classes", tuple(every), ignore, classes.reason + ", which touch one another", guess=True)
    most = max(len(m.values) for m in filled)
    return _ids(filled, values, guess=most <= _FEW)


def binary(mask: Census, meaning: Meaning) -> bool:
    """Say whether a mask of objects has one value for all of them, so that its pieces are the objects.

    In a set of ids a single value in several pieces is no id if it is the largest of 8 or 16 bits, or if there are
    four pieces and more: an object that is split has two or three.
    """
    if meaning.kind != "objects" or meaning.sure or meaning.pieces or len(mask.values) != 1 or mask.whole:
        return False
    return mask.values[0] in (255, 65535) or mask.pieces >= 4


def _name(value: int) -> str:
    from septum.check.masks import COLOR, color_of

    return str(value) if value < COLOR else "#" + "".join(f"{c:02x}" for c in color_of(value))


def _ids(
    masks: Sequence[Census], values: Sequence[int], *, said: str = "", guess: bool = False, sure: bool = False
) -> Meaning:
    """Read the values as ids; where all masks have the same single value (and unless `sure`), as one object a piece."""
    pieces = len(values) == 1 or (list(values) == [1, 255] and all(len(m.values) == 1 for m in masks))
    pieces = pieces and not sure and any(m.pieces > 1 for m in masks)
    counts = [m.pieces if pieces else len(m.values) for m in masks] or [0]
    span = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    what = "objects, one per connected piece" if pieces else "object ids"
    reason = f"{what}, {span} per image" + (f" ({said})" if said else "")
    return Meaning("objects", (), (), reason, guess=guess, pieces=pieces, sure=sure)


def _ignore(every: Sequence[int]) -> tuple[int, ...]:
    """255 after 0, 1, ... K - 1, K >= 2, says: not annotated. 0, 128, 255 are three classes."""
    rest = list(every[:-1])
    return (255,) if len(rest) >= 2 and every[-1] == 255 and rest == list(range(len(rest))) else ()


def _anatomy(masks: Sequence[Census], values: Sequence[int]) -> bool:
    """Say whether values in one piece each have a place, a size or a brightness of their own in all images."""
    traits: dict[int, list[Trait]] = {}
    for mask in masks:
        for value, trait in zip(mask.values, mask.traits, strict=False):
            traits.setdefault(value, []).append(trait)
    common = {v: t for v, t in traits.items() if len(t) >= max(3, len(masks) / 4)}
    if len(common) < max(2, len(values) / 2):
        return False
    spread = [max(np.std([t.center for t in group], axis=0)) for group in common.values()]
    sizes = [np.log([t.share for t in group]) for group in common.values()]
    usual = float(np.median([len(m.values) for m in masks])) > len(values) / 2
    unlike = float(np.std([s.mean() for s in sizes])) > np.log(2)
    if max(spread) < _STEADY and (len(values) <= _FEW or (usual and unlike)):
        return True
    if len(values) > _FEW or min(len(s) for s in sizes) < 4:
        return False
    brightness = [np.array([t.brightness for t in group]) for group in common.values()]
    return max(_explained(sizes), _explained(brightness)) > _EXPLAINED


def _attached(masks: Sequence[Census]) -> bool:
    """Say whether all values touch another one in nearly all images that hold several."""
    several = [m for m in masks if len(m.values) > 1]
    return bool(several) and sum(m.touching == len(m.values) for m in several) > _ATTACHED * len(several)


def _explained(groups: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]) -> float:
    """Return the share of the variance that belonging to a group explains, 0 .. 1 (eta squared)."""
    everything = np.concatenate(groups)
    total = float(((everything - everything.mean()) ** 2).sum())
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups)
    return 1 - within / total if total > 0 else 0.0
