"""Watershed by flooding from the highest pixels down, with the same result for a whole image and for its blocks.

Pixels are met in a fixed order: higher values first, equal values in scan order. Pixels of seeds are met before all
others. A pixel joins the basin of its first-met face neighbor; a pixel without a neighbor met before it is the peak of
a new basin, and each seed is a basin from the start. Where two basins meet, they merge unless the value there is less
than `ratio` times the height of the lower basin; the merged basin has the height of the higher one. The height of a
basin is the value of its peak. With seeds, heights are infinite for seeds and 0 for other basins, and `ratio` is 1:
seeds never merge, and a basin without a seed joins the seed that is connected to it by the highest path (a minimum
spanning forest: Cousty et al., Watershed cuts, IEEE TPAMI 31(8), 2009).

Why blocks give the same result. The basin of a pixel depends on its neighbors only. Of two basins only the first
meeting counts: if it did not merge them, no later one does, as values are no higher then and heights no lower. The
basins and their first meetings, in order, therefore determine the result. Within a block, a cluster of basins that
touches no other block is *closed*: its fate is known until it meets an *open* cluster. If a closed cluster is no higher
than an open one, then either they stay apart for good or they merge without changing any height, whatever lies outside.
If it is higher, the outcome depends on the outside: the closed cluster becomes open. Open clusters and the meetings
between them remain to be joined: about as many as the border of the block is long, not as the block has pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import UsageError

SEED_VALUE = 2**16
"""Added to the values of seed pixels, so that these are met first; other values are smaller."""

MOST_PIXELS = 2**31 - 1
"""Largest number of pixels that one watershed can process, including a ring of one pixel."""


@dataclass(frozen=True)
class Flooded:
    """Basins of an array or a block of it, and the clusters into which they merged.

    Basins are numbered 1 .. N in the order in which a scan meets them; basins that have pixels only in the ring around
    the block come last. Entry 0 of all tables is background. Pixels in tables are flat indices into the array with its
    ring.

    Parameters
    ----------
    basins
        ``(*S)`` int32, 0 outside of the mask.
    cluster
        ``(N + 1,)`` int32: the basin that represents each basin's cluster.
    first, count
        ``(N + 1,)`` int32: the first pixel of each basin in the block, and its number of pixels there.
    peak
        ``(N + 1,)`` int32: the peak of each basin, or the ring pixel through which the basin leaves the block, or a
        pixel of its seed.
    leaves
        ``(N + 1,)`` bool: True if the peak is such a ring pixel.
    seed
        ``(N + 1,)`` int32: the seed id of the basin, or 0.
    height
        ``(N + 1,)`` float64: heights of the representative basins; lower bounds where a basin leaves the block.
    open
        ``(N + 1,)`` bool, for representative basins: True if pixels outside of the block matter to the cluster.
    links
        ``(2, L)`` int32: pixels of the block, not of seeds, whose basins pixels outside may join, and these basins.
    meetings
        ``(5, M)`` int64, in order: value, later pixel, step, and the two clusters, for meetings that remain open.
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
        representatives
            ``(M,)`` int32: indices of the basins that represent them.
        sizes
            ``(M,)`` int64: numbers of pixels, positive.
        first
            ``(M,)`` int32: index of the first pixel of each.
        """
        basins = np.arange(len(self.cluster), dtype=np.int32)
        first_basin = np.zeros(len(basins), np.int32)
        first_basin[self.cluster[::-1]] = basins[::-1]  # the last assignment wins: the first basin
        met = np.flatnonzero((first_basin[self.cluster] == basins) & (self.count > 0))
        sizes = np.bincount(self.cluster, weights=self.count, minlength=len(basins)).astype(np.int64)
        representatives = self.cluster[met]
        return representatives, sizes[representatives], self.first[met]


def flood(
    values: NDArray[np.integer[Any]], *, seeds: NDArray[np.int32] | None = None, ratio: float = 1.0
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Compute the watershed of a whole array.

    Parameters
    ----------
    values
        ``(Y, X)`` or ``(Z, Y, X)`` non-negative integers; 0 is outside of the mask and stays unlabeled. Below
        `SEED_VALUE` if there are seeds, otherwise below ``2**30``.
    seeds
        ``(*S)`` int32: ids of 1 and more for seed pixels, 0 elsewhere. None: no seeds.
    ratio
        0 .. 1; 0: basins that meet always merge, so that clusters are face-connected components. Must be 1 with seeds.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 outside of the mask, clusters 1 .. N in scan order.
    sizes
        ``(N,)`` int64: pixels of each cluster, positive.

    Raises
    ------
    UsageError
        If the array has more than `MOST_PIXELS` pixels.
    """
    if values.size == 0:
        return np.zeros(values.shape, np.int32), np.zeros(0, np.int64)
    ringed = np.pad(values.astype(np.uint32, copy=False), 1)
    flooded = flood_block(ringed, None if seeds is None else np.pad(seeds, 1), ratio=ratio)
    representatives, sizes, _ = flooded.clusters()
    number = np.zeros(len(flooded.cluster), np.int32)
    number[representatives] = np.arange(1, len(representatives) + 1)
    return np.take(number[flooded.cluster], flooded.basins), sizes


