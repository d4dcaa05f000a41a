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
from septum.errors import FileError, UsageError
from septum.io.atomic import whole_file
from septum.io.decoded import Affine, Decoded, damaged
from septum.io.names import NIFTI, NPY, SUFFIXES, TIFF, image_suffix, natural_key, shown

# The size of the header, 348 or 540, in either byte order; or gzip.
_NIFTI_MAGIC = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c", b"\x1f\x8b")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


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
        are left out of folders and patterns. A file named twice is listed once.

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
            raise UsageError(f"{shown(given)}: {error.strerror}", "images you may read", "check the name") from error
        found.update(dict.fromkeys(sorted(matches, key=natural_key)))
    return list(found)


def _matches(given: str | Path) -> list[Path]:
    """Return the images that one file, folder or pattern names."""
    path = Path(given)
    if path.is_dir():
        matches = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and is_image(p)]
    elif path.exists():
        matches = [path] if is_image(path) else []
    elif any(c in str(given) for c in "*?["):
        matches = [Path(p) for p in glob.glob(str(given), recursive=True)]  # noqa: PTH207 - absolute patterns too
        matches = [p for p in matches if p.is_file() and is_image(p)]
    else:
        raise UsageError(f"{shown(path)} does not exist", "an image, a folder or a pattern", "check the spelling")
    if not matches:
        kind = "a folder without images" if path.is_dir() else "no image"
        raise UsageError(
            f"{shown(path)}: {kind}",
            "files that end in " + " ".join(SUFFIXES),
            "name a folder of images, or save them in one of these formats",
        )
    return matches


def read_image(path: Path, *, axes: str | None = None, labels: bool = False) -> Image:
    """Read an image of any format; what it is, is told by its first bytes.

    Parameters
    ----------
    path
        PNG, JPEG, BMP, GIF, TIFF (OME, ImageJ, plain), NIfTI or .npy.
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
        If the file is missing, empty, damaged, cut off, forged, or no image.
    UsageError
        If `axes` do not fit the dimensions of the file.
    """
    path = Path(path)
    if axes is not None:
        axes = axes.upper()
        try:
            canonical(axes)
        except ValueError as error:
            raise UsageError(
                f"axes {axes!r}", "each letter of TCZYX at most once, Y and X always", "such as ZYX"
            ) from error
    decoded = _decode(path, axes, labels)
    array, file_axes = decoded.array, decoded.axes
    if len(file_axes) != array.ndim:
        raise UsageError(
            f"axes {file_axes!r} for {shown(path)}, which has {array.ndim} dimensions: {array.shape}",
            f"{array.ndim} letters of TCZYX",
            "name one axis per dimension",
        )
    if 0 in array.shape:
        raise FileError(f"{shown(path)}: an image without pixels, {array.shape}", "at least one pixel", "save it anew")
    full, permutation = canonical(file_axes)
    array = array.transpose(permutation)
    if "C" not in file_axes:
        array = np.expand_dims(array, full.index("C"))
    if axes is None:
        single = [i for i, a in enumerate(full) if a in "TZ" and array.shape[i] == 1]
        array = array.squeeze(tuple(single))
        full = "".join(a for i, a in enumerate(full) if i not in single)
    size = {a: decoded.pixel_size_um[a] for a in "ZYX" if a in full and a in decoded.pixel_size_um}
    return Image(_native(path, array), full, file_axes, size, path, decoded.affine)


