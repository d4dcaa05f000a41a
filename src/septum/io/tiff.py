"""TIFF: plain, ImageJ and OME, one page or many, gray or color, classic or BigTIFF."""

from __future__ import annotations

import logging
import math
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.decoded import DAMAGE, DEFLATE, LZW, STORED, UNBOUNDED, Decoded, check_claim, damaged
from septum.io.paths import format_path
from septum.io.units import MICROMETERS

RATIO = {1: STORED, 5: LZW, 8: DEFLATE, 32773: 128, 32946: DEFLATE}  # by the number of the compression
_MEANINGLESS_DPI = (0.0, 1.0, 72.0, 96.0)  # what programs write that know no size
BIG = 2 << 30
# What tifffile logs about damaged files is said by our own errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
# Bytes per value by TIFF's number of the type.
_TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def read_tiff(path: Path, *, axes: str | None) -> Decoded:
    """Read the one image of a TIFF, all pages of it.

    Pages without a named axis are ``T``; ``Z`` comes from OME or ImageJ metadata only; color samples are ``C``.
    Declared alpha is dropped. Palettes are not applied (microscopes keep intensities as indices), nor is "white is
    zero".

    Raises
    ------
    FileError
        If the file is damaged or cut off, claims more than it can hold, or holds several images of different shapes.
    """
    import tifffile

    length = path.stat().st_size
    try:
        with path.open("rb") as stream:
            walk_pages(stream, length)
        with tifffile.TiffFile(path) as file:
            series = find_series(path, file, length)
            array = np.asarray(series.asarray())
            array, names = without_alpha(array, series.axes, series.keyframe)
            size = pixel_size(file)
    except DAMAGE as error:
        raise damaged(path, "TIFF", error) from error
    if axes is not None:
        return Decoded(array, axes, size)
    merged = Merged.of(names)
    array, names = merged.apply(array), name_axes(path, merged.axes, merged.sides(array.shape))
    return Decoded(array, names, {a: v for a, v in size.items() if a in names})


def find_series(path: Path | str, file: Any, length: int) -> Any:
    """Return the one image of a file, all of whose values lie within its `length` bytes."""
    series = [s for s in file.series if not s.keyframe.is_reduced] or file.series[:1]
    if len({(s.axes, s.shape) for s in series}) != 1 or len(series) > 1:
        raise _several(path, [s.shape for s in series])
    _check_series(path, series[0], length)
    return series[0]


def _several(path: Path | str, shapes: list[tuple[int, ...]]) -> FileError:
    listed = ", ".join(" x ".join(map(str, s)) for s in shapes[:4]) + (", ..." if len(shapes) > 4 else "")
    return FileError(
        f"{format_path(path)}: holds {len(shapes)} separate images ({listed})",
        "one image, or pages of one size",
        "save each image as a file of its own",
    )