def flood_block(ringed: NDArray[np.uint32], seeds: NDArray[np.int32] | None = None, *, ratio: float = 1.0) -> Flooded:
    """Compute the watershed of a block as far as it does not depend on the rest of the image.

    Parameters
    ----------
    ringed
        ``(*S + 2)`` uint32, non-negative: values as for `flood`, with a ring of one pixel around the block: values of
        its neighbors, 0 beyond the image border. Corners of the ring are not used.
    seeds
        ``(*S + 2)`` int32 ids, as for `flood`, including the ring.
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
    from septum.arrays import _watershed as loops

    if ringed.size > MOST_PIXELS:
        raise UsageError(
            f"objects of {ringed.size} pixels in one piece",
            f"{MOST_PIXELS} at most",
            "predict the image in blocks: septum predict --in-blocks",
        )
    ring = 1 if ringed.ndim == 3 else 0
    sides = ringed.shape if ring else (1, *ringed.shape)
    key, steps = ringed.ravel(), _steps(ringed.shape)
    seed, seeds_max = np.zeros(0, np.int32), 0
    if seeds is not None:
        seed, seeds_max = seeds.ravel(), int(seeds.max(initial=0))
        key = key + np.where(seed > 0, np.uint32(SEED_VALUE), np.uint32(0))
    up, roots = loops.link_pixels(key, seed, seeds_max, steps, sides, ring)
    peak, first, count = loops.number_basins(up, roots, sides, ring)
    leaves = _in_ring(peak, ringed.shape)
    seed_of = seed[peak] if seeds_max else np.zeros(len(peak), np.int32)
    height = key[peak].astype(np.float64) if seeds is None else np.where(seed_of > 0, np.inf, 0.0)
    inner, earlier = loops.open_border(key, up, sides, ring)
    is_open = leaves | (seed_of > 0)
    is_open[-up[inner]] = True
    packed = loops.find_meetings(key, seed, seeds_max, up, steps, sides, ring)
    packed.sort()
    cluster, left = loops.merge_clusters(packed, up, steps, height, is_open, ratio if seeds is None else 1.0)
    links = np.unique(inner[earlier])
    links = links[seed[links] == 0] if seeds_max else links  # a seed pixel is identified by its seed
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


def fill_holes(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Assign background that one object encloses to this object; see `find_holes`.

    Parameters
    ----------
    labels
        ``(*S)`` int32: ids of 1 and more, 0 background, negative where not annotated.

    Returns
    -------
    filled
        ``(*S)`` int32 with the same ids; the same array if there is no hole.
    """
    pieces, owners = find_holes(labels)
    return labels + owners[pieces] if owners.any() else labels


