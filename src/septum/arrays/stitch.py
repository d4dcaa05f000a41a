"""Label the objects of an image of any size block by block, number by number as `label_objects` labels the whole image.

The work is done in stages. In each stage the blocks are processed independently (`run_block`); then `join` combines
their reports into a small table that resolves the decisions that a block cannot make without its neighbors:

``seeds``
    Divide the pixels above the seed level where their connection is narrow (watershed of the distance transform).
``divide``
    Watershed of the pixels above the threshold from the seeds. The join adds up the sizes of objects and of seeds.
``redivide``
    The same without the seeds that cover too little of their object. Skipped if there are none.
``small``
    Watershed of the objects that are too small from the others. Skipped if there are none.
``numbers``
    Number the objects 1 .. N in scan order, and close gaps or draw lines between them.

Why the result equals that of the whole image. `septum.arrays.watershed` shows that the watershed of an image is
determined by its basins and by the first meeting of each two of them, and that a block can settle all meetings but
those of *open* clusters, whose outcome depends on pixels outside. A block therefore reports its open clusters with
their heights, the meetings between them, and the pixels by which basins continue in the neighboring block (*links*).
The join replays these meetings in the order of the whole image: that is the computation that the whole image would do,
restricted to the decisions that are not settled yet. All other steps (thresholds, distances up to a limit, gaps, lines)
depend on a bounded neighborhood of a pixel, and a block reads that margin around itself.

Between stages each pixel holds the id (int64) of its cluster: 1 plus the flat index, in the image, of one pixel of the
cluster that the block knew to belong to it. Such an id is unique without any communication between blocks. The table of
the stage maps ids that turned out to denote the same cluster to one id.

Memory: a block needs memory in proportion to its own size, a join in proportion to the length of block borders and the
number of objects that are large enough; small objects that lie wholly in one block are counted there and not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.arrays._block_tables import Arrays, compact_ids, gather_reports, join_ids, look_up, run_lengths
from septum.arrays.distance import Region, squared_distance_of_region
from septum.arrays.instances import (
    ObjectSettings,
    close_gaps,
    close_gaps_reach,
    draw_boundaries,
    keep_above,
    quantized_thresholds,
    weak_seeds,
)
from septum.arrays.watershed import Flooded, flood_block
from septum.axes import relative_spacing

STAGES = ("seeds", "divide", "redivide", "small", "numbers")


class BlockStore(Protocol):
    """Storage of results between stages. Regions are slices with start and stop inside the image."""

    def levels(self, region: Region) -> NDArray[np.uint16]:
        """Read foreground probabilities, ``(*region)`` uint16 of 0 .. `LEVELS`, as `quantize` returns them."""

    def ids(self, stage: str, region: Region) -> NDArray[np.int64]:
        """Read the cluster ids of a region that the blocks of a stage wrote, ``(*region)`` int64, 0 background."""

    def write_ids(self, stage: str, core: Region, ids: NDArray[np.int64]) -> None:
        """Store the cluster ids of one block of a stage, ``(*core)`` int64, 0 background."""


@dataclass(frozen=True)
class Division:
    """An image divided into blocks, and the settings for its objects.

    Parameters
    ----------
    shape
        ``(Y, X)`` or ``(Z, Y, X)``: sides of the image, 1 and more.
    block
        Sides of the blocks, which begin at multiples of these; 1 and more.
    objects
        How objects are made.
    spacing
        As for `septum.arrays.instances.label_objects`.
    lines
        Draw lines between touching objects (`septum.arrays.instances.draw_boundaries`).

    Raises
    ------
    UsageError
        On first use, if `spacing` does not fit the axes.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    objects: ObjectSettings
    spacing: tuple[float, ...] | None = None
    lines: bool = False

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """Pixel size along each axis in pixels of the finest."""
        return relative_spacing(self.spacing, len(self.shape))


