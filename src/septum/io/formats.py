"""What a file is, told by its first bytes: names lie more often than they do."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from septum.errors import FileError
from septum.io.decoded import damaged
from septum.io.paths import SUFFIXES, TIFF, ZARR, format_path, image_suffix, is_zarr

# The size of the header, 348 or 540, in either byte order; or gzip.
_NIFTI_MAGIC = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c", b"\x1f\x8b")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class FileFormat(Enum):
    """A format that is read."""

    TIFF = "TIFF"
    NPY = "npy"
    NIFTI = "NIfTI"
    PNG = "PNG"
    PHOTO = "JPEG, BMP or GIF"
    ZARR = "OME-Zarr"


def find_kind(location: Path | str) -> FileFormat:
    """Say what a file or folder is.

    Parameters
    ----------
    location
        A path, or a URL as `str`; of a URL the name is believed.

    Raises
    ------
    FileError
        If it is missing, empty, cannot be read, or is no image.
    """
    if isinstance(location, str):
        return _remote_kind(location)
    if is_zarr(location):
        return FileFormat.ZARR
    try:
        with location.open("rb") as file:
            head = file.read(64)
    except IsADirectoryError as error:
        raise FileError(f"{format_path(location)}: is a folder", "an image", "name a file in it") from error
    except FileNotFoundError as error:
        raise FileError(f"{format_path(location)} does not exist", "an image", "check the name") from error
    except OSError as error:
        raise FileError(
            f"{format_path(location)}: cannot be read ({error.strerror})", "a file you may read", "check it"
        ) from error
    if not head:
        raise FileError(
            f"{format_path(location)}: the file is empty (0 bytes)", "an image", "copy it again from where it came from"
        )
    if head[:4] in _TIFF_MAGIC:
        return FileFormat.TIFF
    if head.startswith(b"\x93NUMPY"):
        return FileFormat.NPY
    if head.startswith(_NIFTI_MAGIC):
        return FileFormat.NIFTI
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileFormat.PNG
    if head.startswith((b"\xff\xd8\xff", b"GIF8")) or (head[:2] == b"BM" and image_suffix(location) == ".bmp"):
        return FileFormat.PHOTO
    raise _no_image(location, head)


def _remote_kind(url: str) -> FileFormat:
    name = url.partition("?")[0].partition("#")[0].rstrip("/").lower()
    if name.endswith((*TIFF,)):
        return FileFormat.TIFF
    if not name.endswith(SUFFIXES) or name.endswith(ZARR):
        return FileFormat.ZARR  # also an image inside: URL/labels/cells
    raise FileError(
        f"{format_path(url)}: of this format only files on this machine are read", "OME-Zarr or TIFF", "copy it"
    )


def _no_image(path: Path, head: bytes) -> FileError:
    suffix = image_suffix(path)
    if head.startswith(b"version https://git-lfs"):
        return FileError(
            f"{format_path(path)}: a Git LFS pointer, not the image", "the image itself", "run: git lfs pull"
        )
    if suffix in SUFFIXES and any(head.startswith(m[:2]) for m in (*_TIFF_MAGIC, b"\x89PNG", b"\xff\xd8")):
        return damaged(path, suffix[1:], "its first bytes are wrong")
    text = all(b in b"\t\n\r" or 32 <= b < 127 for b in head[:64])
    what = f"text that begins {head[:24].decode('ascii')!r}" if text else f"bytes that begin {head[:8].hex(' ')}"
    return FileError(
        f"{format_path(path)}: no image, but {what}",
        "PNG, JPEG, BMP, GIF, TIFF, NIfTI, .npy or OME-Zarr",
        "export the image in one of these formats",
    )
