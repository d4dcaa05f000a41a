"""Parts of a TIFF: only the tiles or strips that hold them are read and decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.io.decoded import DAMAGE, STORED, UNBOUNDED, Decoded, check_claim, damaged
from septum.io.opened import Opened, in_memory
from septum.io.plain import plain_reader
from septum.io.remote import RemoteFile
from septum.io.tiff import (
    RATIO,
    Merged,
    find_series,
    kept_samples,
    name_axes,
    pixel_size,
    read_tiff,
    walk_pages,
)

Read = Callable[[tuple[slice, ...]], NDArray[Any]]
_JPEG = (6, 7, 33007, 34892)
_RUN = 64 << 20  # plain values are fetched from afar in runs of at most so many bytes


class Bytes(Protocol):
    """A file of which parts are read."""

    length: int

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`, fewer at the end; safe from several threads."""
        ...


class LocalFile:
    """Parts of a file on this machine; opened for every part, so that nothing is left open and threads do not meet."""

    def __init__(self, path: Path) -> None:
        self.path, self.length = path, path.stat().st_size

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset, os.SEEK_SET)
            parts = []
            while count > 0 and (part := file.read(count)):
                parts.append(part)
                count -= len(part)
            return b"".join(parts)

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """Open the file for a library that reads headers."""
        with self.path.open("rb") as file:
            yield file


def open_tiff(place: Path | str, *, axes: str | None) -> Opened:
    """Open a TIFF as `septum.io.tiff.read_tiff` reads it, the full resolution of a pyramid.

    What is checked and refused is the same; a piece that is damaged is found when it is read. A file whose pages are
    no plain stack (values that lie in other files, pages that a library composes) is read into memory.

    Parameters
    ----------
    place
        A path, or a URL as `str`.
    """
    import tifffile

    data = RemoteFile(place) if isinstance(place, str) else LocalFile(place)
    try:
        with data.stream() as stream:
            walk_pages(stream, data.length)
            stream.seek(0)
            with tifffile.TiffFile(stream, name=Path(place).name) as file:
                series = find_series(place, file, data.length)
                size = pixel_size(file)
                read = _series_reader(place, data, series, file)
                stored_axes, stored_shape = series.axes, tuple(int(n) for n in series.shape)
                kept = kept_samples(stored_shape, stored_axes, series.keyframe)
                chunks = _chunks(series)
                dtype = np.dtype(series.dtype).newbyteorder("=")
    except DAMAGE as error:
        raise damaged(place, "TIFF", error) from error
    if read is None:
        decoded = read_remote_tiff(place, axes=axes) if isinstance(place, str) else read_tiff(place, axes=axes)
        return in_memory(decoded)
    if kept is not None:
        read, stored_shape = _picked(read, stored_axes.index("S"), stored_shape, kept)
    if axes is not None:
        return Opened(stored_shape, dtype, axes, read, chunks, pixel_size_um=size)
    merged = Merged.of(stored_axes)
    shape = merged.sides(stored_shape)
    names = name_axes(place, merged.axes, shape)
    if merged.axes != stored_axes:
        read, chunks = _merging(read, merged, stored_shape), merged.sides(chunks)
    size = {a: v for a, v in size.items() if a in names}
    return Opened(shape, dtype, names, read, chunks, pixel_size_um=size)


def read_remote_tiff(url: str, *, axes: str | None) -> Decoded:
    """Read a TIFF on another machine as a whole."""
    opened = open_tiff(url, axes=axes)
    return Decoded(opened.read_all(), opened.axes, opened.pixel_size_um)


def _picked(read: Read, where: int, shape: tuple[int, ...], kept: Sequence[int]) -> tuple[Read, tuple[int, ...]]:
    """Return a reader that knows only the `kept` elements of dimension `where`, and its shape."""

    def picked(index: tuple[slice, ...]) -> NDArray[Any]:
        wanted = kept[index[where]]
        part = read((*index[:where], slice(wanted[0], wanted[-1] + 1), *index[where + 1 :]))
        return np.take(part, [k - wanted[0] for k in wanted], axis=where)

    return picked, (*shape[:where], len(kept), *shape[where + 1 :])


