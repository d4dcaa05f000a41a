"""A block and its surroundings, and the report of its watershed, for `septum.arrays.stitch`.

Regions are slices with start and stop inside the image; `shape` are the sides of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays._block_tables import Arrays
from septum.arrays.distance import Region
from septum.arrays.instances import weak_seeds
from septum.arrays.watershed import Flooded


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
