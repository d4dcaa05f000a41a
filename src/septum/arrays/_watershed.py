"""Compiled loops of `septum.arrays.watershed`: pixels to basins, the meetings of basins, and who merges with whom.

Arrays are ``(Z, Y, X)`` with a ring of one pixel around the core (in 2D ``(1, Y, X)`` with no ring along Z), flattened.
Import this module where it is used: numba takes half a second, and the first use on a machine compiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.arrays.jit import lazy_jit

Nodes = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
TOP = (1 << 30) - 1  # the highest value; a meeting is packed as (TOP - value, pixel, step) in 30 + 31 + 3 bits


@lazy_jit
def outside(index: int, length: int, ring: int) -> bool:
    """Say whether a coordinate is in the ring."""
    return ring > 0 and (index == 0 or index == length - 1)


@lazy_jit
def point(
    key: NDArray[np.uint32],
    seed: NDArray[np.int32],
    seeds: int,
    steps: NDArray[np.int64],
    sides: tuple[int, int, int],
    ring: int,
) -> tuple[NDArray[np.int32], int]:
    """Let each pixel point to the neighbor that is met first, if that is met before itself, else to itself.

    Pixels of one seed point to one of them, pixels of the ring (beside a pixel of the core) to themselves.
    Returns the pointers, 0 outside of the mask, and how many pixels point to themselves.
    """
    depth, height, width = sides
    up = np.zeros(key.size, np.int32)
    first_of = np.zeros(seeds + 1, np.int32)
    roots = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                p = (z * height + y) * width + x
                own = key[p]
                if own == 0:
                    continue
                rims = outside(z, depth, ring) + outside(y, height, 1) + outside(x, width, 1)
                if rims > 1:
                    continue  # no face neighbor of a core pixel
                best = p
                if seeds > 0 and seed[p] > 0:
                    if first_of[seed[p]] == 0:
                        first_of[seed[p]] = p
                    best = first_of[seed[p]]
                elif rims == 0:
                    for step in steps:
                        n = p + step
                        if key[n] > own or (key[n] == own and n < best):
                            own = key[n]
                            best = n
                up[p] = best
                roots += best == p
    return up, roots


@lazy_jit
def number(up: NDArray[np.int32], roots: int, sides: tuple[int, int, int], ring: int) -> Nodes:
    """Follow the pointers, and number basins 1 .. N in the order in which a scan of the core meets them.

    `up` then holds minus the number of each pixel's basin. Basins that no pixel of the core belongs to come last.

    Returns
    -------
    peak, first, count
        ``(N + 1,)`` each, number 0 unused. The pixel where the pointers end, the first pixel in the core, and the
        number of pixels in the core.
    """
    depth, height, width = sides
    peak, first, count = np.zeros(roots + 1, np.int32), np.zeros(roots + 1, np.int32), np.zeros(roots + 1, np.int32)
    nodes = 0
    for turn in range(2):  # the core, then the ring
        for z in range(depth):
            for y in range(height):
                rim = outside(z, depth, ring) or outside(y, height, 1)
                if rim and turn == 0:
                    continue
                for x in range(0, width, 1 if rim or turn == 0 else max(1, width - 1)):
                    if turn == 0 and outside(x, width, 1):
                        continue
                    p = (z * height + y) * width + x
                    if up[p] == 0:
                        continue
                    q = p
                    while up[q] > 0 and up[q] != q:
                        q = up[q]
                    if up[q] > 0:
                        nodes += 1
                        up[q] = -nodes
                        peak[nodes] = q
                        first[nodes] = p
                    node = -up[q]
                    q = p
                    while up[q] > 0:
                        above = up[q]
                        up[q] = -node
                        q = above
                    if turn == 0:
                        count[node] += 1
    return peak[: nodes + 1], first[: nodes + 1], count[: nodes + 1]


@lazy_jit
def meetings(
    key: NDArray[np.uint32],
    seed: NDArray[np.int32],
    seeds: int,
    up: NDArray[np.int32],
    steps: NDArray[np.int64],
    sides: tuple[int, int, int],
    ring: int,
) -> NDArray[np.uint64]:
    """List where basins meet: the later one of two neighboring pixels, and the step to the earlier one; packed."""
    depth, height, width = sides
    packed = np.empty(0, np.uint64)
    for turn in range(2):  # count, then fill
        found = 0
        for axis in range(1 - ring, 3):
            forward = (height * width, width, 1)[axis]
            outward = len(steps) // 2 + 2 - axis  # the number of the step forward; that of the step back mirrors it
            z0, y0, x0 = (ring if axis > 0 else 0), int(axis != 1), int(axis != 2)
            for z in range(z0, depth - ring):
                for y in range(y0, height - 1):
                    for x in range(x0, width - 1):
                        p = (z * height + y) * width + x
                        n = p + forward
                        if up[p] == up[n] or up[p] == 0 or up[n] == 0:
                            continue
                        if turn == 0:
                            found += 1
                            continue
                        if seeds > 0 and seed[p] > 0 and seed[n] > 0:
                            continue  # never one
                        place = (z, y, x)[axis]
                        if key[p] >= key[n]:
                            if outside(place + 1, sides[axis], 1):
                                continue  # a pixel of the ring is the later one
                            later, step = n, len(steps) - 1 - outward
                        else:
                            if place == 0:
                                continue
                            later, step = p, outward
                        packed[found] = (np.uint64(TOP - key[later]) << np.uint64(34)) | np.uint64(8 * later + step)
                        found += 1
        if turn == 0:
            packed = np.empty(found, np.uint64)
    return packed[:found]


@lazy_jit
def root_of(parent: NDArray[np.int32], node: int) -> int:
    """Find the node that stands for a cluster, and shorten the way to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@lazy_jit
