"""Compiled loops on distances: to the background (`septum.arrays.distance`), and to the two nearest objects.

The squared distance to the background is separable: `sweep` finds it along the first axis, `envelope` combines the
results along each further axis.

The two nearest objects of each background pixel are found exactly, in time linear in the pixels.
The search proceeds axis by axis, as exact distance transforms do, but passes on two candidates (object, squared
distance) of **different** objects per pixel instead of one. Two candidates suffice: let ``B`` be the second nearest
object of pixel ``x``, and ``y`` the pixel on the line through ``x`` that passes on its distance. An object nearer to
``y`` than ``B`` is also nearer to ``x``, so it can only be the nearest object of ``x``; hence ``B`` is among the two
candidates of ``y``.

Along the first axis two sweeps carry the candidates. Along the other axes each pixel searches its line outward and
stops where the step alone is longer than the distances found: few steps where objects are dense, `reach` at most.

Import this module only where it is used: numba takes half a second, and the first use on a machine compiles.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit

Pairs = tuple[NDArray[Any], ...]  # (id1 int32, square1 float32, id2 int32, square2 float32), all of one shape


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


@lazy_jit
def _enter(label: int, d: Any, a: int, da: Any, b: int, db: Any) -> tuple[int, Any, int, Any]:
    """Insert a candidate: return the two nearest of (a, da), (b, db) and (label, d), of different objects."""
    if label == a:
        da = min(d, da)
    elif d < da:
        a, da, b, db = label, d, a, da
    elif d < db:
        b, db = label, d
    return a, da, b, db


@lazy_jit
def sweep_pairs(labels: NDArray[np.int32], start: int, stop: int, step: float, reach: float) -> Pairs:
    """Find the pairs of rows ``start .. stop - 1`` of ``(n, P)`` int32 ids along the first axis."""
    n, columns = labels.shape
    infinity = np.float32(np.inf)
    id1, id2 = np.zeros((stop - start, columns), np.int32), np.zeros((stop - start, columns), np.int32)
    square1, square2 = np.full(id1.shape, infinity), np.full(id1.shape, infinity)
    for backward in range(2):
        # The object last met in each column and that met before it, with the rows where they were seen.
        a, b = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        row_a, row_b = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        for i in range(n):
            row = n - 1 - i if backward else i
            for p in range(columns):
                label = labels[row, p]
                if label > 0:
                    if label != a[p]:
                        b[p], row_b[p] = a[p], row_a[p]
                        a[p] = label
                    row_a[p] = row
                if start <= row < stop and a[p] > 0:
                    distance = abs(row - row_a[p]) * step
                    if distance > reach:
                        continue
                    o = row - start
                    nearest = (id1[o, p], square1[o, p], id2[o, p], square2[o, p])
                    nearest = _enter(a[p], np.float32(distance * distance), *nearest)
                    distance = abs(row - row_b[p]) * step
                    if b[p] > 0 and distance <= reach:
                        nearest = _enter(b[p], np.float32(distance * distance), *nearest)
                    id1[o, p], square1[o, p], id2[o, p], square2[o, p] = nearest
    return id1, square1, id2, square2


@lazy_jit
def _farthest(da: Any, db: Any, reach: float, summed: bool) -> Any:
    """Return the squared step at which the search ends: farther candidates cannot be used.

    A candidate found at step s is at least s away. If the nearest object is within half the reach, a new candidate can
    only become the second, and is useful up to ``reach`` minus the first distance.
    """
    if summed and da < np.float32(0.25 * reach * reach):
        return min(db, np.float32((reach - math.sqrt(da)) ** 2 * (1 + 1e-6)))
    return db


@lazy_jit
def scan(pairs: Pairs, labels: NDArray[np.int32], step: float, reach: float, summed: bool) -> Pairs:
    """Complete the pairs along the lines of ``(N, X)`` matrices, where the int32 `labels` are 0."""
    id1, square1, id2, square2 = pairs
    lines, length = labels.shape
    out1, out2 = np.zeros(labels.shape, np.int32), np.zeros(labels.shape, np.int32)
    near1, near2 = np.full(labels.shape, np.float32(np.inf)), np.full(labels.shape, np.float32(np.inf))
    steps = np.empty(int(reach / step) + 1, np.float32)
    for k in range(len(steps)):
        steps[k] = (k * step) ** 2
    for line in range(lines):
        for x in range(length):
            if labels[line, x] != 0:
                continue
            a, da, b, db = id1[line, x], square1[line, x], id2[line, x], square2[line, x]
            end = _farthest(da, db, reach, summed)
            for k in range(1, len(steps)):
                if steps[k] >= end:
                    break
                for y in (x - k, x + k):
                    if 0 <= y < length and square1[line, y] + steps[k] < db:
                        a, da, b, db = _enter(id1[line, y], square1[line, y] + steps[k], a, da, b, db)
                        if square2[line, y] + steps[k] < db:
                            a, da, b, db = _enter(id2[line, y], square2[line, y] + steps[k], a, da, b, db)
                        end = _farthest(da, db, reach, summed)
            out1[line, x], near1[line, x], out2[line, x], near2[line, x] = a, da, b, db
    return out1, near1, out2, near2
