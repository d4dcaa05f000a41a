"""An image that is opened, not read: pieces come from the file when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.io.decoded import Affine, Decoded
from septum.io.formats import FileFormat, find_kind
from septum.io.images import Image, decode
from septum.io.opened import Index, Opened, check_axes, cuts, find_places, in_memory, native_dtype
from septum.io.paths import local_path, url_of


class Source:
    """An image, opened. Reading is safe from several threads; it travels to another process, which opens it again.

    Attributes
    ----------
    location
        Where it lies: a path, or a URL as `str`; None for an image in memory.
    axes
        ``"CYX"``, ``"CZYX"``, ``"TCYX"`` or ``"TCZYX"``; the rules are those of `septum.io.images.Image`.
    shape
        Sides in the order of `axes`.
    dtype
        Of what `read` returns: the file's, in native byte order.
    file_axes
        The axes as the file had them.
    pixel_size_um
        Micrometers per pixel by axis; empty if unknown.
    affine
        4 x 4, index (x, y, z, 1) to scanner millimeters; NIfTI only.
    chunks
        Sides of the pieces that are stored together, in the order of `axes`. Reading a part of one costs as much as
        reading it whole.
    lazy
        False where opening has read the whole image: PNG, JPEG, packed NIfTI.
    """

    def __init__(
        self, opened: Opened, location: str | Path | None, *, named_axes: str | None = None, labels: bool = False
    ) -> None:
        self.location, self._labels = location, labels
        shown_as = location or "the image"
        self._places = find_places(shown_as, opened.shape, opened.axes, named=named_axes is not None)
        self._opened, self._named_axes = opened, named_axes
        self._image: Image | None = None
        self.axes = self._places.axes
        self.shape = self._places.sides(opened.shape)
        self.dtype: np.dtype[Any] = native_dtype(shown_as, opened.dtype)
        self.file_axes = opened.axes
        self.pixel_size_um: Mapping[str, float] = {
            a: opened.pixel_size_um[a] for a in "ZYX" if a in self.axes and a in opened.pixel_size_um
        }
        self.affine: Affine | None = opened.affine
        self.chunks = tuple(min(c, n) for c, n in zip(self._places.sides(opened.chunks), self.shape, strict=True))
        self.lazy = opened.lazy

    @property
    def name(self) -> str:
        """The location as text; ``""`` for an image in memory."""
        return str(self.location or "")

    def read(self, index: Index) -> NDArray[Any]:
        """Return a part of the image.

        Parameters
        ----------
        index
            An integer or a slice per axis of `axes`, as for a numpy array; axes that are not named are taken whole.

        Returns
        -------
        ndarray
            What ``read_image(location).array[index]`` is: native byte order, contiguous, writable, its own memory.

        Raises
        ------
        FileError
            If a piece is damaged, cut off or cannot be fetched.
        """
        wanted = cuts(index, self.shape)
        taken = tuple(cut.taken for cut in wanted)
        if any(cut.start == cut.stop for cut in wanted):
            return np.empty([cut.stop - cut.start for cut in wanted], self.dtype)[taken]
        inside = [slice(0, 1)] * len(self._opened.shape)
        for dimension, cut in zip(self._places.dimensions, wanted, strict=True):
            if dimension is not None:
                inside[dimension] = slice(cut.start, cut.stop)
        part = self._places.arrange(self._opened.read(tuple(inside)))[taken]
        own: NDArray[Any] = np.array(part, self.dtype, order="C", copy=True)
        return own

    def close(self) -> None:
        """Close the file; the source cannot be read any more."""
        self._opened.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._image is not None:
            return source_of, (self._image,)
        return _reopen, (self.location, self._named_axes, self._labels)

    def __repr__(self) -> str:
        sides = " x ".join(map(str, self.shape))
        return f"Source({self.name!r}, {self.axes}, {sides}, {self.dtype}{'' if self.lazy else ', in memory'})"


def open_image(location: str | Path, *, axes: str | None = None, labels: bool = False) -> Source:
    """Open an image of any format; what it is, is told by its first bytes.

    OME-Zarr, TIFF, .npy and plain NIfTI are read piece by piece later; of the others the whole image is read now.

    Parameters
    ----------
    location
        A file, a folder of OME-Zarr, or a URL of one of these (OME-Zarr and TIFF).
    axes
        Names of the dimensions of the file, one letter of ``TCZYX`` each, if the file does not say them right.
    labels
        The image is a mask: a palette gives indices, never colors.

    Raises
    ------
    FileError
        If it is missing, empty, damaged, cut off, forged, or no image.
    UsageError
        If `axes` do not fit, or libraries for URLs are missing.
    """
    axes = check_axes(axes)
    url = url_of(location)
    place: Path | str = url if url is not None else local_path(location)
    opened = _open(place, axes, labels)
    try:
        return Source(opened, place, named_axes=axes, labels=labels)
    except BaseException:
        opened.close()
        raise


def _open(place: Path | str, axes: str | None, labels: bool) -> Opened:
    match find_kind(place):
        case FileFormat.ZARR:
            from septum.io.ngff import open_zarr

            return open_zarr(place, axes=axes)
        case FileFormat.TIFF:
            from septum.io.tiff_parts import open_tiff

            return open_tiff(place, axes=axes)
        case FileFormat.NPY:
            from septum.io.npy import open_npy

            return open_npy(Path(place), axes=axes)
        case FileFormat.NIFTI:
            from septum.io.nifti import open_nifti

            return open_nifti(Path(place), axes=axes)
        case kind:
            return in_memory(decode(Path(place), kind, axes=axes, labels=labels))


def source_of(image: Image) -> Source:
    """Return an image in memory as a source."""
    decoded = Decoded(image.array, image.axes, image.pixel_size_um, image.affine)
    source = Source(in_memory(decoded), image.path, named_axes=image.axes)
    source.file_axes, source._image = image.file_axes, image
    return source


def _reopen(location: str | Path, axes: str | None, labels: bool) -> Source:
    return open_image(location, axes=axes, labels=labels)
