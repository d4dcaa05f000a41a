"""Images from files and to files, whatever the format."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from septum.axes import canonical
from septum.errors import UsageError
from septum.io.atomic import whole_file
from septum.io.decoded import Affine, Decoded
from septum.io.formats import FileFormat, find_kind
from septum.io.opened import check_axes, find_places, native
from septum.io.paths import (
    NIFTI,
    NPY,
    SUFFIXES,
    TIFF,
    ZARR,
    format_path,
    image_suffix,
    is_image_file,
    is_zarr,
    local_path,
    natural_key,
    url_of,
)


@dataclass(frozen=True)
class Image:
    """An image in canonical order.

    Attributes
    ----------
    array
        Values in the order of `axes`, in the dtype of the file: bool, (u)int8 to 64, float32 or float64.
    axes
        ``"CYX"``, ``"CZYX"``, ``"TCYX"`` or ``"TCZYX"``; ``T`` and ``Z`` only where they are longer than 1 (or were
        named by the caller).
    file_axes
        The axes as the file had them, such as ``"YX"``, ``"YXC"``, ``"TYX"``.
    pixel_size_um
        Micrometers per pixel by axis; empty if unknown.
    path
        Where it came from.
    affine
        4 x 4, index (x, y, z, 1) to scanner millimeters; NIfTI only.
    """

    array: NDArray[Any]
    axes: str
    file_axes: str
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None
    affine: Affine | None = None


def is_image(path: Path) -> bool:
    """Say whether the name of `path` ends as an image does that Septum reads; the file is not opened."""
    return bool(image_suffix(path))


def list_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the images that files, folders and patterns name, in natural order (``t2`` before ``t10``).

    Parameters
    ----------
    inputs
        Files, folders (the images directly inside), or patterns with ``*``, ``?``, ``[...]`` and ``**``. Hidden files
        are left out of folders and patterns. A file named twice is listed once. A folder of Zarr is an image. URLs
        (``s3://``, ``https://``) name images, folders and patterns too; they are listed as paths, of which
        `septum.io.paths.url_of` gives the URL back.

    Raises
    ------
    UsageError
        If an input does not exist, holds no image, or is a file of another kind.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        try:
            matches = _matches(given)
        except OSError as error:
            raise UsageError(
                f"{format_path(given)}: {error.strerror}", "images you may read", "check the name"
            ) from error
        found.update(dict.fromkeys(sorted(matches, key=natural_key)))
    return list(found)


def _matches(given: str | Path) -> list[Path]:
    """Return the images that one file, folder, pattern or URL names."""
    url = url_of(given)
    if url is not None:
        return _remote_matches(url)
    path = local_path(given)
    if is_zarr(path):
        matches = [path]
    elif path.is_dir():
        matches = [p for p in path.iterdir() if not p.name.startswith(".") and is_image_file(p)]
    elif path.exists():
        matches = [path] if is_image(path) else []
    elif any(c in str(path) for c in "*?["):
        matches = [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - absolute patterns too
        matches = [p for p in matches if is_image_file(p)]
    else:
        raise UsageError(f"{format_path(path)} does not exist", "an image, a folder or a pattern", "check the spelling")
    return matches or _none(path, folder=path.is_dir())


def _remote_matches(url: str) -> list[Path]:
    """Return images by URL; one that is named is believed, of a folder or pattern those that lie there."""
    from septum.io.remote import glob_urls, list_folder

    if image_suffix(Path(url)):
        if not any(c in url for c in "*["):  # a question mark begins the query of a URL
            return [Path(url)]
        matches = [Path(found) for found in glob_urls(url)]
    elif any(part.endswith(ZARR) for part in url.split("/")):
        return [Path(url)]  # an image inside, such as .../labels/cells
    else:
        matches = [Path(found) for found in list_folder(url)]
    matches = [p for p in matches if image_suffix(p) and not p.name.startswith(".")]
    return matches or _none(Path(url), folder=True)


def _none(path: Path, *, folder: bool) -> list[Path]:
    raise UsageError(
        f"{format_path(path)}: {'a folder without images' if folder else 'no image'}",
        "files that end in " + " ".join(SUFFIXES),
        "name a folder of images, or save them in one of these formats",
    )


def read_image(path: Path, *, axes: str | None = None, labels: bool = False) -> Image:
    """Read an image of any format; what it is, is told by its first bytes.

    Parameters
    ----------
    path
        PNG, JPEG, BMP, GIF, TIFF (OME, ImageJ, plain), NIfTI, .npy, or a folder of OME-Zarr; a URL of OME-Zarr or TIFF.
    axes
        Names of the dimensions of the file, one letter of ``TCZYX`` each, if the file does not say them right.
    labels
        The image is a mask: a palette gives indices, never colors.

    Returns
    -------
    Image
        In canonical order, native byte order, contiguous, writable.

    Raises
    ------
    FileError
        If the file is missing, empty, damaged, cut off, forged, no image, or larger than the memory.
    UsageError
        If `axes` do not fit the dimensions of the file.
    """
    axes = check_axes(axes)
    place = url_of(path) or local_path(path)
    decoded = decode(place, find_kind(place), axes=axes, labels=labels)
    places = find_places(place, decoded.array.shape, decoded.axes, named=axes is not None)
    array = native(place, places.arrange(decoded.array))
    size = {a: decoded.pixel_size_um[a] for a in "ZYX" if a in places.axes and a in decoded.pixel_size_um}
    return Image(array, places.axes, decoded.axes, size, Path(path), decoded.affine)


def decode(place: Path | str, kind: FileFormat, *, axes: str | None, labels: bool) -> Decoded:
    """Read the whole of a file or folder of `kind`, as it is stored; `place` is a path, or a URL as `str`."""
    if kind is FileFormat.ZARR:
        from septum.io.ngff import read_zarr

        return read_zarr(place, axes=axes)
    if isinstance(place, str):
        from septum.io.tiff_parts import read_remote_tiff

        return read_remote_tiff(place, axes=axes)
    if kind is FileFormat.TIFF:
        from septum.io.tiff import read_tiff

        return read_tiff(place, axes=axes)
    if kind is FileFormat.NPY:
        from septum.io.npy import read_npy

        return read_npy(place, axes=axes)
    if kind is FileFormat.NIFTI:
        from septum.io.nifti import read_nifti

        return read_nifti(place, axes=axes)
    from septum.io.png import read_photo, read_png

    decoded = read_png(place, labels=labels) if kind is FileFormat.PNG else read_photo(place, labels=labels)
    return decoded if axes is None else Decoded(decoded.array, axes, decoded.pixel_size_um)


def write_image(
    path: Path,
    array: ArrayLike,
    *,
    axes: str,
    pixel_size_um: Mapping[str, float] | None = None,
    affine: Affine | None = None,
    labels: bool = False,
) -> None:
    """Write an image as a whole or not at all; the suffix decides the format.

    Parameters
    ----------
    path
        ``.tif``/``.tiff`` (OME-TIFF with axes and pixel size), ``.png`` (one plane of whole numbers), ``.nii``/
        ``.nii.gz``, ``.npy`` (as it is: neither axes nor pixel size), ``.zarr`` (OME-Zarr 0.5 with a pyramid).
    array
        One dimension per letter of `axes`; put into canonical order, ``C`` of length 1 is left out.
    axes
        Letters of ``TCZYX``, ``Y`` and ``X`` among them.
    pixel_size_um
        Micrometers per pixel by axis.
    affine
        Position in the scanner of a NIfTI image, as `read_image` gave it; other formats cannot keep it.
    labels
        The values are ids: OME-Zarr says so, and its coarser levels never mix them.

    Raises
    ------
    FileError
        If the format cannot hold the values, or the file cannot be written.
    UsageError
        If the suffix is none of the above.
    """
    path, array = Path(path), np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    suffix = image_suffix(path)
    if suffix not in (*TIFF, *NIFTI, *NPY, *ZARR, ".png", ".ome.tif", ".ome.tiff"):
        raise UsageError(
            f"{format_path(path)}: cannot write {path.suffix or 'no suffix'}",
            ".tif .png .nii.gz .npy .ome.zarr",
            "rename it",
        )
    if url_of(path) is not None:
        raise UsageError(
            f"{format_path(path)}: cannot write to URLs", "a path on this machine", "copy the result there"
        )
    assert len(axes) == array.ndim, f"axes {axes} for shape {array.shape}"
    _, permutation = canonical(axes)
    if suffix not in NPY:
        axes = "".join(axes[i] for i in permutation)
        array = array.transpose(permutation)
        if "C" in axes and array.shape[axes.index("C")] == 1:
            array, axes = array.squeeze(axes.index("C")), axes.replace("C", "")
    size = dict(pixel_size_um or {})
    if suffix in ZARR:
        from septum.io.pyramid import write_zarr

        write_zarr(path, array, axes, pixel_size_um=size, labels=labels)
        return
    with whole_file(path) as temporary:
        if suffix in NPY:
            from septum.io.npy import write_npy

            write_npy(temporary, array)
        elif suffix in NIFTI:
            from septum.io.nifti import write_nifti

            write_nifti(temporary, array, axes, pixel_size_um=size, affine=affine, name=path)
        elif suffix == ".png":
            from septum.io.png import write_png

            write_png(temporary, array, axes, name=path)
        else:
            from septum.io.tiff import write_tiff

            write_tiff(temporary, array, axes, pixel_size_um=size, name=path)
