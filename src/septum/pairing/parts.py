"""Parts of a large image and its mask: both are read part by part from their files, and counted once, in one pass.

An image of more than `LARGE_PX` pixels is trained on as parts of at most `PART_PX` pixels a side, each an image of its
own: the size alone decides this, never the memory, so that every limit of memory gives the same training. Volumes, and
images that can only be read whole, are trained on whole; in validation and tuning they are judged in parts as well.
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
from septum.arrays.targets import UNANNOTATED
from septum.errors import DataError
from septum.io.formats import format_path
from septum.io.image import Image
from septum.kept import KeptValues
from septum.pairing.sample import Sample, Source, StoredSample, WholeSample
from septum.threads import map_in_threads
from septum.words import format_bytes

Box = tuple[slice, ...]

LARGE_PX = 1 << 24
"""Pixels of Y and X together above which an image is read, checked and trained on in parts."""

PART_PX = 1536
"""Largest side of a part, in pixels; the pixels of a part are no more than those of a square of this side."""

LEAST_PART = 1 << 18
"""Parts that are judged are not made smaller than about this number of pixels, however short the time is."""

BYTES_OF_VALUE = 60
"""Bytes that the check takes for each value of an image that is read whole, about."""

# Most files hold pieces of this side, or of a half or a quarter of it.
_PIECE_PX = 512

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


def boxes(sides: Sequence[int], most_px: int | None = None) -> list[Box]:
    """Divide an image or a volume into parts of similar sides, in scan order.

    Parts as large as `PART_PX` begin at multiples of 512 pixels, so that pieces of 512, 256 or 128 pixels of a file are
    decoded for one part only.

    Parameters
    ----------
    sides
        Sides of the image in pixels.
    most_px
        Pixels of a part, at most; None: those of a square of the side `PART_PX`. No side of a part is longer than that.
    """
    longest = min(PART_PX, longest_side(sides, most_px or PART_PX**2))
    numbers = [-(-side // longest) for side in sides]
    step = _PIECE_PX if longest == PART_PX and PART_PX % _PIECE_PX == 0 else 1
    cuts = [
        [*(-(-side * k // n // step) * step for k in range(n)), side] for side, n in zip(sides, numbers, strict=True)
    ]
    return [
        tuple(slice(ends[k], ends[k + 1]) for ends, k in zip(cuts, place, strict=True))
        for place in product(*map(range, numbers))
    ]


def longest_side(sides: Sequence[int], most_px: int) -> int:
    """Return the longest side that keeps a part of an image or a volume within a number of pixels, 1 or more."""
    longest = max(sides)
    while longest > 1 and math.prod(min(side, longest) for side in sides) > most_px:
        longest -= 1
    return longest


def judged_parts(sample: Sample, *, objects: bool, affordable_px: int = LARGE_PX) -> tuple[Sample, ...]:
    """Divide a large image into parts that are judged one by one, in scan order; return a smaller one as it is.

    Place and size alone decide the parts. Each is normalized as the whole image is.

    Parameters
    ----------
    sample
        The image.
    objects
        True if the mask holds object ids: small objects that a border between parts cuts are not annotated in them.
    affordable_px
        Pixels that there is time for at once. An image of no more, and of no more than `LARGE_PX`, is not divided, nor
        one of no more than a square of the side `PART_PX`. Parts have no more than this, or than `LEAST_PART`.
    """
    part_px = min(PART_PX**2, max(LEAST_PART, affordable_px))
    pixels = math.prod(sample.sides)
    if sample.whole is not None or pixels <= max(PART_PX**2, min(LARGE_PX, affordable_px)):
        return (sample,)
    whole, values = WholeSample(sample), KeptValues(limit_bytes=0)
    places = {_name(sample, box): box for box in boxes(sample.sides, part_px)}

    def read(name: str) -> Sample:
        held, box = sample.held(), places[name]
        mask, gold = (
            None if labels is None else _without_cut(labels, box) if objects else labels[box].copy()
            for labels in (held.mask, held.gold)
        )
        assert mask is not None
        # Copies: a part that is kept would otherwise keep the whole image in memory.
        return Sample(name, "", 0, held.image[(slice(None), *box)].copy(), mask, gold, held.spacing_um, whole=whole)

    return tuple(
        StoredSample(
            name=name,
            group=sample.group,
            position=sample.position,
            spacing_um=sample.spacing_um,
            copy_of=sample.copy_of,
            whole=whole,
            source=Source(read, values, tuple(s.stop - s.start for s in box), sample.channels),
        )
        for name, box in places.items()
    )


def describe_parts(samples: Sequence[Sample], most_scored: int) -> str:
    """Return a sentence about the parts from `judged_parts` among the samples; ``""`` if there are none."""
    parts = [sample.sides for sample in samples if isinstance(sample.whole, WholeSample)]
    if not parts:
        return ""
    sides = " x ".join(map(str, max(parts, key=math.prod)))
    return (
        f"large held-out images are scored in {len(parts)} parts of up to {sides} pixels, without small objects that a "
        f"border cuts; a validation scores {min(most_scored, len(samples))} images and parts, evenly chosen"
    )


def _name(sample: Sample, box: Box) -> str:
    """Return the name of a part: that of the image and the place of the first pixel, as in ``cells_y01024_x00512``."""
    axes = "zyx"[-len(box) :]
    return sample.name + "".join(f"_{axis}{side.start:05d}" for axis, side in zip(axes, box, strict=True))


def _without_cut(labels: NDArray[np.int32], box: Box) -> NDArray[np.int32]:
    """Return a part of a mask of object ids in which small objects that continue outside are not annotated.

    Small are those that extend over less than half of the part along each axis that is divided: of larger ones hardly
    any would be left whole.
    """
    part, touching = labels[box].copy(), [np.zeros(0, labels.dtype)]
    for axis, side in enumerate(box):
        for inside, outside in ((side.start, side.start - 1), (side.stop - 1, side.stop)):
            if 0 <= outside < labels.shape[axis]:
                here, there = (labels[(*box[:axis], place, *box[axis + 1 :])] for place in (inside, outside))
                touching.append(here[(here == there) & (here > 0)])
    cut = np.unique(np.concatenate(touching))
    if not cut.size:
        return part
    places = np.nonzero(np.isin(part, cut))
    owner, small = np.searchsorted(cut, part[places]), np.ones(cut.size, np.bool_)
    for along, own, whole in zip(places, part.shape, labels.shape, strict=True):
        low, high = np.full(cut.size, own), np.zeros(cut.size, np.int64)
        np.minimum.at(low, owner, along)
        np.maximum.at(high, owner, along)
        small &= (own == whole) | (2 * (high - low + 1) < own)
    part[places] = np.where(small[owner], UNANNOTATED, part[places])
    return part


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
        runs = _runs(labels)
        digests = _hashed(_header(pixels), pixels.data), _hashed(_header(labels), *(array.data for array in runs))
        return Part(box, *_counted(*runs, labels.size), *_limits(pixels), digests), values, places

    measured = map_in_threads(measure, boxes(sides))
    order = np.argsort(np.concatenate([places for _, _, places in measured]), kind="stable")
    sampled = np.concatenate([values for _, values, _ in measured], axis=1)[:, order]
    return Survey(tuple(part for part, _, _ in measured), sampled)


def _header(array: NDArray[Any]) -> bytes:
    return f"{array.dtype} {array.shape}".encode()


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


def _runs(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return where runs of one value begin along the scan, and their values: both describe the whole mask."""
    flat = labels.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return starts, flat[starts]


def _counted(
    starts: NDArray[np.int64], values_of_runs: NDArray[Any], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each value of a mask of `size` pixels, and find its first one, from `_runs`."""
    lengths = np.diff(starts, append=size)
    values, first, owner = np.unique(values_of_runs.astype(np.int64), return_index=True, return_inverse=True)
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
