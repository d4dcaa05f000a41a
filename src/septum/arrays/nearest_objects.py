"""Nearest and second nearest object of each background pixel, exactly, in time linear in the pixels.

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
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.jit import lazy_jit

Pairs = tuple[NDArray[Any], ...]  # (id1 int32, square1 float32, id2 int32, square2 float32), all of one shape
SLAB_PIXELS = 2**20  # pixels searched at a time, without margins: 16 MiB of candidates


def two_nearest(
    labels: NDArray[np.int32], *, spacing: tuple[float, ...], reach: float
) -> Iterator[tuple[slice, Pairs]]:
    """Walk an image in slabs along its first axis and find the two nearest objects of its background pixels.

    Parameters
    ----------
    labels
        ``(Y, X)`` or ``(Z, Y, X)`` int32, C-contiguous: object ids of 1 and more; 0 is background; pixels with a
        negative value are not objects, and no result is computed for them.
    spacing
        Pixel size along each axis, in the unit of `reach`.
    reach
        Pairs of objects whose distances add up to more need not be found.

    Yields
    ------
    rows
        The slab: a slice of the first axis.
    pairs
        ``(id1, square1, id2, square2)``, each of the slab's shape: id of the nearest object (int32) and its squared
        Euclidean distance between pixel centers (float32), and the same of the second nearest; id 0 and infinity if
        there is none within `reach`. Undefined where `labels` is not 0.
    """
    margin = math.ceil(reach / spacing[0])
    plane = math.prod(labels.shape[1:])
    thick = max(SLAB_PIXELS // max(plane, 1), margin, 1)
    for start in range(0, labels.shape[0], thick):
        rows = slice(start, min(start + thick, labels.shape[0]))
        first, last = max(0, rows.start - margin), min(labels.shape[0], rows.stop + margin)
        pairs = _sweep(labels[first:last].reshape(last - first, plane), rows.start - first, rows.stop - first,
                       spacing[0], reach)  # fmt: skip
        shape = (rows.stop - rows.start, *labels.shape[1:])
        if labels.ndim == 3:
            # Along Y every pixel needs its pairs, also inside objects: they are candidates of the pixels along X.
            turned = _lines(pairs, shape, (0, 2, 1))
            pairs = _scan(turned, np.zeros((len(turned[0]), shape[1]), np.int32), spacing[1], reach, False)
            pairs = _lines(pairs, (shape[0], shape[2], shape[1]), (0, 2, 1))
        lines = (-1, labels.shape[-1])
        pairs = _scan(_lines(pairs, lines, (0, 1)), labels[rows].reshape(lines), spacing[-1], reach, True)
        yield rows, tuple(part.reshape(shape) for part in pairs)


def _lines(pairs: Pairs, shape: tuple[int, ...], order: tuple[int, ...]) -> Pairs:
    """Reshape the pairs, transpose them, and make the last axis the lines of a matrix."""
    turned = (np.ascontiguousarray(part.reshape(shape).transpose(order)) for part in pairs)
    return tuple(part.reshape(-1, part.shape[-1]) for part in turned)


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
def _sweep(labels: NDArray[np.int32], start: int, stop: int, step: float, reach: float) -> Pairs:
    """Find the pairs of rows ``start .. stop - 1`` of ``(n, P)`` labels along the first axis."""
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
def _scan(pairs: Pairs, labels: NDArray[np.int32], step: float, reach: float, summed: bool) -> Pairs:
    """Complete the pairs along the lines of ``(N, X)`` matrices, where `labels` is 0."""
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
