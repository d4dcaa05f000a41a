"""Label the objects of an image of any size block by block, number by number as `label_objects` labels the whole image.

The work is done in stages. In each stage the blocks are processed independently (`run_block`); then `join` combines
their reports into a small table that resolves the decisions that a block cannot make without its neighbors:

``seeds``
    Divide the pixels above the seed level where their connection is narrow (watershed of the distance transform).
``divide``
    Watershed of the pixels above the threshold from the seeds. The join adds up the sizes of objects and of seeds.
``redivide``
    The same without the seeds that cover too little of their object. Skipped if there are none.
``extend``
    Watershed of the objects that are too small, and of the pixels down to the outline level, from the other objects.
    Skipped if there are no such objects or pixels.
``regions``
    Sum the pixels and contacts of the objects so far. The join decides which of them are one object, and which stay
    (`septum.arrays.learned`). Skipped without `septum.arrays.instances.ObjectSettings.learned`.
``holes``
    Connected components of the background between the final objects, and the labels around each. Skipped if holes are
    not filled.
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
the stage maps ids that turned out to denote the same cluster to one id. In the stage ``holes`` such ids denote
background that reaches other blocks; a hole that lies wholly in a block has minus the label of its object.

Memory: a block needs memory in proportion to its own size, a join in proportion to the length of block borders and the
number of objects that are large enough; small objects that lie wholly in one block are counted there and not listed,
and holes that lie wholly in one block are filled there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.arrays._block_tables import (
    Arrays,
    around_block,
    basin_ids,
    compact_ids,
    extends_outside,
    gather_reports,
    join_holes,
    join_ids,
    look_up,
    object_report,
    place_in,
    ringed,
    run_lengths,
    watershed_report,
)
from septum.arrays.boundaries import draw_boundaries
from septum.arrays.distance import Region, squared_distance_of_region
from septum.arrays.instances import (
    ObjectSettings,
    contacts_reach,
    finish_contacts,
    keep_above,
    outline_threshold,
    quantized_thresholds,
    weak_seeds,
)
from septum.arrays.learned import decide
from septum.arrays.regions import Regions, join_regions, sum_regions
from septum.arrays.watershed import flood_block, labels_around
from septum.axes import relative_spacing

STAGES = ("seeds", "divide", "redivide", "extend", "regions", "holes", "numbers")


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

    @property
    def extends(self) -> bool:
        """Return True if objects extend below the threshold."""
        return outline_threshold(self.objects) < quantized_thresholds(self.objects)[0]


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
    if not needed(stage, tables, division):
        return {}
    if stage in ("divide", "redivide"):
        return _divide(stage, core, store, division, tables)
    if stage == "extend":
        return _extend(core, store, division, tables)
    if stage == "regions":
        return _regions(core, store, division, tables)
    if stage == "holes":
        return _holes(core, store, division, tables)
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
        ``weak``, the sorted ids of seeds to drop. For ``holes`` ``ids`` and ``numbers``: the sorted ids of holes and
        the labels around them. For ``regions`` ``objects`` and ``confidence`` as `septum.arrays.learned.decide` returns
        them. Empty if the stage was not needed.
    """
    if stage == "numbers" or not needed(stage, tables, division):
        return {}
    if stage == "regions" and division.objects.learned is not None:
        regions = join_regions([Regions(**report) for report in reports], division.shape)
        objects, confident = decide(regions, division.objects.learned, division.shape)
        return {"objects": objects, "confidence": confident}
    joined = gather_reports(reports)
    ratio = {"seeds": division.objects.merge_ratio**2, "holes": 0.0}.get(stage, 1.0)
    table = join_ids(joined, ratio, drop_unseeded=stage == "extend")
    if stage == "seeds":
        return table
    if stage == "holes":
        return table | join_holes(joined, table)
    ids, firsts, sizes, seeded = (joined.pop(name) for name in ("ids", "firsts", "sizes", "seeded"))
    if stage == "extend":  # kept objects only grew, and blocks in which nothing changes report nothing
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
    if stage != "extend":
        kept &= size >= division.objects.min_size_px
        table["small"] = joined["small"].sum() + np.count_nonzero(ids[~kept])
        table["weak"] = ids[weak_seeds(own, size, division.objects.seed_share)]
    ids, first = ids[kept], first[kept]
    numbers = np.empty(len(ids), np.int64)
    numbers[np.argsort(first)] = np.arange(1, len(ids) + 1)
    return table | {"ids": ids, "firsts": first, "numbers": numbers}


