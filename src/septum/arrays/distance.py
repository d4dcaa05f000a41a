"""Squared Euclidean distance transform in integers: a part of an image gives exactly the values of the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, ...]

MAX_DISTANCE_PX = {2: 512, 3: 128}
"""Largest distance in pixels of the finest axis, by the number of axes; longer distances count as this. The limit
bounds how much a block of an image must read around itself."""

ONE_PX = 2**10
"""Square of one pixel of the finest axis. Squared pixel sizes are rounded to integers in this unit."""

_FIRST_MARGIN_PX = 16


def squared_distance(
    mask: NDArray[np.bool_], sizes: Sequence[float], *, inner: Region | None = None
) -> NDArray[np.int32]:
    """Compute the squared distance of each pixel to the nearest pixel outside of the mask.

    The image border does not count as background: half an object at the border is as deep as the whole object.

    Parameters
    ----------
    mask
        ``(Y, X)`` or ``(Z, Y, X)`` bool, True for foreground.
    sizes
        Pixel size along each axis in pixels of the finest: 1 and more.
    inner
        Part to compute; slices with start and stop. None: all.

    Returns
    -------
    squares
        ``(*inner)`` int32: squared Euclidean distances between pixel centers in units of `ONE_PX`, at most the
        square of `MAX_DISTANCE_PX`; 0 outside of the mask.
    """
    from septum.arrays import _distance

    if mask.size == 0:
        return np.zeros(mask.shape, np.int32)
    weights, cap = _weights(sizes)
    part = inner or tuple(slice(0, side) for side in mask.shape)
    squares = _distance.sweep(mask.reshape(mask.shape[0], -1), part[0].start, part[0].stop, weights[0], cap)
    sides = list(mask.shape)
    sides[0] = part[0].stop - part[0].start
    for axis in range(1, mask.ndim):
        lines = (math.prod(sides[:axis]), sides[axis], math.prod(sides[axis + 1 :]))
        squares = _distance.envelope(squares.reshape(lines), part[axis].start, part[axis].stop, weights[axis], cap)
        sides[axis] = part[axis].stop - part[axis].start
    distances: NDArray[np.int32] = squares.reshape(sides)
    return distances


def squared_distance_of_region(
    read: Callable[[Region], NDArray[np.bool_]], shape: Sequence[int], wanted: Region, sizes: Sequence[float]
) -> NDArray[np.int32]:
    """Compute `squared_distance` of a whole image for a region, and read as little around the region as possible.

    The margin that is read doubles until no pixel outside of it can be nearer than the nearest background found.

    Parameters
    ----------
    read
        Function that returns a region of the mask, ``(*region)`` bool, True for foreground.
    shape
        Sides of the image.
    wanted
        The region; slices with start and stop inside the image.
    sizes
        As for `squared_distance`.

    Returns
    -------
    squares
        ``(*wanted)`` int32, 0 and more, as `squared_distance` of the whole image.
    """
    margin = _FIRST_MARGIN_PX
    while True:
        around = tuple(
            slice(max(0, s.start - math.ceil(margin / size)), min(side, s.stop + math.ceil(margin / size)))
            for s, side, size in zip(wanted, shape, sizes, strict=True)
        )
        inner = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(wanted, around, strict=True))
        squares = squared_distance(read(around), sizes, inner=inner)
        if margin >= MAX_DISTANCE_PX[len(shape)] or _certain(squares, around, inner, shape, sizes):
            return squares
        margin *= 2


def _certain(
    squares: NDArray[np.int32], around: Region, inner: Region, shape: Sequence[int], sizes: Sequence[float]
) -> bool:
    """Return True if no pixel outside of the part read can be nearer than the nearest background in it."""
    weights, cap = _weights(sizes)
    for axis, (read, part) in enumerate(zip(around, inner, strict=True)):
        place = np.arange(part.start, part.stop, dtype=np.int64)
        length = read.stop - read.start
        least = np.full(len(place), cap, np.int64)
        if read.start > 0:
            least = np.minimum(least, weights[axis] * (place + 1) ** 2)
        if read.stop < shape[axis]:
            least = np.minimum(least, weights[axis] * (length - place) ** 2)
        deepest = squares.max(axis=tuple(a for a in range(len(shape)) if a != axis), initial=0)
        if np.any(deepest > least):
            return False
    return True


def _weights(sizes: Sequence[float]) -> tuple[list[int], int]:
    """Return the square of one step along each axis, and the square of the largest distance, in units of `ONE_PX`."""
    cap = ONE_PX * MAX_DISTANCE_PX[len(sizes)] ** 2
    return [min(round(ONE_PX * size**2), cap) for size in sizes], cap
