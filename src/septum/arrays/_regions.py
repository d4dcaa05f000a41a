"""Loops of `septum.arrays.regions`: sums over the pixels of each region, and the faces between regions.

Arrays are ``(Z, Y, X)``, flattened, with a ring of one pixel around the core (2D: ``(1, Y, X)`` with no ring along Z).
Import this module only where it is used: numba takes half a second, and the first use on a machine compiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit


@lazy_jit
def add_moments(row: NDArray[np.int64], z: int, y: int, x: int, axes: int) -> None:
    """Add a pixel to the first and second moments of its region.

    Parameters
    ----------
    row
        ``(6 + D + D (D + 1) / 2,)`` int64, any values: a row of the sums of `add_pixels`; changed.
    z, y, x
        Position of the pixel.
    axes
        2 or 3.
    """
    place, column = (z, y, x), 6
    for axis in range(3 - axes, 3):
        row[column] += place[axis]
        column += 1
    for axis in range(3 - axes, 3):
        for second in range(axis, 3):
            row[column] += place[axis] * place[second]
            column += 1


@lazy_jit
def add_faces(
    row: NDArray[np.int64], labels: NDArray[np.int32], level: np.int64, p: int, steps: tuple[int, int, int], axes: int
) -> int:
    """Add the faces of a pixel to background and border to its region; count those between two regions after it.

    Parameters
    ----------
    row
        As for `add_moments`: ``(6 + D + D (D + 1) / 2,)`` int64, any values; changed.
    labels
        ``(P,)`` int32 regions, as for `add_pixels`.
    level, p
        Level and index of the pixel.
    steps, axes
        Index step of each axis, of which the last `axes` are those of the image.
    """
    faces = 0
    for axis in range(3 - axes, 3):
        for step in (-steps[axis], steps[axis]):
            other = labels[p + step]
            if other == 0:
                row[3] += 1
                row[4] += level
            elif other < 0:
                row[5] += 1
            elif step > 0 and other != labels[p]:
                faces += 1
    return faces


@lazy_jit
def add_pixels(
    labels: NDArray[np.int32],
    levels: NDArray[np.uint16],
    depths: NDArray[np.int32],
    sure: int,
    sides: tuple[int, int, int],
    origin: tuple[int, int, int],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Add the core pixels of each region to its sums, and count the faces between two regions.

    Parameters
    ----------
    labels
        ``(P,)`` int32: regions 1 .. N, 0 background, -1 beyond the border of the image.
    levels
        ``(P,)`` uint16 probabilities, 0 .. 65535.
    depths
        ``(P,)`` int32 squared distances, 0 or more.
    sure
        Pixels above this level are counted as seed pixels.
    sides
        Sides of the array with its ring; the first is 1 for images of two axes.
    origin
        Position of the first pixel of the array in the image.

    Returns
    -------
    sums
        ``(N + 1, 6 + D + D (D + 1) / 2)`` int64, the columns of `septum.arrays.regions.Regions.sums`.
    peaks
        ``(N + 1, 2)`` int64, 0 or more: largest level and depth.
    first
        ``(N + 1,)`` int64: index of the first pixel of each region in the array.
    faces
        Number of faces between pixels of different regions that the core owns: the pixel before the face is in it.
    """
    depth, height, width = sides
    ring = 1 if depth > 1 else 0
    axes = 2 + ring
    steps = (height * width, width, 1)
    regions = max(0, labels.max()) + 1
    sums = np.zeros((regions, 6 + axes + axes * (axes + 1) // 2), np.int64)
    peaks = np.zeros((regions, 2), np.int64)
    first = np.zeros(regions, np.int64)
    faces = 0
    for z in range(ring, depth - ring):
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                p = (z * height + y) * width + x
                one = labels[p]
                if one <= 0:
                    continue
                level = np.int64(levels[p])
                row = sums[one]
                if row[0] == 0:
                    first[one] = p
                row[0] += 1
                row[1] += level
                row[2] += level > sure
                peaks[one, 0] = max(peaks[one, 0], level)
                peaks[one, 1] = max(peaks[one, 1], np.int64(depths[p]))
                faces += add_faces(row, labels, level, p, steps, axes)
                add_moments(row, origin[0] + z, origin[1] + y, origin[2] + x, axes)
    return sums, peaks, first, faces


@lazy_jit
def list_faces(
    labels: NDArray[np.int32],
    levels: NDArray[np.uint16],
    depths: NDArray[np.int32],
    sides: tuple[int, int, int],
    number: int,
) -> NDArray[np.int64]:
    """List the faces between pixels of different regions that the core owns.

    Parameters
    ----------
    labels, levels, depths, sides
        As for `add_pixels`: ``(P,)`` int32 regions, ``(P,)`` uint16 levels, ``(P,)`` int32 squared distances.
    number
        Number of faces, from `add_pixels`.

    Returns
    -------
    faces
        ``(4, number)`` int64, >= 0: the lower and the higher region, the lower of the two levels and of the two
        depths.
    """
    depth, height, width = sides
    ring = 1 if depth > 1 else 0
    steps = (height * width, width, 1)
    faces = np.empty((4, number), np.int64)
    count = 0
    for z in range(ring, depth - ring):
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                p = (z * height + y) * width + x
                if labels[p] <= 0:
                    continue
                for axis in range(1 - ring, 3):
                    n = p + steps[axis]
                    if labels[n] <= 0 or labels[n] == labels[p]:
                        continue
                    faces[0, count] = min(labels[p], labels[n])
                    faces[1, count] = max(labels[p], labels[n])
                    faces[2, count] = min(levels[p], levels[n])
                    faces[3, count] = min(depths[p], depths[n])
                    count += 1
    return faces
