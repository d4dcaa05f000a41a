"""Flooding: an image is divided into basins from its highest pixels down, the same whole or in blocks.

Pixels are met in one order: higher values first, of equal ones that which a scan of the image meets first. Pixels of
seeds are met before all others. A pixel joins the basin of its first-met face neighbor; one with no neighbor met so far
is the peak of a new basin, and a seed is a basin from the start. Where two basins meet, they become one unless the
value there is less than `ratio` times the height of the lower one; the height of what they become is that of the
higher one. Heights are the values of the peaks. With seeds, they are infinite for a seed and 0 for other basins, and
`ratio` is 1: seeds stay apart, and what belongs to no seed joins that to which the highest way leads (a minimum
spanning forest: Cousty et al., Watershed cuts, IEEE TPAMI 31(8), 2009).

Why this can be done in blocks. Whose basin a pixel joins depends on its neighbors only. Of two basins only the first
meeting counts: where it was refused, at any later one values are no higher and heights no less. So the basins and their
first meetings, in order, say all. Within a block, a cluster of basins that touches no other block is *closed*: what
happens to it is known until it meets one that is *open*. A closed cluster that is no higher than an open one is refused
by it for good, or merges with it and changes no height, whatever lies outside. If it is higher, what comes of it
depends on the outside: it becomes open. Open clusters, and their meetings with one another, are what remains to be
joined: about as many as the border of the block is long, not as the block has pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import UsageError

SEED_VALUE = 2**16
"""Added to the values of pixels of seeds, so that these are met first; other values are below it."""

MOST_PIXELS = 2**31 - 1
"""Pixels that can be flooded in one piece, with a ring of one pixel around them."""


@dataclass(frozen=True)
class Flooded:
    """Basins of an array or a block of it, and into which clusters they merged.

    Basins have the numbers 1 .. N, in the order in which a scan meets them; those that only the ring around the block
    has come last. Entry 0 of all tables is background. Pixels in tables are flat indices into the array with its ring.

    Parameters
    ----------
    basins
        ``(*S)`` int32, 0 outside of the mask.
    cluster
        ``(N + 1,)`` int32: the basin that stands for each basin's cluster.
    first, count
        ``(N + 1,)`` int32: the first pixel of each basin in the block, and how many pixels it has there.
    peak
        ``(N + 1,)`` int32: the peak of each basin, or the pixel of the ring by which its pixels leave the block, or
        a pixel of its seed.
    leaves
        ``(N + 1,)`` bool: the peak is such a pixel of the ring.
    seed
        ``(N + 1,)`` int32: the seed that the basin is, or 0.
    height
        ``(N + 1,)`` float64: of the basins that stand for clusters, their heights; at least these where a basin leaves.
    open
        ``(N + 1,)`` bool, of the basins that stand for clusters: what is outside of the block matters to them.
    links
        ``(2, L)`` int32: pixels of the block, not of seeds, to whose basins pixels outside may belong, and the basins.
    meetings
        ``(5, M)`` int64, in order: value, later pixel, step, and the two clusters. Those whose outcome is open.
    """

    basins: NDArray[np.int32]
    cluster: NDArray[np.int32]
    first: NDArray[np.int32]
    count: NDArray[np.int32]
    peak: NDArray[np.int32]
    leaves: NDArray[np.bool_]
    seed: NDArray[np.int32]
    height: NDArray[np.float64]
    open: NDArray[np.bool_]
    links: NDArray[np.int32]
    meetings: NDArray[np.int64]

    def clusters(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """List the clusters that have pixels, in the order in which a scan meets them.

        Returns
        -------
        which
            ``(M,)`` int32: the basins that stand for them.
        sizes
            ``(M,)`` int64: their pixels.
        first
            ``(M,)`` int32: the first pixel of each.
        """
        basins = np.arange(len(self.cluster), dtype=np.int32)
        first_basin = np.zeros(len(basins), np.int32)
        first_basin[self.cluster[::-1]] = basins[::-1]  # of several assignments the last counts: the first basin
        met = np.flatnonzero((first_basin[self.cluster] == basins) & (self.count > 0))
        sizes = np.bincount(self.cluster, weights=self.count, minlength=len(basins)).astype(np.int64)
        which = self.cluster[met]
        return which, sizes[which], self.first[met]


def flood(
    values: NDArray[np.integer[Any]], *, seeds: NDArray[np.int32] | None = None, ratio: float = 1.0
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Flood a whole array.

    Parameters
    ----------
    values
        ``(Y, X)`` or ``(Z, Y, X)`` integers: 0 is outside of the mask, which is not flooded. Below `SEED_VALUE` where
        there are seeds, below ``2**30`` where there are none.
    seeds
        ``(*S)`` int32: 1 and more the pixels of seeds; 0 elsewhere.
    ratio
        0 .. 1; 0: basins that meet always merge, so clusters are face-connected components. With seeds it is 1.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 outside of the mask, 1 .. N the clusters in the order in which a scan meets them.
    sizes
        ``(N,)`` int64: their pixels.

    Raises
    ------
    UsageError
        If the array has more than `MOST_PIXELS` pixels.
    """
    if values.size == 0:
        return np.zeros(values.shape, np.int32), np.zeros(0, np.int64)
    ringed = np.pad(values.astype(np.uint32, copy=False), 1)
    found = flood_block(ringed, None if seeds is None else np.pad(seeds, 1), ratio=ratio)
    which, sizes, _ = found.clusters()
    number = np.zeros(len(found.cluster), np.int32)
    number[which] = np.arange(1, len(which) + 1)
    return np.take(number[found.cluster], found.basins), sizes