def merge(
    packed: NDArray[np.uint64],
    up: NDArray[np.int32],
    steps: NDArray[np.int64],
    heights: NDArray[np.float64],
    reaches: NDArray[np.bool_],
    ratio: float,
) -> tuple[NDArray[np.int32], int]:
    """Take the meetings in order and merge what can be known to merge; see `septum.arrays.watershed`.

    `heights` become those of the clusters. `reaches`, which nodes may go on outside, becomes which clusters may.
    Meetings whose outcome depends on the outside are moved to the front of `packed`.
    Returns which node stands for each node's cluster, and how many meetings remain.
    """
    parent = np.arange(len(heights)).astype(np.int32)
    left = 0
    for i in range(len(packed)):
        value = float(TOP - (packed[i] >> np.uint64(34)))
        place = packed[i] & np.uint64((1 << 34) - 1)
        p = np.int64(place >> np.uint64(3))
        a, b = root_of(parent, -up[p]), root_of(parent, -up[p + steps[np.int64(place & np.uint64(7))]])
        if a == b or value < ratio * min(heights[a], heights[b]):
            continue
        if heights[a] < heights[b] or (heights[a] == heights[b] and not reaches[a]):
            a, b = b, a
        # Now `a` is the higher one, and of equal ones that which goes on outside.
        if not reaches[b]:
            parent[b] = a  # changes no height
            continue
        reaches[a] = True
        packed[left] = packed[i]
        left += 1
    for node in range(len(parent)):
        parent[node] = root_of(parent, node)
    return parent, left


@lazy_jit
def border(
    key: NDArray[np.uint32], up: NDArray[np.int32], sides: tuple[int, int, int], ring: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """List the pixels of the core beside a pixel of the mask in the ring, and whether they are met before it."""
    depth, height, width = sides
    most = 2 * (ring * height * width + depth * width + depth * height)
    inner, earlier = np.empty(most, np.int32), np.empty(most, np.bool_)
    found = 0
    for z in range(depth):
        for y in range(height):
            rim = outside(z, depth, ring) or outside(y, height, 1)
            for x in range(0, width, 1 if rim else max(1, width - 1)):
                if outside(z, depth, ring) + outside(y, height, 1) + outside(x, width, 1) != 1:
                    continue
                h = (z * height + y) * width + x
                if outside(z, depth, ring):
                    p = h + (height * width if z == 0 else -height * width)
                elif outside(y, height, 1):
                    p = h + (width if y == 0 else -width)
                else:
                    p = h + (1 if x == 0 else -1)
                if up[h] == 0 or up[p] == 0:
                    continue
                inner[found] = p
                earlier[found] = key[p] > key[h] or (key[p] == key[h] and p < h)
                found += 1
    return inner[:found], earlier[:found]


@lazy_jit
def join(
    value: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64], parent: NDArray[np.int32],
    heights: NDArray[np.float64], ratio: float,
) -> NDArray[np.int32]:  # fmt: skip
    """Take meetings in order, all of whose nodes are known to their end; return the root of each node.

    `parent` comes with the nodes that continue as others pointing there, and `heights` of what does not continue.
    """
    for i in range(len(value)):
        first, second = root_of(parent, a[i]), root_of(parent, b[i])
        if first == second or value[i] < ratio * min(heights[first], heights[second]):
            continue
        if heights[first] < heights[second]:
            first, second = second, first
        parent[second] = first
    for node in range(len(parent)):
        parent[node] = root_of(parent, node)
    return parent
