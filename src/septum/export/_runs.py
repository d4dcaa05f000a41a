"""Compiled loops of `septum.export.runs` and `septum.export.measure` over runs of pixels.

A run is a row of five columns: object, slice, row, first column, and the column after the last one. Hulls are made of
the middles of pixel edges: points have twice the coordinates of pixels, so that these are whole numbers too. Import
this module only where it is used: numba takes half a second, and the first use on a machine compiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit


@lazy_jit
def find_runs(labels: NDArray[Any], z: int, y: int) -> NDArray[np.int64]:
    """List the runs of equal labels in the rows of a part of an image, in scan order.

    Parameters
    ----------
    labels
        ``(Y, X)`` integers: ids; 0 and less is background.
    z, y
        Slice and first row of the part.

    Returns
    -------
    runs
        ``(N, 5)`` int64: label, slice, row, start and stop, 0 or more.
    """
    height, width = labels.shape
    count = 0
    for row in range(height):
        before = labels[row, 0] * 0
        for x in range(width):
            one = labels[row, x]
            if one != before and one > 0:
                count += 1
            before = one
    runs = np.empty((count, 5), np.int64)
    n = -1
    for row in range(height):
        before = labels[row, 0] * 0
        for x in range(width):
            one = labels[row, x]
            if one != before:
                if before > 0:
                    runs[n, 4] = x
                if one > 0:
                    n += 1
                    runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3] = one, z, y + row, x
                before = one
        if before > 0:
            runs[n, 4] = width
    return runs


@lazy_jit
def sum_squares(last: int) -> int:
    """Return the sum of the squares of 1 .. `last`, as a polynomial that also holds for differences below 0."""
    return last * (last + 1) * (2 * last + 1) // 6


@lazy_jit
def add_sums(runs: NDArray[np.int64], sums: NDArray[np.int64], boxes: NDArray[np.int64]) -> None:
    """Add runs to the moments and the bounding boxes of their objects.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64: object, 0 .. K - 1, slice, row, start and stop in pixels.
    sums
        ``(K, 13)`` int64, any values; changed. Pixels; slice, row and column of the first pixel; then sums over the
        pixels of the position from there: z, y, x, zz, zy, zx, yy, yx, xx.
    boxes
        ``(K, 6)`` int64 pixels; changed: lowest z, y, x; then the highest, plus 1.
    """
    for n in range(len(runs)):
        k, z, y, start, stop = runs[n]
        row, box = sums[k], boxes[k]
        if row[0] == 0:
            row[1], row[2], row[3] = z, y, start
            box[0], box[1], box[2], box[3], box[4], box[5] = z, y, start, z + 1, y + 1, stop
        box[0], box[1], box[2] = min(box[0], z), min(box[1], y), min(box[2], start)
        box[3], box[4], box[5] = max(box[3], z + 1), max(box[4], y + 1), max(box[5], stop)
        pixels = stop - start
        dz, dy, first, last = z - row[1], y - row[2], start - row[3], stop - 1 - row[3]
        across = (first + last) * pixels // 2
        row[0] += pixels
        row[4] += dz * pixels
        row[5] += dy * pixels
        row[6] += across
        row[7] += dz * dz * pixels
        row[8] += dz * dy * pixels
        row[9] += dz * across
        row[10] += dy * dy * pixels
        row[11] += dy * across
        row[12] += sum_squares(last) - sum_squares(first - 1)


@lazy_jit
def is_border(labels: NDArray[Any], y: int, x: int, label: Any) -> bool:
    """Return True if a pixel belongs to an object and one of its four neighbors does not.

    Parameters
    ----------
    labels
        ``(Y, X)`` integers: ids; beyond the array there is no object.
    y, x, label
        The pixel and the object.
    """
    height, width = labels.shape
    if y < 0 or x < 0 or y == height or x == width or labels[y, x] != label:
        return False
    if y == 0 or x == 0 or y == height - 1 or x == width - 1:
        return True
    return bool(
        labels[y - 1, x] != label or labels[y + 1, x] != label or labels[y, x - 1] != label or labels[y, x + 1] != label
    )


@lazy_jit
def add_borders(labels: NDArray[Any], top: int, runs: NDArray[np.int64], steps: NDArray[np.int64]) -> None:
    """Count the border pixels of objects by the kind of their surroundings, from which the perimeter follows.

    Parameters
    ----------
    labels
        ``(Y, X)`` integer ids: the rows of the runs, and two rows before and after them where the image has these.
    top
        Row of the image that is the first of `labels`.
    runs
        ``(N, 5)`` int64: object, 0 .. K - 1, slice, row, start and stop in pixels.
    steps
        ``(K, 3)`` int64 counts; changed: steps of length 1, of sqrt(2), and of the mean of both.
    """
    for n in range(len(runs)):
        k, _, row, start, stop = runs[n]
        y = row - top
        label = labels[y, start]
        for x in range(start, stop):
            if not is_border(labels, y, x, label):
                continue
            code = 1
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if (dy != 0 or dx != 0) and is_border(labels, y + dy, x + dx, label):
                        code += 2 if dy == 0 or dx == 0 else 10
            if code in (5, 7, 15, 17, 25, 27):
                steps[k, 0] += 1
            elif code in (21, 33):
                steps[k, 1] += 1
            elif code in (13, 23):
                steps[k, 2] += 1


@lazy_jit
def add_values(
    values: NDArray[Any], top: int, runs: NDArray[np.int64], sums: NDArray[np.float64], seen: NDArray[np.bool_]
) -> None:
    """Add the intensities of one channel to its sums over objects, in scan order.

    Parameters
    ----------
    values
        ``(Y, X)`` float32 or float64 intensities.
    top
        Row of the image that is the first of `values`.
    runs
        ``(N, 5)`` int64: object, 0 .. K - 1, slice, row, start and stop in pixels.
    sums
        ``(K, 5)`` float64, any values; changed: the first value; the sum and the sum of squares of differences from it;
        the lowest and the highest value.
    seen
        ``(K,)`` bool, True for objects that have values; changed.
    """
    for n in range(len(runs)):
        k, _, row, start, stop = runs[n]
        one, y = sums[k], row - top
        if not seen[k]:
            seen[k] = True
            one[0] = one[3] = one[4] = values[y, start]
        for x in range(start, stop):
            value = np.float64(values[y, x])
            moved = value - one[0]
            one[1] += moved
            one[2] += moved * moved
            one[3] = min(one[3], value)
            one[4] = max(one[4], value)


@lazy_jit
def row_ends(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """List the middles of pixel edges at the ends of rows, between which all pixels of an object lie.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64 pixels, sorted by object and scan order: object, slice, row, start and stop.

    Returns
    -------
    points
        ``(M, 3)`` int64: object, and twice the row and column of a point; pixel centers are at even coordinates.
    """
    points = np.empty((6 * len(runs), 3), np.int64)
    count, n = 0, 0
    while n < len(runs):
        k, y, low, high = runs[n, 0], runs[n, 2], runs[n, 3], runs[n, 4]
        while n < len(runs) and runs[n, 0] == k and runs[n, 2] == y:
            high = runs[n, 4]
            n += 1
        for dy in range(-1, 2):
            out = 1 if dy == 0 else 0
            for x in (2 * low - out, 2 * (high - 1) + out):
                points[count, 0], points[count, 1], points[count, 2] = k, 2 * y + dy, x
                count += 1
    return points[:count].copy()


@lazy_jit
def convex_chain(points: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Return the vertices of one side of the convex hull of points.

    Parameters
    ----------
    points
        ``(N, 2)`` int64 coordinates y and x, sorted by y; of points of equal y the outermost is taken.
    side
        -1 for the side of low x, 1 for that of high x.

    Returns
    -------
    vertices
        ``(M, 2)`` int64 coordinates, y rising.
    """
    chain = np.empty((len(points), 2), np.int64)
    count = 0
    for n in range(len(points)):
        y, x = points[n]
        if count and chain[count - 1, 0] == y:
            if side * (x - chain[count - 1, 1]) <= 0:
                continue
            count -= 1
        while count > 1:
            ay, ax = chain[count - 2]
            by, bx = chain[count - 1]
            if side * ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) > 0:
                break
            count -= 1
        chain[count, 0], chain[count, 1] = y, x
        count += 1
    return chain[:count].copy()