def find_holes(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Find the background that one object encloses.

    A hole is a component of the background, connected through faces, whose face neighbors all belong to one object and
    which does not reach the border of the image. Background between two objects is no hole.

    Parameters
    ----------
    labels
        ``(*S)`` int32: ids of 1 and more, 0 background, negative where not annotated.

    Returns
    -------
    pieces
        ``(*S)`` int32: components of the background 1 .. N, 0 elsewhere.
    owners
        ``(N + 1,)`` int32: id of the object around each component that is a hole, 0 for the others and for entry 0.
    """
    import cc3d

    if not labels.size:
        return np.zeros(labels.shape, np.int32), np.zeros(1, np.int32)
    background = np.ascontiguousarray(labels == 0)
    pieces = np.asarray(cc3d.connected_components(background, connectivity=4 if labels.ndim == 2 else 6))
    owners = np.zeros(int(pieces.max(initial=0)) + 1, np.int32)
    inner = np.ones(len(owners), bool)
    inner[0] = False
    for axis in range(labels.ndim):
        inner[np.take(pieces, [0, -1], axis=axis)] = False
    if not inner.any():
        return pieces, owners
    lowest, highest = np.full(len(owners), np.iinfo(np.int32).max, np.int32), np.full(len(owners), -1, np.int32)
    # No pixel of these components lies at the border: all have all neighbors.
    flat, places = labels.ravel(), np.flatnonzero(inner[pieces])
    number = pieces.ravel()[places]
    for step in _steps(labels.shape):
        around = flat[places + step]
        beside = around != 0
        np.minimum.at(lowest, number[beside], around[beside])
        np.maximum.at(highest, number[beside], around[beside])
    one = inner & (lowest == highest) & (lowest > 0)
    owners[one] = lowest[one]
    return pieces, owners


def labels_around(flooded: Flooded, ringed: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the lowest and the highest label at the faces of each cluster of background pixels.

    Parameters
    ----------
    flooded
        The background of an array, or of a block.
    ringed
        ``(*S + 2)`` integers: labels with a ring of one pixel, 0 background, negative beyond the image.

    Returns
    -------
    lowest, highest
        ``(N + 1,)`` int64, for the basins that represent clusters: labels; the largest and the smallest integer where
        there is none.
    """
    from septum.arrays import _outlines as loops

    flat = (1,) * (3 - ringed.ndim)
    basins = flooded.basins.reshape(*flat, *flooded.basins.shape)
    return loops.labels_around(ringed.reshape(*flat, *ringed.shape), basins, flooded.cluster, ringed.ndim - 2)


def _steps(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the index steps to the face neighbors of a pixel in a flat array, in scan order."""
    strides = np.cumprod([1, *shape[:0:-1]])
    steps: NDArray[np.int64] = np.concatenate([-strides[::-1], strides]).astype(np.int64)
    return steps


def _in_ring(pixels: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Flag flat indices that lie in the outermost layer of an array; index 0 is never flagged."""
    inside: NDArray[np.bool_] = np.zeros(len(pixels), bool)
    for place, side in zip(np.unravel_index(pixels, shape), shape, strict=True):
        inside |= (place == 0) | (place == side - 1)
    inside[0] = False
    return inside


def _meetings_left(
    packed: NDArray[np.uint64], up: NDArray[np.int32], steps: NDArray[np.int64], cluster: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Unpack meetings and keep the first of each pair of clusters."""
    from septum.arrays._watershed import TOP

    place = (packed & np.uint64(2**34 - 1)).astype(np.int64)
    pixel, step = place >> 3, place & 7
    value = TOP - (packed >> np.uint64(34)).astype(np.int64)
    pair = np.stack([cluster[-up[pixel]], cluster[-up[pixel + steps[step]]]]).astype(np.int64)
    code = pair.min(axis=0) * len(cluster) + pair.max(axis=0)
    kept = np.sort(np.unique(code, return_index=True)[1])
    return np.stack([value, pixel, step, *pair])[:, kept]
