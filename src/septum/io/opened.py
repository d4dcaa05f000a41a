"""What every lazy reader hands back: an image that is described, and read piece by piece."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.axes import canonical
from septum.errors import FileError, UsageError
from septum.io.decoded import Affine, Decoded, damaged
from septum.io.paths import format_path

Index = tuple[int | slice, ...]


def _nothing() -> None:
    """Close what needs no closing."""


@dataclass(frozen=True)
class Opened:
    """An image as a file holds it, not read yet.

    Attributes
    ----------
    shape, dtype
        As they are stored, dimensions in the order of `axes`.
    axes
        One letter of ``TCZYX`` per dimension, in the order of the file.
    read
        Takes a slice with step 1 and at least one element per dimension, returns that part. Safe from several threads.
    chunks
        Sides of the pieces that are stored together.
    lazy
        False if the whole image is in memory.
    pixel_size_um
        Micrometers per pixel by axis; empty if unknown.
    affine
        4 x 4, index (x, y, z, 1) to scanner millimeters; NIfTI only.
    close
        Closes what is open.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    read: Callable[[tuple[slice, ...]], NDArray[Any]]
    chunks: tuple[int, ...]
    lazy: bool = True
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    affine: Affine | None = None
    close: Callable[[], None] = _nothing

    def read_all(self) -> NDArray[Any]:
        """Return the whole image."""
        return self.read(tuple(slice(0, n) for n in self.shape))


def in_memory(decoded: Decoded) -> Opened:
    """Return an image that has been read already."""
    array = decoded.array
    return Opened(
        shape=array.shape,
        dtype=array.dtype,
        axes=decoded.axes,
        read=array.__getitem__,
        chunks=array.shape,
        lazy=False,
        pixel_size_um=decoded.pixel_size_um,
        affine=decoded.affine,
    )


@dataclass(frozen=True)
class Places:
    """Where the canonical axes of an image lie in its file.

    Attributes
    ----------
    axes
        ``"CYX"``, ``"CZYX"``, ``"TCYX"`` or ``"TCZYX"``.
    dimensions
        For each of `axes` the dimension of the file, None for a channel axis that the file does not have. Dimensions
        of the file that are none of these have length 1.
    """

    axes: str
    dimensions: tuple[int | None, ...]

    def sides(self, stored: Sequence[int]) -> tuple[int, ...]:
        """Return sides per canonical axis from sides per dimension of the file."""
        return tuple(1 if d is None else int(stored[d]) for d in self.dimensions)

    def arrange(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return `array`, which has the dimensions of the file, with the canonical axes."""
        there = [d for d in self.dimensions if d is not None]
        array = array.transpose([*(i for i in range(array.ndim) if i not in there), *there])
        array = array.reshape(array.shape[array.ndim - len(there) :])
        return np.expand_dims(array, tuple(i for i, d in enumerate(self.dimensions) if d is None))


def check_axes(axes: str | None) -> str | None:
    """Return named axes in upper case; raise `UsageError` if they are none."""
    if axes is None:
        return None
    try:
        canonical(axes.upper())
    except ValueError as error:
        raise UsageError(
            f"axes {axes.upper()!r}", "each letter of TCZYX at most once, Y and X always", "such as ZYX"
        ) from error
    return axes.upper()


def find_places(path: Path | str, shape: Sequence[int], axes: str, *, named: bool) -> Places:
    """Say where the canonical axes lie in an array of `shape` and `axes`.

    Parameters
    ----------
    path
        For messages.
    named
        The caller named the axes: T and Z then stay where they are 1 long.

    Raises
    ------
    UsageError
        If there is not one axis per dimension.
    FileError
        If the image has no pixels.
    """
    if len(axes) != len(shape):
        raise UsageError(
            f"axes {axes!r} for {format_path(path)}, which has {len(shape)} dimensions: {tuple(shape)}",
            f"{len(shape)} letters of TCZYX",
            "name one axis per dimension",
        )
    if 0 in shape:
        raise FileError(
            f"{format_path(path)}: an image without pixels, {tuple(shape)}", "at least one pixel", "save it anew"
        )
    full, _ = canonical(axes)
    kept = [a for a in full if named or a not in "TZ" or shape[axes.index(a)] != 1]
    return Places("".join(kept), tuple(axes.index(a) if a in axes else None for a in kept))


def native_dtype(path: Path | str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that values of a file have in memory; raise `FileError` if they are no numbers."""
    if dtype.kind not in "biuf":
        raise FileError(f"{format_path(path)}: {dtype} values", "whole or real numbers", "save the image as numbers")
    if dtype == np.float16:
        return np.dtype(np.float32)
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype.newbyteorder("=")


def native(path: Path | str, array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` in native byte order, contiguous and writable."""
    try:
        return np.require(array, native_dtype(path, array.dtype), ["C", "W"])
    except MemoryError as error:
        raise damaged(path, "image", error) from error


@dataclass(frozen=True)
class Cut:
    """One axis of an index: what is read (``start`` to ``stop``), and what is taken of that."""

    start: int
    stop: int
    taken: int | slice


def cuts(index: Sequence[int | slice], shape: Sequence[int]) -> list[Cut]:
    """Return what an index of integers and slices means, as numpy understands it, for an image of `shape`.

    Axes that are not named are taken whole.

    Raises
    ------
    IndexError
        If an integer lies outside, or there are more of them than axes.
    """
    if len(index) > len(shape):
        raise IndexError(f"{len(index)} indices for {len(shape)} axes")
    found = []
    taken: int | slice
    for part, side in zip((*index, *(slice(None),) * (len(shape) - len(index))), shape, strict=True):
        if isinstance(part, slice):
            steps = range(*part.indices(side))
            low, high = (min(steps[0], steps[-1]), max(steps[0], steps[-1]) + 1) if steps else (0, 0)
            taken = slice(None, None, steps.step)
        else:
            low = operator.index(part)
            low += side if low < 0 else 0
            if not 0 <= low < side:
                raise IndexError(f"index {part} for an axis of {side}")
            high, taken = low + 1, 0
        found.append(Cut(low, high, taken))
    return found
