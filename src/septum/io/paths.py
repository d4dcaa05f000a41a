"""Names of files: natural order, suffixes, and how a name is shown in a message."""

from __future__ import annotations

import re
from pathlib import Path

RASTER = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
TIFF = (".tif", ".tiff")
NIFTI = (".nii", ".nii.gz")
NPY = (".npy",)
ZARR = (".zarr", ".ome.zarr")  # folders
SUFFIXES = RASTER + TIFF + NIFTI + NPY + ZARR[:1]
# Longer names of the same formats, so that the stem of "a.ome.tif" is "a".
_DOUBLE = (".ome.tif", ".ome.tiff", ".nii.gz", ".ome.zarr")
# Two letters at least: one letter is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")
_ZARR_DOCUMENTS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def url_of(location: Path | str) -> str | None:
    """Return the URL that `location` is, None if it is a path on this machine.

    A URL may travel as a `Path`, which merges its slashes: ``Path("s3://bucket/a.zarr")`` reads ``s3:/bucket/a.zarr``.
    No folder here is called ``s3:``, so that the URL can be told and mended. ``file://`` is a path on this machine.
    """
    text = location.as_posix() if isinstance(location, Path) else location
    found = _URL.match(text)
    if found is None or found[1].lower() == "file":
        return None
    return f"{found[1].lower()}://{text[found.end() :]}"


def local_path(location: Path | str) -> Path:
    """Return the path on this machine that `location` is, which is no URL of another one."""
    text = location.as_posix() if isinstance(location, Path) else location
    found = _URL.match(text)
    return Path("/" + text[found.end() :]) if found is not None else Path(location)


def is_zarr(path: Path) -> bool:
    """Say whether `path` is a folder of Zarr: an image or a group of images, not a folder of files."""
    return path.is_dir() and (image_suffix(path) in ZARR or any((path / name).is_file() for name in _ZARR_DOCUMENTS))


def is_image_file(path: Path) -> bool:
    """Say whether `path` is there and named as an image: a file, or a folder of Zarr."""
    suffix = image_suffix(path)
    return bool(suffix) and (path.is_dir() if suffix in ZARR else path.is_file())


def image_suffix(path: Path) -> str:
    """Return the image suffix of `path` in lower case (``".nii.gz"``, ``".ome.tif"``, ``".png"``), or ``""``."""
    name = path.name.lower()
    for suffix in (*_DOUBLE, *SUFFIXES):
        if name.endswith(suffix) and len(name) > len(suffix):
            return suffix
    return ""


def image_stem(path: Path) -> str:
    """Return the name of `path` without its image suffix: ``"a.b.nii.gz"`` gives ``"a.b"``."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def natural_key(path: Path | str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a key that sorts ``t2`` before ``t10``; names that differ only in case or zeros keep a fixed order."""
    text = str(path)
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in parts if p), text


def format_path(path: Path | str) -> str:
    """Return `path` for a message: as it is, or quoted and escaped if it holds line breaks or the like."""
    text = url_of(path) or str(path)
    return text if text.isprintable() else ascii(text)