def needed(stage: str, tables: Mapping[str, Arrays], division: Division) -> bool:
    """Return True if a stage has anything to do, given the tables of earlier stages.

    Otherwise it need not be run or joined; running it all the same reads and writes nothing.
    """
    if stage == "redivide":
        return len(tables["divide"]["weak"]) > 0
    if stage == "extend":
        return division.extends or bool(_divided(tables)[1]["small"] > 0)
    settings = division.objects
    return {"regions": settings.learned is not None, "holes": settings.fill_holes}.get(stage, True)


def count(tables: Mapping[str, Arrays]) -> int:
    """Return the number of objects, after all stages but the last are joined."""
    return len(tables["regions"]["confidence"] if tables.get("regions") else _last(tables)[1]["numbers"])


def confidence(tables: Mapping[str, Arrays]) -> NDArray[np.float32] | None:
    """Return the confidence of each object, ``(N,)`` float32 in 0 .. 1, after all stages but the last are joined.

    None without `septum.arrays.instances.ObjectSettings.learned`.
    """
    return tables["regions"]["confidence"] if tables.get("regions") else None


def _last(tables: Mapping[str, Arrays]) -> tuple[str, Arrays]:
    """Return the last stage that wrote ids, and its table."""
    return ("extend", tables["extend"]) if tables.get("extend") else _divided(tables)


def _divided(tables: Mapping[str, Arrays]) -> tuple[str, Arrays]:
    """Return the stage whose ids denote the objects including small ones, and its table."""
    stage = "redivide" if tables.get("redivide") else "divide"
    return stage, tables[stage]


def _seeds(core: Region, store: BlockStore, division: Division) -> Arrays:
    """Divide the pixels of a block above the seed level into seeds."""
    ratio, (_, sure) = division.objects.merge_ratio, quantized_thresholds(division.objects)
    around = around_block(core, division.shape)
    if ratio > 0:
        values = squared_distance_of_region(
            lambda part: store.levels(part) > sure, division.shape, around, division.sizes
        )
    else:
        values = (store.levels(around) > sure).astype(np.int32)
    flooded = flood_block(ringed(values, core, division.shape).view(np.uint32), ratio=ratio**2)
    names = basin_ids(flooded, core, division.shape)
    store.write_ids("seeds", core, np.take(names[flooded.cluster], flooded.basins))
    return watershed_report(flooded, names, core, division.shape)


