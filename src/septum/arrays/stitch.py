"""Objects of an image of any size, block by block: the same, number by number, as `label_objects` makes of the whole.

Each stage goes over all blocks, which do not depend on each other, and ends with a join, where what the blocks could
not know without their neighbors becomes a table:

``seeds``
    Parts of the pixels above the seed level that are joined by necks only.
``divide``
    The pixels above the threshold, flooded from the seeds. The join adds up the sizes of objects and of their seeds.
``redivide``
    The same without the seeds that turned out to be unsure. Needless where there are none.
``specks``
    What belonged to objects that are too small, flooded from the others. Needless where there are none.
``numbers``
    Objects get the numbers 1 .. N in the order in which a scan of the image meets them, and gaps are closed, or lines
    drawn between them.

Between stages, a pixel has the id (int64) of its cluster: 1 plus the flat index, in the image, of a pixel of it that
its block knew to belong to it. The table says which ids turned out to be the same. Why that is exact:
`septum.arrays.watershed`. A task takes memory in proportion to its block, a join in proportion to the borders of the
blocks and the number of objects that are large enough; specks that one block knows wholly are counted there and not
listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.arrays.distance import Region, squared_depth_of
from septum.arrays.instances import ObjectSettings, above, bounds, draw_boundaries, grow_reach, grown, unsure
from septum.arrays.instances import levels as levels  # what a store keeps
from septum.arrays.watershed import Flooded, flood_block
from septum.arrays.weight_map import relative_spacing

Arrays = dict[str, NDArray[Any]]

STAGES = ("seeds", "divide", "redivide", "specks", "numbers")


class BlockStore(Protocol):
    """What is known of the image between the stages. Regions are slices with start and stop inside the image."""

    def levels(self, region: Region) -> NDArray[np.uint16]:
        """Return probabilities of foreground as `levels` rounds them."""

    def ids(self, stage: str, region: Region) -> NDArray[np.int64]:
        """Return what the blocks of a stage wrote."""

    def write_ids(self, stage: str, core: Region, ids: NDArray[np.int64]) -> None:
        """Keep what a block of a stage found."""


@dataclass(frozen=True)
class Division:
    """An image that is divided into blocks, and what is made of it.

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
        Lines are drawn where objects touch (`septum.arrays.instances.draw_boundaries`).

    Raises
    ------
    UsageError
        When it is used, if `spacing` does not fit the axes.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    objects: ObjectSettings
    spacing: tuple[float, ...] | None = None
    lines: bool = False

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """Pixel sizes in those of the finest axis."""
        return relative_spacing(self.spacing, len(self.shape))


