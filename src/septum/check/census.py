"""Count the values, pieces, sizes and contacts of a mask.

The counts do not depend on whether the values are object ids or classes; `septum.check.label_kind` decides that from
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED, local_extreme, relabel_consecutive
from septum.settings import MaskKind

MOST_TRAITS = 64
"""Masks of up to this many values have a `Trait` of each value."""

WHOLE_SHARE = 0.95
"""A value counts as one piece if its largest piece holds this share of its pixels; specks are no second object."""


RIMS = (255, 65535)
"""Values that may be a rim around objects."""

_RIM_PX = 5  # no pixel of a rim is farther than this from its border, along an axis
_ATTACHED = 0.8  # share of the images
_SHARE = 0.8  # of the other values touch the rim


@dataclass(frozen=True)
class Trait:
    """Position, size and brightness of one value in one image.

    Attributes
    ----------
    center
        Center of mass per axis, 0 .. 1 of the side.
    share
        Share of the image's pixels, 0 .. 1.
    brightness
        Mean brightness over pixels and channels, the image standardized to mean 0 and standard deviation 1; 0 without
        an image.
    """

    center: tuple[float, ...]
    share: float
    brightness: float


@dataclass(frozen=True)
class Census:
    """Counts of one mask of one plane or volume.

    Attributes
    ----------
    values, counts
        Values other than 0 and `UNANNOTATED`, rising, and their numbers of pixels.
    background, ignored
        Numbers of pixels that are 0, and that are `UNANNOTATED`.
    pieces
        Number of connected pieces of equal value (8 neighbors in 2D, 26 in 3D), background not counted.
    whole
        Number of values that are one piece (see `WHOLE_SHARE`).
    touching
        Number of values that touch another value, background not counted.
    median_value_px, median_piece_px
        Median number of pixels of a value, and of a piece; 0 if there is none.
    traits
        One per value if there are no more than `MOST_TRAITS`; else empty.
    surrounding
        Value that surrounds the others, 0 and `UNANNOTATED` included (`surrounding_value`).
    rims
        Values that lie only along the borders of others (`is_rim`).
    stated
        What the file states that its values are (`septum.io.tiff.stated_kind`); None if it does not.
    """

    values: tuple[int, ...]
    counts: tuple[int, ...]
    background: int
    ignored: int
    pieces: int
    whole: int
    touching: int
    median_value_px: float
    median_piece_px: float
    traits: tuple[Trait, ...] = ()
    surrounding: int | None = None
    rims: tuple[int, ...] = ()
    stated: MaskKind | None = None

    @property
    def split(self) -> int:
        """Number of values that are not one piece."""
        return len(self.values) - self.whole


def census(labels: NDArray[np.integer[Any]], image: NDArray[Any] | None = None) -> Census:
    """Count the values, pieces and contacts of a mask.

    Parameters
    ----------
    labels
        ``(*S)`` integers, two or three axes, 0 background, `UNANNOTATED` not annotated.
    image
        ``(C, *S)``, any real dtype, finite; gives the brightness of each value.

    Raises
    ------
    DataError
        If a value is negative and not `UNANNOTATED`.
    """
    numbers, ids = relabel_consecutive(labels)
    around = surrounding_value(numbers) if numbers.size else None
    around = int(ids[around - 1]) if around is not None and around > 0 else around
    several = [value for value in RIMS if len(ids) > 1 and value in ids]
    ignored = int(np.count_nonzero(numbers == UNANNOTATED)) if numbers.size and numbers.min() < 0 else 0
    if ignored:
        numbers = np.maximum(numbers, 0)
    sizes = np.bincount(numbers.ravel(), minlength=len(ids) + 1)
    if not len(ids):
        return Census((), (), int(sizes[0]) - ignored, ignored, 0, 0, 0, 0.0, 0.0, surrounding=around)
    piece_sizes, largest = _pieces(numbers, len(ids))
    return Census(
        values=tuple(ids.tolist()),
        counts=tuple(sizes[1:].tolist()),
        background=int(sizes[0]) - ignored,
        ignored=ignored,
        pieces=len(piece_sizes),
        whole=int(np.count_nonzero(largest >= WHOLE_SHARE * sizes[1:])),
        touching=len(_touching(numbers)),
        median_value_px=float(np.median(sizes[1:])),
        median_piece_px=float(np.median(piece_sizes)),
        traits=_traits(numbers, sizes, image) if len(ids) <= MOST_TRAITS else (),
        surrounding=around,
        rims=tuple(value for value in several if is_rim(numbers, int(np.searchsorted(ids, value)) + 1)),
    )


def surrounding_value(labels: NDArray[np.integer[Any]]) -> int | None:
    """Return the value that surrounds the others: the most frequent one, and the only one on all sides of the mask.

    Parameters
    ----------
    labels
        ``(*S)`` integers, two or three axes, at least one pixel; memory is taken for each number up to the largest.

    Returns
    -------
    value
        None if there is none.
    """
    sides = [np.take(labels, at, axis=axis) for axis in range(labels.ndim) for at in (0, -1)]
    common = set.intersection(*(set(np.unique(side).tolist()) for side in sides))
    if len(common) != 1:
        return None
    (value,) = common
    counts = np.bincount(labels.ravel() - labels.min())
    return int(value) if counts[value - labels.min()] == counts.max() else None


def is_rim(labels: NDArray[np.integer[Any]], value: int) -> bool:
    """Return True if a value lies only along the borders of others: it is thin, and touches most other values.

    Parameters
    ----------
    labels
        ``(*S)`` integers of any value.
    value
        One of them.
    """
    rim = labels == value
    if local_extreme(np.minimum, np.pad(rim, 1), reach_px=_RIM_PX // 2 + 1).any():  # nothing lies beyond the sides
        return False
    others, near = np.setdiff1d(np.unique(labels), [0, value, UNANNOTATED]), []
    for axis in range(labels.ndim):
        inside, ids = np.moveaxis(rim, axis, 0), np.moveaxis(labels, axis, 0)
        border = inside[1:] != inside[:-1]
        near += [ids[1:][border], ids[:-1][border]]
    beside = np.setdiff1d(np.concatenate(near), value)
    return others.size > 0 and bool(np.isin(others, beside).sum() >= _SHARE * others.size)


def _pieces(numbers: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sizes of all pieces, and the largest piece of each number 1 .. `count`."""
    import cc3d

    pieces, total = cc3d.connected_components(numbers, connectivity=8 if numbers.ndim == 2 else 26, return_N=True)
    sizes = np.bincount(pieces.ravel(), minlength=total + 1)[1:]
    owner = np.zeros(total + 1, np.int32)
    owner[pieces.ravel()] = numbers.ravel()
    largest = np.zeros(count + 1, np.int64)
    np.maximum.at(largest, owner[1:], sizes)
    return sizes, largest[1:]


