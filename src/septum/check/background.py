"""The background of masks in which it is not 0, and rims of 255 that are not annotated.

Programs number the background 1 (watershed, superpixels) or -1, or swap objects and background; Pascal VOC draws a rim
of 255 around objects. Where the masks leave no doubt, the values are read accordingly; elsewhere a warning names the
option that decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.check.census import RIMS, Census
from septum.check.issues import IssueKind, Observation
from septum.check.statistics import PairStatistics

BACKGROUND_NUMBER = IssueKind(
    "background-number", "mended", "mask", "without 0, in which another value surrounds all objects", "read as 0"
)
BACKGROUND_NAMED = IssueKind(
    "background-named", "mended", "mask", "with the background that --background names", "read as 0"
)
BACKGROUND_LIKELY = IssueKind("background-likely", "warning")
NO_BACKGROUND = IssueKind(
    "no-background",
    "warning",
    text="no mask holds 0, so that every pixel belongs to an object",
    todo="if one value is the background, name it with --background",
)
INVERTED = IssueKind(
    "inverted",
    "warning",
    "mask",
    "inverted, as it seems: the objects have the value of the background of the others",
    todo="invert such a mask, or leave it out",
)
KINDS = (BACKGROUND_NUMBER, BACKGROUND_NAMED, BACKGROUND_LIKELY, NO_BACKGROUND, INVERTED)

_ALONE = 0.5  # share of the pixels that the background fills, if a single mask shows it
_LINES = 0.25  # share of the pixels that lines between areas fill at most


def rims(masks: Sequence[Census]) -> tuple[int, ...]:
    """Return the values of `RIMS` that are a rim in all masks which hold them, and in most masks."""
    filled = [m for m in masks if m.values]
    found = []
    for value in RIMS:
        holding = [m for m in filled if value in m.values]
        if len(holding) > len(filled) / 2 and all(value in m.rims for m in holding):
            found.append(value)
    return tuple(found)


def ignored_255(every: Sequence[int]) -> tuple[int, ...]:
    """Return 255 if it follows 0, 1, ... K - 1, K >= 2: it means not annotated. 0, 128, 255 are three classes."""
    rest = list(every[:-1])
    return (255,) if len(rest) >= 2 and every[-1] == 255 and rest == list(range(len(rest))) else ()


def background_value(masks: Sequence[Census]) -> int:
    """Return the value of the background of masks of ids in which it is not 0; 0 if that is not certain.

    Another value is the background if all masks without 0 agree on the value that surrounds the others, and several
    masks do, or one of which it fills half. -1 is so only if no mask holds 0: beside 0 it is what nobody annotated.
    """
    full = [m for m in masks if not m.background and len(m.values) + (m.ignored > 0) > 1]
    value = common_surrounding(full)
    certain = value is not None and (len(full) > 1 or share_of(full[0], value) >= _ALONE)
    if value == UNANNOTATED and any(m.background for m in masks):
        return 0
    return value if value is not None and certain else 0


def common_surrounding(masks: Sequence[Census]) -> int | None:
    """Return the value that surrounds the others in all masks; None if there is none."""
    around = {m.surrounding for m in masks}
    return around.pop() if len(around) == 1 else None


def share_of(mask: Census, value: int | None) -> float:
    """Return the share of the pixels of a mask that have a value, 0..1."""
    total = mask.background + mask.ignored + sum(mask.counts)
    if value in (0, UNANNOTATED):
        return (mask.background if value == 0 else mask.ignored) / max(1, total)
    return dict(zip(mask.values, mask.counts, strict=True)).get(value, 0) / max(1, total) if value else 0.0


def set_background(labels: NDArray[Any], value: int, *, certain: bool) -> NDArray[Any]:
    """Give the background the value 0; a value that was 0 becomes another one.

    Parameters
    ----------
    labels
        ``(*S)`` integers of any value.
    value
        Value of the background; 0 changes nothing.
    certain
        True if the user named the value; otherwise only masks without 0 are changed.

    Returns
    -------
    labels
        ``(*S)`` of the same dtype: 0 in place of `value`, and `value` in place of 0; all values raised by 1 if `value`
        is -1. The same array if nothing changes.
    """
    zeros = labels == 0
    if not value or (not certain and zeros.any()) or not (labels == value).any():
        return labels
    if value < 0:
        raised: NDArray[Any] = labels + labels.dtype.type(1)
        return raised
    swapped = np.where(labels == value, labels.dtype.type(0), labels)
    swapped[zeros] = value
    return swapped


def detect(
    pairs: Sequence[PairStatistics], *, objects: bool, pieces: bool, named: int | None = None
) -> Iterator[Observation]:
    """Yield what is known or likely of the background of a data set; `named`: its value, if the user names it."""
    for pair in pairs:
        stats = pair.mask_stats
        if stats is not None and stats.background:
            yield Observation(
                BACKGROUND_NAMED if named is not None else BACKGROUND_NUMBER, pair.mask, f"{stats.background}"
            )
    masks = [c for pair in pairs for c in pair.census if c.values]
    if objects and masks and not any(m.background for m in masks):
        yield Observation(NO_BACKGROUND)
    elif objects and (text := _likely(masks)):
        yield Observation(BACKGROUND_LIKELY, text=text)
    elif not objects or pieces:
        yield from _inverted(pairs)


def _likely(masks: Sequence[Census]) -> str:
    """Return what speaks for another background than 0, with the option that decides; ``""`` if nothing does."""
    value = common_surrounding(masks)
    if not value:
        return ""
    if value == UNANNOTATED:
        return (
            "-1 (not annotated) surrounds all objects, and 0 is learned as the background; if -1 is the background, "
            "add --background -1"
        )
    if all(m.values == (value,) for m in masks):
        return f"{value} surrounds 0: objects and background seem swapped; if so, add --background {value}"
    if all(share_of(m, 0) < _LINES for m in masks):
        return (
            f"{value} surrounds all objects and 0 is rare, as in masks with lines between areas; if {value} is the "
            f"background, add --background {value} --ignore-value 0"
        )
    return ""


def _inverted(pairs: Sequence[PairStatistics]) -> Iterator[Observation]:
    """Yield masks of two values in which the other value surrounds, and lies on dark instead of bright places."""
    seen: list[tuple[PairStatistics, bool, bool]] = []
    for pair in pairs:
        for mask in pair.census:
            if len(mask.values) == 1 and mask.background and mask.surrounding is not None and mask.traits:
                seen.append((pair, mask.surrounding == 0, mask.traits[0].brightness > 0))
    usual = [(zero, bright) for _, zero, bright in seen]
    common = max(set(usual), key=usual.count, default=None)
    if common is None or 2 * usual.count(common) <= len(usual):
        wrong = [pair for pair, zero, _ in seen if not zero] if len(set(usual)) == 2 else []
    else:
        wrong = [pair for pair, zero, bright in seen if zero != common[0] and bright != common[1]]
    for path in dict.fromkeys(pair.mask for pair in wrong):
        yield Observation(INVERTED, path)
