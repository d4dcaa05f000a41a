"""Coarser levels of an image, each made from the one before it, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.atomic import as_error, whole_folder
from septum.io.paths import format_path, image_stem
from septum.io.zarr_store import read_node
from septum.io.zarr_write import ZarrTarget, create_level, describe, mark_complete, write_group

SMALLEST = 512
# An axis is halved while its pixels are at most this much larger than the smallest: then they become more alike.
_FINE = 1.5


def level_factors(
    shape: Sequence[int], axes: str, pixel_size_um: Mapping[str, float], *, smallest: int = SMALLEST
) -> list[tuple[int, ...]]:
    """Return how many pixels of the image one pixel of each level has, per axis; the first level is the image.

    Each level halves the spatial axes whose pixels are fine enough (a Z step of 4 pixels waits until X and Y have
    caught up), until no spatial side is longer than `smallest`. Unknown pixel sizes count as equal.

    Parameters
    ----------
    shape, axes
        Of the image.
    pixel_size_um
        Micrometers per pixel by axis; used where all spatial axes have one.
    """
    spatial = [i for i, a in enumerate(axes) if a in "ZYX"]
    known = all(axes[i] in pixel_size_um for i in spatial)
    size = {i: pixel_size_um[axes[i]] if known else 1.0 for i in spatial}
    factors = [(1,) * len(axes)]
    while any(-(-shape[i] // factors[-1][i]) > smallest for i in spatial):
        now = {i: size[i] * factors[-1][i] for i in spatial if -(-shape[i] // factors[-1][i]) > 1}
        limit = min(now.values()) * _FINE
        halved = {i for i, step in now.items() if step <= limit}
        factors.append(tuple(f * (2 if i in halved else 1) for i, f in enumerate(factors[-1])))
    return factors


def halve(part: NDArray[Any], factors: Sequence[int], *, labels: bool) -> NDArray[Any]:
    """Return `part` with `factors` (1 or 2 per axis) as many pixels in one.

    Parameters
    ----------
    part
        Begins at an even pixel of every axis that is halved. A last pixel without a neighbor stands for itself.
    labels
        The first pixel of each group is taken; else their mean, rounded to the nearest for integers.

    Returns
    -------
    ndarray
        Sides ``ceil(n / factor)``, the dtype of `part`.
    """
    if labels:
        return part[tuple(slice(None, None, f) for f in factors)]
    mean: NDArray[Any] = part
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        if mean.shape[axis] % 2:
            mean = np.concatenate([mean, np.take(mean, [-1], axis=axis)], axis=axis)
        first, second = (mean[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
        wide = np.float64 if part.dtype.itemsize > 2 else np.float32
        mean = (first.astype(wide) + second) / 2
    rounded: NDArray[Any] = (np.rint(mean) if part.dtype.kind in "iu" else mean).astype(part.dtype)
    return rounded


def add_pyramid(path: Path, *, smallest: int = SMALLEST) -> Iterator[float]:
    """Complete an image that `create_zarr` has made and that is wholly written: make its coarser levels.

    Takes memory for one shard of a level, and for what becomes one chunk of it. Stopped at any moment, the image is one
    without coarser levels, and doing it again makes them anew.

    Parameters
    ----------
    path
        The folder of the image.
    smallest
        Levels are made until no spatial side is longer.

    Yields
    ------
    float
        The share that is done, 1 at the end. Nothing is done unless it is iterated to its end.

    Raises
    ------
    FileError
        If a piece of the image was never written, is damaged, or the disk is full.
    """
    image = ZarrTarget(path)
    lost = image.missing()
    if lost:
        raise FileError(
            f"{format_path(path)}: {len(lost)} pieces are not written, the first is "
            f"{format_path(lost[0].relative_to(path))}",
            "all of them, before coarser levels are made",
            "run the command again that writes it",
        )
    factors = level_factors(image.shape, image.axes, image.pixel_size_um, smallest=smallest)
    shapes = [tuple(-(-n // f) for n, f in zip(image.shape, times, strict=True)) for times in factors]
    pixels = [math.prod(shape) for shape in shapes[1:]]
    done = 0
    mark_complete(path, 0)
    _register(image, shapes[:1], factors[:1])  # levels that are there are made anew
    for level, shape in enumerate(shapes[1:], start=1):
        steps = tuple(b // a for a, b in zip(factors[level - 1], factors[level], strict=True))
        try:
            create_level(
                path, level, shape, axes=image.axes, dtype=image.dtype, chunks=image.chunks, shards=image.shards
            )
        except OSError as error:
            raise as_error(path, error) from error
        source, target = ZarrTarget(path, level - 1), ZarrTarget(path, level)
        for written in _fill(source, target, steps):
            done += written
            yield min(done / sum(pixels), 0.999)
        mark_complete(path, level)
    _register(image, shapes, factors)
    yield 1.0


def write_zarr(path: Path, array: NDArray[Any], axes: str, *, pixel_size_um: Mapping[str, float], labels: bool) -> None:
    """Write an array as a complete OME-Zarr image, as a whole or not at all; an older one at `path` is replaced.

    Parameters
    ----------
    array
        In canonical order without superfluous axes. bool is written as uint8.
    """
    notes = describe(image_stem(path), axes, [array.shape], pixel_size_um, labels=labels)
    stored = array.astype(np.uint8) if array.dtype == np.bool_ else array
    with whole_folder(path) as new:
        create_level(new, 0, array.shape, axes=axes, dtype=stored.dtype)
        write_group(new, notes)
        ZarrTarget(new).write((), stored)
        for _ in add_pyramid(new):
            pass


def _fill(source: ZarrTarget, target: ZarrTarget, steps: tuple[int, ...]) -> Iterator[int]:
    """Write all shards of `target`; yield the pixels of each."""
    for shard in _cells(tuple(slice(0, n) for n in target.shape), target.shards):
        block = np.empty([s.stop - s.start for s in shard], target.dtype)
        for part in _cells(shard, target.chunks):
            fine = tuple(
                slice(s.start * f, min(s.stop * f, n)) for s, f, n in zip(part, steps, source.shape, strict=True)
            )
            to = tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, shard, strict=True))
            block[to] = halve(source.read(fine), steps, labels=target.labels)
        target.write(shard, block)
        yield block.size


def _cells(region: Sequence[slice], sides: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Cut `region` along a grid of `sides` that begins with it."""
    starts = (range(s.start, s.stop, n) for s, n in zip(region, sides, strict=True))
    for place in product(*starts):
        bounds = zip(place, sides, region, strict=True)
        yield tuple(slice(start, min(start + n, s.stop)) for start, n, s in bounds)


def _register(image: ZarrTarget, shapes: Sequence[tuple[int, ...]], factors: Sequence[tuple[int, ...]]) -> None:
    """Name all levels in the image's description."""
    node = read_node(image.path)
    assert node is not None
    notes = node.attributes["ome"]
    new = describe(
        notes["multiscales"][0].get("name", ""),
        image.axes,
        shapes,
        image.pixel_size_um,
        labels=image.labels,
        source=notes.get("image-label", {}).get("source", {}).get("image"),
        factors=factors,
    )
    write_group(image.path, new)