@lazy_jit
def pixel_rows(chain: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Return the outermost pixel of each row on the inner side of a chain.

    Parameters
    ----------
    chain, side
        ``(M, 2)`` int64 coordinates, from `convex_chain`.

    Returns
    -------
    columns
        ``(R,)`` int64 columns of the pixels of the rows that the chain passes, from its first on.
    """
    first, last = -(-chain[0, 0] // 2), chain[-1, 0] // 2
    columns = np.empty(last - first + 1, np.int64)
    n = 0
    for row in range(first, last + 1):
        y = 2 * row
        while n + 1 < len(chain) and chain[n + 1, 0] < y:
            n += 1
        at, of = chain[n, 1], 1
        if n + 1 < len(chain):
            of = chain[n + 1, 0] - chain[n, 0]
            at = chain[n, 1] * of + (chain[n + 1, 1] - chain[n, 1]) * (y - chain[n, 0])
        columns[row - first] = at // (2 * of) if side > 0 else -(-at // (2 * of))
    return columns


@lazy_jit
def hull_vertices(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the vertices of the convex hull of points ``(N, 2)`` int64 sorted by y: ``(M, 2)`` int64 coordinates."""
    low, high = convex_chain(points, -1), convex_chain(points, 1)
    return np.concatenate((low, high))


@lazy_jit
def shrink_groups(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the vertices of the convex hull of each object.

    Parameters
    ----------
    points
        ``(N, 3)`` int64, sorted by object and y: object, and coordinates y and x.

    Returns
    -------
    vertices
        ``(M, 3)`` int64 coordinates, likewise, in no order within an object.
    """
    kept = np.empty((2 * len(points), 3), np.int64)
    count, n = 0, 0
    while n < len(points):
        end = n
        while end < len(points) and points[end, 0] == points[n, 0]:
            end += 1
        vertices = hull_vertices(points[n:end, 1:])
        for vertex in range(len(vertices)):
            kept[count, 0] = points[n, 0]
            kept[count, 1], kept[count, 2] = vertices[vertex]
            count += 1
        n = end
    return kept[:count].copy()


@lazy_jit
def measure_hull(points: NDArray[np.int64]) -> tuple[int, int]:
    """Measure the convex hull of one object.

    Parameters
    ----------
    points
        ``(N, 2)`` int64 coordinates y and x of middles of pixel edges, sorted by y.

    Returns
    -------
    pixels, width
        Pixels whose centers lie in the hull or on its border; and the square of twice the largest distance between the
        middles of the edges of these pixels.
    """
    low_chain, high_chain = convex_chain(points, -1), convex_chain(points, 1)
    low, high = pixel_rows(low_chain, -1), pixel_rows(high_chain, 1)
    first = -(-low_chain[0, 0] // 2)
    pixels, count = 0, 0
    ends = np.empty((6 * len(low), 2), np.int64)
    for dy in range(-1, 2):  # sorted by y below
        for n in range(len(low)):
            out = 1 if dy == 0 else 0
            pixels += high[n] - low[n] + 1 if dy == 0 else 0
            ends[count, 0], ends[count, 1] = 2 * (first + n) + dy, 2 * low[n] - out
            ends[count + 1, 0], ends[count + 1, 1] = 2 * (first + n) + dy, 2 * high[n] + out
            count += 2
    corners = hull_vertices(ends[np.argsort(ends[:, 0])])
    width = 0
    for a in range(len(corners)):
        for b in range(a):
            dy, dx = corners[a, 0] - corners[b, 0], corners[a, 1] - corners[b, 1]
            width = max(width, dy * dy + dx * dx)
    return pixels, width


@lazy_jit
def measure_hulls(points: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Measure the convex hulls of objects.

    Parameters
    ----------
    points
        ``(N, 3)`` int64, sorted by object 0 .. `count` - 1 and y: object, and coordinates y and x.
    count
        Number of objects.

    Returns
    -------
    measures
        ``(count, 2)`` int64 pixels and squares, as `measure_hull` returns them.
    """
    found = np.zeros((count, 2), np.int64)
    n = 0
    while n < len(points):
        end = n
        while end < len(points) and points[end, 0] == points[n, 0]:
            end += 1
        found[points[n, 0]] = measure_hull(points[n:end, 1:])
        n = end
    return found
