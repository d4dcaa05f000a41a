"""OME-Zarr 0.5 written piece by piece: images larger than memory, by several processes, with a pyramid.

Source: "Next-generation file formats (NGFF)", version 0.5, https://ngff.openmicroscopy.org/0.5
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.errors import FileError
from septum.io.atomic import as_error, sync_file, whole_folder
from septum.io.files import WriteRequest
from septum.io.formats import format_path, image_stem
from septum.io.ngff import Multiscale, describe, read_multiscale
from septum.io.scratch import ShardedArray
from septum.io.zarr import COMPLETE, read_node
from septum.words import pluralize

_CHUNK = {"Z": 32, "Y": 512, "X": 512}
_SHARD = {"Z": 64, "Y": 2048, "X": 2048}
SMALLEST = 512
# An axis is halved while its pixels are at most this much larger than the smallest: then they become more alike.
_FINE = 1.5


class ZarrTarget(ShardedArray):
    """One level of an OME-Zarr image on this machine, written and read piece by piece; see `ShardedArray`.

    Parameters
    ----------
    image
        The folder of the image, made by `create_zarr`.
    level
        0 is the full resolution.

    Attributes
    ----------
    image, level
        See the parameters.
    axes
        Letters of ``TCZYX`` in this order; those that were given to `create_zarr`.
    pixel_size_um
        Micrometers per pixel of the full resolution; empty if unknown.
    labels
        True if the values are ids.

    Raises
    ------
    FileError
        If there is no OME-Zarr 0.5 image.
    """

    def __init__(self, image: Path, level: int = 0) -> None:
        multiscale = _multiscale(image)
        super().__init__(image / str(level), keep_empty=True)
        self.image, self.level = image, level
        self.axes, self.labels = str(multiscale.axes), multiscale.labels
        self.pixel_size_um = multiscale.pixel_size_um

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrTarget, (self.image, self.level)


def _multiscale(path: Path) -> Multiscale:
    node = read_node(path)
    multiscale = read_multiscale(node) if node is not None else None
    if multiscale is None or multiscale.node.version != 3 or multiscale.axes is None:
        raise FileError(
            f"{format_path(path)}: not an OME-Zarr 0.5 image",
            "an image that Septum has begun",
            "delete it and run again",
        )
    return multiscale


def create_zarr(
    path: Path,
    *,
    shape: Sequence[int],
    axes: str,
    dtype: DTypeLike,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    pixel_size_um: Mapping[str, float] | None = None,
    labels: bool = False,
    name: str | None = None,
) -> ZarrTarget:
    """Make an empty OME-Zarr 0.5 image, as a whole or not at all, and open it to write its pieces.

    `add_pyramid` completes the image when all pieces are written. Until then it can be opened, and
    pixels that are not written are 0.

    Parameters
    ----------
    path
        The folder to be; its name should end in ``.ome.zarr``. It must not exist.
    shape
        One side per letter of `axes`.
    axes
        Letters of ``TCZYX`` in this order, ``Y`` and ``X`` among them. Classes of probabilities are ``C``.
    dtype
        bool is written as uint8.
    chunks
        Sides of a block that is compressed as one: 512 x 512, or 32 x 512 x 512 where not given.
    shards
        Sides of a block that is stored as one file, multiples of `chunks`; 2048 x 2048 or 64 x 2048 x 2048 where
        neither is given.
    pixel_size_um
        Micrometers per pixel by axis, as far as they are known.
    labels
        True if the values are ids: levels of a pyramid take one of them, never a mean.
    name
        Title in the description; the stem of `path` where not given.

    Raises
    ------
    FileError
        If `path` exists, or cannot be written.
    """
    assert axes == "".join(a for a in "TCZYX" if a in axes) and len(axes) == len(shape), f"axes {axes} for {shape}"
    if path.exists():
        raise FileError(f"{format_path(path)} exists", "a name that is not in use", "give another name, or delete it")
    size = {a: float(v) for a, v in (pixel_size_um or {}).items() if a in axes and a in "ZYX"}
    notes = describe(name or image_stem(path), axes, size, labels=labels, factors=[(1,) * len(axes)])
    with whole_folder(path) as new:
        create_level(new, 0, shape, axes=axes, dtype=dtype, chunks=chunks, shards=shards)
        write_group(new, notes)
    return ZarrTarget(path)


def create_level(
    path: Path,
    level: int,
    shape: Sequence[int],
    *,
    axes: str,
    dtype: DTypeLike,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
) -> None:
    """Make the empty array of one level in the folder `path`, in place of an older one; see `create_zarr`."""
    import zarr
    from zarr.codecs import ZstdCodec

    if chunks is None:
        chunks = [_CHUNK.get(a, 1) for a in axes]
        shards = [_SHARD.get(a, 1) for a in axes] if shards is None else shards
    fitting = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
    files = [-(-min(s, n) // c) * c for s, n, c in zip(shards or fitting, shape, fitting, strict=True)]
    shutil.rmtree(path / str(level), ignore_errors=True)
    try:
        zarr.create_array(
            str(path / str(level)),
            shape=tuple(shape),
            dtype=np.uint8 if np.dtype(dtype) == np.bool_ else np.dtype(dtype),
            chunks=tuple(fitting),
            shards=tuple(files) if shards is not None else None,
            compressors=ZstdCodec(level=3, checksum=True),
            fill_value=0,
            dimension_names=[a.lower() for a in axes],
            config={"write_empty_chunks": True},
        )
    except OSError as error:
        raise as_error(path, error) from error


def write_group(path: Path, ome: Mapping[str, Any]) -> None:
    """Write the NGFF description of a group, in one stroke; other attributes of the group stay."""
    import zarr

    try:
        group = zarr.open_group(str(path), mode="a", zarr_format=3, use_consolidated=False)
        group.update_attributes({"ome": dict(ome)})
        sync_file(path / "zarr.json")
    except OSError as error:
        raise as_error(path, error) from error


def mark_complete(path: Path, level: int) -> None:
    """Mark a level as completely written, so that a chunk that is missing later is not taken for zeros."""
    import zarr

    try:
        zarr.open_array(str(path / str(level)), mode="r+").update_attributes({"septum": {COMPLETE: True}})
        sync_file(path / str(level) / "zarr.json")
    except OSError as error:
        raise as_error(path / str(level), error) from error


def level_factors(
    shape: Sequence[int], axes: str, pixel_size_um: Mapping[str, float], *, smallest: int = SMALLEST
) -> list[tuple[int, ...]]:
    """Compute the pixels of the image in one pixel of each level, per axis; the first level is the image.

    Each level halves the spatial axes whose pixels are fine enough (a Z step of 4 pixels waits until X and Y have
    caught up), until no spatial side is longer than `smallest`. Unknown pixel sizes count as equal.

    Parameters
    ----------
    shape, axes
        Of the image.
    pixel_size_um
        Micrometers per pixel by axis; used where all spatial axes have one.
    smallest
        Levels are added until no spatial side is longer.
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
    """Combine `factors` (1 or 2 per axis) pixels into one.

    Parameters
    ----------
    part
        ``(*A)`` with one dimension per factor; integers or floats of any values. It begins at an even pixel of every
        axis that is halved; a last pixel without a neighbor stands for itself.
    factors
        One per axis.
    labels
        True takes the first pixel of each group, False their mean, rounded to the nearest for integers.

    Returns
    -------
    ndarray
        ``(*A)`` with sides ``ceil(n / factor)``, the dtype of `part`, values of the same range.
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
    """Make the coarser levels of an image that `create_zarr` made and that is completely written.

    Takes memory for one shard of a level and for the pixels of one of its chunks. Stopped at any moment, the image is
    one without coarser levels, and doing it again makes them anew.

    Parameters
    ----------
    path
        The folder of the image.
    smallest
        Levels are made until no spatial side is longer.

    Yields
    ------
    float
        The share that is done, 1 at the end. It must be iterated to its end.

    Raises
    ------
    FileError
        If a piece of the image was never written, is damaged, or the disk is full.
    """
    image = ZarrTarget(path)
    missing = image.missing()
    if missing:
        raise FileError(
            f"{format_path(path)}: {pluralize(len(missing), 'piece')} not written, the first is "
            f"{format_path(missing[0].relative_to(path))}",
            "all of them, before coarser levels are made",
            "run the command that writes it again",
        )
    factors = level_factors(image.shape, image.axes, image.pixel_size_um, smallest=smallest)
    shapes = [tuple(-(-n // f) for n, f in zip(image.shape, times, strict=True)) for times in factors]
    pixels = [math.prod(shape) for shape in shapes[1:]]
    done = 0
    mark_complete(path, 0)
    _register(image, factors[:1])  # older levels are made anew
    for level, shape in enumerate(shapes[1:], start=1):
        steps = tuple(b // a for a, b in zip(factors[level - 1], factors[level], strict=True))
        create_level(path, level, shape, axes=image.axes, dtype=image.dtype, chunks=image.chunks, shards=image.shards)
        source, target = ZarrTarget(path, level - 1), ZarrTarget(path, level)
        for written in _fill(source, target, steps):
            done += written
            yield min(done / sum(pixels), 0.999)
        mark_complete(path, level)
    _register(image, factors)
    yield 1.0


def write_zarr(path: Path, array: NDArray[Any], axes: str, request: WriteRequest) -> None:
    """Write an array as a complete OME-Zarr image.

    Parameters
    ----------
    path
        The folder to fill.
    array
        ``(*A)`` in the order of `axes`, any values; bool is written as uint8.
    axes
        Letters of ``TCZYX`` in this order.
    request
        Name, pixel size, and whether the values are ids.
    """
    create_level(path, 0, array.shape, axes=axes, dtype=array.dtype)
    name, size = image_stem(request.path), request.pixel_size_um
    write_group(path, describe(name, axes, size, labels=request.labels, factors=[(1,) * len(axes)]))
    ZarrTarget(path).write((), array)
    for _ in add_pyramid(path):
        pass


def _fill(source: ShardedArray, target: ZarrTarget, steps: tuple[int, ...]) -> Iterator[int]:
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


def _register(image: ZarrTarget, factors: Sequence[tuple[int, ...]]) -> None:
    """Name the levels of an image in its description."""
    node = read_node(image.image)
    assert node is not None
    notes = node.attributes["ome"]
    name = notes["multiscales"][0].get("name", "")
    source = notes.get("image-label", {}).get("source", {}).get("image")
    new = describe(name, image.axes, image.pixel_size_um, labels=image.labels, source=source, factors=factors)
    write_group(image.image, new)
