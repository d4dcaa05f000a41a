"""Compiled loops of `septum.arrays.distance`: squared distances to the background, in integers.

The distance transform is separable: `sweep` finds the distance along the first axis, `envelope` combines the results
along each further axis. Import this module only where it is used: numba takes half a second, and the first use on a
machine compiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.arrays.jit import lazy_jit


@lazy_jit
def sweep(mask: NDArray[np.bool_], start: int, stop: int, weight: int, cap: int) -> NDArray[np.int32]:
    """Compute the squared distance to the nearest background pixel along the first axis.

    Parameters
    ----------
    mask
        ``(N, P)`` bool, True for foreground.
    start, stop
        Rows to return.
    weight
        Square of one step along this axis, an integer.
    cap
        Largest squared distance.

    Returns
    -------
    squares
        ``(stop - start, P)`` int32 distances, 0 .. `cap`.
    """
    rows, columns = mask.shape
    squares = np.empty((stop - start, columns), np.int32)
    most = 1
    while most * most * weight < cap:
        most += 1
    away = np.full(columns, most, np.int32)
    for row in range(stop):
        for p in range(columns):
            away[p] = min(away[p] + 1, most) if mask[row, p] else 0
            if row >= start:
                squares[row - start, p] = away[p]
    away[:] = most
    for row in range(rows - 1, start - 1, -1):
        for p in range(columns):
            away[p] = min(away[p] + 1, most) if mask[row, p] else 0
            if row < stop:
                nearest: int = min(away[p], squares[row - start, p])
                squares[row - start, p] = min(weight * nearest * nearest, cap)
    return squares


@lazy_jit
def envelope(squares: NDArray[np.int32], start: int, stop: int, weight: int, cap: int) -> NDArray[np.int32]:
    """Combine squared distances along the middle axis: the lower envelope of parabolas.

    Integer version of A. Meijster et al., A general algorithm for computing distance transforms in linear time, 2000. A
    run of foreground is processed on its own: its distances depend on it and on the background pixels at its two ends
    only.

    Parameters
    ----------
    squares
        ``(N, L, P)`` int32, non-negative: squared distances along the axes before.
    start, stop
        Places of the middle axis to return.
    weight, cap
        As for `sweep`.

    Returns
    -------
    squares
        ``(N, stop - start, P)`` int32 distances, 0 .. `cap`.
    """
    lines, length, columns = squares.shape
    out = np.zeros((lines, stop - start, columns), np.int32)
    site, since, g = np.empty(length, np.int64), np.empty(length, np.int64), np.empty(length, np.int64)
    for line in range(lines):
        for column in range(columns):
            for i in range(length):
                g[i] = squares[line, i, column]
            end = 0
            while end < length:
                if g[end] == 0:
                    end += 1
                    continue
                low = max(end - 1, 0)
                while end < length and g[end] > 0:
                    end += 1
                high = min(end, length - 1)
                if high < start or low >= stop:
                    continue
                top = 0
                site[0], since[0] = low, low
                for u in range(low + 1, high + 1):
                    while top >= 0:
                        here, s = since[top], site[top]
                        if weight * ((here - s) * (here - s) - (here - u) * (here - u)) + g[s] <= g[u]:
                            break
                        top -= 1
                    if top < 0:
                        top = 0
                        site[0], since[0] = u, low
                        continue
                    s = site[top]
                    begin = 1 + (weight * (u - s) * (u + s) + g[u] - g[s]) // (2 * weight * (u - s))
                    if begin <= high:
                        top += 1
                        site[top], since[top] = u, begin
                for x in range(high, low - 1, -1):
                    s = site[top]
                    if start <= x < stop:
                        out[line, x - start, column] = min(weight * (x - s) * (x - s) + g[s], cap)
                    if x == since[top]:
                        top -= 1
    return out