def _touching(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the numbers that touch another number, along axes or diagonals."""
    numbers_of_pairs: list[NDArray[np.int32]] = []
    for step in product((-1, 0, 1), repeat=numbers.ndim):
        if step <= (0,) * numbers.ndim:  # the other half of the steps gives the same pairs
            continue
        here = numbers[tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, numbers.shape, strict=True))]
        there = numbers[tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(step, numbers.shape, strict=True))]
        differ = here != there
        one, other = here[differ], there[differ]
        pairs = (one > 0) & (other > 0)
        numbers_of_pairs += [one[pairs], other[pairs]]
    return np.unique(np.concatenate(numbers_of_pairs))


def _traits(numbers: NDArray[np.int32], sizes: NDArray[np.int64], image: NDArray[Any] | None) -> tuple[Trait, ...]:
    places, count = np.flatnonzero(numbers), len(sizes)
    owners, centers = numbers.ravel()[places], []
    for at, side in zip(np.unravel_index(places, numbers.shape), numbers.shape, strict=True):
        centers.append(np.bincount(owners, weights=(at + 0.5) / side, minlength=count) / np.maximum(sizes, 1))
    brightness = np.zeros(count)
    if image is not None:
        gray = image.mean(axis=0, dtype=np.float64)
        deviation = float(gray.std())
        if deviation > 0:
            standardized = (gray.ravel()[places] - gray.mean()) / deviation
            brightness = np.bincount(owners, weights=standardized, minlength=count) / np.maximum(sizes, 1)
    return tuple(
        Trait(tuple(float(c[i]) for c in centers), float(sizes[i] / numbers.size), float(brightness[i]))
        for i in range(1, count)
    )


# A value is a class if the same structure has it in all images.
_FEW = 4  # values, of which one property of their own is enough
_STEADY = 0.12  # standard deviation of a value's center over images, in parts of the side; 0.29 is uniform
_EXPLAINED, _MOSTLY_EXPLAINED = 0.5, 0.8  # share of the variance that the value explains


def own_traits(masks: Sequence[Census], values: Sequence[int]) -> Literal["certain", "likely", "none"]:
    """Judge whether values in one piece each have a place, a size or a brightness of their own in all images.

    Certain are: a place (standard deviation of the center below 0.12 of the side on every axis), if there are up to
    four values, or if most images hold most of them and their sizes differ as those of organs do (standard deviation
    above a factor of 2); a size or brightness (the value explains half of its variance over images) of up to four
    values; a brightness (four fifths) of more values, if the value does not explain the place. With half of the
    variance of size or brightness, more values are likely classes; but ids may rise with the size. Tracked cells keep
    both look and place.

    Parameters
    ----------
    masks
        One census per plane or volume that holds labels.
    values
        All values in them, without the background.
    """
    # Planes and volumes in one set have no places to compare: those of most masks count.
    ranks = Counter(len(trait.center) for mask in masks for trait in mask.traits[:1])
    traits: dict[int, list[Trait]] = {}
    for mask in masks:
        for value, trait in zip(mask.values, mask.traits, strict=False):
            if len(trait.center) == ranks.most_common(1)[0][0]:
                traits.setdefault(value, []).append(trait)
    common = [t for v, t in traits.items() if v in values and len(t) >= max(3, len(masks) / 4)]
    if len(common) < max(2, len(values) / 2):
        return "none"
    spread = [max(np.std([t.center for t in group], axis=0)) for group in common]
    sizes = [np.log([t.share for t in group]) for group in common]
    usual = float(np.median([len(m.values) for m in masks])) > len(values) / 2
    unlike = float(np.std([s.mean() for s in sizes])) > np.log(2)
    if max(spread) < _STEADY and (len(values) <= _FEW or (usual and unlike)):
        return "certain"
    if min(len(s) for s in sizes) < 4 or (len(values) > _FEW and not usual):
        return "none"
    brightness = explained([np.array([t.brightness for t in group]) for group in common])
    if max(explained(sizes), brightness) <= _EXPLAINED:
        return "none"
    places = [
        explained([np.array([t.center[axis] for t in g]) for g in common]) for axis in range(len(common[0][0].center))
    ]
    if len(values) > _FEW and max(places) >= _EXPLAINED:
        return "none"
    return "certain" if len(values) <= _FEW or brightness > _MOSTLY_EXPLAINED else "likely"


def explained(groups: Sequence[NDArray[np.float64]]) -> float:
    """Compute the share of the variance that the group explains (eta squared).

    Parameters
    ----------
    groups
        ``(n,)`` float64 each, any values.

    Returns
    -------
    share
        0..1; 0 if all values are equal.
    """
    everything = np.concatenate(groups)
    total = float(((everything - everything.mean()) ** 2).sum())
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups)
    return 1 - within / total if total > 0 else 0.0


def attached(masks: Sequence[Census]) -> bool:
    """Return True if all values touch another one in nearly all images that hold several."""
    several = [m for m in masks if len(m.values) > 1]
    return bool(several) and sum(m.touching == len(m.values) for m in several) > _ATTACHED * len(several)