def walk_pages(file: IO[bytes], length: int) -> None:
    """Follow the chain of page headers to its end: a library that finds it broken returns fewer pages, or no axes."""
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
    page = series.keyframe
    compression = int(page.compression)
    shape = tuple(int(n) for n in series.shape)
    bits = math.prod(shape) * (page.bitspersample if compression == 1 else 8 * series.dtype.itemsize)
    ratio = RATIO.get(compression, UNBOUNDED)
    check_claim(path, "TIFF", shape=shape, claimed=bits // 8, length=length, ratio=ratio)
    if series.dataoffset is not None:  # one block of plain values
        if series.dataoffset + series.nbytes > length:
            raise ValueError("the last values are missing")
        return
    for number, part in enumerate(series.pages):
        if part is None:
            raise ValueError(f"page {number + 1} of {len(series.pages)} is missing")
        ends = (o + n for o, n in zip(part.dataoffsets, part.databytecounts, strict=True))
        if part.parent is page.parent and max(ends, default=0) > length:
            raise ValueError(f"the values of page {number + 1} lie beyond the end of the file")


def without_alpha(array: NDArray[Any], axes: str, page: Any) -> tuple[NDArray[Any], str]:
    """Return the array without samples that the page declares to be alpha."""
    kept = kept_samples(array.shape, axes, page)
    return (array if kept is None else np.take(array, kept, axis=axes.index("S"))), axes


def kept_samples(shape: tuple[int, ...], axes: str, page: Any) -> list[int] | None:
    """Return the samples that are no alpha; None if none is."""
    alpha = [int(e) in (1, 2) for e in page.extrasamples]
    if "S" not in axes or not any(alpha):
        return None
    first = shape[axes.index("S")] - len(alpha)
    return [i for i in range(first + len(alpha)) if i < first or not alpha[i - first]]


@dataclass(frozen=True)
class Merged:
    """Channels of color samples as one axis of channels, the last.

    Attributes
    ----------
    stored
        The axes before.
    axes
        The axes after.
    """

    stored: str
    axes: str

    @classmethod
    def of(cls, axes: str) -> Merged:
        """Say how `axes` are merged; unless both samples and channels are among them, they stay."""
        both = "S" in axes and "C" in axes
        return cls(axes, axes.replace("S", "").replace("C", "") + "C" if both else axes)

    def sides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the sides of an array whose stored axes are merged."""
        if self.axes == self.stored:
            return tuple(shape)
        side = dict(zip(self.stored, shape, strict=True))
        return (*(side[a] for a in self.axes[:-1]), side["C"] * side["S"])

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the stored axes with merged ones."""
        if self.axes == self.stored:
            return array
        order = [self.stored.index(a) for a in self.axes[:-1] + "CS"]
        return array.transpose(order).reshape(self.sides(array.shape))


def name_axes(path: Path | str, axes: str, shape: tuple[int, ...]) -> str:
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
    """Return micrometers per pixel by axis, as far as the file says them."""
    if file.is_ome:
        return _ome_size(file.ome_metadata)
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
    """Return units per pixel of a resolution tag (pixels per unit, a fraction), 0 if it says nothing."""
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return 0.0
    pixels, units = tag.value
    return units / pixels if pixels and units else 0.0


def _ome_size(xml: str) -> dict[str, float]:
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}
    pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
    size = {}
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


def write_tiff(file: Path, array: NDArray[Any], axes: str, *, pixel_size_um: Mapping[str, float], name: Path) -> None:
    """Write an OME-TIFF with axes and pixel size, compressed by deflate, as BigTIFF where it is larger than 2 GB.

    Parameters
    ----------
    array
        In canonical order without superfluous axes. bool is written as uint8, float16 as float32, 64-bit integers as
        32-bit ones; three channels of uint8 or uint16 as RGB.
    name
        The name for messages.

    Raises
    ------
    FileError
        If 64-bit integers do not fit into 32 bits, or the dtype is none that OME-TIFF knows.
    """
    import tifffile

    array = _storable(name, array)
    rgb = "C" in axes and is_color(array.shape[axes.index("C")], array.dtype)
    if rgb:
        array = np.moveaxis(array, axes.index("C"), -1)
        axes = axes.replace("C", "") + "S"
    tifffile.imwrite(
        file,
        np.ascontiguousarray(array),
        ome=True,
        metadata=ome_notes(name.name, axes, pixel_size_um),
        photometric="rgb" if rgb else "minisblack",
        compression="zlib",
        predictor=wants_predictor(array.dtype),
        bigtiff=array.nbytes > BIG,
    )


def is_color(channels: int, dtype: np.dtype[Any]) -> bool:
    """Say whether an image is written as RGB: three channels of 8 or 16 bits."""
    return channels == 3 and dtype in (np.uint8, np.uint16)


def wants_predictor(dtype: np.dtype[Any]) -> bool:
    """Say whether differences of neighbors are compressed: those of intensities are small; labels are flat already."""
    return dtype.kind == "f" or dtype in (np.uint8, np.uint16)


def ome_notes(name: str, axes: str, pixel_size_um: Mapping[str, float]) -> dict[str, Any]:
    """Return what tifffile writes into the OME description of a file called `name`."""
    # Made of the name: with one drawn at random, as is usual, the same result would never have the same bytes.
    notes: dict[str, Any] = {"axes": axes, "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, f"septum:{name}"))}
    for axis, micrometers in pixel_size_um.items():
        if axis in "ZYX" and axis in axes:
            notes |= {f"PhysicalSize{axis}": float(micrometers), f"PhysicalSize{axis}Unit": "µm"}
    return notes


def _storable(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low >= -(2**31) and high < 2**31:
            return array.astype(np.int32)
        if low >= 0 and high < 2**32:
            return array.astype(np.uint32)
        raise FileError(
            f"{format_path(path)}: values from {low} to {high}", "values of 32 bits", "write to a name ending in .npy"
        )
    return array