def _merging(read: Read, merged: Merged, shape: tuple[int, ...]) -> Read:
    """Return a reader of merged channels."""

    def read_merged(index: tuple[slice, ...]) -> NDArray[Any]:
        inside = dict(zip(merged.axes[:-1], index, strict=False))
        part = read(tuple(inside.get(a, slice(0, n)) for a, n in zip(merged.stored, shape, strict=True)))
        return merged.apply(part)[..., index[-1]]

    return read_merged


def _chunks(series: Any) -> tuple[int, ...]:
    """Return the sides of a tile or strip, in the dimensions of the series."""
    page = series.keyframe
    if page.is_tiled:
        inside = [1, page.tiledepth, page.tilelength, page.tilewidth, page.shaped[4]]
    else:
        inside = [1, 1, page.rowsperstrip, page.imagewidth, page.shaped[4]]
    sides = [min(int(c), int(n)) for c, n in zip(inside, page.shaped, strict=True) if n > 1]
    last = [int(n) for n in series.shape]
    found = [1] * len(last)
    for i in reversed(range(len(last))):
        if last[i] > 1 and sides:
            found[i] = min(sides.pop(), last[i])
    return tuple(found)


def _series_reader(place: Path | str, data: Bytes, series: Any, file: Any) -> Read | None:
    """Return a reader of parts of the series, while its file is open; None where its pages are no plain stack."""
    page = series.keyframe
    if series.is_multifile or series.transform is not None:
        return None
    shape = tuple(int(n) for n in series.shape)
    if series.dataoffset is not None:
        dtype = np.dtype(file.byteorder + np.dtype(series.dtype).char)
        if isinstance(data, LocalFile):
            return plain_reader(data.path, shape, dtype, offset=series.dataoffset)
        return _plain_from_afar(data, shape, dtype, series.dataoffset)
    pages = list(series.pages)
    inside = [int(n) for n in page.shaped if n > 1]
    sides = [n for n in shape if n > 1]
    leading = sides[: len(sides) - len(inside)]
    if sides[len(leading) :] != inside or math.prod(leading) != len(pages):
        return None
    parts = _Segments(
        place=place,
        data=data,
        offsets=[tuple(p.dataoffsets) for p in pages],
        counts=[tuple(p.databytecounts) for p in pages],
        decode=page.decode,
        arguments=[_jpeg(p, page) for p in pages] if int(page.compression) in _JPEG else [{}],
        shaped=tuple(int(n) for n in page.shaped),
        step=_step(page),
        dtype=np.dtype(series.dtype).newbyteorder("="),
        nodata=page.nodata,
        compression=int(page.compression),
    )
    return parts.reader(shape, leading)


def _jpeg(page: Any, keyframe: Any) -> dict[str, Any]:
    return {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}


def _step(page: Any) -> tuple[int, int, int]:
    """Return depth, length and width of a tile or strip."""
    if page.is_tiled:
        return int(page.tiledepth), int(page.tilelength), int(page.tilewidth)
    return 1, int(page.rowsperstrip), int(page.imagewidth)


