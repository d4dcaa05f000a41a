"""Overlap-tile strategy: divide an image of any size into tiles whose results fit together without a seam.

::

    read        |<------------ input side of the network ------------>|
                |  context  |======== write ========| spare|  context |
    next read                                |  context  |======== write ...

The written parts touch and do not overlap, so that each output pixel is computed once. They begin at multiples of
``2**depth``, so that each tile has the pooling grid that the network would have on the whole mirrored image: the
stitched result equals the result of the whole image to float rounding. Outside of the image a tile reads mirrored
pixels (the border pixel is not repeated), as in Ronneberger et al. 2015, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.arrays.geometry import Geometry


class Readable(Protocol):
    """An image that parts are read from: an array, or a file of which only the requested part is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides, channels first: ``(C, *S)``."""

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]:
        """Return a part: one slice per axis, inside the image, steps of 1."""


@dataclass(frozen=True)
class Tile:
    """One tile.

    Parameters
    ----------
    read
        ``(start, stop)`` per axis in image coordinates; may lie outside of the image.
    write
        The part of the image that only this tile computes.
    keep
        The part of the network's output that is written there.
    """

    read: tuple[tuple[int, int], ...]
    write: tuple[slice, ...]
    keep: tuple[slice, ...]


def plan_tiles(
    shape: Sequence[int], geometry: Geometry, max_output: Sequence[int], *, origin: Sequence[int] | None = None
) -> list[Tile]:
    """Divide an image, or a region of one, into tiles of equal input size.

    Parameters
    ----------
    shape
        Sides of the image or region in pixels, ``(Y, X)`` or ``(Z, Y, X)``, each 1 or more.
    geometry
        The network's depths and padding.
    max_output
        Largest side per axis that a tile may write. It is rounded down to the pooling grid (but not to zero), and
        reduced where that divides the image more evenly.
    origin
        Where the region begins in the image, on the pooling grid; None: at the first pixel.

    Returns
    -------
    list of Tile
        In reading order; their written parts cover the region once.

    Raises
    ------
    ValueError
        If a side is smaller than 1, the ranks differ, or `origin` is not on the grid.
    """
    if not len(shape) == len(geometry.depths) == len(max_output) or min(shape) < 1 or min(max_output) < 1:
        raise ValueError(f"shape {tuple(shape)}, depths {geometry.depths}, largest output {tuple(max_output)}")
    first = tuple(origin) if origin is not None else (0,) * len(shape)
    if any(start % grid for start, grid in zip(first, geometry.grid, strict=True)):
        raise ValueError(f"origin {first} is not a multiple of the pooling grid {geometry.grid}")
    strides = tuple(
        even_stride(side, grid, limit) for side, grid, limit in zip(shape, geometry.grid, max_output, strict=True)
    )
    sides = geometry.input_for(strides)
    axes = [
        [
            (
                (start - context, start - context + side),
                slice(start, min(start + stride, begin + length)),
                slice(crop, crop + min(stride, begin + length - start)),
            )
            for start in range(begin, begin + length, stride)
        ]
        for begin, length, stride, side, context, crop in zip(
            first, shape, strides, sides, geometry.contexts, geometry.crop, strict=True
        )
    ]
    return [Tile(*(tuple(part) for part in zip(*combination, strict=True))) for combination in product(*axes)]


def even_stride(side: int, grid: int, limit: int) -> int:
    """Return the stride on the pooling grid that divides `side` into as few equal parts as the limit allows."""
    if side <= limit:
        return side
    largest = max(grid, limit // grid * grid)
    parts = -(-side // largest)
    return -(-side // (parts * grid)) * grid


def mirror_index(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Return the image index of each position of an axis that is mirrored at its first and last pixel.

    The border pixel is not repeated; positions at any distance outside are folded back as often as necessary. An axis
    of one pixel repeats it.

    Parameters
    ----------
    start, stop
        Range of positions; may lie outside of the axis.
    length
        Pixels of the axis.

    Returns
    -------
    index
        ``(stop - start,)`` intp, 0 .. `length` - 1.
    """
    places = np.arange(start, stop)
    if length == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (length - 1)
    folded = np.mod(places, period)
    index: NDArray[np.intp] = np.minimum(folded, period - folded).astype(np.intp)
    return index


def read_mirrored(image: Readable, read: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Read a region of an image, mirrored where it lies outside.

    Parameters
    ----------
    image
        ``(C, *S)``, any dtype; only the necessary part is read, once.
    read
        ``(start, stop)`` for each axis of ``*S``.

    Returns
    -------
    ndarray
        ``(C, *tile)``, dtype and intensities of the image; a view if the image is an array and the
        region lies inside it.
    """
    inside: list[slice] = []
    folded: list[tuple[int, NDArray[np.intp]]] = []
    for axis, (start, stop) in enumerate(read, start=1):
        length = image.shape[axis]
        if start >= 0 and stop <= length:
            inside.append(slice(start, stop))
        else:
            index = mirror_index(start, stop, length)
            inside.append(slice(int(index.min()), int(index.max()) + 1))
            folded.append((axis, index - index.min()))
    part = image[(slice(None), *inside)]
    for axis, index in folded:
        part = np.take(part, index, axis=axis)
    return part


def busiest_window(image: Readable, sides: Sequence[int], *, places: int) -> tuple[slice, ...]:
    """Return the window of an image with the largest standard deviation, of a regular grid of windows.

    Parameters
    ----------
    image
        ``(C, *S)``, any dtype and intensities; each window is read, overlapping ones twice.
    sides
        Sides of the window, at most those of the image.
    places
        Number of windows along each axis, from one end of the image to the other.
    """
    axes = []
    for n, side in zip(image.shape[1:], sides, strict=True):
        starts = sorted({round((n - side) * k / max(1, places - 1)) for k in range(places)})
        axes.append([slice(start, start + side) for start in starts])
    windows = list(product(*axes))
    if len(windows) == 1:
        return windows[0]
    return max(windows, key=lambda window: float(image[(slice(None), *window)].std()))
