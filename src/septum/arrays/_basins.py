"""Parts of a shape, by depth: flooding from the deepest pixels, where basins merge unless a narrow neck parts them.

Import this module where it is used: numba takes half a second, and the first use on a machine compiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.arrays._compiled import compiled


def basins(depth: NDArray[np.float32], *, neck: float) -> NDArray[np.int32]:
    """Divide shapes into parts that are joined by necks only.

    Pixels are met from the deepest on. Where two basins meet, the depth there is the half-width of the neck between
    them; they become one unless it is less than `neck` times the half-width of the narrower of the two. Around a
    maximum made by rounding or by a bump of the outline the depth is nearly that of the shape, whatever its size: a
    ratio needs no tuning to the size of the objects, where the usual difference (h-maxima) does.

    Parameters
    ----------
    depth
        ``(Y, X)`` or ``(Z, Y, X)`` float32, finite: distance to the outline, 0 outside.
    neck
        0 .. 1; 0 gives the face-connected components.

    Returns
    -------
    parts
        ``(*S)`` int32: 0 where `depth` is 0, 1 .. N in the order in which a scan of the array meets them.
    """
    padded = np.pad(depth, 1)  # a rim of zeros: neighbors need no test for the border of the image
    flat = padded.ravel()
    inside = np.flatnonzero(flat > 0)
    order = inside[np.argsort(-flat[inside], kind="stable")]
    strides = np.array(padded.strides) // padded.itemsize
    parts = _flood(flat, inside, order, np.concatenate([-strides, strides[::-1]]), neck).reshape(padded.shape)
    return np.ascontiguousarray(parts[(slice(1, -1),) * depth.ndim])


@compiled
def _root(parent: NDArray[np.int64], pixel: int) -> int:
    """Find the peak of a pixel's basin, and shorten the way to it."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@compiled
def _flood(
    depth: NDArray[np.float32],
    inside: NDArray[np.int64],
    order: NDArray[np.int64],
    steps: NDArray[np.int64],
    neck: float,
) -> NDArray[np.int32]:
    """Flood `depth` in `order` over neighbors at `steps`; a basin is named by its peak until the end."""
    parent = np.full(depth.size, -1, np.int64)
    for pixel in order:
        steepest = -1
        for step in steps:
            if parent[pixel + step] >= 0 and (steepest < 0 or depth[pixel + step] > depth[steepest]):
                steepest = pixel + step
        if steepest < 0:
            parent[pixel] = pixel
            continue
        own = _root(parent, steepest)
        parent[pixel] = own
        for step in steps:
            if parent[pixel + step] >= 0:
                other = _root(parent, pixel + step)
                if other != own and depth[pixel] >= neck * min(depth[own], depth[other]):
                    if depth[other] > depth[own]:
                        own, other = other, own
                    parent[other] = own
    parts = np.zeros(depth.size, np.int32)
    number = np.zeros(depth.size, np.int32)
    count = 0
    for pixel in inside:
        root = _root(parent, pixel)
        if number[root] == 0:
            count += 1
            number[root] = count
        parts[pixel] = number[root]
    return parts
