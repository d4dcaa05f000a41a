"""NRRD: volumes of 3D Slicer and others, attached and detached; the header by pynrrd."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.formats import DEFLATE, STORED, UNBOUNDED, check_claim, damaged, format_path
from septum.io.image import MICROMETERS, StoredImage
from septum.io.microscopes.libraries import explained, load_library
from septum.io.npy import mapped_reader
from septum.io.zarr import child_folder

_KIND = "NRRD"
_RATIO = {"gzip": DEFLATE, "gz": DEFLATE, "bzip2": UNBOUNDED, "bz2": UNBOUNDED, "raw": STORED}
_SPATIAL = ("domain", "space", "none", "???")
_MOST_HEADER = 16 << 20


def open_nrrd(path: Path, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open a NRRD as it is stored, the first axis fastest: spatial axes are X, Y, Z; colors and vectors are C.

    Plain values are read piece by piece; packed ones are unpacked whole at once.

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
    UsageError
        If the library is not installed.
    """
    with explained(path, _KIND):
        nrrd = load_library("nrrd", path, _KIND)
        with path.open("rb") as file:
            header = nrrd.read_header(_limited(file))
            begin = file.tell()
        shape = tuple(int(n) for n in header["sizes"])
        dtype = np.dtype(nrrd.reader._determine_datatype(header))
        claimed = math.prod(shape) * dtype.itemsize
        data, offset = _place_of_data(path, header, begin, claimed)
        encoding = str(header["encoding"]).casefold()
        if encoding not in _RATIO or len(shape) != int(header["dimension"]) or min(shape) < 1:
            raise FileError(
                f"{format_path(path)}: {encoding} values of shape {shape}",
                f"one of {', '.join(_RATIO)}",
                "save it anew",
            )
        length = data.stat().st_size - offset
        check_claim(path, _KIND, shape=shape, claimed=claimed, length=length, ratio=_RATIO[encoding])
        names = _names(path, header, len(shape)) if axes is None else axes
        size = _pixel_size(header, names)
        if encoding == "raw":
            read = mapped_reader(data, shape, dtype, offset=offset, column_major=True)
            return StoredImage(shape, dtype, names, read, pixel_size_um=size)
        with data.open("rb") as file:
            file.seek(offset)
            plain = {**header}
            for key in ("byte skip", "line skip", "data file", "datafile"):
                plain.pop(key, None)
            array: NDArray[Any] = nrrd.read_data(plain, file, None, index_order="F")
        stored = StoredImage.from_array(array, names)
        return StoredImage(array.shape, array.dtype, names, stored.read, lazy=False, pixel_size_um=size)


def _limited(file: Any) -> Any:
    """Yield the lines of a header, as bytes; a file without an end of the header is not read whole."""
    taken = 0
    while line := file.readline(_MOST_HEADER):
        taken += len(line)
        if taken > _MOST_HEADER:
            raise ValueError("its header has no end")
        yield line


def _place_of_data(path: Path, header: Any, begin: int, claimed: int) -> tuple[Path, int]:
    """Return the file that holds the values, and where they begin in it."""
    name = header.get("data file", header.get("datafile"))
    data = path
    if name is not None:
        if "%" in str(name) or str(name).startswith("LIST"):
            raise FileError(
                f"{format_path(path)}: values in several files", "values in one file", "save it as one .nrrd"
            )
        data, begin = Path(child_folder(path.parent, str(name))), 0
        if not data.is_file():
            raise FileError(f"{format_path(data)} does not exist", f"the values of {path.name}", "copy both files")
    if int(header.get("line skip", header.get("lineskip", 0))):
        raise FileError(
            f"{format_path(path)}: lines to skip before the values",
            "values that follow the header at once",
            "save it again",
        )
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if skip == -1:
        return data, max(begin, data.stat().st_size - claimed)
    if skip < 0:
        raise damaged(path, _KIND, f"{skip} bytes to skip")
    return data, begin + skip


def _names(path: Path, header: Any, rank: int) -> str:
    """Return one letter of ``TCZYX`` per axis of the file."""
    kinds = [str(k).casefold() for k in header.get("kinds", [])] or ["space"] * rank
    space, names = iter("XYZ"), []
    for kind in kinds[:rank]:
        names.append(next(space, "") if kind in _SPATIAL else "T" if kind == "time" else "C")
    if not header.get("kinds") and rank == 4:
        names = ["X", "Y", "Z", "T"]
    if len(names) != rank or len(set(names)) != rank or "" in names or not {"X", "Y"} <= set(names):
        raise FileError(
            f"{format_path(path)}: {rank} axes of the kinds {', '.join(map(str, kinds))}",
            "axes out of T C Z Y X",
            "name the axes, one letter of TCZYX per dimension, such as --axes CXYZ",
        )
    return "".join(names)


def _pixel_size(header: Any, names: str) -> dict[str, float]:
    """Return micrometers per pixel; directions without a unit are millimeters, as in Slicer, spacings unknown."""
    directions, spacings = header.get("space directions"), header.get("spacings")
    units = [str(u).strip('"') for u in header.get("space units", header.get("units", []))]
    steps: list[float] = []
    if directions is not None:
        steps = [float(np.linalg.norm(v)) if v is not None and len(v) else math.nan for v in directions]
        units = units or ["mm"] * len(steps)
    elif spacings is not None:
        steps = [float(v) for v in spacings]
    size = {}
    for k, (axis, step) in enumerate(zip(names, steps, strict=False)):
        unit = MICROMETERS.get((units[min(k, len(units) - 1)] if units else "").casefold())
        if axis in "ZYX" and unit is not None and step > 0 and math.isfinite(step):
            size[axis] = step * unit
    return size
