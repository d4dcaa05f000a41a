"""Blocks of an image and their surroundings, the reports of their watersheds, and tables of cluster ids.

For `septum.arrays.stitch`. Regions are slices with start and stop inside the image; `shape` are the sides of the image.

A block reports, each as an int64 array unless noted:

``ends``, ``heights``
    Ids of open clusters whose peak lies in the block, ``(E,)``, and their heights, ``(E,)`` float64.
``leaving``
    Ids under which pixels leave the block, ``(L,)``: their steepest path continues in a neighboring block.
``links``
    ``(2, N)``: an id by which a neighboring block may leave into this one, and the id that this block gave the pixel.
``meetings``
    ``(5, M)``: value, later pixel, step, and the ids of the two clusters, for meetings that are not settled.
``ids``, ``sizes``, ``seeded``, ``firsts``, ``small``
    Objects in the block, see `septum.arrays.stitch`.
``ids``, ``lowest``, ``highest``
    Background in the block that reaches other blocks, and the labels at its faces, see `septum.arrays.stitch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.distance import Region
from septum.arrays.instances import weak_seeds
from septum.arrays.watershed import Flooded

Arrays = dict[str, NDArray[Any]]

_NAMES = (
    *("ends", "heights", "leaving", "links", "meetings"),
    *("ids", "sizes", "seeded", "firsts", "small", "lowest", "highest"),
)
_EMPTY = {"links": (2, 0), "meetings": (5, 0)}  # shapes of arrays that no block reports; (0,) for others


def gather_reports(reports: Iterable[Arrays]) -> Arrays:
    """Concatenate the reports of blocks by name along the last axis; a name may be missing in a report."""
    joined: dict[str, list[NDArray[Any]]] = {
        name: [np.zeros(_EMPTY.get(name, 0), np.float64 if name == "heights" else np.int64)] for name in _NAMES
    }
    for report in reports:
        for name, values in report.items():
            joined[name].append(values)
    return {name: np.concatenate(joined.pop(name), axis=-1) for name in list(joined)}


def join_ids(report: Arrays, ratio: float, *, drop_unseeded: bool) -> Arrays:
    """Settle the open meetings of all blocks, and return the ids that change.

    Each leaving id is first linked to the id of the block it leads into, until a cluster with a known height is
    reached. Then the meetings are replayed in the order of the whole image: higher values first, then the scan order of
    the later pixel, then the step.

    Parameters
    ----------
    report
        From `gather_reports`.
    ratio
        As for `septum.arrays.watershed.flood`, squared for squared distances.
    drop_unseeded
        Set the ids of clusters that hold no seed to 0.

    Returns
    -------
    table
        ``old`` and ``new``: sorted ids and their replacements.
    """
    from septum.arrays._watershed import join_clusters

    ends, leaving, links, meetings = (report[name] for name in ("ends", "leaving", "links", "meetings"))
    written = np.concatenate([ends, leaving])
    ids = np.unique(np.concatenate([written, links.ravel(), meetings[3:].ravel()]))
    parent = np.arange(len(ids), dtype=np.int32)
    parent[np.searchsorted(ids, links[0])] = np.searchsorted(ids, links[1])
    heights = np.full(len(ids), -1.0)
    heights[np.searchsorted(ids, ends)] = report["heights"]
    value, _, _, a, b = meetings[:, np.lexsort((meetings[2], meetings[1], -meetings[0]))]
    root = join_clusters(value, np.searchsorted(ids, a), np.searchsorted(ids, b), parent, heights, ratio)
    old = np.unique(written)
    where = root[np.searchsorted(ids, old)]
    assert np.all(heights[where] >= 0), "each leaving id must lead to a cluster with a height"
    new = np.where(np.isinf(heights[where]) | (not drop_unseeded), ids[where], 0)
    return {"old": old[old != new], "new": new[old != new]}


def join_holes(report: Arrays, table: Arrays) -> Arrays:
    """Find the holes among the background components that reach several blocks.

    Parameters
    ----------
    report
        From `gather_reports`: ``ids``, ``lowest``, ``highest``.
    table
        From `join_ids`.

    Returns
    -------
    holes
        ``ids``: sorted ids of the components that one object encloses, ``numbers``: its label.
    """
    ids, inverse = np.unique(look_up(report["ids"], table["old"], table["new"]), return_inverse=True)
    limits = np.iinfo(np.int64)
    lowest, highest = np.full(len(ids), limits.max), np.full(len(ids), limits.min)
    np.minimum.at(lowest, inverse, report["lowest"])
    np.maximum.at(highest, inverse, report["highest"])
    hole = (lowest == highest) & (lowest > 0)
    return {"ids": ids[hole], "numbers": lowest[hole]}


def look_up(
    keys: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64], *, missing: int | None = None
) -> NDArray[np.int64]:
    """Replace keys that occur in a sorted table.

    Parameters
    ----------
    keys
        ``(N,)`` int64, any values.
    old, new
        ``(M,)`` int64 each: the sorted keys of the table and their replacements, any values.
    missing
        Result for keys that are not in `old`; None: the key itself.

    Returns
    -------
    values
        ``(N,)`` int64, any values.
    """
    others = keys if missing is None else np.full_like(keys, missing)
    if len(old) == 0:
        return others
    place = np.minimum(np.searchsorted(old, keys), len(old) - 1)
    return np.where(old[place] == keys, new[place], others)


def run_lengths(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, ...]]:
    """Return the runs of equal values of an array in scan order.

    Translating runs instead of pixels is faster by the mean length of a run.

    Parameters
    ----------
    ids
        ``(*S)`` int64, any values, not empty.

    Returns
    -------
    values, lengths
        ``(N,)`` int64 each: the value and the pixels of each run; lengths are positive.
    shape
        ``S``.
    """
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=len(flat)), ids.shape


def compact_ids(
    ids: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Translate ids by a table and number the distinct results.

    Parameters
    ----------
    ids
        ``(*S)`` int64, 0 background.
    old, new
        ``(M,)`` int64 each, ids: as for `look_up`.

    Returns
    -------
    numbers
        ``(*S)`` int32: indices into `distinct`; 0 for background.
    distinct
        ``(N + 1,)`` int64: the distinct ids, rising; ``distinct[0]`` is 0.
    """
    heads, lengths, shape = run_lengths(ids)
    distinct, number = np.unique(np.concatenate([[0], look_up(heads, old, new)]), return_inverse=True)
    return np.repeat(number[1:].astype(np.int32), lengths).reshape(shape), distinct


