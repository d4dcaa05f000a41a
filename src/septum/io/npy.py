"""NumPy's .npy: values and shape, no axes and no pixel size."""

from __future__ import annotations

import math
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.files import WriteRequest
from septum.io.formats import DAMAGE, STORED, check_claim, damaged, format_path
from septum.io.image import Reader, StoredImage


def open_npy(path: Path, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open an array; without `axes`, 2D is ``YX``, 3D ``YXC`` if the last side alone is 3 or 4, else ``TYX``.

    Parameters
    ----------
    path, axes
        See `septum.io.files.open_image`.
    labels
        Ignored: values are the same for masks.

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
            shape, fortran, dtype = read_header(file)
            offset = file.tell()
        if dtype.hasobject:
            raise FileError(
                f"{format_path(path)}: holds Python objects",
                "an array of numbers",
                "save it with numpy.save as an array of one type of numbers",
            )
        claimed, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
        check_claim(path, "npy", shape=shape, claimed=claimed, length=held, ratio=STORED)
    except (*DAMAGE, tokenize.TokenError) as error:
        raise damaged(path, "npy", error) from error
    read = mapped_reader(path, shape, dtype, offset=offset, column_major=fortran)
    return StoredImage(shape, dtype, axes or guess_axes(path, shape), read, stated=len(shape) == 2)


def mapped_reader(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, offset: int, column_major: bool = False
) -> Reader:
    """Return a reader of an array of plain values in a file, after the caller has checked that the file holds it.

    Parameters
    ----------
    path
        The file.
    shape, dtype
        Of the array.
    offset
        Bytes before the first value.
    column_major
        True if the first dimension varies fastest.

    Returns
    -------
    Reader
        It raises `FileError` if the file is gone, or shorter than it was.
    """

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        # Mapped for this part alone: pages of a lasting map count as memory of the process, up to the whole file.
        try:
            whole = np.memmap(path, dtype, "r", offset=offset, shape=shape, order="F" if column_major else "C")
        except (OSError, ValueError) as error:
            raise _changed(path, error) from error
        return np.array(whole[index])

    return read


def _changed(path: Path, error: OSError | ValueError) -> FileError:
    why = f"cannot be read any more ({error.strerror})" if isinstance(error, OSError) else "has become shorter"
    return FileError(
        f"{format_path(path)}: {why} since it was opened",
        "a file that stays as it is while it is read",
        "wait until it is written completely, or copy it again; then run again",
    )


def guess_axes(path: Path | str, shape: tuple[int, ...]) -> str:
    """Return the axes of an array without names, as `open_npy` does; raise `FileError` above 3 dimensions."""
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        return "YXC" if shape[2] in (3, 4) and shape[0] > 4 and shape[1] > 4 else "TYX"
    raise FileError(
        f"{format_path(path)}: an array of shape {shape}, whose axes the file does not name",
        "2 or 3 dimensions, or named axes",
        "name the axes, one letter of TCZYX per dimension, such as --axes CZYX",
    )


def write_npy(path: Path, array: NDArray[Any], axes: str, request: WriteRequest) -> None:
    """Write an array as it is.

    Parameters
    ----------
    path
        The file to write.
    array
        ``(*A)`` any shape and dtype without Python objects, any values.
    axes, request
        Ignored: the format keeps neither axes nor pixel size.
    """
    with path.open("wb") as out:
        np.save(out, array, allow_pickle=False)
