"""Names of files: natural order, suffixes, and how a name is shown in a message."""

from __future__ import annotations

import re
from pathlib import Path

RASTER = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
TIFF = (".tif", ".tiff")
NIFTI = (".nii", ".nii.gz")
NPY = (".npy",)
SUFFIXES = RASTER + TIFF + NIFTI + NPY
# Longer names of the same formats, so that the stem of "a.ome.tif" is "a".
_DOUBLE = (".ome.tif", ".ome.tiff", ".nii.gz")


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


def shown(path: Path | str) -> str:
    """Return `path` for a message: as it is, or quoted and escaped if it holds line breaks or the like."""
    text = str(path)
    return text if text.isprintable() else ascii(text)