def around_block(core: Region, shape: Sequence[int], reach: Sequence[int] | None = None) -> Region:
    """Return a block extended by `reach` pixels (1 by default), clipped to the image."""
    margins = reach or (1,) * len(core)
    return tuple(
        slice(max(0, c.start - m), min(side, c.stop + m)) for c, m, side in zip(core, margins, shape, strict=True)
    )


def place_in(core: Region, around: Region) -> Region:
    """Return the place of a block in a part of the image that holds it."""
    return tuple(slice(c.start - a.start, c.stop - a.start) for c, a in zip(core, around, strict=True))


def ringed(values: NDArray[Any], core: Region, shape: Sequence[int], *, beyond: int = 0) -> NDArray[Any]:
    """Complete the ring of one pixel around a block by `beyond` outside of the image.

    Parameters
    ----------
    values
        ``(*R)``, any dtype and any values: the block `core`, extended by one pixel as far as the image goes.
    core, shape
        The block, and the sides of the image.
    beyond
        Value outside of the image.

    Returns
    -------
    ringed
        ``(*S + 2)``, dtype and any values as `values`; S are the sides of the block.
    """
    missing = [(int(c.start == 0), int(c.stop == side)) for c, side in zip(core, shape, strict=True)]
    return np.pad(values, missing, constant_values=beyond) if np.any(missing) else np.ascontiguousarray(values)


