"""TIFF: plain, ImageJ and OME, one page or many, gray or color, classic or BigTIFF."""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError, SeptumError
from septum.io.formats import DAMAGE, DEFLATE, LZW, STORED, UNBOUNDED, check_claim, damaged, format_path
from septum.io.image import MICROMETERS, Image, Reader, StoredImage
from septum.io.npy import mapped_reader
from septum.io.remote import open_url, rows_reader
from septum.io.selection import picked
from septum.io.upright import TAG, turn_upright
from septum.settings import MaskKind
from septum.words import reason_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_RATIO = {1: STORED, 5: LZW, 8: DEFLATE, 32773: 128, 32946: DEFLATE}  # by the number of the compression
CHANNELS: Mapping[MaskKind, str] = {"objects": "object numbers (Septum)", "classes": "class numbers (Septum)"}
"""Names of the channel of a mask, by which its OME description states what the values are."""

_WHITE_IS_ZERO = 0  # photometric interpretation
_MEANINGLESS_DPI = (0.0, 1.0, 72.0, 96.0)  # defaults of programs that know no size
# Kinds of files that hold a slide, and beside it its label, a thumbnail and a picture of the whole glass.
_SLIDES = ("svs", "ndpi", "scn", "bif", "philips", "qpi")
# What tifffile logs about damaged files is in our own errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
# Bytes per value by TIFF's number of the type.
_TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def open_tiff(place: Path | str, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open the one image of a TIFF, all pages of it, at the full resolution of a pyramid; of a slide, the slide.

    The other levels of a pyramid follow from it, where the file states that it is one, or its images are tiled and
    halved.

    Pages without a named axis are ``T``; ``Z`` comes from OME or ImageJ metadata only; color samples are ``C``.
    Declared alpha is dropped, but of masks: it may be the drawing. Photographs are turned upright by their orientation
    tag, which ImageJ and OME ignore: so it is ignored in their files. Palettes are not applied (microscopes keep
    intensities as indices), nor is "white is zero", but to masks of 1 bit: drawn pixels are True.

    Parameters
    ----------
    place, axes
        See `septum.io.files.open_image`.
    labels
        True if the image is a mask.

    Raises
    ------
    FileError
        If the file is damaged or cut off, claims more than it can hold, or holds several images of different shapes.
        A piece that cannot be decoded is found when it is read.
    """
    import tifffile

    with ExitStack() as files:
        try:
            stream, length = open_url(place) if isinstance(place, str) else (place.open("rb"), place.stat().st_size)
            files.enter_context(stream)
            if not str(place).casefold().endswith(".ndpi"):  # above 4 GB its offsets are longer than those of TIFF
                _walk_pages(stream, length)
            stream.seek(0)
            # By its name where it has one: an image of several files is found in its folder.
            file = files.enter_context(tifffile.TiffFile(stream if isinstance(place, str) else place))
            file.filehandle.set_lock(True)
            series, others = _find_series(place, file, length)
            opened = _Opened(place, file, length, axes, labels)
            stored = opened.stored(series)
        except DAMAGE as error:
            raise damaged(place, "TIFF", error) from error
        coarser = partial(opened.coarser, series, others)
        return replace(stored, close=files.pop_all().close, coarser=coarser if others else tuple)


@dataclass(frozen=True)
class _Opened:
    """An opened file of `length` bytes, and how its images are read."""

    place: Path | str
    file: Any
    length: int
    axes: str | None
    labels: bool

    def stored(self, series: Any) -> StoredImage:
        """Return one series as an image."""
        axes, size, keyframe = self.axes, pixel_size(self.file), series.keyframe
        read = _series_reader(self.place, self.file, series)
        shape, names = tuple(int(n) for n in series.shape), str(series.axes)
        plain = self.file.is_shaped
        kept = None if self.labels else _kept_samples(shape, names, keyframe, axes=axes, plain=plain)
        dtype = np.dtype(series.dtype).newbyteorder("=")
        tag = None if self.file.is_ome or self.file.is_imagej else keyframe.tags.valueof(TAG)
        if kept is not None:
            read, shape = picked(read, names.index("S"), shape, kept)
        if self.labels and dtype.kind == "b" and keyframe.photometric == _WHITE_IS_ZERO:
            read = _inverted(read)
        stated = axes is not None or set(names) <= set("TCZYXS")
        if axes is None:
            if "S" in names and "C" in names:
                read, names, shape = _merge_channels(read, names, shape)
            names = _name_axes(self.place, names, shape)
            size = {a: v for a, v in size.items() if a in names}
        channels = _ome_channels(self.file.ome_metadata) if self.labels and self.file.is_ome else ()
        stored = StoredImage(shape, dtype, axes or names, read, True, size, stated=stated, channels=channels)
        return stored if tag in (None, 1) else turn_upright(stored, tag)

    def coarser(self, series: Any, others: Sequence[Any]) -> list[StoredImage]:
        """Return the levels of a pyramid behind its largest, whose pixel size is that of the file."""
        full, found = dict(zip(series.axes, series.shape, strict=True)), []
        for one in others:
            try:
                _check_series(self.place, one, self.length)
                stored = self.stored(one)
            except DAMAGE as error:
                raise damaged(self.place, "TIFF", error) from error
            own = dict(zip(one.axes, one.shape, strict=True))
            size = {a: v * full[a] / own[a] for a, v in stored.pixel_size_um.items() if a in full and a in own}
            found.append(replace(stored, pixel_size_um=size))
        return found


def _find_series(path: Path | str, file: Any, length: int) -> tuple[Any, list[Any]]:
    """Return the one image of a file and its coarser levels, after checking that its values lie within the file."""
    series = [s for s in file.series if not s.keyframe.is_reduced] or file.series[:1]
    largest = max(series, key=lambda s: math.prod(s.shape))
    apart = [s for s in series if s is not largest and not _is_level(s, largest)]
    if apart and largest.kind not in _SLIDES:
        raise _several(path, [s.shape for s in series])
    _check_series(path, largest, length)
    stated = list(largest.levels[1:])
    others = [s for s in file.series if s is not largest and _is_level(s, largest)]
    return largest, stated or sorted(others, key=lambda s: -math.prod(s.shape))


def _is_level(one: Any, largest: Any) -> bool:
    """Return True if an image of a file is the largest, which is tiled, halved once or several times."""
    if not largest.keyframe.is_tiled or one.axes != largest.axes:
        return False
    full, own = ([n for a, n in zip(s.axes, s.shape, strict=True) if a in "YX"] for s in (largest, one))
    return any(all(abs(n / 2**k - m) <= 1 for n, m in zip(full, own, strict=True)) for k in range(1, 20))


def _several(path: Path | str, shapes: list[tuple[int, ...]]) -> FileError:
    listed = ", ".join(" x ".join(map(str, s)) for s in shapes[:4]) + (", ..." if len(shapes) > 4 else "")
    return FileError(
        f"{format_path(path)}: holds {len(shapes)} separate images ({listed})",
        "one image, or pages of one size",
        "save each image as a file of its own",
    )


def _walk_pages(file: IO[bytes], length: int) -> None:
    """Follow the chain of page headers to its end: tifffile returns fewer pages, or no axes, if it is broken."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    number, offset_format, entry = ("Q", "Q", "HHQ") if big else ("H", "I", "HHI")
    sizes = [struct.calcsize("=" + f) for f in (number, offset_format, entry)]
    (offset,) = struct.unpack(order + offset_format, head[8:16] if big else head[4:8])
    seen = {0}
    while offset not in seen:
        seen.add(offset)
        file.seek(offset)
        (count,) = struct.unpack(order + number, file.read(sizes[0]))
        width = sizes[1] + sizes[2]
        if offset + sizes[0] + count * width + sizes[1] > length:
            raise ValueError(f"the header of page {len(seen) - 1} ends beyond the file")
        block = file.read(count * width)
        for start in range(0, len(block), width):
            _, kind, values = struct.unpack_from(order + entry, block, start)
            (where,) = struct.unpack_from(order + offset_format, block, start + sizes[2])
            held = values * _TAG_SIZES.get(kind, 0)
            if held > sizes[1] and where + held > length:
                raise ValueError(f"notes of page {len(seen) - 1} lie beyond the end of the file")
        (offset,) = struct.unpack(order + offset_format, file.read(sizes[1]))
    if offset or len(seen) == 1:
        raise ValueError("the chain of pages runs in a circle" if offset else "no page")


def _check_series(path: Path | str, series: Any, length: int) -> None:
    """Refuse a series that claims more than the file holds, as a whole or in one tile or strip, or lacks pages."""
    page = series.keyframe
    compression = int(page.compression)
    shape = tuple(int(n) for n in series.shape)
    bits = math.prod(shape) * (page.bitspersample if compression == 1 else 8 * series.dtype.itemsize)
    ratio = _RATIO.get(compression, UNBOUNDED)
    check_claim(path, "TIFF", shape=shape, claimed=bits // 8, length=length, ratio=ratio)
    if series.dataoffset is not None:  # one block of plain values
        if series.dataoffset + series.nbytes > length:
            raise ValueError("the last values are missing")
        return
    segment = (int(page.tiledepth), int(page.tilelength), int(page.tilewidth)) if page.is_tiled else page.chunks
    claimed = math.prod(page.chunks) * series.dtype.itemsize if compression != 1 else 0
    for number, part in enumerate(series.pages):
        if part is None:
            raise ValueError(f"page {number + 1} of {len(series.pages)} is missing")
        if part.parent is not page.parent:
            continue
        offsets, counts = np.asarray(part.dataoffsets, np.int64), np.asarray(part.databytecounts, np.int64)
        if len(offsets) != len(counts):
            raise ValueError(f"page {number + 1} has {len(offsets)} places and {len(counts)} lengths")
        if len(counts) < math.prod(page.chunked):
            raise ValueError(f"page {number + 1} lacks its tile or strip {len(counts) + 1}")
        if (offsets + counts).max(initial=0) > length:
            raise ValueError(f"the values of page {number + 1} lie beyond the end of the file")
        smallest = int(counts.min(initial=length, where=counts > 0))
        check_claim(path, "TIFF", shape=segment, claimed=claimed, length=smallest, ratio=ratio)


def _series_reader(place: Path | str, file: Any, series: Any) -> Reader:
    """Return a reader of parts of a series in the order of its axes, for as long as its file is open."""
    shape = tuple(int(n) for n in series.shape)
    if series.dataoffset is not None and not series.is_multifile and series.transform is None:
        dtype = np.dtype(file.byteorder + np.dtype(series.dtype).char)
        if isinstance(place, Path):
            return mapped_reader(place, shape, dtype, offset=series.dataoffset)
        return rows_reader(place, file.filehandle, shape, dtype, offset=series.dataoffset)
    of_page = [i for i, axis in enumerate(series.axes) if axis in series.keyframe.axes]

    @cache
    def opened(whole_pages: bool) -> Any:
        import zarr

        from septum.io.zarr_store import ExplainingStore

        def explain(key: str, error: Exception) -> Exception:
            return _unreadable(place, f"{_name_segment(key, series)}: {error}")

        store = series.aszarr(level=0, chunkmode=2 if whole_pages else 0)
        return zarr.open_array(ExplainingStore(store, explain), mode="r")

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        full = [part.stop - part.start == n for part, n in zip(index, shape, strict=True)]
        try:
            if all(full):
                return np.asarray(series.asarray())
            # Pages that are read whole are decoded by several threads at once.
            return np.asarray(opened(all(full[i] for i in of_page))[index])
        except MemoryError:
            raise
        except (*DAMAGE, SeptumError) as error:
            opened(False)[index]  # names the tile or strip
            raise _unreadable(place, error) from error

    return read


def _unreadable(place: Path | str, why: object) -> FileError:
    if isinstance(place, Path):
        return damaged(place, "TIFF", why)
    return FileError(
        f"{format_path(place)}: cannot be read ({reason_of(why)})",
        "a complete TIFF file that this machine can reach",
        "check the network, then the file",
    )


def _name_segment(key: str, series: Any) -> str:
    """Return the name of the tile or strip that tifffile's Zarr store keeps under `key`."""
    page = series.keyframe
    place = [int(n) for n in re.findall(r"\d+", key)]  # "0.3", or "c/0/3" since tifffile writes Zarr 3
    grid = [*series.shape[: len(place) - len(page.shape)], *page.chunked]
    if len(grid) != len(place):  # axes of length 1 are left out
        return f"piece {key}"
    number, segment = divmod(int(np.ravel_multi_index(place, grid)), math.prod(page.chunked))
    return f"tile or strip {segment + 1} of page {number + 1}"


def _kept_samples(shape: tuple[int, ...], stored: str, page: Any, *, axes: str | None, plain: bool) -> list[int] | None:
    """Return the color samples that the page does not declare to be alpha; None if all are kept.

    tifffile declares the planes of any array of 3 or 4 as color, and the last of 4 as alpha: in its `plain` files
    planes are kept, and those that the caller names otherwise than ``C``.
    """
    alpha = [int(e) in (1, 2) for e in page.extrasamples]
    at = stored.find("S")
    if at < 0 or not any(alpha) or (plain and at < len(stored) - 1) or (axes is not None and axes[at : at + 1] != "C"):
        return None
    first = shape[at] - len(alpha)
    return [i for i in range(first + len(alpha)) if i < first or not alpha[i - first]]


def _inverted(read: Reader) -> Reader:
    """Return a reader of the opposite of truth values."""
    return lambda index: ~read(index)


def _merge_channels(read: Reader, stored: str, shape: tuple[int, ...]) -> tuple[Reader, str, tuple[int, ...]]:
    """Merge channels ``C`` of color samples ``S`` into one channel axis, the last; return reader, axes and shape."""
    axes = stored.replace("S", "").replace("C", "") + "C"
    side = dict(zip(stored, shape, strict=True))
    order = [stored.index(a) for a in axes[:-1] + "CS"]

    def read_merged(index: tuple[slice, ...]) -> NDArray[Any]:
        inside = dict(zip(axes[:-1], index, strict=False))
        part = read(tuple(inside.get(a, slice(0, n)) for a, n in zip(stored, shape, strict=True))).transpose(order)
        return part.reshape(*part.shape[:-2], -1)[..., index[-1]]

    return read_merged, axes, (*(side[a] for a in axes[:-1]), side["C"] * side["S"])


def _name_axes(path: Path | str, axes: str, shape: tuple[int, ...]) -> str:
    """Give every dimension one letter of ``TCZYX``: samples are channels, unnamed pages are time."""
    axes = axes.replace("S", "C")
    unknown = [i for i, a in enumerate(axes) if a not in "TCZYX"]
    if len(unknown) == 1 and "T" not in axes:
        axes = axes.replace(axes[unknown[0]], "T")
        unknown = []
    if unknown:
        raise FileError(
            f"{format_path(path)}: {len(shape)} dimensions {shape} that the file names {axes}",
            "axes out of T C Z Y X",
            "name the axes, one letter of TCZYX per dimension, such as --axes TZYX",
        )
    return axes


def pixel_size(file: Any) -> dict[str, float]:
    """Return micrometers per pixel by axis, as far as the file states them."""
    if file.is_ome:
        return _ome_size(file.ome_metadata)
    if file.is_svs and (stated := re.search(r"\bMPP\s*=\s*(\d+(?:\.\d+)?)", file.pages[0].description)):
        return dict.fromkeys("YX", float(stated[1])) if float(stated[1]) > 0 else {}
    tags = file.pages[0].tags
    step = {a: _step(tags.get(f"{a}Resolution")) for a in "YX"}
    unit_tag = tags.get("ResolutionUnit")
    unit = int(unit_tag.value) if unit_tag is not None else 2
    if file.is_imagej:
        meta = file.imagej_metadata or {}
        scale = MICROMETERS.get(str(meta.get("unit", "")).casefold())
        if scale is not None:
            spacing = meta.get("spacing")
            step["Z"] = float(spacing) if isinstance(spacing, int | float) else 0.0
            return {a: abs(step[a]) * scale for a in "ZYX" if step[a]}
    scale = {2: 25400.0, 3: 10000.0}.get(unit, 0.0)
    if unit == 2 and any(round(1 / s, 3) in _MEANINGLESS_DPI for s in step.values() if s):
        return {}
    if unit == 3 and any(round(2.54 / s, 1) in _MEANINGLESS_DPI or s == 1 for s in step.values() if s):
        return {}
    return {a: s * scale for a, s in step.items() if s and scale}


def _step(tag: Any) -> float:
    """Return units per pixel of a resolution tag (pixels per unit, a fraction), 0 if it has none."""
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return 0.0
    pixels, units = tag.value
    return units / pixels if pixels and units else 0.0


def stated_kind(mask: Image) -> MaskKind | None:
    """Return what the values of a mask are, as its file states it by `CHANNELS`; None if it does not."""
    return next((kind for kind, name in CHANNELS.items() if mask.channel_names == (name,)), None)


def _ome_channels(xml: str) -> tuple[str, ...]:
    pixels = _ome_pixels(xml)
    return () if pixels is None else tuple(e.get("Name", "") for e in pixels if e.tag.endswith("}Channel"))


def _ome_pixels(xml: str) -> Element | None:
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    return next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)


def _ome_size(xml: str) -> dict[str, float]:
    pixels, size = _ome_pixels(xml), {}
    for axis in "ZYX" if pixels is not None else "":
        value = pixels.get(f"PhysicalSize{axis}") if pixels is not None else None
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm") if pixels is not None else ""
        scale = MICROMETERS.get(unit.casefold())
        try:
            micrometers = float(value or 0) * (scale or 0)
        except ValueError:
            continue
        if micrometers > 0 and math.isfinite(micrometers):
            size[axis] = micrometers
    return size