def run_block(stage: str, core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Do one block of a stage.

    Parameters
    ----------
    stage
        One of `STAGES`.
    core
        The block: slices with start and stop inside the image.
    store
        Has the levels of the whole image, and the ids of earlier stages. The ids of this stage are written to it.
    division
        The image.
    tables
        What `join` returned for earlier stages.

    Returns
    -------
    rest
        What `join` needs to know of the block. In the last stage ``numbers`` only: the labels of the block in the
        smallest unsigned type that holds the numbers of the whole image.
    """
    if stage == "seeds":
        return _seeds(core, store, division)
    if not needed(stage, tables):
        return {}
    if stage in ("divide", "redivide"):
        return _divide(stage, core, store, division, tables)
    if stage == "specks":
        return _specks(core, store, division, tables)
    return {"numbers": _numbers(core, store, division, tables)}


def join(stage: str, rests: Iterable[Arrays], division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    """Join what the blocks of a stage left open.

    Parameters
    ----------
    stage
        One of `STAGES`.
    rests
        What `run_block` returned for all blocks, in any order; each is looked at once and let go.
    division, tables
        As for `run_block`.

    Returns
    -------
    table
        ``old`` and ``new``: sorted ids that are others now. From ``divide`` on also ``ids``, ``firsts`` and ``numbers``
        of the objects that are large enough, sorted by id, and for ``divide`` and ``redivide`` ``specks``, how many are
        not, and ``unsure``, the sorted ids of seeds that are none. Empty if the stage was not needed.
    """
    if stage == "numbers" or not needed(stage, tables):
        return {}
    said = _gathered(rests)
    table = _joined(said, division.objects.neck**2 if stage == "seeds" else 1.0, forget=stage == "specks")
    if stage == "seeds":
        return table
    ids, firsts, sizes, seeded = (said.pop(name) for name in ("ids", "firsts", "sizes", "seeded"))
    if stage == "specks":  # objects have only grown, and blocks without specks say nothing
        known = _divided(tables)[1]
        ids, firsts = np.concatenate([known["ids"], ids]), np.concatenate([known["firsts"], firsts])
        sizes = seeded = np.zeros(len(ids), np.int64)
    ids, which = np.unique(_looked_up(ids, table["old"], table["new"]), return_inverse=True)
    first = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(first, which, firsts)
    size, own = np.zeros((2, len(ids)), np.int64)
    np.add.at(size, which, sizes)
    np.add.at(own, which, seeded)
    del which, firsts, sizes, seeded
    kept = ids > 0
    if stage != "specks":
        kept &= size >= division.objects.min_size_px
        table["specks"] = said["specks"].sum() + np.count_nonzero(ids[~kept])
        table["unsure"] = ids[unsure(own, size, division.objects.seed_share)]
    ids, first = ids[kept], first[kept]
    numbers = np.empty(len(ids), np.int64)
    numbers[np.argsort(first)] = np.arange(1, len(ids) + 1)
    return table | {"ids": ids, "firsts": first, "numbers": numbers}


def needed(stage: str, tables: Mapping[str, Arrays]) -> bool:
    """Say, from the tables of earlier stages, whether a stage has anything to do.

    If not, it need not be run nor joined; where it is all the same, nothing is read or written.
    """
    if stage == "redivide":
        return len(tables["divide"]["unsure"]) > 0
    return stage != "specks" or bool(_divided(tables)[1]["specks"] > 0)


def count(tables: Mapping[str, Arrays]) -> int:
    """Return the number of objects, when all stages but the last are joined."""
    return len(_last(tables)[1]["numbers"])


def _last(tables: Mapping[str, Arrays]) -> tuple[str, Arrays]:
    """Return the last stage that wrote ids, and its table."""
    return ("specks", tables["specks"]) if needed("specks", tables) else _divided(tables)


def _divided(tables: Mapping[str, Arrays]) -> tuple[str, Arrays]:
    """Return the stage whose ids are those of the objects, specks included, and its table."""
    stage = "redivide" if needed("redivide", tables) else "divide"
    return stage, tables[stage]


def _seeds(core: Region, store: BlockStore, division: Division) -> Arrays:
    neck, (_, sure) = division.objects.neck, bounds(division.objects)
    around = _around(core, division.shape)
    if neck > 0:
        values = squared_depth_of(lambda part: store.levels(part) > sure, division.shape, around, division.sizes)
    else:
        values = (store.levels(around) > sure).astype(np.int32)
    found = flood_block(_ringed(values, core, division.shape).view(np.uint32), ratio=neck**2)
    names = _names(found, core, division.shape)
    store.write_ids("seeds", core, np.take(names[found.cluster], found.basins))
    return _rest(found, names, core, division.shape)


def _divide(stage: str, core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    around, share = _around(core, division.shape), division.objects.seed_share
    values = above(store.levels(around), bounds(division.objects)[0])
    seeds, seed_ids = _compact(store.ids("seeds", around), tables["seeds"]["old"], tables["seeds"]["new"])
    if stage == "redivide":
        seeds, share = np.where(np.isin(seed_ids, tables["divide"]["unsure"])[seeds], np.int32(0), seeds), 0.0
    seeds = _ringed(seeds, core, division.shape)
    found = flood_block(_ringed(values, core, division.shape), seeds)
    del values
    seeded = None
    if share > 0:
        inside = found.basins[seeds[(slice(1, -1),) * len(core)] > 0]
        seeded = np.bincount(found.cluster[inside], minlength=len(found.cluster))
    del seeds
    names = _names(found, core, division.shape, seed_ids)
    store.write_ids(stage, core, np.take(names[found.cluster], found.basins))
    listed = _objects(
        found, names, core, division.shape, least=division.objects.min_size_px, seeded=seeded, share=share
    )
    return _rest(found, names, core, division.shape) | listed


def _specks(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> Arrays:
    around, (stage, table) = _around(core, division.shape), _divided(tables)
    objects, ids = _compact(store.ids(stage, around), table["old"], table["new"])
    large = (_looked_up(ids, table["ids"], table["ids"], missing=-1) == ids) | (ids == 0)
    if large.all():
        inner = tuple(slice(c.start - a.start, c.stop - a.start) for c, a in zip(core, around, strict=True))
        store.write_ids("specks", core, np.take(ids, objects[inner]))
        return {}
    values = store.levels(around) * (objects > 0)
    seeds = np.take(np.arange(len(ids), dtype=np.int32) * large, objects)
    found = flood_block(_ringed(values.astype(np.uint32), core, division.shape), _ringed(seeds, core, division.shape))
    del values, seeds, objects
    names = _names(found, core, division.shape, ids)
    names[~found.open] = 0  # a cluster that no large object reached, nor anything outside
    store.write_ids("specks", core, np.take(names[found.cluster], found.basins))
    return _rest(found, names, core, division.shape) | _objects(found, names, core, division.shape)


def _numbers(core: Region, store: BlockStore, division: Division, tables: Mapping[str, Arrays]) -> NDArray[Any]:
    stage, table = _last(tables)
    reach = tuple(n + division.lines for n in grow_reach(division.objects.grow_px, division.sizes))
    around = _around(core, division.shape, reach)
    heads, lengths, shape = _runs(store.ids(stage, around))
    found = _looked_up(_looked_up(heads, table["old"], table["new"]), table["ids"], table["numbers"], missing=0)
    total = len(table["numbers"])
    kind = np.int32 if total < 2**31 - 1 else np.int64
    labels = grown(np.repeat(found.astype(kind), lengths).reshape(shape), division.objects.grow_px, division.sizes)
    if division.lines:
        labels = draw_boundaries(labels)
    inner = tuple(slice(c.start - a.start, c.stop - a.start) for c, a in zip(core, around, strict=True))
    return labels[inner].astype(np.min_scalar_type(total))


def _around(core: Region, shape: Sequence[int], reach: Sequence[int] | None = None) -> Region:
    """Return a block and what is within `reach` pixels of it, 1 if not given, as far as there is an image."""
    margins = reach or (1,) * len(core)
    return tuple(
        slice(max(0, c.start - m), min(side, c.stop + m)) for c, m, side in zip(core, margins, shape, strict=True)
    )


def _ringed(values: NDArray[Any], core: Region, shape: Sequence[int]) -> NDArray[Any]:
    """Complete the ring around a block by zeros beyond the border of the image."""
    beyond = [(int(c.start == 0), int(c.stop == side)) for c, side in zip(core, shape, strict=True)]
    return np.pad(values, beyond) if np.any(beyond) else np.ascontiguousarray(values)


def _in_image(pixels: NDArray[np.int32], core: Region, shape: Sequence[int]) -> NDArray[np.int64]:
    """Turn flat indices into a block with its ring into flat indices into the image."""
    places = np.unravel_index(pixels, [c.stop - c.start + 2 for c in core])
    flat = np.zeros(len(pixels), np.int64)
    for place, c, side in zip(places, core, shape, strict=True):
        flat = flat * side + place + (c.start - 1)
    return flat


def _names(
    found: Flooded, core: Region, shape: Sequence[int], seed_ids: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the id of each basin: that of its seed, or 1 plus the place of its peak, or of where it leaves."""
    names = _in_image(found.peak, core, shape) + 1
    if seed_ids is not None:
        names = np.where(found.seed > 0, seed_ids[found.seed], names)
    names[0] = 0
    return names


def _rest(found: Flooded, names: NDArray[np.int64], core: Region, shape: Sequence[int]) -> Arrays:
    """Return what a join needs of a block: see `_joined`."""
    used = found.clusters()[0]
    value, pixel, step, a, b = found.meetings
    ends = found.open & (found.seed == 0)
    ends[np.concatenate([a, b, found.links[1]])] = True  # seeds only if the join comes upon them
    ends &= ~found.leaves
    return {
        "ends": names[ends],
        "heights": found.height[ends],
        "leaving": names[used[found.leaves[used]]],
        "links": np.stack([_in_image(found.links[0], core, shape) + 1, names[found.links[1]]]),
        "meetings": np.stack([value, _in_image(pixel.astype(np.int32), core, shape), step, names[a], names[b]]),
    }


def _objects(
    found: Flooded,
    names: NDArray[np.int64],
    core: Region,
    shape: Sequence[int],
    *,
    least: int = 0,
    seeded: NDArray[np.int64] | None = None,
    share: float = 0.0,
) -> Arrays:
    """Return the ids of the clusters in a block, how many pixels of each and of its seed are there, and their first.

    Clusters of fewer than `least` pixels that are wholly in the block are counted only (``specks``), unless they will
    lose their seed. `seeded` has the pixels of seeds in each cluster.
    """
    which, sizes, first = found.clusters()
    own = np.zeros_like(sizes) if seeded is None else seeded[which]
    kept = names[which] > 0
    specks = kept & (sizes < least) & ~_reaching(found)[which] & ~unsure(own, sizes, share)
    kept &= ~specks
    return {
        "ids": names[which[kept]],
        "sizes": sizes[kept],
        "seeded": own[kept],
        "firsts": _in_image(first[kept], core, shape),
        "specks": np.array([np.count_nonzero(specks)]),
    }


def _reaching(found: Flooded) -> NDArray[np.bool_]:
    """Say of the basins that stand for clusters whether these have pixels, or may win some, outside of the block."""
    faces = [np.take(found.basins, (0, -1), axis=axis).ravel() for axis in range(found.basins.ndim)]
    touched = np.concatenate([*faces, found.links[1], np.flatnonzero(found.leaves)])
    reaching: NDArray[np.bool_] = found.open & (found.seed == 0)
    reaching[found.cluster[touched]] = True
    reaching[found.meetings[3:].ravel()] = True
    return reaching


_NOTHING = {"links": (2, 0), "meetings": (5, 0)}  # shapes of what no block says; else (0,)


def _gathered(rests: Iterable[Arrays]) -> Arrays:
    """Join what blocks say under each name along the last axis; blocks may say nothing."""
    found: dict[str, list[NDArray[Any]]] = {
        name: [np.zeros(_NOTHING.get(name, 0), np.float64 if name == "heights" else np.int64)]
        for name in ("ends", "heights", "leaving", "links", "meetings", "ids", "sizes", "seeded", "firsts", "specks")
    }
    for rest in rests:
        for name, values in rest.items():
            found[name].append(values)
    return {name: np.concatenate(found.pop(name), axis=-1) for name in list(found)}


def _joined(said: Arrays, ratio: float, *, forget: bool) -> Arrays:
    """Process what blocks left open (`_gathered`), and return which ids are others.

    Blocks give clusters that end in them (``ends``) and their ``heights``; ids by which pixels leave a block
    (``leaving``); where these lead (``links``: from, to); and ``meetings``: value, later pixel, step, the two ids. With
    `forget`, what does not come to a seed becomes 0.
    """
    from septum.arrays import _watershed as _flood

    ends, leaving, links, meetings = (said[name] for name in ("ends", "leaving", "links", "meetings"))
    written = np.concatenate([ends, leaving])
    ids = np.unique(np.concatenate([written, links.ravel(), meetings[3:].ravel()]))
    parent = np.arange(len(ids), dtype=np.int32)
    parent[np.searchsorted(ids, links[0])] = np.searchsorted(ids, links[1])
    heights = np.full(len(ids), -1.0)
    heights[np.searchsorted(ids, ends)] = said["heights"]
    value, _, _, a, b = meetings[:, np.lexsort((meetings[2], meetings[1], -meetings[0]))]
    root = _flood.join(value, np.searchsorted(ids, a), np.searchsorted(ids, b), parent, heights, ratio)
    old = np.unique(written)
    where = root[np.searchsorted(ids, old)]
    assert np.all(heights[where] >= 0), "every way out of a block ends in another"
    new = np.where(np.isinf(heights[where]) | (not forget), ids[where], 0)
    return {"old": old[old != new], "new": new[old != new]}


def _looked_up(
    keys: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64], *, missing: int | None = None
) -> NDArray[np.int64]:
    """Replace what is in `old`, which is sorted, by `new`; what is not there is kept, or becomes `missing`."""
    others = keys if missing is None else np.full_like(keys, missing)
    if len(old) == 0:
        return others
    place = np.minimum(np.searchsorted(old, keys), len(old) - 1)
    return np.where(old[place] == keys, new[place], others)


def _runs(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, ...]]:
    """Return the value and the length of each run of equal values, and the shape."""
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=len(flat)), ids.shape


def _compact(
    ids: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Translate ids by a table, and number them: return the numbers, 0 for 0, and the ids by number."""
    heads, lengths, shape = _runs(ids)
    kinds, number = np.unique(np.concatenate([[0], _looked_up(heads, old, new)]), return_inverse=True)
    return np.repeat(number[1:].astype(np.int32), lengths).reshape(shape), kinds
