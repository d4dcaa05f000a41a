"""The image handle: axes, shape and pixel size of an image whose pixels are read by indexing."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.axes import canonical
from septum.errors import FileError, UsageError
from septum.io.formats import check_memory, damaged, format_path
from septum.words import pluralize

Affine = tuple[tuple[float, ...], ...]
Index = int | slice | EllipsisType | Sequence[int | slice | EllipsisType]
Reader = Callable[[tuple[slice, ...]], NDArray[Any]]

# Micrometers per unit of length, by the spellings that image files use.
MICROMETERS = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre", "\\u00b5m"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("in", "inch"), 25400.0),
}


def _nothing() -> None:
    """Close an image that holds no file open."""


@dataclass(frozen=True)
class StoredImage:
    """An image in the order of its file, as every reader returns it.

    Attributes
    ----------
    shape, dtype
        Of the stored array, dimensions in the order of `axes`.
    axes
        One letter of ``TCZYX`` per dimension.
    read
        Takes a slice with step 1 and at least one element per dimension and returns that part. Safe from several
        threads. The array is new where `lazy` is True.
    lazy
        False if the whole image is in memory.
    pixel_size_um
        Micrometers per pixel by axis; empty if unknown.
    affine
        4 x 4, index (x, y, z, 1) to scanner millimeters; NIfTI only.
    close
        Closes the file.
    orientation
        Value of the tag by which the image was turned upright (`septum.io.upright`), 1 for none.
    stated
        False if neither the file nor the caller named the axes, so that they are a guess.
    channels
        Names of the channels, in order; empty if the file states none.
    coarser
        Returns the other levels of a pyramid, from fine to coarse, as long as the image is open; none of other images.
    level, full_sides
        Number of this level from 0, the largest; Y and X sides of level 0, None where this is it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    read: Reader
    lazy: bool = True
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    affine: Affine | None = None
    close: Callable[[], object] = _nothing
    orientation: int = 1
    stated: bool = True
    channels: tuple[str, ...] = ()
    coarser: Callable[[], Sequence[StoredImage]] = tuple
    level: int = 0
    full_sides: tuple[int, int] | None = None

    @classmethod
    def from_array(cls, array: NDArray[Any], axes: str) -> StoredImage:
        """Wrap an array in memory.

        Parameters
        ----------
        array
            ``(*A)`` with one dimension per letter of `axes`, any dtype and any values.
        axes
            Letters of ``TCZYX`` in the order of the array.
        """
        return cls(array.shape, array.dtype, axes, array.__getitem__, lazy=False)


