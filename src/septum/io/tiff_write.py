"""Write TIFF: an array in memory, or an image of any size tile by tile with a pyramid in bounded memory."""

from __future__ import annotations

import math
import secrets
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.atomic import storable, whole_file
from septum.io.files import WriteRequest
from septum.io.formats import format_path
from septum.io.scratch import ShardedArray
from septum.io.tiff import CHANNELS
from septum.io.zarr_write import SMALLEST, ZarrTarget, halve
from septum.settings import MaskKind

BIG = 2 << 30  # bytes from which a file is a BigTIFF
_TILE = 512
_RUN = 32 << 20  # bytes of a row of tiles that are read and halved at once
_BUFFER = 16 << 20  # bytes that are compressed in one pass
_POLL_S = 0.2


def write_tiff(path: Path, array: NDArray[Any], axes: str, request: WriteRequest) -> None:
    """Write an OME-TIFF with axes and pixel size, compressed by deflate, as BigTIFF where it is larger than 2 GB.

    Parameters
    ----------
    path
        The file to write.
    array
        ``(*A)`` in the order of `axes`, any values. bool is written as uint8, float16 as float32, 64-bit integers as
        32-bit ones; three channels of uint8 or uint16 as RGB.
    axes
        Letters of ``TCZYX`` in this order.
    request
        Name and pixel size.

    Raises
    ------
    FileError
        If 64-bit integers do not fit into 32 bits, or OME-TIFF does not know the dtype.
    """
    import tifffile

    array = to_stored(array, request.path)
    rgb = "C" in axes and is_color(array.shape[axes.index("C")], array.dtype)
    if rgb:
        array = np.moveaxis(array, axes.index("C"), -1)
        axes = axes.replace("C", "") + "S"
    tifffile.imwrite(
        path,
        np.ascontiguousarray(array),
        ome=True,
        metadata=ome_notes(request.path.name, axes, request.pixel_size_um, request.kind),
        photometric="rgb" if rgb else "minisblack",
        compression="zlib",
        predictor=wants_predictor(array.dtype),
        bigtiff=array.nbytes > BIG,
    )


def is_color(channels: int, dtype: np.dtype[Any]) -> bool:
    """Return True if an image is written as RGB: three channels of 8 or 16 bits."""
    return channels == 3 and dtype in (np.uint8, np.uint16)


def wants_predictor(dtype: np.dtype[Any]) -> bool:
    """Return True if differences of neighbors are compressed: those of intensities are small, those of labels not."""
    return dtype.kind == "f" or dtype in (np.uint8, np.uint16)


def ome_notes(name: str, axes: str, pixel_size_um: Mapping[str, float], kind: MaskKind | None = None) -> dict[str, Any]:
    """Return the entries of the OME description of a file called `name`, a mask if `kind` is given."""
    # Made of the name: with a random one, as is usual, the same result would never have the same bytes.
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"septum:{storable(name)}")
    notes: dict[str, Any] = {"axes": axes, "UUID": str(identity)}
    if kind is not None:
        notes["Channel"] = {"Name": [CHANNELS[kind]]}
    for axis, micrometers in pixel_size_um.items():
        if axis in "ZYX" and axis in axes:
            notes |= {f"PhysicalSize{axis}": float(micrometers), f"PhysicalSize{axis}Unit": "µm"}
    return notes


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that values have in an OME-TIFF that Septum writes."""
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return np.dtype(np.int32 if dtype.kind == "i" else np.uint32)
    return np.dtype({"bool": "uint8", "float16": "float32"}.get(dtype.name, dtype))


def to_stored(array: NDArray[Any], path: Path, *, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Convert values to a type that OME-TIFF knows.

    Parameters
    ----------
    array
        ``(*A)`` any shape and dtype, any values.
    path
        Name of the file, for the message.
    dtype
        The type of the result; where not given `stored_dtype` of the array, or uint32 for int64 above that of int32.

    Returns
    -------
    ndarray
        The same shape and values, of a dtype of at most 32 bits or float64.

    Raises
    ------
    FileError
        If 64-bit integers do not fit into 32 bits.
    """
    wanted = dtype or stored_dtype(array.dtype)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if dtype is None:
            wanted = np.dtype(np.uint32 if low >= 0 and high >= 2**31 else np.int32)
        if low < np.iinfo(wanted).min or high > np.iinfo(wanted).max:
            raise FileError(
                f"{format_path(path)}: values from {low} to {high}",
                "values of 32 bits",
                "write to a name ending in .ome.zarr or .npy",
            )
    return array.astype(wanted, copy=False)


def write_tiff_from(
    source: ZarrTarget, path: Path, *, smallest: int = SMALLEST, kind: MaskKind | None = None
) -> Iterator[float]:
    """Write an image as a tiled OME-TIFF with a pyramid, as a whole or not at all, in bounded memory.

    Tiles are 512 x 512, compressed by deflate; X and Y are halved from level to level (OME-TIFF halves no other axes).
    It is a BigTIFF above 2 GB. The coarser levels lie in a hidden folder beside `path` until they are written.

    Parameters
    ----------
    source
        The image; it is read once, row of tiles by row of tiles. Coarser levels of ids take one id, never a mean.
    path
        The file to write.
    smallest
        Levels are made until neither X nor Y is longer.
    kind
        What the values of a mask are, if that is known; the file states it.

    Yields
    ------
    float
        The share that is done, 1 at the end. Nothing is written unless it is iterated to its end.

    Raises
    ------
    FileError
        If `source` cannot be read, the disk is full, or integers of 64 bits do not fit into 32.
    """
    job = _Job(source, path, smallest, kind)
    thread = threading.Thread(target=job.run, name="write TIFF", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_S)
            yield min(job.done / job.total, 0.999)
    finally:
        job.stopped = True
        thread.join()
    if job.error is not None:
        raise job.error
    yield 1.0


