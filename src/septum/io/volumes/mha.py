"""MetaImage (``.mha``, ``.mhd``): volumes of ITK.

Source: https://itk.org/Wiki/MetaIO/Documentation
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.formats import DEFLATE, STORED, check_claim, damaged, format_path
from septum.io.image import StoredImage
from septum.io.microscopes.libraries import explained
from septum.io.npy import mapped_reader
from septum.io.zarr import child_folder
from septum.words import pluralize

_KIND = "MetaImage"
_TYPES = {
    "CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
    "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8",
}  # fmt: skip
_MOST_HEADER = 1 << 16
_MOST_DIMENSIONS = 5
_MILLIMETER = 1000.0


def open_mha(path: Path, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open a MetaImage as it is stored: axes ``[C] X Y Z T``, the first fastest; spacings are millimeters.

    Parameters
    ----------
    path, axes
        See `septum.io.files.open_image`.
    labels
        Ignored: values are the same for masks.

    Raises
    ------
    FileError
        If the file is damaged, cut off, claims more than it can hold, or names data outside of its folder.
    """
    with explained(path, _KIND):
        header, begin = _header(path)
        sides = tuple(int(n) for n in header["dimsize"].split())
        channels = int(header.get("elementnumberofchannels", "1"))
        if len(sides) != int(header["ndims"]) or not 2 <= len(sides) < _MOST_DIMENSIONS or min(*sides, channels) < 1:
            raise ValueError(f"sides {sides}, {pluralize(channels, 'channel')}")
        dtype = _dtype(path, header)
        shape = (channels, *sides) if channels > 1 else sides
        names = axes or ("C" if channels > 1 else "") + "XYZT"[: len(sides)]
        spacing = header.get("elementspacing", header.get("elementsize", ""))
        steps = [float(v) * _MILLIMETER for v in spacing.split()]
        space = (a for a in names if a in "XYZ")
        size = {a: v for a, v in zip(space, steps, strict=False) if v > 0 and math.isfinite(v)}
        data, offset = _place_of_data(path, header, begin)
        packed = _true(header.get("compresseddata"))
        claimed, length = math.prod(shape) * dtype.itemsize, data.stat().st_size - offset
        ratio = DEFLATE if packed else STORED
        check_claim(path, _KIND, shape=shape, claimed=claimed, length=length, ratio=ratio)
        if not packed:
            read = mapped_reader(data, shape, dtype, offset=offset, column_major=True)
            return StoredImage(shape, dtype, names, read, pixel_size_um=size)
        array = _unpacked(data, offset, claimed).view(dtype).reshape(shape, order="F")
        return StoredImage(shape, dtype, names, array.__getitem__, lazy=False, pixel_size_um=size)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the entries of the header by name in lower case, and where it ends; the last one names the data."""
    found: dict[str, str] = {}
    with path.open("rb") as file:
        while "elementdatafile" not in found:
            line = file.readline(_MOST_HEADER)
            if not line or file.tell() > _MOST_HEADER or b"=" not in line:
                raise ValueError("its header does not end with ElementDataFile")
            key, _, value = line.decode("latin-1").partition("=")
            found[key.strip().casefold()] = value.strip()
        return found, file.tell()


def _dtype(path: Path, header: dict[str, str]) -> np.dtype[Any]:
    kind = header["elementtype"].removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in _TYPES or not _true(header.get("binarydata", "True")):
        raise FileError(f"{format_path(path)}: values of type {kind}", "binary numbers", "save the image again")
    big = header.get("elementbyteordermsb", header.get("binarydatabyteordermsb"))
    return np.dtype((">" if _true(big) else "<") + _TYPES[kind])


def _place_of_data(path: Path, header: dict[str, str], begin: int) -> tuple[Path, int]:
    name, skip = header["elementdatafile"], int(header.get("headersize", "0"))
    data = path
    if name.upper() != "LOCAL":
        if "%" in name or name.upper().startswith("LIST"):
            raise FileError(
                f"{format_path(path)}: values in several files", "values in one file", "save it as one .mha"
            )
        data, begin = Path(child_folder(path.parent, name)), 0
        if not data.is_file():
            raise FileError(f"{format_path(data)} does not exist", f"the values of {path.name}", "copy both files")
    if skip < 0:
        raise FileError(f"{format_path(path)}: HeaderSize {skip}", "0 or more bytes", "save the image again")
    return data, begin + skip


def _unpacked(data: Path, offset: int, claimed: int) -> NDArray[np.uint8]:
    unpacker = zlib.decompressobj()
    with data.open("rb") as file:
        file.seek(offset)
        content = unpacker.decompress(file.read(), claimed)
    if len(content) != claimed or not unpacker.eof:
        raise damaged(data, _KIND, f"{len(content):,} bytes of {claimed:,} are there")
    return np.frombuffer(bytearray(content), np.uint8)


def _true(text: str | None) -> bool:
    return (text or "False").casefold() in ("true", "1")
