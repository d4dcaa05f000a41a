"""Compiled loops of `septum.export.outlines`: rings around runs of pixels.

The left and the right end of run n are the edges 2 n and 2 n + 1. With the object on the right, left edges go up and
right edges go down; where two rows of an object meet, each edge that arrives continues as one that leaves, straight or
along the row. Of pixels that touch at a corner only, each keeps to its own corner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit


@lazy_jit
def find_root(parent: NDArray[np.int64], n: int) -> int:
    """Return the root of run `n` in a forest, ``(N,)`` int64 indices of runs, which is flattened on the way."""
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = parent[n]
    return n


@lazy_jit
def join_rows(
    runs: NDArray[np.int64],
    above: tuple[int, int],
    below: tuple[int, int],
    following: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    parent: NDArray[np.int64],
) -> None:
    """Link the edges that meet between two rows of an object, and join the runs that share a side of a pixel.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64: object, slice, row, start and stop in pixels.
    above, below
        First run and the one after the last of each row.
    following
        ``(2 N,)`` int64 indices, changed: the edge after each edge.
    kinds
        ``(3, 2 N)`` uint8, 0 or 1; changed: the edge turns at its end; its beginning, and its end, lie at a corner at
        which two pixels of the object touch and no other.
    parent
        ``(N,)`` int64 indices, changed: a forest of runs.
    """
    p, q = 2 * above[0], 2 * below[0]
    inside_a, inside_b, open_edge = False, False, -1
    end = np.int64(1) << 62
    while p < 2 * above[1] or q < 2 * below[1]:
        x_a = runs[p // 2, 3 + p % 2] if p < 2 * above[1] else end
        x_b = runs[q // 2, 3 + q % 2] if q < 2 * below[1] else end
        a, b = (p if x_a <= x_b else -1), (q if x_b <= x_a else -1)
        above_before, before = inside_a, inside_a != inside_b
        if a >= 0:
            inside_a = not inside_a
            p += 1
        if b >= 0:
            inside_b = not inside_b
            q += 1
        after = inside_a != inside_b
        if before and after:  # from above only to below only, or back
            kinds[2 if above_before else 1, a] = kinds[2 if above_before else 1, b] = 1
        if before:
            if above_before:
                arriving, leaving = (a if a >= 0 else b), open_edge
            else:
                arriving, leaving = open_edge, (b if b >= 0 else a)
            following[arriving] = leaving
            kinds[0, arriving] = 1
        if after:
            open_edge = (a if a >= 0 else b) if inside_a else (b if b >= 0 else a)
        elif not before:
            arriving, leaving = (b, a) if inside_a else (a, b)
            following[arriving] = leaving
        if inside_a and inside_b:
            one, other = find_root(parent, (p - 1) // 2), find_root(parent, (q - 1) // 2)
            parent[max(one, other)] = min(one, other)


@lazy_jit
def link_edges(runs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Link the edges of all objects.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64 pixels, those of each object together in scan order: object, slice, row, start and stop.

    Returns
    -------
    following, kinds
        ``(2 N,)`` int64 indices and ``(3, 2 N)`` uint8 of 0 and 1, see `join_rows`.
    part
        ``(N,)`` int64 index of the first run of the connected part of each run.
    """
    count = len(runs)
    following, kinds = np.empty(2 * count, np.int64), np.zeros((3, 2 * count), np.uint8)
    parent = np.arange(count)
    before, n = (0, 0), 0
    while n < count:
        end = n
        while end < count and runs[end, 0] == runs[n, 0] and runs[end, 2] == runs[n, 2]:
            end += 1
        row = (n, end)
        adjacent = before[1] > before[0] and runs[before[0], 0] == runs[n, 0] and runs[before[0], 2] + 1 == runs[n, 2]
        if not adjacent:
            join_rows(runs, before, (0, 0), following, kinds, parent)
            before = (0, 0)
        join_rows(runs, before, row, following, kinds, parent)
        before, n = row, end
    join_rows(runs, before, (0, 0), following, kinds, parent)
    for n in range(count):
        parent[n] = find_root(parent, n)
    return following, kinds, parent