class _StoppedError(Exception):
    """The caller does not want the file any more."""


@dataclass
class _Job:
    """The writing of one file, in a thread of its own: tifffile asks for tiles, and cannot pause in between."""

    source: ZarrTarget
    path: Path
    smallest: int
    kind: MaskKind | None = None
    done: int = 0
    stopped: bool = False
    error: BaseException | None = None
    total: int = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    rgb: bool = field(init=False)
    run_length: int = field(init=False)
    shapes: list[tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        axes = self.source.axes
        self.shapes = [self.source.shape]
        while max(self.shapes[-1][axes.index(a)] for a in "YX") > self.smallest:
            self.shapes.append(
                tuple(-(-n // 2) if a in "YX" else n for a, n in zip(axes, self.shapes[-1], strict=True))
            )
        self.total = sum(math.prod(s) for s in self.shapes)
        self.dtype = stored_dtype(self.source.dtype)
        self.rgb = not self.source.labels and "C" in axes and is_color(self.shapes[0][axes.index("C")], self.dtype)
        # Columns of a row of tiles that are read at once: a multiple of the tile.
        self.run_length = max(1, _RUN // (_TILE * _TILE * self.dtype.itemsize * (3 if self.rgb else 1))) * _TILE

    def run(self) -> None:
        """Write the file; keep the error for the thread that waits."""
        try:
            with whole_file(self.path) as temporary:
                folder = temporary.with_name(f".septum-part-{secrets.token_hex(6)}")
                folder.mkdir()
                try:
                    self._write(temporary, folder)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        except _StoppedError:
            pass
        except BaseException as error:
            self.error = error

    def _write(self, file: Path, folder: Path) -> None:
        import tifffile

        axes, dtype, rgb = self.source.axes, self.dtype, self.rgb
        channels = self.shapes[0][axes.index("C")] if "C" in axes else 1
        written = axes.replace("C", "") + "S" if rgb else axes.replace("C", "") if channels == 1 else axes
        tile = tuple(min(_TILE, -(-self.shapes[0][axes.index(a)] // 16) * 16) for a in "YX")
        size = sum(math.prod(s) for s in self.shapes) * dtype.itemsize
        notes = ome_notes(self.path.name, written, self.source.pixel_size_um, self.kind)
        with tifffile.TiffWriter(file, ome=True, bigtiff=size > BIG) as writer:
            source: ShardedArray = self.source
            for level, shape in enumerate(self.shapes):
                coarser = self._coarser(folder, level + 1) if level + 1 < len(self.shapes) else None
                side = dict(zip(axes, shape, strict=True))
                writer.write(
                    self._tiles(source, shape, tile, coarser),
                    shape=tuple(channels if a == "S" else side[a] for a in written),
                    dtype=dtype,
                    tile=tile,
                    photometric="rgb" if rgb else "minisblack",
                    compression="zlib",
                    predictor=not self.source.labels and wants_predictor(dtype),
                    metadata=notes if level == 0 else None,
                    subifds=len(self.shapes) - 1 if level == 0 else None,
                    subfiletype=1 if level else 0,
                    buffersize=_BUFFER,
                )
                if source is not self.source:
                    shutil.rmtree(source.path, ignore_errors=True)
                if coarser is not None:
                    source = coarser

    def _coarser(self, folder: Path, level: int) -> ShardedArray:
        """Make the array of a coarser level; one row of tiles of the finer level fills whole shards of it."""
        shape, axes = self.shapes[level], self.source.axes
        half = _TILE // 2
        sides = {"C": 3 if self.rgb else 1, "Y": half, "X": half}
        chunk = [sides.get(a, 1) for a in axes]
        wide = min(self.run_length // 2, -(-shape[-1] // half) * half)
        return ShardedArray.create(folder / str(level), shape, self.dtype, chunk=chunk, shard=[*chunk[:-1], wide])

    def _tiles(
        self,
        source: ShardedArray,
        shape: tuple[int, ...],
        tile: Sequence[int],
        coarser: ShardedArray | None,
    ) -> Iterator[NDArray[Any]]:
        """Yield the tiles of one level in the order of the file; write the next level, halved.

        Color is read together, other channels one by one.
        """
        axes, rgb, run = self.source.axes, self.rgb, self.run_length
        walked = [i for i, a in enumerate(axes) if a in "TZ" or (a == "C" and not rgb)]
        for place in product(*(range(shape[i]) for i in walked)):
            index: list[slice] = [slice(0, n) for n in shape]
            for i, n in zip(walked, place, strict=True):
                index[i] = slice(n, n + 1)
            for row, start in product(range(0, shape[-2], tile[0]), range(0, shape[-1], run)):
                if self.stopped:
                    raise _StoppedError
                index[-2:] = [slice(row, min(row + tile[0], shape[-2])), slice(start, min(start + run, shape[-1]))]
                block = to_stored(source.read(tuple(index)), self.path, dtype=self.dtype)
                if coarser is not None:
                    factors = [2 if a in "YX" else 1 for a in axes]
                    small = tuple(slice(s.start // f, -(-s.stop // f)) for s, f in zip(index, factors, strict=True))
                    coarser.write(small, halve(block, factors, labels=self.source.labels))
                self.done += block.size
                plane = np.moveaxis(block, axes.index("C"), -1) if rgb else block
                plane = plane.reshape(*block.shape[-2:], *([3] if rgb else []))
                for left in range(0, block.shape[-1], tile[1]):
                    yield np.ascontiguousarray(plane[:, left : left + tile[1]])
