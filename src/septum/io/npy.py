"""NumPy's .npy: values and shape, no axes and no pixel size."""

from __future__ import annotations

import math
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.decoded import DAMAGE, STORED, Decoded, check_claim, damaged
from septum.io.opened import Opened
from septum.io.paths import format_path
from septum.io.plain import open_plain


def read_npy(path: Path, *, axes: str | None) -> Decoded:
    """Read an array; without `axes`, 2D is ``YX``, 3D ``YXC`` if the last side is 3 or 4 and no other is, else ``TYX``.

    Raises
    ------
    FileError
        If the file is damaged, cut off, or holds Python objects (which are never loaded).
    """
    _check(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (*DAMAGE, tokenize.TokenError) as error:
        raise damaged(path, "npy", error) from error
    return Decoded(array, axes or guess_axes(path, array.shape))


def open_npy(path: Path, *, axes: str | None) -> Opened:
    """Open an array as `read_npy` reads it; parts are read by their place in the file."""
    shape, fortran, dtype, offset = _check(path)
    return open_plain(
        path, shape, dtype, offset=offset, order="F" if fortran else "C", axes=axes or guess_axes(path, shape)
    )


def _check(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether the first dimension runs fastest, dtype and offset; raise `FileError` if they cannot be."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file)
            offset = file.tell()
        if dtype.hasobject:
            raise FileError(
                f"{format_path(path)}: holds Python objects", "an array of numbers", "save it as a plain array"
            )
        claimed, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
        check_claim(path, "npy", shape=shape, claimed=claimed, length=held, ratio=STORED)
    except (*DAMAGE, tokenize.TokenError) as error:
        raise damaged(path, "npy", error) from error
    return shape, fortran, dtype, offset


def guess_axes(path: Path | str, shape: tuple[int, ...]) -> str:
    """Return the axes of an array that nothing names, as `read_npy` does; raise `FileError` above 3 dimensions."""
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        return "YXC" if shape[2] in (3, 4) and shape[0] > 4 and shape[1] > 4 else "TYX"
    raise FileError(
        f"{format_path(path)}: an array of shape {shape}, whose axes the file does not name",
        "2 or 3 dimensions, or named axes",
        "name the axes, one letter of TCZYX per dimension, such as --axes CZYX",
    )


def write_npy(file: Path, array: NDArray[Any]) -> None:
    """Write `array` as it is."""
    with file.open("wb") as out:
        np.save(out, array, allow_pickle=False)
