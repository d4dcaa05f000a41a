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
from septum.io.names import shown


def read_npy(path: Path, *, axes: str | None) -> Decoded:
    """Read an array; without `axes`, 2D is ``YX``, 3D ``YXC`` if the last side is 3 or 4 and no other is, else ``TYX``.

    Raises
    ------
    FileError
        If the file is damaged, cut off, or holds Python objects (which are never loaded).
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            held = path.stat().st_size - file.tell()
        if dtype.hasobject:
            raise FileError(f"{shown(path)}: holds Python objects", "an array of numbers", "save it as a plain array")
        claimed = math.prod(shape) * dtype.itemsize
        check_claim(path, "npy", shape=shape, claimed=claimed, length=held, ratio=STORED)
        array = np.load(path, allow_pickle=False)
    except (*DAMAGE, tokenize.TokenError) as error:
        raise damaged(path, "npy", error) from error
    return Decoded(array, axes or _guess(path, array.shape))


def _guess(path: Path, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        return "YXC" if shape[2] in (3, 4) and shape[0] > 4 and shape[1] > 4 else "TYX"
    raise FileError(
        f"{shown(path)}: an array of shape {shape}, whose axes the file does not name",
        "2 or 3 dimensions, or named axes",
        "name the axes, one letter of TCZYX per dimension, such as --axes CZYX",
    )


def write_npy(file: Path, array: NDArray[Any]) -> None:
    """Write `array` as it is."""
    with file.open("wb") as out:
        np.save(out, array, allow_pickle=False)