def run_block(stage: str, core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Process one block of a stage.

    Parameters
    ----------
    stage
        One of `STAGES`.
    core
        The block: slices with start and stop inside the image.
    store
        Holds the probabilities of the whole image and the ids of earlier stages. The ids of this stage are written to
        it.
    division
        The image.
    tables
        Results of `join` for earlier stages.

    Returns
    -------
    report
        Arrays for `join`. In the last stage only ``numbers``: the labels of the block in the smallest unsigned type
        that holds the labels of the whole image.
    """
    if stage == "seeds":
        return _seeds(core, store, division)
    if not needed(stage, tables):
        return {}
    if stage in ("divide", "redivide"):
        return _divide(stage, core, store, division, tables)
    if stage == "small":
        return _small(core, store, division, tables)
    return {"numbers": _numbers(core, store, division, tables)}


def join(stage: str, reports: Iterable[Arrays], division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Combine the reports of all blocks of a stage.

    Parameters
    ----------
    stage
        One of `STAGES`.
    reports
        Results of `run_block` for all blocks, in any order; each is read once and released.
    division, tables
        As for `run_block`.

    Returns
    -------
    table
        ``old`` and ``new``: sorted ids and their replacements. From ``divide`` on also ``ids``, ``firsts`` and
        ``numbers`` of the objects that are large enough, sorted by id (``firsts``: flat index of the first pixel in
        scan order), and for ``divide`` and ``redivide`` ``small``, the number of objects that are too small, and
        ``weak``, the sorted ids of seeds to drop. Empty if the stage was not needed.
    """
    if stage == "numbers" or not needed(stage, tables):
        return {}
    joined = gather_reports(reports)
    table = join_ids(
        joined, division.objects.merge_ratio**2 if stage == "seeds" else 1.0, drop_unseeded=stage == "small"
    )
    if stage == "seeds":
        return table
    ids, firsts, sizes, seeded = (joined.pop(name) for name in ("ids", "firsts", "sizes", "seeded"))
    if stage == "small":  # kept objects only grew, and blocks without small objects report nothing
        known = _divided(tables)[1]
        ids, firsts = np.concatenate([known["ids"], ids]), np.concatenate([known["firsts"], firsts])
        sizes = seeded = np.zeros(len(ids), np.int64)
    ids, inverse = np.unique(look_up(ids, table["old"], table["new"]), return_inverse=True)
    first = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(first, inverse, firsts)
    size, own = np.zeros((2, len(ids)), np.int64)
    np.add.at(size, inverse, sizes)
    np.add.at(own, inverse, seeded)
    del inverse, firsts, sizes, seeded
    kept = ids > 0
    if stage != "small":
        kept &= size >= division.objects.min_size_px
        table["small"] = joined["small"].sum() + np.count_nonzero(ids[~kept])
        table["weak"] = ids[weak_seeds(own, size, division.objects.seed_share)]
    ids, first = ids[kept], first[kept]
    numbers = np.empty(len(ids), np.int64)
    numbers[np.argsort(first)] = np.arange(1, len(ids) + 1)
    return table | {"ids": ids, "firsts": first, "numbers": numbers}


def needed(stage: str, tables: Mapping[str, Arrays]) -> bool:
    """Return True if a stage has anything to do, given the tables of earlier stages.

    Otherwise it need not be run or joined; running it all the same reads and writes nothing.
    """
    if stage == "redivide":
        return len(tables["divide"]["weak"]) > 0
    return stage != "small" or bool(_divided(tables)[1]["small"] > 0)


def count(tables: Mapping[str, Arrays]) -> int:
    """Return the number of objects, after all stages but the last are joined."""
    return len(_last(tables)[1]["numbers"])


def _last(tables: Mapping[str, Arrays]) -> tuple[str, Arrays]:
    """Return the last stage that wrote ids, and its table."""
    return ("small", tables["small"]) if needed("small", tables) else _divided(tables)


def _divided(tables: Mapping[str, Arrays]) -> tuple[str, Arrays]:
    """Return the stage whose ids denote the objects including small ones, and its table."""
    stage = "redivide" if needed("redivide", tables) else "divide"
    return stage, tables[stage]


def _seeds(core: Region, store: BlockStore, division: Division) -> Arrays:
    """Divide the pixels of a block above the seed level into seeds."""
    ratio, (_, sure) = division.objects.merge_ratio, quantized_thresholds(division.objects)
    around = _around(core, division.shape)
    if ratio > 0:
        values = squared_distance_of_region(
            lambda part: store.levels(part) > sure, division.shape, around, division.sizes
        )
    else:
        values = (store.levels(around) > sure).astype(np.int32)
    flooded = flood_block(_ringed(values, core, division.shape).view(np.uint32), ratio=ratio**2)
    names = _basin_ids(flooded, core, division.shape)
    store.write_ids("seeds", core, np.take(names[flooded.cluster], flooded.basins))
    return _report(flooded, names, core, division.shape)


def _divide(stage: str, core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Divide the pixels of a block above the threshold among the seeds; report object and seed sizes."""
    around, share = _around(core, division.shape), division.objects.seed_share
    values = keep_above(store.levels(around), quantized_thresholds(division.objects)[0])
    seeds, seed_ids = compact_ids(store.ids("seeds", around), tables["seeds"]["old"], tables["seeds"]["new"])
    if stage == "redivide":
        seeds, share = np.where(np.isin(seed_ids, tables["divide"]["weak"])[seeds], np.int32(0), seeds), 0.0
    seeds = _ringed(seeds, core, division.shape)
    flooded = flood_block(_ringed(values, core, division.shape), seeds)
    del values
    seeded = None
    if share > 0:
        inside = flooded.basins[seeds[(slice(1, -1),) * len(core)] > 0]
        seeded = np.bincount(flooded.cluster[inside], minlength=len(flooded.cluster))
    del seeds
    names = _basin_ids(flooded, core, division.shape, seed_ids)
    store.write_ids(stage, core, np.take(names[flooded.cluster], flooded.basins))
    listed = _objects(
        flooded, names, core, division.shape, min_size_px=division.objects.min_size_px, seeded=seeded, share=share
    )
    return _report(flooded, names, core, division.shape) | listed


def _small(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Assign the pixels of small objects in a block to larger objects."""
    around, (stage, table) = _around(core, division.shape), _divided(tables)
    objects, ids = compact_ids(store.ids(stage, around), table["old"], table["new"])
    large = (look_up(ids, table["ids"], table["ids"], missing=-1) == ids) | (ids == 0)
    if large.all():
        inner = tuple(slice(c.start - a.start, c.stop - a.start) for c, a in zip(core, around, strict=True))
        store.write_ids("small", core, np.take(ids, objects[inner]))
        return {}
    values = store.levels(around) * (objects > 0)
    seeds = np.take(np.arange(len(ids), dtype=np.int32) * large, objects)
    flooded = flood_block(_ringed(values.astype(np.uint32), core, division.shape), _ringed(seeds, core, division.shape))
    del values, seeds, objects
    names = _basin_ids(flooded, core, division.shape, ids)
    names[~flooded.open] = 0  # a cluster that no large object reached, nor anything outside
    store.write_ids("small", core, np.take(names[flooded.cluster], flooded.basins))
    return _report(flooded, names, core, division.shape) | _objects(flooded, names, core, division.shape)


def _numbers(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> NDArray[Any]:
    """Return the final labels of a block."""
    stage, table = _last(tables)
    reach = tuple(n + division.lines for n in close_gaps_reach(division.objects.grow_px, division.sizes))
    around = _around(core, division.shape, reach)
    heads, lengths, shape = run_lengths(store.ids(stage, around))
    numbered = look_up(look_up(heads, table["old"], table["new"]), table["ids"], table["numbers"], missing=0)
    total = len(table["numbers"])
    kind = np.int32 if total < 2**31 - 1 else np.int64
    labels = close_gaps(
        np.repeat(numbered.astype(kind), lengths).reshape(shape), division.objects.grow_px, division.sizes
    )
    if division.lines:
        labels = draw_boundaries(labels)
    inner = tuple(slice(c.start - a.start, c.stop - a.start) for c, a in zip(core, around, strict=True))
    return labels[inner].astype(np.min_scalar_type(total))


def _around(core: Region, shape: Sequence[int], reach: Sequence[int] | None = None) -> Region:
    """Return a block extended by `reach` pixels (1 by default), clipped to the image."""
    margins = reach or (1,) * len(core)
    return tuple(
        slice(max(0, c.start - m), min(side, c.stop + m)) for c, m, side in zip(core, margins, shape, strict=True)
    )


def _ringed(values: NDArray[Any], core: Region, shape: Sequence[int]) -> NDArray[Any]:
    """Complete the ring of one pixel around a block by zeros beyond the border of the image."""
    beyond = [(int(c.start == 0), int(c.stop == side)) for c, side in zip(core, shape, strict=True)]
    return np.pad(values, beyond) if np.any(beyond) else np.ascontiguousarray(values)


def _in_image(pixels: NDArray[np.int32], core: Region, shape: Sequence[int]) -> NDArray[np.int64]:
    """Convert flat indices into a block with its ring to flat indices into the image."""
    places = np.unravel_index(pixels, [c.stop - c.start + 2 for c in core])
    flat = np.zeros(len(pixels), np.int64)
    for place, c, side in zip(places, core, shape, strict=True):
        flat = flat * side + place + (c.start - 1)
    return flat


def _basin_ids(
    flooded: Flooded, core: Region, shape: Sequence[int], seed_ids: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the id of each basin: that of its seed, or 1 plus the flat index of its peak or exit pixel."""
    names = _in_image(flooded.peak, core, shape) + 1
    if seed_ids is not None:
        names = np.where(flooded.seed > 0, seed_ids[flooded.seed], names)
    names[0] = 0
    return names


def _report(flooded: Flooded, names: NDArray[np.int64], core: Region, shape: Sequence[int]) -> Arrays:
    """Return the part of a block's watershed that a join needs; see `septum.arrays._block_tables.join_ids`."""
    used = flooded.clusters()[0]
    value, pixel, step, a, b = flooded.meetings
    ends = flooded.open & (flooded.seed == 0)
    ends[np.concatenate([a, b, flooded.links[1]])] = True  # seeds only if the join comes upon them
    ends &= ~flooded.leaves
    return {
        "ends": names[ends],
        "heights": flooded.height[ends],
        "leaving": names[used[flooded.leaves[used]]],
        "links": np.stack([_in_image(flooded.links[0], core, shape) + 1, names[flooded.links[1]]]),
        "meetings": np.stack([value, _in_image(pixel.astype(np.int32), core, shape), step, names[a], names[b]]),
    }


def _objects(
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
    seed is to be dropped. `seeded` holds the seed pixels of each cluster.
    """
    basins, sizes, first = flooded.clusters()
    own = np.zeros_like(sizes) if seeded is None else seeded[basins]
    kept = names[basins] > 0
    small = kept & (sizes < min_size_px) & ~_extends_outside(flooded)[basins] & ~weak_seeds(own, sizes, share)
    kept &= ~small
    return {
        "ids": names[basins[kept]],
        "sizes": sizes[kept],
        "seeded": own[kept],
        "firsts": _in_image(first[kept], core, shape),
        "small": np.array([np.count_nonzero(small)]),
    }


def _extends_outside(flooded: Flooded) -> NDArray[np.bool_]:
    """Flag the basins that represent clusters which have pixels, or may gain some, outside of the block."""
    faces = [np.take(flooded.basins, (0, -1), axis=axis).ravel() for axis in range(flooded.basins.ndim)]
    touched = np.concatenate([*faces, flooded.links[1], np.flatnonzero(flooded.leaves)])
    reaching: NDArray[np.bool_] = flooded.open & (flooded.seed == 0)
    reaching[flooded.cluster[touched]] = True
    reaching[flooded.meetings[3:].ravel()] = True
    return reaching