@dataclass(frozen=True)
class _Segments:
    """The tiles or strips of the pages of a series.

    Attributes
    ----------
    offsets, counts
        Where they lie: one tuple a page.
    decode, arguments
        The library's function, and what else it needs for each page (or for all, if one).
    shaped
        A page as separate samples, depth, length, width, samples side by side.
    step
        Depth, length and width of a tile or strip.
    """

    place: Path | str
    data: Bytes
    offsets: list[tuple[int, ...]]
    counts: list[tuple[int, ...]]
    decode: Callable[..., Any]
    arguments: list[dict[str, Any]]
    shaped: tuple[int, ...]
    step: tuple[int, int, int]
    dtype: np.dtype[Any]
    nodata: Any
    compression: int

    def reader(self, shape: tuple[int, ...], leading: list[int]) -> Read:
        """Return a reader of parts of a series of `shape`, whose dimensions longer than 1 begin with `leading`."""
        long = [i for i, n in enumerate(shape) if n > 1]

        def read(index: tuple[slice, ...]) -> NDArray[Any]:
            walked = [index[i] for i in long[: len(leading)]]
            rest = iter([index[i] for i in long[len(leading) :]])
            inside = tuple(next(rest) if n > 1 else slice(0, 1) for n in self.shaped)
            places = product(*(range(s.start, s.stop) for s in walked))
            numbers = [int(np.ravel_multi_index(place, leading)) if leading else 0 for place in places]
            planes = np.stack([self._page(number, inside) for number in numbers])
            return planes.reshape([s.stop - s.start for s in index])

        return read

    def _page(self, number: int, inside: tuple[slice, ...]) -> NDArray[Any]:
        """Return a part of one page, in the five dimensions of `shaped`."""
        out = np.full([s.stop - s.start for s in inside], self.nodata, self.dtype)
        grid = [-(-n // step) for n, step in zip(self.shaped[1:4], self.step, strict=True)]
        spans = (range(s.start // step, -(-s.stop // step)) for s, step in zip(inside[1:4], self.step, strict=True))
        for sample, *cell in product(range(inside[0].start, inside[0].stop), *spans):
            segment = int(np.ravel_multi_index((sample, *cell), (self.shaped[0], *grid)))
            part = self._segment(number, segment)
            if part is None:
                continue
            begin = [c * step for c, step in zip(cell, self.step, strict=True)]
            bounds = list(zip(begin, part.shape, inside[1:4], strict=False))
            both = [slice(max(b, s.start), min(b + n, s.stop)) for b, n, s in bounds]
            to = tuple(slice(o.start - s.start, o.stop - s.start) for o, s in zip(both, inside[1:4], strict=True))
            of = tuple(slice(o.start - b, o.stop - b) for o, b in zip(both, begin, strict=True))
            out[(sample - inside[0].start, *to)] = part[of][..., inside[4]]
        return out

    def _segment(self, number: int, segment: int) -> NDArray[Any] | None:
        """Return one tile or strip, ``(depth, length, width, samples)``; None if the file leaves it out."""
        offsets, counts = self.offsets[number], self.counts[number]
        if segment >= len(offsets) or segment >= len(counts):
            raise damaged(self.place, "TIFF", f"page {number + 1} lacks its tile or strip {segment + 1}")
        offset, count = int(offsets[segment]), int(counts[segment])
        if not count:
            return None
        claimed = (*self.step, self.shaped[4])
        check_claim(
            self.place,
            "TIFF",
            shape=claimed,
            claimed=math.prod(claimed) * self.dtype.itemsize if self.compression != 1 else 0,
            length=count,
            ratio=STORED if self.compression == 1 else RATIO.get(self.compression, UNBOUNDED),
        )
        try:
            encoded = self.data.read_at(offset, count)
            if len(encoded) < count:
                raise EOFError("it ends too early")
            arguments = self.arguments[number if len(self.arguments) > 1 else 0]
            part = self.decode(encoded, segment, **arguments)[0]
        except DAMAGE as error:
            why = f"tile or strip {segment + 1} of page {number + 1}: {error}"
            raise damaged(self.place, "TIFF", error if isinstance(error, MemoryError) else why) from error
        array: NDArray[Any] = np.asarray(part)
        return array


def _plain_from_afar(data: Bytes, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> Read:
    """Return a reader of plain values in one block of a file on another machine, by runs of whole rows."""
    rows_in, row = shape[-2], int(math.prod(shape[-1:])) * dtype.itemsize

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        out = np.empty([s.stop - s.start for s in index], dtype)
        at_once = max(1, _RUN // row)
        for place in product(*(range(s.start, s.stop) for s in index[:-2])):
            plane = int(np.ravel_multi_index(place, shape[:-2])) if place else 0
            for first in range(index[-2].start, index[-2].stop, at_once):
                rows = min(at_once, index[-2].stop - first)
                stored = data.read_at(offset + (plane * rows_in + first) * row, rows * row)
                if len(stored) < rows * row:
                    raise damaged(getattr(data, "url", ""), "TIFF", "the last values are missing")
                values = np.frombuffer(stored, dtype).reshape(rows, shape[-1])[:, index[-1]]
                to = tuple(p - s.start for p, s in zip(place, index[:-2], strict=True))
                out[to][first - index[-2].start : first - index[-2].start + rows] = values
        return out

    return read