def _native(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise FileError(f"{shown(path)}: {array.dtype} values", "whole or real numbers", "save the image as numbers")
    dtype = np.dtype(np.float32) if array.dtype == np.float16 else array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    try:
        return np.require(array, dtype, ["C", "W"])
    except MemoryError as error:
        raise damaged(path, "image", error) from error


def _decode(path: Path, axes: str | None, labels: bool) -> Decoded:
    """Choose the reader by the first bytes: names lie more often than they do."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except IsADirectoryError as error:
        raise FileError(f"{shown(path)}: is a folder", "an image", "name a file in it") from error
    except FileNotFoundError as error:
        raise FileError(f"{shown(path)} does not exist", "an image", "check the name") from error
    except OSError as error:
        raise FileError(
            f"{shown(path)}: cannot be read ({error.strerror})", "a file you may read", "check it"
        ) from error
    if not head:
        raise FileError(
            f"{shown(path)}: the file is empty (0 bytes)", "an image", "copy it again from where it came from"
        )
    if head[:4] in _TIFF_MAGIC:
        from septum.io.tiff import read_tiff

        return read_tiff(path, axes=axes)
    if head.startswith(b"\x93NUMPY"):
        from septum.io.npy import read_npy

        return read_npy(path, axes=axes)
    if head.startswith(_NIFTI_MAGIC):
        from septum.io.nifti import read_nifti

        return read_nifti(path, axes=axes)
    from septum.io.png import read_photo, read_png

    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        decoded = read_png(path, labels=labels)
    elif head.startswith((b"\xff\xd8\xff", b"GIF8")) or (head[:2] == b"BM" and image_suffix(path) == ".bmp"):
        decoded = read_photo(path, labels=labels)
    else:
        raise _no_image(path, head)
    return decoded if axes is None else Decoded(decoded.array, axes, decoded.pixel_size_um)


def _no_image(path: Path, head: bytes) -> FileError:
    suffix = image_suffix(path)
    if head.startswith(b"version https://git-lfs"):
        return FileError(f"{shown(path)}: a Git LFS pointer, not the image", "the image itself", "run: git lfs pull")
    if suffix in SUFFIXES and any(head.startswith(m[:2]) for m in (*_TIFF_MAGIC, b"\x89PNG", b"\xff\xd8")):
        return damaged(path, suffix[1:], "its first bytes are wrong")
    text = all(b in b"\t\n\r" or 32 <= b < 127 for b in head[:64])
    what = f"text that begins {head[:24].decode('ascii')!r}" if text else f"bytes that begin {head[:8].hex(' ')}"
    return FileError(
        f"{shown(path)}: no image, but {what}",
        "PNG, JPEG, BMP, GIF, TIFF, NIfTI or .npy",
        "export the image in one of these formats",
    )


def write_image(
    path: Path,
    array: ArrayLike,
    *,
    axes: str,
    pixel_size_um: Mapping[str, float] | None = None,
    affine: Affine | None = None,
) -> None:
    """Write an image as a whole or not at all; the suffix decides the format.

    Parameters
    ----------
    path
        ``.tif``/``.tiff`` (OME-TIFF with axes and pixel size), ``.png`` (one plane of whole numbers), ``.nii``/
        ``.nii.gz``, ``.npy`` (as it is: neither axes nor pixel size).
    array
        One dimension per letter of `axes`; put into canonical order, ``C`` of length 1 is left out.
    axes
        Letters of ``TCZYX``, ``Y`` and ``X`` among them.
    pixel_size_um
        Micrometers per pixel by axis.
    affine
        Position in the scanner of a NIfTI image, as `read_image` gave it; other formats cannot keep it.

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
    if suffix not in (*TIFF, *NIFTI, *NPY, ".png", ".ome.tif", ".ome.tiff"):
        raise UsageError(
            f"{shown(path)}: cannot write {path.suffix or 'no suffix'}", ".tif .png .nii.gz .npy", "rename it"
        )
    assert len(axes) == array.ndim, f"axes {axes} for shape {array.shape}"
    _, permutation = canonical(axes)
    if suffix not in NPY:
        axes = "".join(axes[i] for i in permutation)
        array = array.transpose(permutation)
        if "C" in axes and array.shape[axes.index("C")] == 1:
            array, axes = array.squeeze(axes.index("C")), axes.replace("C", "")
    size = dict(pixel_size_um or {})
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