def in_image(pixels: NDArray[np.int32], core: Region, shape: Sequence[int]) -> NDArray[np.int64]:
    """Convert flat indices into a block with its ring to flat indices into the image, ``(N,)`` integers both."""
    places = np.unravel_index(pixels, [c.stop - c.start + 2 for c in core])
    flat = np.zeros(len(pixels), np.int64)
    for place, c, side in zip(places, core, shape, strict=True):
        flat = flat * side + place + (c.start - 1)
    return flat


def basin_ids(
    flooded: Flooded, core: Region, shape: Sequence[int], seed_ids: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the id of each basin: that of its seed, or 1 plus the flat index of its peak or exit pixel.

    `seed_ids` are ``(M,)`` int64 ids by the numbers of seeds, the result ``(N + 1,)`` int64 ids, 0 for background.
    """
    names = in_image(flooded.peak, core, shape) + 1
    if seed_ids is not None:
        names = np.where(flooded.seed > 0, seed_ids[flooded.seed], names)
    names[0] = 0
    return names


def watershed_report(flooded: Flooded, names: NDArray[np.int64], core: Region, shape: Sequence[int]) -> Arrays:
    """Return the part of a block's watershed that a join needs; see `septum.arrays._block_tables.join_ids`.

    Parameters
    ----------
    flooded
        The watershed.
    names
        ``(N + 1,)`` int64: the id of each basin, from `basin_ids`.
    core, shape
        The block, and the sides of the image.
    """
    used = flooded.clusters()[0]
    value, pixel, step, a, b = flooded.meetings
    ends = flooded.open & (flooded.seed == 0)
    ends[np.concatenate([a, b, flooded.links[1]])] = True  # seeds only if the join comes upon them
    ends &= ~flooded.leaves
    return {
        "ends": names[ends],
        "heights": flooded.height[ends],
        "leaving": names[used[flooded.leaves[used]]],
        "links": np.stack([in_image(flooded.links[0], core, shape) + 1, names[flooded.links[1]]]),
        "meetings": np.stack([value, in_image(pixel.astype(np.int32), core, shape), step, names[a], names[b]]),
    }


def object_report(
    flooded: Flooded,
    names: NDArray[np.int64],
    core: Region,
    shape: Sequence[int],
    *,
    min_size_px: int = 0,
    seeded: NDArray[np.int64] | None = None,
    share: float = 0.0,
) -> Arrays:
    """Return the clusters of a block: ids, pixels, pixels of the seed, and the first pixel of each.

    Clusters of fewer than `min_size_px` pixels that lie wholly in the block are only counted (``small``), unless their
    seed is to be dropped.

    Parameters
    ----------
    flooded, names, core, shape
        As for `watershed_report`; `names` are ``(N + 1,)`` int64 ids.
    min_size_px
        Fewest pixels of an object that is listed in any case.
    seeded
        ``(N + 1,)`` int64: seed pixels of each cluster, 0 or more; None: none.
    share
        As for `septum.arrays.instances.weak_seeds`.
    """
    basins, sizes, first = flooded.clusters()
    own = np.zeros_like(sizes) if seeded is None else seeded[basins]
    kept = names[basins] > 0
    small = kept & (sizes < min_size_px) & ~extends_outside(flooded)[basins] & ~weak_seeds(own, sizes, share)
    kept &= ~small
    return {
        "ids": names[basins[kept]],
        "sizes": sizes[kept],
        "seeded": own[kept],
        "firsts": in_image(first[kept], core, shape),
        "small": np.array([np.count_nonzero(small)]),
    }


def extends_outside(flooded: Flooded) -> NDArray[np.bool_]:
    """Flag the basins that represent clusters which have pixels, or may gain some, outside of the block.

    The result is ``(N + 1,)`` bool, True for these.
    """
    faces = [np.take(flooded.basins, (0, -1), axis=axis).ravel() for axis in range(flooded.basins.ndim)]
    touched = np.concatenate([*faces, flooded.links[1], np.flatnonzero(flooded.leaves)])
    reaching: NDArray[np.bool_] = flooded.open & (flooded.seed == 0)
    reaching[flooded.cluster[touched]] = True
    reaching[flooded.meetings[3:].ravel()] = True
    return reaching
