"""Compiled loops of `septum.arrays.watershed`: pixels to basins, meetings of basins, merging of basins to clusters.

Steps, in order: `link_pixels` points each pixel to its first-met neighbor; `number_basins` follows the pointers to the
peaks and numbers the basins; `find_meetings` lists the pairs of neighboring pixels of different basins;
`merge_clusters` replays the sorted meetings with a union-find structure and leaves over those that depend on pixels
outside of the block; `open_border` lists where basins can continue outside; `join_clusters` replays the remaining
meetings of all blocks.

Arrays are ``(Z, Y, X)``, flattened, with a ring of one pixel around the core (2D: ``(1, Y, X)`` with no ring along Z).
Import this module only where it is used: numba takes half a second, and the first use on a machine compiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit

Nodes = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
TOP = (1 << 30) - 1  # highest value; a meeting is packed as (TOP - value, pixel, step) in 30 + 31 + 3 bits


@lazy_jit
def in_ring(index: int, length: int, ring: int) -> bool:
    """Return True if a coordinate lies in the ring."""
    return ring > 0 and (index == 0 or index == length - 1)


@lazy_jit
def link_pixels(
    key: NDArray[np.uint32],
    seed: NDArray[np.int32],
    seeds: int,
    steps: NDArray[np.int64],
    sides: tuple[int, int, int],
    ring: int,
) -> tuple[NDArray[np.int32], int]:
    """Link each pixel to its first-met neighbor if that is met before the pixel itself, otherwise to itself.

    Pixels of one seed are linked to the first pixel of the seed. Pixels of the ring beside a core pixel are linked to
    themselves: whatever they would join lies outside of the block.

    Parameters
    ----------
    key
        ``(P,)`` uint32, below 2**30: larger values are met first; 0 outside of the mask (background).
    seed
        ``(P,)`` int32: seed ids of 1 and more, 0 for other pixels; ``(0,)`` without seeds.
    seeds
        Highest seed id.
    steps
        ``(2 D,)`` int64: index steps to the face neighbors, in scan order.
    sides
        Sides of the array with its ring.
    ring
        1 if the array has a ring along Z, otherwise 0.

    Returns
    -------
    up
        ``(P,)`` int32: index of the linked pixel, 0 outside of the mask.
    roots
        Number of pixels linked to themselves.
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
                rims = in_ring(z, depth, ring) + in_ring(y, height, 1) + in_ring(x, width, 1)
                if rims > 1:
                    continue  # a corner or edge of the ring: no face neighbor of a core pixel
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
def number_basins(up: NDArray[np.int32], roots: int, sides: tuple[int, int, int], ring: int) -> Nodes:
    """Follow the links and number the basins 1 .. N in the order in which a scan of the core meets them.

    Basins without a core pixel come last.

    Parameters
    ----------
    up
        ``(P,)`` int32, the index links of `link_pixels`; replaced by minus the basin number of each pixel, 0 outside of
        the mask.
    roots, sides, ring
        As for `link_pixels`.

    Returns
    -------
    peak, first, count
        ``(N + 1,)`` int32 each; entry 0 is unused. Index of the pixel where the links end, index of the first core
        pixel, and number of core pixels.
    """
    depth, height, width = sides
    peak, first, count = np.zeros(roots + 1, np.int32), np.zeros(roots + 1, np.int32), np.zeros(roots + 1, np.int32)
    nodes = 0
    for turn in range(2):  # the core, then the ring
        for z in range(depth):
            for y in range(height):
                rim = in_ring(z, depth, ring) or in_ring(y, height, 1)
                if rim and turn == 0:
                    continue
                for x in range(0, width, 1 if rim or turn == 0 else max(1, width - 1)):
                    if turn == 0 and in_ring(x, width, 1):
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
def find_meetings(
    key: NDArray[np.uint32],
    seed: NDArray[np.int32],
    seeds: int,
    up: NDArray[np.int32],
    steps: NDArray[np.int64],
    sides: tuple[int, int, int],
    ring: int,
) -> NDArray[np.uint64]:
    """List the pairs of neighboring pixels that belong to different basins.

    A meeting is listed at the later of its two pixels, and only if that pixel is in the core: the block that owns the
    later pixel owns the meeting, so that no meeting is listed twice in an image.

    Parameters
    ----------
    key, seed, seeds, steps, sides, ring
        As for `link_pixels`: ``(P,)`` uint32 values, ``(P,)`` int32 ids, ``(2 D,)`` int64 index steps.
    up
        ``(P,)`` int32: minus the basin number of each pixel, 0 outside of the mask.

    Returns
    -------
    packed
        ``(M,)`` uint64: TOP minus the value of the later pixel, its index, and the number of the step to the earlier
        pixel, in 30 + 31 + 3 bits. Rising order is the order in which pixels are met.
    """
    depth, height, width = sides
    packed = np.empty(0, np.uint64)
    for turn in range(2):  # count, then fill
        count = 0
        for axis in range(1 - ring, 3):
            forward = (height * width, width, 1)[axis]
            outward = len(steps) // 2 + 2 - axis  # index of the forward step; the backward step mirrors it
            z0, y0, x0 = (ring if axis > 0 else 0), int(axis != 1), int(axis != 2)
            for z in range(z0, depth - ring):
                for y in range(y0, height - 1):
                    for x in range(x0, width - 1):
                        p = (z * height + y) * width + x
                        n = p + forward
                        if up[p] == up[n] or up[p] == 0 or up[n] == 0:
                            continue
                        if turn == 0:
                            count += 1
                            continue
                        if seeds > 0 and seed[p] > 0 and seed[n] > 0:
                            continue  # different seeds never merge
                        place = (z, y, x)[axis]
                        if key[p] >= key[n]:
                            if in_ring(place + 1, sides[axis], 1):
                                continue  # the later pixel is in the ring: another block lists the meeting
                            later, step = n, len(steps) - 1 - outward
                        else:
                            if place == 0:
                                continue
                            later, step = p, outward
                        packed[count] = (np.uint64(TOP - key[later]) << np.uint64(34)) | np.uint64(8 * later + step)
                        count += 1
        if turn == 0:
            packed = np.empty(count, np.uint64)
    return packed[:count]


