"""Loops in which pixels depend on one another in order, compiled by numba on first use and cached on disk.

Imported only where needed: numba takes half a second to import. Neighbors are numbered row by row::

    0 1 2
    3 . 4
    5 6 7
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit

DAM = -1
QUEUED = -2


def _flood(labels: NDArray[np.int32]) -> None:
    """Flood the 0 pixels of ``(Y, X)`` labels from the objects, in place; pixels where two objects meet become 0."""
    height, width = labels.shape
    queue = np.empty(labels.size, np.int64)
    end = 0
    for x in range(width):
        for y in range(height):
            if labels[y, x] == 0 and (
                (x > 0 and labels[y, x - 1] > 0)
                or (y > 0 and labels[y - 1, x] > 0)
                or (x < width - 1 and labels[y, x + 1] > 0)
                or (y < height - 1 and labels[y + 1, x] > 0)
            ):
                labels[y, x] = QUEUED
                queue[end] = y * width + x
                end += 1
    start = 0
    while start < end:
        y, x = queue[start] // width, queue[start] % width
        start += 1
        state, final = QUEUED, False
        for k in range(4):
            v = y + (k == 3) - (k == 1)
            u = x + (k == 2) - (k == 0)
            if v < 0 or u < 0 or v >= height or u >= width:
                continue
            there = labels[v, u]
            if there > 0:
                if not final and state <= DAM:
                    state = there
                elif state != there:
                    state, final = DAM, True
            elif there == DAM:
                if state == QUEUED:
                    state = DAM
            elif there == 0:
                labels[v, u] = QUEUED
                queue[end] = v * width + u
                end += 1
        labels[y, x] = state
    for y in range(height):
        for x in range(width):
            labels[y, x] = max(labels[y, x], 0)


def _relax(image: NDArray[np.uint8], places: NDArray[np.int64], simple: NDArray[np.bool_]) -> int:
    """Flip the pixels that may flip, in the order of `places`, and repeat until a round flips nothing.

    Parameters
    ----------
    image
        ``(Y + 2, X + 2)`` of 0 and 1 with a black frame; changed in place.
    places
        Flat positions in `image` of the pixels that differ from the target. Those that still differ at the end are
        moved to the front.
    simple
        ``(256,)``, True if a pixel with these neighbors, as bits, may flip.

    Returns
    -------
    int
        Number of pixels that still differ.
    """
    width = image.shape[1]
    flat = image.reshape(-1)
    left = places.size
    while left > 0:
        kept = 0
        for k in range(left):
            p = places[k]
            bits = (
                flat[p - width - 1]
                | (flat[p - width] << 1)
                | (flat[p - width + 1] << 2)
                | (flat[p - 1] << 3)
                | (flat[p + 1] << 4)
                | (flat[p + width - 1] << 5)
                | (flat[p + width] << 6)
                | (flat[p + width + 1] << 7)
            )
            if simple[bits]:
                flat[p] = 1 - flat[p]
            else:
                places[kept] = p
                kept += 1
        if kept == left:
            break
        left = kept
    return left


def _kinds(
    labels: NDArray[np.int32],
    places: NDArray[np.int64],
    radius: int,
    around: NDArray[np.int64],
    kinds: NDArray[np.uint8],
) -> None:
    """Classify each remaining mismatch into ``(Y, X)`` `kinds`; the numbers are those of `warping.Mismatch`.

    Parameters
    ----------
    labels
        ``(Y + 2, X + 2)``, 4-connected components of the warped truth, 0 where black, -1 in the frame.
    places
        ``(n, 2)``, rows and columns of the mismatches in the image without frame.
    radius
        Half side of the window in which a white pixel is tested; 0 for the whole image.
    around
        ``(8, 2)``, row and column steps to the neighbors.
    """
    height, width = kinds.shape
    seen = np.zeros(labels.shape, np.int64)
    stack = np.empty((labels.size, 2), np.int64)
    for n in range(places.shape[0]):
        y, x = places[n, 0] + 1, places[n, 1] + 1
        black, first, several = False, 0, False
        for k in range(8):
            there = labels[y + around[k, 0], x + around[k, 1]]
            if there == 0:
                black = True
            elif there > 0:
                several = several or (first > 0 and there != first)
                first = there
        white = labels[y, x] > 0
        if first == 0:
            kind = 2 if white else 1
        elif several and (black or _three(labels, y, x, around)):
            kind = 6 if white else 5
        elif white and (black or several):
            top, left = (max(1, y - radius), max(1, x - radius)) if radius else (1, 1)
            bottom, right = (min(height, y + radius), min(width, x + radius)) if radius else (height, width)
            kind = 6 if _parts(labels, seen, stack, n + 1, (y, x), (top, left, bottom, right), around) > 1 else 4
        elif black or several or white:
            kind = 3
        else:
            kind = 4
        kinds[y - 1, x - 1] = kind


def _three(labels: NDArray[np.int32], y: int, x: int, around: NDArray[np.int64]) -> bool:
    """Return True if the neighbors belong to three objects or more."""
    one = two = 0
    for k in range(8):
        there = labels[y + around[k, 0], x + around[k, 1]]
        if there > 0:
            if one == 0:
                one = there
            elif there != one and two == 0:
                two = there
            elif there not in (one, two):
                return True
    return False


def _parts(
    labels: NDArray[np.int32],
    seen: NDArray[np.int64],
    stack: NDArray[np.int64],
    mark: int,
    place: tuple[int, int],
    window: tuple[int, int, int, int],
    around: NDArray[np.int64],
) -> int:
    """Count the objects among the neighbors of the white pixel at `place` if it were black, within `window`."""
    y, x = place
    top, left, bottom, right = window
    seen[y, x] = mark
    parts = 0
    for k in range(8):
        v, u = y + around[k, 0], x + around[k, 1]
        if labels[v, u] <= 0 or seen[v, u] == mark or v < top or v > bottom or u < left or u > right:
            continue
        parts += 1
        seen[v, u] = mark
        stack[0, 0], stack[0, 1] = v, u
        size = 1
        while size > 0:
            size -= 1
            b, a = stack[size, 0], stack[size, 1]
            for j in (1, 3, 4, 6):
                v, u = b + around[j, 0], a + around[j, 1]
                if top <= v <= bottom and left <= u <= right and labels[v, u] > 0 and seen[v, u] != mark:
                    seen[v, u] = mark
                    stack[size, 0], stack[size, 1] = v, u
                    size += 1
    return parts


flood = lazy_jit(_flood)
relax = lazy_jit(_relax)
_three = lazy_jit(_three)
_parts = lazy_jit(_parts)
kinds = lazy_jit(_kinds)
