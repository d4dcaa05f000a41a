"""Sums over the pixels of regions and of the contacts between regions: the same for a whole image and for its blocks.

All sums are integers, so that the parts of a region in several blocks add up exactly. A block owns its pixels, and the
faces whose pixel before the face it owns. Moments are sums of positions in the image: 64-bit arithmetic wraps around,
and `moved_sums` takes the position of a near pixel off exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

PIXELS, LEVEL, SEED, OPEN_FACES, OPEN_LEVEL, BORDER_FACES, MOMENTS = range(7)
"""Columns of `Regions.sums`: pixels; their levels; pixels above the seed level; faces to background; levels of the
pixels inside of these; faces to the border of the image; then the first and second moments of the position."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of an image, or of a block of it, and the contacts between them.

    Attributes
    ----------
    number
        ``(N,)`` int64, rising: numbers of the regions, 1 or more.
    first
        ``(N,)`` int64: flat index in the image of the first pixel of each region, from which moments are measured.
    sums
        ``(N, 6 + D + D (D + 1) / 2)`` int64, columns `PIXELS` .. `MOMENTS` and following; moments of ``Y``, ``X``,
        then of ``YY``, ``YX``, ``XX`` (3D: from ``Z`` on).
    peaks
        ``(N, 2)`` int64, 0 or more: highest level and largest squared distance to the background.
    pairs
        ``(M, 2)`` int64: numbers of two regions that touch, the lower first; in rising order.
    contacts
        ``(M, 2)`` int64, of each pair: the faces between them, and the sum of the lower of the two levels over them.
    saddles
        ``(M, 2)`` int64, of each pair: the maximum, over these faces, of the lower of the two levels, and of the two
        squared distances.
    """

    number: NDArray[np.int64]
    first: NDArray[np.int64]
    sums: NDArray[np.int64]
    peaks: NDArray[np.int64]
    pairs: NDArray[np.int64]
    contacts: NDArray[np.int64]
    saddles: NDArray[np.int64]


def sum_regions(
    labels: NDArray[np.int32],
    levels: NDArray[np.uint16],
    depths: NDArray[np.int32],
    *,
    sure: int,
    shape: Sequence[int],
    start: Sequence[int],
    numbers: NDArray[np.int64],
) -> Regions:
    """Sum the pixels and contacts of the regions of an image or a block.

    Parameters
    ----------
    labels
        ``(*S + 2)`` int32: regions 1 .. N, 0 background, with a ring of one pixel: the neighbors of a block, -1 beyond
        the border of the image. Corners of the ring are not used.
    levels
        ``(*S + 2)`` uint16 probabilities, as `septum.arrays.instances.quantize` returns them, with the same ring.
    depths
        ``(*S + 2)`` int32 squared distances to the background, 0 or more, with the same ring.
    sure
        Pixels above this level are counted as seed pixels.
    shape
        Sides of the image.
    start
        Position of the first pixel of the ring in the image, -1 or more along each axis.
    numbers
        ``(N + 1,)`` int64, >= 0: numbers of the regions in the image.
    """
    from septum.arrays import _regions as loops

    flat = (1,) * (3 - labels.ndim)
    sides = (*flat, *labels.shape)
    pixel, value, distance = labels.ravel(), levels.ravel(), depths.ravel()
    z, y, x = (*(0 for _ in flat), *start)
    sums, peaks, first, count = loops.add_pixels(pixel, value, distance, sure, sides, (z, y, x))
    low, high, level, depth = loops.list_faces(pixel, value, distance, sides, count)
    held = np.flatnonzero(sums[:, PIXELS])
    places = [place + s for place, s in zip(np.unravel_index(first[held], labels.shape), start, strict=True)]
    met = np.ravel_multi_index(places, shape).astype(np.int64)
    listed = Regions(
        number=numbers[held],
        first=met,
        sums=moved_sums(sums[held], np.zeros_like(met), met, shape),
        peaks=peaks[held],
        pairs=np.stack([numbers[low], numbers[high]], axis=1),
        contacts=np.stack([np.ones_like(level), level], axis=1),
        saddles=np.stack([level, depth], axis=1),
    )
    return _grouped(listed, shape)


def regions_of_image(
    labels: NDArray[np.int32], levels: NDArray[np.uint16], depths: NDArray[np.int32], *, sure: int
) -> Regions:
    """Sum the pixels and contacts of the regions of a whole image.

    Parameters
    ----------
    labels, levels, depths, sure
        As for `sum_regions`, ``(*S)`` int32, uint16 and int32, without a ring.
    """
    ringed = (np.pad(labels, 1, constant_values=-1), np.pad(levels, 1), np.pad(depths, 1))
    numbers = np.arange(int(labels.max(initial=0)) + 1)
    return sum_regions(*ringed, sure=sure, shape=labels.shape, start=(-1,) * labels.ndim, numbers=numbers)


def join_regions(parts: Iterable[Regions], shape: Sequence[int]) -> Regions:
    """Add up the regions of all blocks of an image.

    Parameters
    ----------
    parts
        From `sum_regions`, in any order.
    shape
        Sides of the image.
    """
    blocks = list(parts)
    names = ("number", "first", "sums", "peaks", "pairs", "contacts", "saddles")
    listed = Regions(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})
    return _grouped(listed, shape)


def moved_sums(
    sums: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64], shape: Sequence[int]
) -> NDArray[np.int64]:
    """Return `Regions.sums` with moments that are measured from other pixels.

    Parameters
    ----------
    sums
        ``(N, C)`` int64, any values.
    before, after
        ``(N,)`` int64 flat indices, 0 or more: the pixels from which moments were and will be measured.
    shape
        Sides of the image.

    Returns
    -------
    sums
        ``(N, C)`` int64, any values.
    """
    sums, rank = sums.copy(), len(shape)
    pixels = sums[:, PIXELS]
    moved = np.stack(np.unravel_index(before, shape)) - np.stack(np.unravel_index(after, shape))
    old, column = sums[:, MOMENTS : MOMENTS + rank].T.copy(), MOMENTS + rank
    for axis in range(rank):
        sums[:, MOMENTS + axis] += pixels * moved[axis]
        for second in range(axis, rank):
            sums[:, column] += moved[axis] * old[second] + moved[second] * old[axis]
            sums[:, column] += pixels * moved[axis] * moved[second]
            column += 1
    return sums


def merge_regions(regions: Regions, root: NDArray[np.int64], shape: Sequence[int]) -> Regions:
    """Merge regions into others.

    Parameters
    ----------
    regions
        From `join_regions`.
    root
        ``(N,)`` int64, >= 1: number of the region as a part of which each region continues; of itself, if it does.
    shape
        Sides of the image.

    Returns
    -------
    Regions
        The merged regions under the numbers of `root`.
    """
    pairs = root[np.searchsorted(regions.number, regions.pairs)]
    apart = pairs[:, 0] != pairs[:, 1]
    merged = replace(
        regions, number=root, pairs=pairs[apart], contacts=regions.contacts[apart], saddles=regions.saddles[apart]
    )
    return _grouped(merged, shape)


def _grouped(listed: Regions, shape: Sequence[int]) -> Regions:
    """Combine the entries of equal numbers, and those of equal pairs."""
    number, inverse = np.unique(listed.number, return_inverse=True)
    first = np.full(len(number), np.iinfo(np.int64).max)
    np.minimum.at(first, inverse, listed.first)
    moved = moved_sums(listed.sums, listed.first, first[inverse], shape)
    _, sums, peaks = _combined(listed.number[:, None], moved, listed.peaks)
    pairs, contacts, saddles = _combined(np.sort(listed.pairs, axis=1), listed.contacts, listed.saddles)
    return Regions(number, first, sums, peaks, pairs, contacts, saddles)


def _combined(
    keys: NDArray[np.int64], added: NDArray[np.int64], highest: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Add up, and take the maximum of, the rows of equal keys; sort by the keys."""
    if not len(keys):
        return keys, added, highest
    order = np.lexsort(keys.T[::-1])
    keys = keys[order]
    begins = np.flatnonzero(np.any(np.diff(keys, axis=0, prepend=keys[:1] - 1) != 0, axis=1))
    return keys[begins], np.add.reduceat(added[order], begins), np.maximum.reduceat(highest[order], begins)


