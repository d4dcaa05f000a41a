"""Count the values, pieces, sizes and contacts of a mask.

The counts do not depend on whether the values are object ids or classes; `septum.check.label_kind` decides that from
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED, relabel_consecutive

MOST_TRAITS = 64
"""Masks of up to this many values have a `Trait` of each value."""

WHOLE_SHARE = 0.95
"""A value counts as one piece if its largest piece holds this share of its pixels; specks are no second object."""


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
    ignored = int(np.count_nonzero(numbers == UNANNOTATED)) if numbers.size and numbers.min() < 0 else 0
    if ignored:
        numbers = np.maximum(numbers, 0)
    sizes = np.bincount(numbers.ravel(), minlength=len(ids) + 1)
    if not len(ids):
        return Census((), (), int(sizes[0]) - ignored, ignored, 0, 0, 0, 0.0, 0.0)
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
    )


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
        pairs = (here != there) & (here > 0) & (there > 0)
        numbers_of_pairs += [np.unique(here[pairs]), np.unique(there[pairs])]
    return np.unique(np.concatenate(numbers_of_pairs))


def _traits(numbers: NDArray[np.int32], sizes: NDArray[np.int64], image: NDArray[Any] | None) -> tuple[Trait, ...]:
    flat, count = numbers.ravel(), len(sizes)
    centers = []
    for axis, side in enumerate(numbers.shape):
        shape = [1] * numbers.ndim
        shape[axis] = side
        place = np.broadcast_to(((np.arange(side) + 0.5) / side).reshape(shape), numbers.shape)
        centers.append(np.bincount(flat, weights=place.ravel(), minlength=count) / np.maximum(sizes, 1))
    brightness = np.zeros(count)
    if image is not None:
        gray = image.mean(axis=0, dtype=np.float64)
        deviation = float(gray.std())
        if deviation > 0:
            total = np.bincount(flat, weights=((gray - gray.mean()) / deviation).ravel(), minlength=count)
            brightness = total / np.maximum(sizes, 1)
    return tuple(
        Trait(tuple(float(c[i]) for c in centers), float(sizes[i] / numbers.size), float(brightness[i]))
        for i in range(1, count)
    )