@lazy_jit
def stay_apart(value: float, first: float, second: float, ratio: float) -> bool:
    """Return True if two basins that meet at `value` stay two objects: the one rule for whole images and blocks.

    Parameters
    ----------
    value
        Largest value at which the basins meet.
    first, second
        Heights of the basins.
    ratio
        0 .. 1, as for `septum.arrays.watershed.flood`.
    """
    return value < ratio * min(first, second)


@lazy_jit
def root_of(parent: NDArray[np.int32], node: int) -> int:
    """Find the representative node of a cluster and halve the path to it.

    Parameters
    ----------
    parent
        ``(N,)`` int32, index of each node's parent; changed.
    node
        Index of a node.
    """
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@lazy_jit
def merge_clusters(
    packed: NDArray[np.uint64],
    up: NDArray[np.int32],
    steps: NDArray[np.int64],
    heights: NDArray[np.float64],
    reaches: NDArray[np.bool_],
    ratio: float,
) -> tuple[NDArray[np.int32], int]:
    """Merge basins in the order of their meetings, as far as the block determines the outcome.

    The rule and its proof: `septum.arrays.watershed`.

    Parameters
    ----------
    packed
        ``(M,)`` uint64, sorted, from `find_meetings`: value and index bits. Meetings that depend on pixels outside are
        moved to the front.
    up
        ``(P,)`` int32: minus the basin number of each pixel.
    steps
        ``(2 D,)`` int64 index steps, as for `link_pixels`.
    heights
        ``(N + 1,)`` float64, non-negative: the height of each basin.
    reaches
        ``(N + 1,)`` bool, True for basins that may continue outside; becomes True for clusters that may.
    ratio
        0 .. 1, as for `septum.arrays.watershed.flood`.

    Returns
    -------
    cluster
        ``(N + 1,)`` int32: index of the basin that represents each basin's cluster.
    left
        Number of meetings that remain.
    """
    parent = np.arange(len(heights)).astype(np.int32)
    left = 0
    for i in range(len(packed)):
        value = float(TOP - (packed[i] >> np.uint64(34)))
        place = packed[i] & np.uint64((1 << 34) - 1)
        p = np.int64(place >> np.uint64(3))
        a, b = root_of(parent, -up[p]), root_of(parent, -up[p + steps[np.int64(place & np.uint64(7))]])
        if a == b or stay_apart(value, heights[a], heights[b], ratio):
            continue
        if heights[a] < heights[b] or (heights[a] == heights[b] and not reaches[a]):
            a, b = b, a
        # `a` is now the higher cluster; of equally high ones the open one, if there is one.
        if not reaches[b]:
            parent[b] = a  # a closed lower cluster merges whatever lies outside, and changes no height
            continue
        # The lower cluster is open: its true height may be larger. The higher one becomes open as well.
        reaches[a] = True
        packed[left] = packed[i]
        left += 1
    for node in range(len(parent)):
        parent[node] = root_of(parent, node)
    return parent, left


