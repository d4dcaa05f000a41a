"""Names of files: URLs, image suffixes, natural order, and names in messages."""

from __future__ import annotations

import re
from pathlib import Path

from septum.io.formats import format_of, suffix_of

# Two letters at least: one letter is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")
_ZARR_DOCUMENTS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def url_of(location: Path | str) -> str | None:
    """Return the URL that `location` is, None if it is a path on this machine.

    A URL may travel as a `Path`, which merges its slashes: ``Path("s3://bucket/a.zarr")`` reads ``s3:/bucket/a.zarr``.
    No folder here is called ``s3:``, so the URL can be restored. ``file://`` is a path on this machine.
    """
    text = location.as_posix() if isinstance(location, Path) else location
    match = _URL.match(text)
    if match is None or match[1].lower() == "file":
        return None
    return f"{match[1].lower()}://{text[match.end() :]}"


def local_path(location: Path | str) -> Path:
    """Return the path on this machine that `location` is; it must not be a URL of another machine."""
    text = location.as_posix() if isinstance(location, Path) else location
    match = _URL.match(text)
    return Path("/" + text[match.end() :]) if match is not None else Path(location)


def is_image(path: Path) -> bool:
    """Return True if the name of `path` ends as that of an image that Septum reads; the file is not opened."""
    return bool(image_suffix(path))


def is_zarr(path: Path) -> bool:
    """Return True if `path` is a folder of Zarr: an image or a group of images, not a folder of files."""
    kind = format_of(path.name)
    named = kind is not None and kind.folder
    return path.is_dir() and (named or any((path / name).is_file() for name in _ZARR_DOCUMENTS))


def is_image_file(path: Path) -> bool:
    """Return True if `path` exists and is named as an image: a file, or a folder of Zarr."""
    kind = format_of(path.name)
    return kind is not None and (path.is_dir() if kind.folder else path.is_file())


def image_suffix(path: Path) -> str:
    """Return the image suffix of `path` in lower case (``".nii.gz"``, ``".ome.tif"``, ``".png"``), or ``""``."""
    return suffix_of(path.name)


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
