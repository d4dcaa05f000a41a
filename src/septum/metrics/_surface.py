"""Loops that find the nearest pixel of a surface, compiled by numba on first use and cached on disk.

The distances along rows are stored for every pixel; along the other two axes only pixels of the other surface search,
and only as far as a nearer pixel is possible. Surfaces that are compared lie close to one another most often.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit

FAR = 1 << 30
"""Distance along a row without a surface."""


@lazy_jit
def row_distances(surface: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Compute the distance of each pixel to the nearest pixel of a surface in its row.

    Parameters
    ----------
    surface
        ``(Z, Y, X)`` bool, True at its pixels.

    Returns
    -------
    ndarray
        ``(Z, Y, X)`` int32, in pixels, 0 or more; half of `FAR` or more in rows without surface.
    """
    depth, height, width = surface.shape
    rows = np.empty(surface.shape, np.int32)
    for z in range(depth):
        for y in range(height):
            last = -FAR
            for x in range(width):
                if surface[z, y, x]:
                    last = x
                rows[z, y, x] = min(x - last, FAR)
            last = FAR
            for x in range(width - 1, -1, -1):
                if surface[z, y, x]:
                    last = x
                rows[z, y, x] = min(rows[z, y, x], last - x)
    return rows


@lazy_jit
def search(
    rows: NDArray[np.int32],
    places: NDArray[np.int64],
    spacing: tuple[float, float, float],
    most: int,
    found: NDArray[np.float64],
) -> int:
    """Compute the distance of pixels to the nearest pixel of a surface, until `most` rows were looked at.

    Parameters
    ----------
    rows
        ``(Z, Y, X)`` int32 of `row_distances`; at least one row holds surface.
    places
        ``(n,)`` int64, rising: flat positions in `rows`.
    spacing
        Size of a pixel along each axis.
    most
        Number of rows.
    found
        ``(n,)`` float64, filled with the distances, 0 or more, in the unit of the spacing.

    Returns
    -------
    int
        Number of places whose distance is known; the others come later in `places`.
    """
    depth, height, width = rows.shape
    size_z, size_y, size_x = spacing
    looked, row_before, x_before, before = 0, -1, 0, 0.0
    for k in range(places.size):
        row, x = places[k] // width, places[k] % width
        z, y = row // height, row % height
        best = limit = np.inf
        if row == row_before:
            # From one pixel of the row to another, the distance grows by no more than the step between them.
            limit = (before + (x - x_before) * size_x) ** 2 * (1 + 1e-9)
        step_z = 0
        while step_z < depth and (step_z * size_z) ** 2 < limit:
            for side_z in range(2 if step_z else 1):
                v = z - step_z if side_z else z + step_z
                step_y = 0
                while 0 <= v < depth and step_y < height:
                    aside = (step_z * size_z) ** 2 + (step_y * size_y) ** 2
                    if aside >= limit:
                        break
                    for side_y in range(2 if step_y else 1):
                        u = y - step_y if side_y else y + step_y
                        if 0 <= u < height:
                            looked += 1
                            along = rows[v, u, x]
                            if along < FAR // 2:
                                best = min(best, aside + (along * size_x) ** 2)
                    limit = min(limit, best)
                    step_y += 1
            step_z += 1
        if looked > most:
            return k
        row_before, x_before, before = row, x, np.sqrt(best)
        found[k] = before
    return places.size