@lazy_jit
def open_border(
    key: NDArray[np.uint32], up: NDArray[np.int32], sides: tuple[int, int, int], ring: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """List the core pixels beside a mask pixel of the ring: their basins can have pixels outside of the block.

    Parameters
    ----------
    key
        ``(P,)`` uint32 values, as for `link_pixels`.
    up
        ``(P,)`` int32: minus the basin number of each pixel, 0 outside of the mask.
    sides, ring
        As for `link_pixels`.

    Returns
    -------
    inner
        ``(B,)`` int32: indices of these pixels.
    earlier
        ``(B,)`` bool: True where the pixel is met before its neighbor in the ring.
    """
    depth, height, width = sides
    most = 2 * (ring * height * width + depth * width + depth * height)
    inner, earlier = np.empty(most, np.int32), np.empty(most, np.bool_)
    count = 0
    for z in range(depth):
        for y in range(height):
            rim = in_ring(z, depth, ring) or in_ring(y, height, 1)
            for x in range(0, width, 1 if rim else max(1, width - 1)):
                if in_ring(z, depth, ring) + in_ring(y, height, 1) + in_ring(x, width, 1) != 1:
                    continue
                h = (z * height + y) * width + x
                if in_ring(z, depth, ring):
                    p = h + (height * width if z == 0 else -height * width)
                elif in_ring(y, height, 1):
                    p = h + (width if y == 0 else -width)
                else:
                    p = h + (1 if x == 0 else -1)
                if up[h] == 0 or up[p] == 0:
                    continue
                inner[count] = p
                earlier[count] = key[p] > key[h] or (key[p] == key[h] and p < h)
                count += 1
    return inner[:count], earlier[:count]


@lazy_jit
def join_clusters(
    value: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64], parent: NDArray[np.int32],
    heights: NDArray[np.float64], ratio: float,
) -> NDArray[np.int32]:  # fmt: skip
    """Merge the clusters of all blocks in the order of their meetings; every node's height is known.

    Parameters
    ----------
    value
        ``(M,)`` int64, non-negative: values of the meetings, in order.
    a, b
        ``(M,)`` int64: indices of the two nodes of each meeting.
    parent
        ``(N,)`` int32: index of the node that each node continues as, or of itself; changed.
    heights
        ``(N,)`` float64, non-negative: heights of nodes that are their own parent.
    ratio
        0 .. 1, as for `merge_clusters`.

    Returns
    -------
    root
        ``(N,)`` int32: index of the node that represents each node's cluster.
    """
    for i in range(len(value)):
        first, second = root_of(parent, a[i]), root_of(parent, b[i])
        if first == second or stay_apart(value[i], heights[first], heights[second], ratio):
            continue
        if heights[first] < heights[second]:
            first, second = second, first
        parent[second] = first
    for node in range(len(parent)):
        parent[node] = root_of(parent, node)
    return parent
