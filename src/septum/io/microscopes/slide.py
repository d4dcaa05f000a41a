"""Slides of scanners, by OpenSlide: SVS, NDPI, SCN, MRXS and others, any level, what was not scanned in white."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.io.formats import UNBOUNDED, check_claim
from septum.io.image import Reader, StoredImage
from septum.io.microscopes.libraries import explained, load_library, open_stored
from septum.io.tiff import open_tiff

_KIND = "slide"
_BAND = 1 << 24  # pixels that are decoded at once
_BLOCK = 512  # side of the blocks of a level whose pixels lie between those of the largest one
_PLAIN = "generic-tiff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_slide(place: Path | str, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open a slide, at its full resolution and with its other levels.

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
    openslide = load_library("openslide", place, _KIND)
    return open_stored(place, _KIND, lambda: openslide.OpenSlide(place), lambda slide: _stored(place, slide, axes))


def _stored(place: Path, slide: Any, axes: str | None) -> StoredImage:
    """Return the largest level of a slide, which leads to the others."""
    full = slide.level_dimensions[0]
    if _is_tiff(place):  # others keep their pixels in files beside them
        claimed, length = 3 * full[0] * full[1], place.stat().st_size
        check_claim(place, _KIND, shape=(full[1], full[0], 3), claimed=claimed, length=length, ratio=UNBOUNDED)
    known = {a: v for a in "YX" if (v := _micrometers(slide.properties.get(f"openslide.mpp-{a.lower()}"))) > 0}

    def stored(level: int) -> StoredImage:
        width, height = slide.level_dimensions[level]
        times = {"X": full[0] / width, "Y": full[1] / height}
        size = {a: v * times[a] for a, v in known.items()}
        shape, dtype = (height, width, 3), np.dtype(np.uint8)
        read = _reader(place, slide, level)
        return StoredImage(shape, dtype, axes or "YXC", read, pixel_size_um=size, close=slide.close)

    return replace(stored(0), coarser=lambda: [stored(level) for level in range(1, slide.level_count)])


def _reader(place: Path, slide: Any, level: int) -> Reader:
    """Return a reader of one level.

    OpenSlide takes the place of a part in whole pixels of the largest level. Where these lie between the pixels of a
    level, it shifts what it reads by a part of a pixel: such a level is read in blocks that always begin at the same
    places, so that every part is the same as in the whole.
    """
    times = float(slide.level_downsamples[level])
    shifted = times != round(times)

    def blocks(part: slice, step: int) -> Iterator[tuple[int, int, int]]:
        """Yield where a block begins, and the pixels of the part that lie in it."""
        first = part.start // step * step if shifted else part.start
        for start in range(first, part.stop, step):
            yield start, max(start, part.start), min(start + step, part.stop)

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        rows, columns, samples = index
        width = columns.stop - columns.start
        out = np.empty((rows.stop - rows.start, width, 3), np.uint8)
        with explained(place, _KIND):
            for top, first, last in blocks(rows, _BLOCK if shifted else max(1, _BAND // width)):
                for left, begin, end in blocks(columns, _BLOCK if shifted else width):
                    corner = round(left * times), round(top * times)
                    part = on_white(np.asarray(slide.read_region(corner, level, (end - left, last - top))))
                    here = out[first - rows.start : last - rows.start, begin - columns.start : end - columns.start]
                    here[...] = part[first - top :, begin - left :]
        return out[..., samples]

    return read


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