def flood_block(ringed: NDArray[np.uint32], seeds: NDArray[np.int32] | None = None, *, ratio: float = 1.0) -> Flooded:
    """Flood a block as far as it can be known without the rest of the image.

    Parameters
    ----------
    ringed
        ``(*S + 2)`` uint32: values as for `flood`, with a ring of one pixel around the block: values of its neighbors,
        0 beyond the border of the image. Corners of the ring are not looked at.
    seeds
        ``(*S + 2)`` int32, as for `flood`, the ring included.
    ratio
        As for `flood`.

    Returns
    -------
    Flooded

    Raises
    ------
    UsageError
        If the array has more than `MOST_PIXELS` pixels.
    """
    from septum.arrays import _watershed as _flood

    if ringed.size > MOST_PIXELS:
        raise UsageError(
            f"objects of {ringed.size} pixels in one piece", f"{MOST_PIXELS} at most", "predict with --max-memory"
        )
    ring = 1 if ringed.ndim == 3 else 0
    sides = ringed.shape if ring else (1, *ringed.shape)
    key, steps = ringed.ravel(), _steps(ringed.shape)
    seed, seeds_max = np.zeros(0, np.int32), 0
    if seeds is not None:
        seed, seeds_max = seeds.ravel(), int(seeds.max(initial=0))
        key = key + np.where(seed > 0, np.uint32(SEED_VALUE), np.uint32(0))
    up, roots = _flood.point(key, seed, seeds_max, steps, sides, ring)
    peak, first, count = _flood.number(up, roots, sides, ring)
    leaves = _in_ring(peak, ringed.shape)
    seed_of = seed[peak] if seeds_max else np.zeros(len(peak), np.int32)
    height = key[peak].astype(np.float64) if seeds is None else np.where(seed_of > 0, np.inf, 0.0)
    inner, earlier = _flood.border(key, up, sides, ring)
    is_open = leaves | (seed_of > 0)
    is_open[-up[inner]] = True
    packed = _flood.meetings(key, seed, seeds_max, up, steps, sides, ring)
    packed.sort()
    cluster, left = _flood.merge(packed, up, steps, height, is_open, ratio if seeds is None else 1.0)
    links = np.unique(inner[earlier])
    links = links[seed[links] == 0] if seeds_max else links  # a pixel of a seed has its name already
    return Flooded(
        basins=np.negative(up.reshape(ringed.shape)[(slice(1, -1),) * ringed.ndim]),
        cluster=cluster,
        first=first,
        count=count,
        peak=peak,
        leaves=leaves & (seed_of == 0),
        seed=seed_of,
        height=height,
        open=is_open,
        links=np.stack([links, -up[links]]),
        meetings=_meetings_left(packed[:left], up, steps, cluster),
    )


def _steps(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the steps to the face neighbors of a pixel in a flat array, in the order of a scan."""
    strides = np.cumprod([1, *shape[:0:-1]])
    steps: NDArray[np.int64] = np.concatenate([-strides[::-1], strides]).astype(np.int64)
    return steps


def _in_ring(pixels: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Say which flat indices are in the outermost layer of an array; index 0 is not asked for."""
    inside: NDArray[np.bool_] = np.zeros(len(pixels), bool)
    for place, side in zip(np.unravel_index(pixels, shape), shape, strict=True):
        inside |= (place == 0) | (place == side - 1)
    inside[0] = False
    return inside


def _meetings_left(
    packed: NDArray[np.uint64], up: NDArray[np.int32], steps: NDArray[np.int64], cluster: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Unpack meetings, and keep the first of each pair of clusters."""
    from septum.arrays._watershed import TOP

    place = (packed & np.uint64(2**34 - 1)).astype(np.int64)
    pixel, step = place >> 3, place & 7
    value = TOP - (packed >> np.uint64(34)).astype(np.int64)
    pair = np.stack([cluster[-up[pixel]], cluster[-up[pixel + steps[step]]]]).astype(np.int64)
    code = pair.min(axis=0) * len(cluster) + pair.max(axis=0)
    kept = np.sort(np.unique(code, return_index=True)[1])
    return np.stack([value, pixel, step, *pair])[:, kept]