def _divide(stage: str, core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Divide the pixels of a block above the threshold among the seeds; report object and seed sizes."""
    around, share = around_block(core, division.shape), division.objects.seed_share
    values = keep_above(store.levels(around), quantized_thresholds(division.objects)[0])
    seeds, seed_ids = compact_ids(store.ids("seeds", around), tables["seeds"]["old"], tables["seeds"]["new"])
    if stage == "redivide":
        seeds, share = np.where(np.isin(seed_ids, tables["divide"]["weak"])[seeds], np.int32(0), seeds), 0.0
    seeds = ringed(seeds, core, division.shape)
    flooded = flood_block(ringed(values, core, division.shape), seeds)
    del values
    seeded = None
    if share > 0:
        inside = flooded.basins[seeds[(slice(1, -1),) * len(core)] > 0]
        seeded = np.bincount(flooded.cluster[inside], minlength=len(flooded.cluster))
    del seeds
    names = basin_ids(flooded, core, division.shape, seed_ids)
    store.write_ids(stage, core, np.take(names[flooded.cluster], flooded.basins))
    listed = object_report(
        flooded, names, core, division.shape, min_size_px=division.objects.min_size_px, seeded=seeded, share=share
    )
    return watershed_report(flooded, names, core, division.shape) | listed


def _extend(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Assign the pixels of small objects in a block, and those down to the outline level, to larger objects."""
    around, (stage, table) = around_block(core, division.shape), _divided(tables)
    objects, ids = compact_ids(store.ids(stage, around), table["old"], table["new"])
    large = (look_up(ids, table["ids"], table["ids"], missing=-1) == ids) | (ids == 0)
    if large.all() and not division.extends:
        store.write_ids("extend", core, np.take(ids, objects[place_in(core, around)]))
        return {}
    values = keep_above(store.levels(around), outline_threshold(division.objects))
    seeds = np.take(np.arange(len(ids), dtype=np.int32) * large, objects)
    flooded = flood_block(ringed(values, core, division.shape), ringed(seeds, core, division.shape))
    del values, seeds, objects
    names = basin_ids(flooded, core, division.shape, ids)
    names[~flooded.open] = 0  # a cluster that no large object reached, nor anything outside
    store.write_ids("extend", core, np.take(names[flooded.cluster], flooded.basins))
    return watershed_report(flooded, names, core, division.shape) | object_report(flooded, names, core, division.shape)


def _regions(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Sum the pixels and contacts of the objects in a block."""
    around, (stage, table) = around_block(core, division.shape), _last(tables)
    labels, ids = compact_ids(store.ids(stage, around), table["old"], table["new"])
    numbers = look_up(ids, table["ids"], table["numbers"], missing=0)
    labels *= (numbers > 0)[labels]
    lowest, (_, sure) = outline_threshold(division.objects), quantized_thresholds(division.objects)
    depths = squared_distance_of_region(
        lambda part: store.levels(part) > lowest, division.shape, around, division.sizes
    )
    summed = sum_regions(
        ringed(labels, core, division.shape, beyond=-1),
        ringed(store.levels(around), core, division.shape),
        ringed(depths, core, division.shape),
        sure=sure,
        shape=division.shape,
        start=[c.start - 1 for c in core],
        numbers=numbers,
    )
    return dict(vars(summed))


def _holes(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Find the background components of a block: holes in it are settled, those that reach other blocks reported."""
    around = around_block(core, division.shape)
    labels = _finished(around, store, division, tables)
    flooded = flood_block(ringed((labels == 0).astype(np.uint32), core, division.shape), ratio=0.0)
    lowest, highest = labels_around(flooded, ringed(labels, core, division.shape, beyond=-1))
    del labels
    outside, reached = extends_outside(flooded), flooded.clusters()[0]
    names = np.where(outside, basin_ids(flooded, core, division.shape), 0)
    settled = ~outside & (lowest == highest) & (lowest > 0)
    names[settled] = -lowest[settled]
    store.write_ids("holes", core, np.take(names[flooded.cluster], flooded.basins))
    reached = reached[outside[reached]]
    listed = {"ids": names[reached], "lowest": lowest[reached], "highest": highest[reached]}
    return watershed_report(flooded, basin_ids(flooded, core, division.shape), core, division.shape) | listed


def _numbers(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> NDArray[Any]:
    """Return the final labels of a block."""
    around = around_block(core, division.shape, (int(division.lines),) * len(core))
    labels = _finished(around, store, division, tables)
    if division.objects.fill_holes:
        table = tables["holes"]
        heads, lengths, shape = run_lengths(store.ids("holes", around))
        found = look_up(look_up(heads, table["old"], table["new"]), table["ids"], table["numbers"], missing=0)
        labels += np.repeat(np.where(heads < 0, -heads, found).astype(labels.dtype), lengths).reshape(shape)
    if division.lines:
        labels = draw_boundaries(labels)
    return labels[place_in(core, around)].astype(np.min_scalar_type(count(tables)))


def _finished(part: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> NDArray[np.int32]:
    """Return the labels of a part of the image, with gaps closed and contacts finished."""
    stage, table = _last(tables)
    around = around_block(part, division.shape, contacts_reach(division.objects, division.sizes))
    heads, lengths, shape = run_lengths(store.ids(stage, around))
    numbered = look_up(look_up(heads, table["old"], table["new"]), table["ids"], table["numbers"], missing=0)
    if tables.get("regions"):
        numbered = tables["regions"]["objects"][numbered]
    kind = np.int32 if len(table["numbers"]) < 2**31 - 1 else np.int64
    labels = finish_contacts(
        np.repeat(numbered.astype(kind), lengths).reshape(shape),
        store.levels(around),
        division.objects,
        division.sizes,
        [a.start for a in around],
    )
    return labels[place_in(part, around)]
