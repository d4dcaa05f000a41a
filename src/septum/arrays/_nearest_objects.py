"""Compiled search for the two nearest objects of each background pixel, exactly, in time linear in the pixels.

The search proceeds axis by axis, as exact distance transforms do, but passes on two candidates (object, squared
distance) of **different** objects per pixel instead of one. Two candidates suffice: let ``B`` be the second nearest
object of pixel ``x``, and ``y`` the pixel on the line through ``x`` that passes on its distance. An object nearer to
``y`` than ``B`` is also nearer to ``x``, so it can only be the nearest object of ``x``; hence ``B`` is among the two
candidates of ``y``.

Along the first axis two sweeps carry the candidates. Along the other axes each pixel searches its line outward and
stops where the step alone is longer than the distances found: few steps where objects are dense, `reach` at most.
The first use on a machine compiles.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.jit import lazy_jit

Pairs = tuple[NDArray[Any], ...]  # (id1 int32, square1 float32, id2 int32, square2 float32), all of one shape


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
def sweep(labels: NDArray[np.int32], start: int, stop: int, step: float, reach: float) -> Pairs:
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