class Image:
    """An image in canonical axes; its pixels are read by indexing: ``image[0, 100:200]``, ``image[...]``.

    Reading is safe from several threads. An image can be pickled: one of a file is opened again by the receiver.

    Parameters
    ----------
    stored
        The image in the order of its file.
    location
        Where it lies: a path, or a URL as `str`; None for an image in memory.
    named
        True if the caller named the axes: T and Z then stay where they are 1 long.
    reopen
        Opens the image again in another process.

    Attributes
    ----------
    axes
        ``"CYX"``, ``"CZYX"``, ``"TCYX"`` or ``"TCZYX"``; ``T`` and ``Z`` only where they are longer than 1, or were
        named by the caller.
    shape
        Sides in the order of `axes`.
    dtype
        Type of the values, in native byte order: bool, (u)int8 to 64, float32 or float64.
    file_axes
        The axes in the order of the file, such as ``"YX"``, ``"YXC"``, ``"TYX"``.
    pixel_size_um
        Micrometers per pixel by axis; empty if unknown.
    affine
        4 x 4, index (x, y, z, 1) to scanner millimeters; NIfTI only.
    lazy
        False if the whole image is in memory: PNG, JPEG, packed NIfTI, arrays.
    location
        See the parameter.
    orientation
        Value of the orientation tag if the file holds the image turned or mirrored and says so by it, else 1.
    stated
        False if neither the file nor the caller named the axes: pages may be sections, frames or images of their own.
    named_axes
        Axes that the caller named; None if the file was read as it states.
    channel_names, picked
        Names of the channels, empty if the file states none; the channels that the caller named, empty for all.
    level, full_sides
        See `StoredImage`.
    """

    def __init__(
        self,
        stored: StoredImage,
        location: Path | str | None = None,
        *,
        named: bool = False,
        reopen: Callable[[], Image] | None = None,
    ) -> None:
        self._where = location or "the image"
        self.axes, self._dimensions = _locate_axes(self._where, stored.shape, stored.axes, named=named)
        self.shape = tuple(1 if d is None else int(stored.shape[d]) for d in self._dimensions)
        self.dtype = native_dtype(self._where, stored.dtype)
        self.file_axes, self.affine, self.lazy, self.location = stored.axes, stored.affine, stored.lazy, location
        self.pixel_size_um: Mapping[str, float] = {
            a: stored.pixel_size_um[a] for a in "ZYX" if a in self.axes and a in stored.pixel_size_um
        }
        self._stored, self._reopen = stored, reopen
        self.orientation, self.stated = stored.orientation, stored.stated or named
        self.level, self.full_sides = stored.level, stored.full_sides
        self.named_axes = stored.axes if named else None
        self.picked: tuple[str, ...] = ()
        self.channel_names = stored.channels if len(stored.channels) == self.shape[self.axes.index("C")] else ()
        self._close = weakref.finalize(self, stored.close)

    @classmethod
    def from_array(
        cls,
        array: NDArray[Any],
        axes: str,
        *,
        file_axes: str | None = None,
        pixel_size_um: Mapping[str, float] | None = None,
        affine: Affine | None = None,
        location: Path | str | None = None,
    ) -> Image:
        """Make an image of an array in memory, which is not copied.

        Parameters
        ----------
        array
            ``(C, *S)`` or ``(T, C, *S)`` in the order of `axes`, at least one pixel; bool, integers or floats of any
            values.
        axes
            ``"CYX"``, ``"CZYX"``, ``"TCYX"`` or ``"TCZYX"``.
        file_axes, pixel_size_um, affine, location
            See the attributes.
        """
        image = cls(StoredImage.from_array(array, axes), location, named=True)
        image.file_axes, image.affine = file_axes or axes, affine
        image.pixel_size_um = dict(pixel_size_um or {})
        return image

    @property
    def name(self) -> str:
        """The location as text; ``""`` for an image in memory."""
        return str(self.location or "")

    @property
    def level_sides(self) -> list[tuple[int, int]]:
        """Y and X sides of this level and of those behind it; after `load`, of this level alone."""
        each = [(one.axes, one.shape) for one in (self._stored, *self._stored.coarser())]
        return [(shape[axes.index("Y")], shape[axes.index("X")]) for axes, shape in each]

    @property
    def array(self) -> NDArray[Any]:
        """The whole image; the array itself if it is in memory, and a new one at each call otherwise.

        Returns
        -------
        ndarray
            ``(C, *S)`` or ``(T, C, *S)`` in the order of `axes`, of the image's dtype with any values: native byte
            order, contiguous, writable.
        """
        return self._read([Cut(0, n, slice(None)) for n in self.shape], copy=False)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Read a part of the image.

        Parameters
        ----------
        index
            An integer or a slice per axis of `axes` as for a numpy array; axes that are not named are read whole.

        Returns
        -------
        ndarray
            The part, of the image's dtype with any values: native byte order, contiguous, writable, its own memory.

        Raises
        ------
        FileError
            If a piece of the file is damaged, cut off or cannot be fetched.
        IndexError
            If an integer lies outside, or there are more of them than axes.
        """
        return self._read(resolve_index(index, self.shape), copy=not self.lazy)

    def _read(self, cuts: Sequence[Cut], *, copy: bool) -> NDArray[Any]:
        """Read the part that `cuts` name, one per axis; with `copy` it shares no memory with the stored image."""
        taken = tuple(cut.taken for cut in cuts)
        if any(cut.start == cut.stop for cut in cuts):
            return np.empty([cut.stop - cut.start for cut in cuts], self.dtype)[taken]
        inside = [slice(0, 1)] * len(self._stored.shape)
        for dimension, cut in zip(self._dimensions, cuts, strict=True):
            if dimension is not None:
                inside[dimension] = slice(cut.start, cut.stop)
        try:
            part = self._to_canonical(self._stored.read(tuple(inside)))[taken]
            if copy:
                return np.array(part, self.dtype, order="C", copy=True)
            return np.require(part, self.dtype, ["C", "W"])
        except MemoryError as error:
            raise damaged(self._where, "image", error) from error

    def _to_canonical(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return a part with the dimensions of the file in the order of `axes`, with a channel axis."""
        there = [d for d in self._dimensions if d is not None]
        part = part.transpose([*(i for i in range(part.ndim) if i not in there), *there])
        part = part.reshape(part.shape[part.ndim - len(there) :])
        return np.expand_dims(part, tuple(i for i, d in enumerate(self._dimensions) if d is None))

    def load(self) -> Image:
        """Read the whole image into memory, close the file and return the image in memory.

        Raises
        ------
        FileError
            If the file is damaged, or the image does not fit into memory.
        """
        with self:
            if self.lazy:
                check_memory(self._where, int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize)
            return _from_array(*self._parts())

    def close(self) -> None:
        """Close the file; pixels can be read no more."""
        self._close()

    def __enter__(self) -> Image:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is not None:
            return self._reopen, ()
        return _from_array, self._parts()

    def _parts(self) -> tuple[NDArray[Any], str, Mapping[str, Any]]:
        kept = ["file_axes", "pixel_size_um", "affine", "location", "orientation"]
        kept += ["stated", "named_axes", "channel_names", "picked", "level", "full_sides"]
        return self.array, self.axes, {name: getattr(self, name) for name in kept}

    def __repr__(self) -> str:
        sides = " x ".join(map(str, self.shape))
        return f"Image({self.name!r}, {self.axes}, {sides}, {self.dtype}{'' if self.lazy else ', in memory'})"