@lazy_jit
def name_corners(corners: NDArray[np.int64], touching: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Assign numbers to the distinct corners at which pixels touch.

    Parameters
    ----------
    corners
        ``(N, 2)`` int64 coordinates x and y.
    touching
        ``(N,)`` uint8, 0 .. 1: 1 for these corners.

    Returns
    -------
    names
        ``(N,)`` int64, 0 or higher (>= 0) for these corners, -1 for others.
    """
    names = np.full(len(corners), -1, np.int64)
    where = np.flatnonzero(touching)
    keys = corners[where, 1] * (np.int64(1) << 32) + corners[where, 0]
    name = -1
    order = np.argsort(keys)
    for n in range(len(order)):
        if n == 0 or keys[order[n]] != keys[order[n - 1]]:
            name += 1
        names[where[order[n]]] = name
    return names


@lazy_jit
def split_ring(
    corners: NDArray[np.int64], touching: NDArray[np.uint8], filled: NDArray[np.int64], stops: NDArray[np.int64]
) -> int:
    """Split a ring at each corner that it passes twice; otherwise it would touch itself, which is no valid polygon.

    Parameters
    ----------
    corners
        ``(N, 2)`` int64 coordinates x and y of a ring.
    touching
        ``(N,)`` uint8, 0 .. 1: 1 at corners that may be passed twice.
    filled
        ``(N, 2)`` int64 coordinates, changed: the corners of the rings that it is split into.
    stops
        ``(N,)`` int64, changed: the index after the last corner of each ring.

    Returns
    -------
    int
        Number of rings.
    """
    names = name_corners(corners, touching)
    place = np.full(names.max() + 1, -1, np.int64)
    stack = np.empty(len(corners), np.int64)
    depth = done = rings = 0
    for n in range(len(corners)):
        name = names[n]
        if name >= 0 and place[name] >= 0:
            start = place[name]
            for m in range(start, depth):
                filled[done] = corners[stack[m]]
                done += 1
                if names[stack[m]] >= 0:
                    place[names[stack[m]]] = -1
            stops[rings] = done
            rings += 1
            depth = start
        stack[depth] = n
        if name >= 0:
            place[name] = depth
        depth += 1
    for m in range(depth):
        filled[done] = corners[stack[m]]
        done += 1
    stops[rings] = done
    return rings + 1


@lazy_jit
def trace_ring(
    runs: NDArray[np.int64],
    links: tuple[NDArray[np.int64], NDArray[np.uint8]],
    first: int,
    visited: NDArray[np.bool_],
    corners: NDArray[np.int64],
    touching: NDArray[np.uint8],
) -> int:
    """Follow the edges of one ring.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64: object, slice, row, start and stop in pixels.
    links
        ``(2 N,)`` int64 indices and ``(3, 2 N)`` uint8 of 0 .. 1, from `link_edges`.
    first
        The edge to begin with.
    visited
        ``(2 N,)`` bool, changed: True for the edges of rings that are done.
    corners, touching
        ``(4 N, 2)`` int64 coordinates and ``(4 N,)`` uint8 of 0 and 1, changed: the corners, and if two pixels touch
        there.

    Returns
    -------
    int
        Number of corners.
    """
    following, kinds = links
    count, edge = 0, first
    while not visited[edge]:
        visited[edge] = True
        after = following[edge]
        if kinds[0, edge]:
            y = runs[edge // 2, 2] + edge % 2  # right edges end below their row
            corners[count, 0], corners[count, 1] = runs[edge // 2, 3 + edge % 2], y
            corners[count + 1, 0], corners[count + 1, 1] = runs[after // 2, 3 + after % 2], y
            touching[count], touching[count + 1] = kinds[2, edge], kinds[1, after]
            count += 2
        edge = after
    return count


@lazy_jit
def twice_area(corners: NDArray[np.int64]) -> np.int64:
    """Return twice the area of a ring, corners ``(N, 2)`` int64 coordinates; below 0 for a hole."""
    total = np.int64(0)
    for n in range(len(corners)):
        m = n + 1 if n + 1 < len(corners) else 0
        total += corners[n, 0] * corners[m, 1] - corners[m, 0] * corners[n, 1]
    return total


@lazy_jit
def trace_rings(
    runs: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Trace the rings around objects.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64 pixels, those of each object together in scan order: object, slice, row, start and stop.

    Returns
    -------
    corners
        ``(M, 2)`` int64 coordinates x and y of the corners of all rings; the last corner of a ring is not its first.
    stops
        ``(R,)`` int64: the index after the last corner of each ring.
    part
        ``(R,)`` int64: index of the first run of the connected part that each ring bounds.
    hole
        ``(R,)`` bool, True for holes.
    """
    following, kinds, roots = link_edges(runs)
    visited = np.zeros(2 * len(runs), np.bool_)
    room = 4 * len(runs)
    corners, touching = np.empty((room, 2), np.int64), np.zeros(room, np.uint8)
    filled, stops = np.empty((room, 2), np.int64), np.empty(room, np.int64)
    part, hole = np.empty(room, np.int64), np.empty(room, np.bool_)
    done = rings = 0
    for n in range(len(runs)):
        if visited[2 * n]:
            continue
        count = trace_ring(runs, (following, kinds), 2 * n, visited, corners, touching)
        if touching[:count].sum() < 2:
            filled[done : done + count] = corners[:count]
            stops[rings] = count
            pieces = 1
        else:
            pieces = split_ring(corners[:count], touching[:count], filled[done:], stops[rings:])
        begin = done
        for piece in range(rings, rings + pieces):
            stops[piece] += done
            part[piece] = roots[n]
            hole[piece] = twice_area(filled[begin : stops[piece]]) < 0
            begin = stops[piece]
        done += count
        rings += pieces
    return filled[:done].copy(), stops[:rings].copy(), part[:rings].copy(), hole[:rings].copy()


@lazy_jit
def column_ends(runs: NDArray[np.int64], height: int) -> NDArray[np.int64]:
    """List where the runs down the columns of one object begin and end.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64 pixels in scan order: object, slice, row, start and stop.
    height
        Rows of the image.

    Returns
    -------
    ends
        ``(2, M)`` int64 pixels counted down the columns, rising: the first of each run, and the one after its last.
    """
    count = 0
    for n in range(len(runs)):
        count += runs[n, 4] - runs[n, 3]
    pixels = np.empty(count, np.int64)
    count = 0
    for n in range(len(runs)):
        for x in range(runs[n, 3], runs[n, 4]):
            pixels[count] = x * height + runs[n, 2]
            count += 1
    pixels.sort()
    ends = np.empty((2, count), np.int64)
    found = 0
    for n in range(count):
        if n == 0 or pixels[n] != pixels[n - 1] + 1:
            ends[0, found] = pixels[n]
            found += 1
        ends[1, found - 1] = pixels[n] + 1
    return ends[:, :found].copy()
