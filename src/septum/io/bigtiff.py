"""OME-TIFF of any size, written tile by tile with a pyramid: nothing of the size of the image is held in memory."""

from __future__ import annotations

import math
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io import tiff
from septum.io.atomic import whole_file
from septum.io.opened import Index
from septum.io.paths import format_path
from septum.io.pyramid import SMALLEST, halve
from septum.io.scratch import Scratch

_TILE = 512
_RUN = 32 << 20  # bytes of a row of tiles that are read and halved at once
_BUFFER = 16 << 20  # bytes that are compressed in one pass
_POLL_S = 0.2


class TiffSource(Protocol):
    """Anything that reads like `septum.io.source.Source` or `septum.io.zarr_write.ZarrTarget`."""

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, index: Index) -> NDArray[Any]:
        """Return a part."""
        ...


def write_tiff_from(
    source: TiffSource,
    path: Path,
    *,
    labels: bool,
    pixel_size_um: Mapping[str, float] | None = None,
    smallest: int = SMALLEST,
) -> Iterator[float]:
    """Write an image as a tiled OME-TIFF with a pyramid, as a whole or not at all, in bounded memory.

    Tiles are 512 x 512, compressed by deflate; X and Y are halved from level to level (OME-TIFF halves no other axes).
    It is a BigTIFF above 2 GB. The coarser levels lie in a hidden folder beside `path` until they are written.

    Parameters
    ----------
    source
        The image; it is read once, row of tiles by row of tiles.
    labels
        The values are ids: coarser levels take one of them, never a mean.
    pixel_size_um
        Micrometers per pixel by axis; that of `source` where not given, if it has one.
    smallest
        Levels are made until neither X nor Y is longer.

    Yields
    ------
    float
        The share that is done, 1 at the end. Nothing is written unless it is iterated to its end.

    Raises
    ------
    FileError
        If `source` cannot be read, the disk is full, or integers of 64 bits do not fit into 32.
    """
    size = pixel_size_um if pixel_size_um is not None else getattr(source, "pixel_size_um", {})
    job = _Job(source, path, labels, dict(size), smallest)
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
    """Whoever wanted the file does not want it any more."""


@dataclass
class _Job:
    """The writing of one file, in a thread of its own: the library asks for tiles, and cannot pause in between."""

    source: TiffSource
    path: Path
    labels: bool
    pixel_size_um: dict[str, float]
    smallest: int
    done: int = 0
    stopped: bool = False
    error: BaseException | None = None
    total: int = field(init=False)
    rgb: bool = field(init=False)
    run_length: int = field(init=False)
    shapes: list[tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        shape, axes = self.source.shape, self.source.axes
        self.shapes = [tuple(int(n) for n in shape)]
        inside = [axes.index(a) for a in "YX"]
        while max(self.shapes[-1][i] for i in inside) > self.smallest:
            self.shapes.append(tuple(-(-n // 2) if i in inside else n for i, n in enumerate(self.shapes[-1])))
        self.total = sum(math.prod(s) for s in self.shapes)
        dtype = _stored_dtype(self.source.dtype)
        self.rgb = not self.labels and "C" in axes and tiff.is_color(self.shapes[0][axes.index("C")], dtype)
        # Columns of a row of tiles that are read at once: a multiple of the tile.
        self.run_length = max(1, _RUN // (_TILE * _TILE * dtype.itemsize * (3 if self.rgb else 1))) * _TILE

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

        axes, dtype, rgb = self.source.axes, _stored_dtype(self.source.dtype), self.rgb
        channels = self.shapes[0][axes.index("C")] if "C" in axes else 1
        written = axes.replace("C", "") + "S" if rgb else axes.replace("C", "") if channels == 1 else axes
        tile = tuple(min(_TILE, -(-self.shapes[0][axes.index(a)] // 16) * 16) for a in "YX")
        size = sum(math.prod(s) for s in self.shapes) * dtype.itemsize
        with tifffile.TiffWriter(file, ome=True, bigtiff=size > tiff.BIG) as writer:
            source: TiffSource | Scratch = self.source
            for level, shape in enumerate(self.shapes):
                coarser = self._scratch(folder, level + 1, dtype) if level + 1 < len(self.shapes) else None
                side = dict(zip(axes, shape, strict=True))
                writer.write(
                    self._tiles(source, shape, tile, coarser),
                    shape=tuple(channels if a == "S" else side[a] for a in written),
                    dtype=dtype,
                    tile=tile,
                    photometric="rgb" if rgb else "minisblack",
                    compression="zlib",
                    predictor=not self.labels and tiff.wants_predictor(dtype),
                    metadata=tiff.ome_notes(self.path.name, written, self.pixel_size_um) if level == 0 else None,
                    subifds=len(self.shapes) - 1 if level == 0 else None,
                    subfiletype=1 if level else 0,
                    buffersize=_BUFFER,
                )
                if isinstance(source, Scratch):
                    shutil.rmtree(source.path, ignore_errors=True)
                if coarser is not None:
                    source = coarser

    def _scratch(self, folder: Path, level: int, dtype: np.dtype[Any]) -> Scratch:
        shape, axes = self.shapes[level], self.source.axes
        half = _TILE // 2
        sides = {"C": 3 if self.rgb else 1, "Y": half, "X": half}
        chunk = [sides.get(a, 1) for a in axes]
        wide = min(self.run_length // 2, -(-shape[-1] // half) * half)
        return Scratch.create(folder / str(level), shape, dtype, chunk=chunk, shard=[*chunk[:-1], wide])

    def _tiles(
        self,
        source: TiffSource | Scratch,
        shape: tuple[int, ...],
        tile: Sequence[int],
        coarser: Scratch | None,
    ) -> Iterator[NDArray[Any]]:
        """Yield the tiles of one level in the order of the file; write what the next level is made of.

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
                block = _stored(self.path, source.read(tuple(index)))
                if coarser is not None:
                    factors = [2 if a in "YX" else 1 for a in axes]
                    small = tuple(slice(s.start // f, -(-s.stop // f)) for s, f in zip(index, factors, strict=True))
                    coarser.write(small, halve(block, factors, labels=self.labels))
                self.done += block.size
                plane = np.moveaxis(block, axes.index("C"), -1) if rgb else block
                plane = plane.reshape(*block.shape[-2:], *([3] if rgb else []))
                for left in range(0, block.shape[-1], tile[1]):
                    yield np.ascontiguousarray(plane[:, left : left + tile[1]])


def _stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return np.dtype(np.int32 if dtype.kind == "i" else np.uint32)
    return dtype


def _stored(path: Path, block: NDArray[Any]) -> NDArray[Any]:
    wanted = _stored_dtype(block.dtype)
    if block.dtype.itemsize == 8 and block.dtype.kind in "iu":
        limits, low, high = np.iinfo(wanted), int(block.min()), int(block.max())
        if low < limits.min or high > limits.max:
            raise FileError(
                f"{format_path(path)}: values from {low} to {high}",
                "values of 32 bits",
                "write to a name ending in .ome.zarr or .npy",
            )
    return block.astype(wanted, copy=False)
