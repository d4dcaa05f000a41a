"""How deep the pixels of a shape lie, in whole numbers, so that a part of an image gives what the whole image gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, ...]

DEEPEST_PX = {2: 512, 3: 128}
"""Depths beyond this many pixels of the finest axis count as this, by the number of axes: a pixel of a block must not
depend on what is farther away."""

ONE_PX = 2**10
"""The square of one pixel of the finest axis. Squared pixel sizes are rounded to whole numbers of this kind."""

_FIRST_MARGIN_PX = 16


def squared_depth(mask: NDArray[np.bool_], sizes: Sequence[float], *, inner: Region | None = None) -> NDArray[np.int32]:
    """Square the distance of each pixel to the nearest pixel outside of the mask.

    The border of the image is no outline: half an object is as deep as the whole.

    Parameters
    ----------
    mask
        ``(Y, X)`` or ``(Z, Y, X)`` bool.
    sizes
        Pixel size along each axis in pixels of the finest: 1 and more.
    inner
        The part that is wanted; slices with start and stop. None: all.

    Returns
    -------
    squares
        Of the shape of the part, int32: squared Euclidean distances between pixel centers in units of `ONE_PX`, at
        most those of `DEEPEST_PX`; 0 outside of the mask.
    """
    from septum.arrays import _distance as _depth

    if mask.size == 0:
        return np.zeros(mask.shape, np.int32)
    weights, cap = _weights(sizes)
    part = inner or tuple(slice(0, side) for side in mask.shape)
    squares = _depth.sweep(mask.reshape(mask.shape[0], -1), part[0].start, part[0].stop, weights[0], cap)
    sides = list(mask.shape)
    sides[0] = part[0].stop - part[0].start
    for axis in range(1, mask.ndim):
        lines = (math.prod(sides[:axis]), sides[axis], math.prod(sides[axis + 1 :]))
        squares = _depth.envelope(squares.reshape(lines), part[axis].start, part[axis].stop, weights[axis], cap)
        sides[axis] = part[axis].stop - part[axis].start
    found: NDArray[np.int32] = squares.reshape(sides)
    return found


def squared_depth_of(
    read: Callable[[Region], NDArray[np.bool_]], shape: Sequence[int], wanted: Region, sizes: Sequence[float]
) -> NDArray[np.int32]:
    """Return what `squared_depth` of a whole image has in a region, reading as little around it as that takes.

    Parameters
    ----------
    read
        Returns a region of the mask.
    shape
        Sides of the image.
    wanted
        The region; slices with start and stop inside the image.
    sizes
        As for `squared_depth`.

    Returns
    -------
    squares
        ``(*wanted)`` int32.
    """
    margin = _FIRST_MARGIN_PX
    while True:
        around = tuple(
            slice(max(0, s.start - math.ceil(margin / size)), min(side, s.stop + math.ceil(margin / size)))
            for s, side, size in zip(wanted, shape, sizes, strict=True)
        )
        inner = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(wanted, around, strict=True))
        squares = squared_depth(read(around), sizes, inner=inner)
        if margin >= DEEPEST_PX[len(shape)] or _certain(squares, around, inner, shape, sizes):
            return squares
        margin *= 2


def _certain(
    squares: NDArray[np.int32], around: Region, inner: Region, shape: Sequence[int], sizes: Sequence[float]
) -> bool:
    """Say whether no pixel outside of what was read can be nearer than the nearest found."""
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
    """Return the square of one step along each axis, and that of the greatest depth."""
    cap = ONE_PX * DEEPEST_PX[len(sizes)] ** 2
    return [min(round(ONE_PX * size**2), cap) for size in sizes], cap
