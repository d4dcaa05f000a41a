"""Parts of a large image and its mask: both are read part by part from their files, and counted once, in one pass.

An image of more than `LARGE_PX` pixels is trained on as parts of at most `PART_PX` pixels a side, each an image of its
own: the size alone decides this, never the memory, so that every limit of memory gives the same training.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import NormalizeSettings, sample_intensities
from septum.errors import DataError
from septum.io.formats import format_path
from septum.io.image import Image
from septum.threads import map_in_threads
from septum.words import format_bytes

Box = tuple[slice, ...]

LARGE_PX = 1 << 24
"""Pixels of Y and X together above which an image is read, checked and trained on in parts."""

PART_PX = 1536
"""Largest side of a part, in pixels."""

BYTES_OF_VALUE = 60
"""Bytes that the check takes for each value of an image that is read whole, about."""

# A mask is checked in this many windows of this side, and in more where it has few values.
_WINDOWS, _WINDOW_PX, _FEW_VALUES = 4, 1024, 32
# An image of this many values is never refused.
_SMALL = 1 << 22


@dataclass(frozen=True, eq=False)
class Part:
    """Figures of one part.

    Attributes
    ----------
    box
        Its rows and columns in the image.
    values, counts, places
        ``(n,)`` int64 each: values of the mask as stored, rising; their numbers of pixels, 1 or more; and the
        scan-order index in the part of a pixel of each.
    low, high
        ``(C,)`` float64: smallest and largest finite intensity of each channel; not a number where none is finite.
    holes
        Number of intensities that are not finite.
    digests
        Hash of the pixels of the image, and of those of the mask.
    """

    box: Box
    values: NDArray[np.int64]
    counts: NDArray[np.int64]
    places: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    holes: int
    digests: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Survey:
    """Figures of a large image and its mask, from one pass over all parts.

    Attributes
    ----------
    parts
        In scan order.
    sampled
        ``(C, n)`` in the dtype of the image, any intensities: the pixels, spread over the whole image, from which its
        statistics are computed (`septum.arrays.normalize.sample_intensities`), in scan order.
    """

    parts: tuple[Part, ...]
    sampled: NDArray[Any]

    @property
    def low(self) -> NDArray[np.float64]:
        """Smallest finite intensity of each channel, ``(C,)`` float64."""
        return np.asarray(np.fmin.reduce([part.low for part in self.parts]))

    @property
    def high(self) -> NDArray[np.float64]:
        """Largest finite intensity of each channel, ``(C,)`` float64."""
        return np.asarray(np.fmax.reduce([part.high for part in self.parts]))

    @property
    def holes(self) -> int:
        """Number of intensities that are not finite."""
        return sum(part.holes for part in self.parts)

    @property
    def values(self) -> NDArray[np.int64]:
        """All values of the mask, ``(n,)`` int64, rising."""
        return np.unique(np.concatenate([part.values for part in self.parts]))

    @property
    def digests(self) -> tuple[str, str]:
        """Hash of all pixels of the image, and of those of the mask."""
        image, mask = ("".join(part.digests[k] for part in self.parts) for k in (0, 1))
        return _hashed(image.encode()), _hashed(mask.encode())


def is_large(image: Image) -> bool:
    """Return True if an image is read in parts: one plane of more than `LARGE_PX` pixels, whose file is read lazily."""
    return image.lazy and image.axes == "CYX" and math.prod(image.shape[1:]) > LARGE_PX


def require_room(image: Image, limit_bytes: int | None) -> None:
    """Raise `DataError` if an image that is read whole does not fit into the memory for arrays."""
    needed = math.prod(image.shape) * BYTES_OF_VALUE
    if limit_bytes is not None and needed > max(limit_bytes, _SMALL * BYTES_OF_VALUE):
        sides = " x ".join(map(str, image.shape[1:]))
        raise DataError(
            f"{format_path(image.name)}: {sides} pixels take about {format_bytes(needed)} when they are read whole, "
            f"and {format_bytes(limit_bytes)} are left for images",
            "an image that fits, or one plane and its mask of whole numbers as OME-Zarr or TIFF in tiles: they are "
            "read in parts",
            "save image and mask in such a format, or give more memory with --max-memory",
        )


def refusal(image: Image, mask: Image) -> str:
    """Return why a large image and its mask cannot be read in parts, as a phrase; ``""`` if they can."""
    if not mask.lazy:
        return "its mask is of a format that is read whole"
    if mask.axes != "CYX" or mask.shape[0] != 1 or mask.dtype.kind not in "biu":
        return "its mask does not hold whole numbers in one channel"
    if mask.shape[1:] != image.shape[1:]:
        return "its mask has other sides"
    if image.affine is not None or mask.affine is not None or (image.orientation, mask.orientation) != (1, 1):
        return "image or mask is stored turned or with an affine"
    return ""


def boxes(sides: Sequence[int]) -> list[Box]:
    """Divide an image into parts of nearly equal sides, `PART_PX` at most, in scan order."""
    numbers = [-(-side // PART_PX) for side in sides]
    cuts = [[side * k // n for k in range(n + 1)] for side, n in zip(sides, numbers, strict=True)]
    return [
        tuple(slice(ends[k], ends[k + 1]) for ends, k in zip(cuts, place, strict=True))
        for place in product(*map(range, numbers))
    ]


def survey(image: Image, mask: Image) -> Survey:
    """Read all parts of a large image and its mask once, in threads, and compute their figures.

    Raises
    ------
    FileError
        If a piece of a file is damaged.
    """
    sides = image.shape[1:]

    def measure(box: Box) -> tuple[Part, NDArray[Any], NDArray[np.int64]]:
        pixels, labels = image[(slice(None), *box)], mask[(0, *box)]
        values, places = sample_intensities(pixels, [s.start for s in box], sides, NormalizeSettings())
        digests = tuple(_hashed(f"{array.dtype} {array.shape}".encode(), array.data) for array in (pixels, labels))
        return Part(box, *_counted(labels), *_limits(pixels), (digests[0], digests[1])), values, places

    measured = map_in_threads(measure, boxes(sides))
    order = np.argsort(np.concatenate([places for _, _, places in measured]), kind="stable")
    sampled = np.concatenate([values for _, values, _ in measured], axis=1)[:, order]
    return Survey(tuple(part for part, _, _ in measured), sampled)


def _hashed(*data: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for one in data:
        digest.update(one)
    return digest.hexdigest()


def windows(figures: Survey, sides: Sequence[int]) -> list[Box]:
    """Choose the windows in which the mask of a large image is checked, all of the same size.

    They lie in the middle of parts that are evenly spread; where the mask holds few values, each of them, and 0, is in
    at least one of the windows.
    """
    side = [min(n, _WINDOW_PX) for n in sides]
    chosen = np.unique(np.linspace(0, len(figures.parts) - 1, _WINDOWS + 2).round().astype(int)[1:-1]).tolist()
    held = set().union(*(figures.parts[i].values.tolist() for i in chosen))
    middles = [[(s.start + s.stop) // 2 for s in figures.parts[i].box] for i in chosen]
    every = figures.values.tolist()
    wanted = every if len(every) <= _FEW_VALUES else [0, -1]
    for value in (v for v in wanted if v in every):
        best = max(figures.parts, key=lambda part: int(part.counts[part.values == value].sum()))
        if len(every) <= _FEW_VALUES or value not in held:
            at = int(best.places[best.values == value][0])
            inside = np.unravel_index(at, [s.stop - s.start for s in best.box])
            middles.append([s.start + int(p) for s, p in zip(best.box, inside, strict=True)])
    starts = [
        tuple(max(0, min(m - w // 2, n - w)) for m, w, n in zip(middle, side, sides, strict=True)) for middle in middles
    ]
    return [tuple(slice(a, a + w) for a, w in zip(start, side, strict=True)) for start in dict.fromkeys(starts)]


def _counted(labels: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each value; along rows a value lies in runs, which are few and are counted instead."""
    flat = labels.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    values, first, owner = np.unique(flat[starts].astype(np.int64), return_index=True, return_inverse=True)
    counts = np.bincount(owner.reshape(-1), weights=lengths).astype(np.int64)
    return values, counts, starts[first].astype(np.int64)


def _limits(pixels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return the smallest and largest finite value of each channel, and the number of values that are not finite."""
    flat = pixels.reshape(len(pixels), -1)
    finite = np.isfinite(flat) if flat.dtype.kind == "f" else None
    if finite is None or finite.all():
        return flat.min(axis=1).astype(np.float64), flat.max(axis=1).astype(np.float64), 0
    kept = [row[known] for row, known in zip(flat, finite, strict=True)]
    ends = np.array([(row.min(), row.max()) if row.size else (np.nan, np.nan) for row in kept], np.float64)
    return ends[:, 0], ends[:, 1], int(flat.size - np.count_nonzero(finite))
