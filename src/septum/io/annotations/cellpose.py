"""Cellpose: ``NAME_seg.npy``, a pickle of arrays, of which only the label image is used.

A pickle is a program. The unpickler here knows the few words that describe a numpy array and nothing else: it builds
the arrays itself, so that no function of numpy or of anything else is called on behalf of the file.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.io.annotations.drawing import Drawing, refuse
from septum.io.annotations.texts import read_bytes, text
from septum.io.formats import DAMAGE, damaged


class ForbiddenPickle(pickle.UnpicklingError):
    """A pickle asks for something that is no numpy array."""


class _Type:
    """Stands for ``numpy.dtype``; only its text and byte order are kept."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code, self.order = text(code), "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        self.order = ">" if order == ">" else "<"

    def plain(self) -> np.dtype[Any]:
        """Return the type if it is one of plain numbers."""
        if self.code[:1] not in tuple("biuf") or not self.code[1:].isdecimal():
            raise ValueError(f"an array of type {self.code or 'object'}")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for ``numpy.ndarray``; becomes an array when it is asked for."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, tuple) else ()

    def objects(self) -> list[Any]:
        """Return the elements of an array of Python objects."""
        content = self.state[4] if len(self.state) == 5 else None
        if not isinstance(content, list):
            raise ValueError("no array of Python objects")
        return content

    def numbers(self) -> NDArray[Any]:
        """Return the array of numbers."""
        if len(self.state) != 5 or not isinstance(self.state[2], _Type) or not isinstance(self.state[4], bytes):
            raise ValueError("an array without numbers")
        _, shape, kind, by_column, content = self.state
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array without a shape")
        values = np.frombuffer(content, kind.plain())
        return values.reshape(shape, order="F" if by_column else "C")


def _rebuild(*_: object) -> _Array:
    """Stand for ``numpy._core.multiarray._reconstruct``."""
    return _Array()


def _scalar(*_: object) -> None:
    """Stand for ``numpy._core.multiarray.scalar``: numbers on their own are not used."""


def _from_buffer(content: object = b"", kind: object = None, shape: object = (), order: object = "C") -> _Array:
    """Stand for ``numpy._core.numeric._frombuffer``."""
    array = _Array()
    array.state = (1, shape, kind, order == "F", bytes(content) if isinstance(content, bytes | bytearray) else b"")
    return array


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _rebuild),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


def _load_state(unpickler: Any) -> None:
    """Give an array or a type its state; anything else, such as the functions above, keeps its attributes."""
    if not isinstance(unpickler.stack[-2], _Array | _Type):
        raise ForbiddenPickle("it sets attributes of something that is not an array")
    state = unpickler.stack.pop()
    unpickler.stack[-1].__setstate__(state)


def _load_bytearray(unpickler: Any) -> None:
    """Read bytes that are there; Python 3.11 takes memory for all that are claimed."""
    (length,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.append(bytearray(unpickler.read(length)))


class _Unpickler(pickle._Unpickler):
    """An unpickler that knows numpy arrays only.

    The one in Python, since the fast one in C takes memory for what a file merely claims.
    """

    dispatch = {  # noqa: RUF012 - as in the class above
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: _load_state,
        pickle.BYTEARRAY8[0]: _load_bytearray,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise ForbiddenPickle(f"it asks for {module}.{name}") from None


def read_cellpose(path: Path) -> tuple[Drawing, ...]:
    """Read the label image of a ``_seg.npy``.

    Raises
    ------
    FileError
        If the file is damaged, holds no label image, or a pickle that asks for anything but numpy arrays.
    """
    stream = io.BytesIO(read_bytes(path, "Cellpose", growth=3))
    try:
        major, _ = np.lib.format.read_magic(stream)
        (length,) = struct.unpack("<H" if major == 1 else "<I", stream.read(2 if major == 1 else 4))
        if b"|O" not in stream.read(length):
            raise ValueError("an array of numbers, not the notes of Cellpose")
        array = _Unpickler(stream).load()
        (notes,) = array.objects() if isinstance(array, _Array) else (None,)
        masks = notes.get("masks") if isinstance(notes, dict) else None
        if not isinstance(masks, _Array):
            raise ValueError("no array called masks")
        labels = masks.numbers()
    except ForbiddenPickle as error:
        raise refuse(
            path,
            f"a pickle that is not a file of Cellpose: {text(str(error))}",
            "numpy arrays and nothing else",
            "do not open this file with other programs; nothing in it was run",
        ) from error
    except (*DAMAGE, pickle.UnpicklingError, RecursionError) as error:
        raise damaged(path, "Cellpose", error) from error
    if labels.dtype.kind not in "biu" or not 2 <= labels.ndim <= 3 or 0 in labels.shape:
        given = f"masks of shape {labels.shape} and type {labels.dtype}"
        raise refuse(path, given, "2 or 3 dimensions of whole numbers", "save the masks in Cellpose again")
    return (Drawing("Cellpose", labels=labels),)
