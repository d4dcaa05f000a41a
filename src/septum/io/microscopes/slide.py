"""Slides of scanners, by OpenSlide: SVS, NDPI, SCN, MRXS and others, any level, what was not scanned in white."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.io.image import StoredImage
from septum.io.microscopes.libraries import explained, load_library
from septum.io.tiff import open_tiff

_KIND = "slide"
_BAND = 1 << 24  # pixels that are decoded at once
_PLAIN = "generic-tiff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_slide(place: Path | str, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open a slide at its full resolution.

    What was not scanned is transparent in the file, and white here. A TIFF file of a scanner that OpenSlide does not
    know, or where it is not installed, and one on another machine, is read as any TIFF.

    Parameters
    ----------
    place
        A file, or the URL of a TIFF.
    axes
        See `septum.io.files.open_image`.
    labels
        True if the image is a mask: it is then read as any TIFF.

    Raises
    ------
    FileError
        If the file is damaged, or no slide.
    UsageError
        If OpenSlide is not installed and the file is no TIFF.
    """
    if isinstance(place, str) or labels or (_is_tiff(place) and not _is_slide(place)):
        return open_tiff(place, axes=axes, labels=labels)
    with explained(place, _KIND):
        slide = load_library("openslide", place, _KIND).OpenSlide(place)
        width, height = slide.dimensions

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        rows, columns, samples = index
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        band = max(1, _BAND // out.shape[1])
        with explained(place, _KIND):
            for start in range(0, len(out), band):
                high = min(band, len(out) - start)
                part = slide.read_region((columns.start, rows.start + start), 0, (out.shape[1], high))
                out[start : start + high] = on_white(np.asarray(part))
        return out[..., samples]

    size = {a: v for a in "YX" if (v := _micrometers(slide.properties.get(f"openslide.mpp-{a.lower()}"))) > 0}
    shape, dtype = (height, width, 3), np.dtype(np.uint8)
    return StoredImage(shape, dtype, axes or "YXC", read, pixel_size_um=size, close=slide.close)


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay transparent pixels on white.

    Parameters
    ----------
    pixels
        ``(Y, X, 4)`` uint8, 0 to 255: color and opacity.

    Returns
    -------
    ndarray
        ``(Y, X, 3)`` uint8, 0 to 255.
    """
    opacity = pixels[..., 3:]
    if (opacity == 255).all():
        return pixels[..., :3]
    share = opacity.astype(np.float32) / 255
    laid: NDArray[np.uint8] = np.rint(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return laid


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in _TIFF


def _is_slide(path: Path) -> bool:
    """Return True if OpenSlide is installed and knows the scanner."""
    if find_spec("openslide") is None:
        return False
    with explained(path, _KIND):
        found = load_library("openslide", path, _KIND).OpenSlide.detect_format(path)
    return found is not None and found != _PLAIN


def _micrometers(text: str | None) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