def _from_array(array: NDArray[Any], axes: str, attributes: Mapping[str, Any]) -> Image:
    image = Image.from_array(array, axes)
    for name, value in attributes.items():
        setattr(image, name, value)
    return image


def _locate_axes(
    where: Path | str, shape: Sequence[int], axes: str, *, named: bool
) -> tuple[str, tuple[int | None, ...]]:
    """Return the canonical axes of a stored image, and the dimension of each, None for a missing channel axis.

    Dimensions that belong to no canonical axis have length 1.
    """
    if len(axes) != len(shape):
        raise UsageError(
            f"axes {axes!r} for {format_path(where)}, which has {pluralize(len(shape), 'dimension')}: {tuple(shape)}",
            f"{pluralize(len(shape), 'letter')} of TCZYX",
            "name one axis for each dimension, or leave the axes out",
        )
    if 0 in shape:
        raise FileError(
            f"{format_path(where)}: an image without pixels, {tuple(shape)}",
            "at least one pixel",
            "save the image again",
        )
    try:
        full, _ = canonical(axes)
    except ValueError as error:
        raise FileError(
            f"{format_path(where)}: an image of axes {axes!r}",
            "an image with Y and X",
            "name its dimensions with --axes",
        ) from error
    kept = [a for a in full if named or a not in "TZ" or shape[axes.index(a)] != 1]
    return "".join(kept), tuple(axes.index(a) if a in axes else None for a in kept)


def native_dtype(where: Path | str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that stored values have in memory; raise `FileError` if they are not numbers."""
    if dtype.kind not in "biuf":
        raise FileError(
            f"{format_path(where)}: values of type {dtype}", "whole or real numbers", "save the image as numbers"
        )
    if dtype == np.float16:
        return np.dtype(np.float32)
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype.newbyteorder("=")


@dataclass(frozen=True)
class Cut:
    """One axis of an index: read ``start`` to ``stop``, then take `taken` of that."""

    start: int
    stop: int
    taken: int | slice


def resolve_index(index: Index, shape: Sequence[int]) -> list[Cut]:
    """Resolve an index of integers and slices, as numpy understands it, for an image of `shape`.

    Axes that are not named are read whole.

    Raises
    ------
    IndexError
        If an integer lies outside, or there are more of them than axes.
    """
    parts: list[int | slice | EllipsisType] = [index] if isinstance(index, int | slice | EllipsisType) else list(index)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    at = parts.index(Ellipsis)
    if len(parts) - 1 > len(shape):
        raise IndexError(f"{len(parts) - 1} indices for {len(shape)} axes")
    parts[at : at + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    cuts = []
    taken: int | slice
    for part, side in zip(parts, shape, strict=True):
        if isinstance(part, slice):
            steps = range(*part.indices(side))
            low, high = (min(steps[0], steps[-1]), max(steps[0], steps[-1]) + 1) if steps else (0, 0)
            taken = slice(None, None, steps.step)
        else:
            low = operator.index(part)  # type: ignore[arg-type]
            low += side if low < 0 else 0
            if not 0 <= low < side:
                raise IndexError(f"index {part} for an axis of {side}")
            high, taken = low + 1, 0
        cuts.append(Cut(low, high, taken))
    return cuts