def ellipsoid_share(sums: NDArray[np.int64], rank: int) -> NDArray[np.float64]:
    """Compare regions with the ellipsoids of the same second moments.

    Parameters
    ----------
    sums
        ``(N, C)`` int64, any values, as `Regions.sums`.
    rank
        2 or 3.

    Returns
    -------
    share
        ``(N,) float64``, > 0: volume of the ellipsoid divided by that of the region: 1 for an ellipse or ellipsoid
        (but for rounding), more for regions that are bent, branched or in pieces.
    """
    pixels = sums[:, PIXELS].astype(np.float64)
    mean = sums[:, MOMENTS : MOMENTS + rank] / pixels[:, None]
    spread, column = np.zeros((rank, rank, len(sums))), MOMENTS + rank
    for axis in range(rank):
        for second in range(axis, rank):
            value = sums[:, column] / pixels - mean[:, axis] * mean[:, second]
            spread[axis, second] = spread[second, axis] = value + (axis == second) / 12  # 1 / 12: of one pixel
            column += 1
    ball = math.pi if rank == 2 else 4 / 3 * math.pi
    # The half axes of the ellipsoid are sqrt((rank + 2) * variance).
    share: NDArray[np.float64] = ball * (rank + 2) ** (rank / 2) * np.sqrt(_determinant(spread)) / pixels
    return share


def _determinant(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute determinants of ``(D, D, N)`` positive matrices by sums of products, in a fixed order."""
    if len(m) == 2:
        value = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    else:
        minors = [m[1, (i + 1) % 3] * m[2, (i + 2) % 3] - m[1, (i + 2) % 3] * m[2, (i + 1) % 3] for i in range(3)]
        value = m[0, 0] * minors[0] + m[0, 1] * minors[1] + m[0, 2] * minors[2]
    smallest: NDArray[np.float64] = np.maximum(value, 12.0 ** -len(m))  # that of one pixel, but for rounding
    return smallest
