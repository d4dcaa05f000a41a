"""Read one pair after another and keep figures only: what `septum check` judges and training plans by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.agreement import Agreement, agreement, turned
from septum.arrays.census import Census, census
from septum.arrays.mend import Labels, fill_holes, read_labels
from septum.arrays.targets import IGNORE
from septum.errors import SeptumError

if TYPE_CHECKING:
    from pathlib import Path

    from septum.io.images import Image
    from septum.io.pairs import Pair

# Percentiles and brightness come from a regular sample of this many pixels per channel.
_SAMPLE = 1_000_000

LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class ImageFacts:
    """Figures of one image file.

    Attributes
    ----------
    dtype, axes, frames, sides, channels
        As read: ``sides`` without T and C, in pixels, ``(Y, X)`` or ``(Z, Y, X)``; ``frames`` is the length of T.
    low, high, mean, percentiles
        Over all finite pixels and channels, in the file's units; percentiles 1, 50 and 99.
    holes
        Values that are NaN or infinite.
    constant
        All finite values are equal.
    spare
        The last of several channels is constant (an alpha channel that hides nothing).
    spacing_um
        Micrometers per pixel along `sides`; None if unknown.
    digest
        Of shape and values: equal images have equal digests.
    """

    dtype: str
    axes: str
    frames: int
    sides: tuple[int, ...]
    channels: int
    low: float
    high: float
    mean: float
    percentiles: tuple[float, float, float]
    holes: int
    constant: bool
    spare: bool
    spacing_um: tuple[float, ...] | None
    digest: str


@dataclass(frozen=True)
class MaskFacts:
    """Figures of one mask file: as `ImageFacts`, and one census per frame.

    Attributes
    ----------
    mends
        Codes of `septum.arrays.mend.Labels`.
    problem
        Why it cannot be read as labels; ``""`` if it can.
    agreement
        How outlines and edges agree, in the first frame that has labels; None for volumes.
    turned
        Y and X are swapped, and rotated by 90 degrees it would fit better than transposed.
    ignored
        Values that were asked to mean not annotated and are in the mask.
    """

    dtype: str
    axes: str
    frames: int
    sides: tuple[int, ...]
    channels: int
    mends: tuple[str, ...]
    problem: str
    census: tuple[Census, ...]
    agreement: Agreement | None
    turned: bool
    digest: str
    ignored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Item:
    """One image with its truth, and what was found in the files.

    Attributes
    ----------
    name, group, position, image
        As in `septum.io.pairs.Pair`.
    masks, golds
        Files of truth, each with the Z slice that it is (None: all of the image).
    image_facts, mask_facts
        Figures; None if the file could not be read. Of several masks (slices) the first.
    unreadable
        Files that could not be read, with the reason.
    binary
        Frames whose objects are the connected pieces of one value, although the data set has ids.
    """

    name: str
    group: str
    position: int
    image: Path
    masks: tuple[tuple[Path, int | None], ...]
    golds: tuple[tuple[Path, int | None], ...]
    image_facts: ImageFacts | None = None
    mask_facts: MaskFacts | None = None
    unreadable: tuple[tuple[Path, str], ...] = ()
    binary: tuple[int, ...] = ()

    @property
    def mask(self) -> Path:
        """The first mask file."""
        return self.masks[0][0]

    @property
    def swapped(self) -> bool:
        """The mask has the image's sides with Y and X swapped, these differ, and transposing it is right."""
        image, mask = self.image_facts, self.mask_facts
        if image is None or mask is None or self.masks[0][1] is not None or image.sides == mask.sides or mask.turned:
            return False
        return (*mask.sides[:-2], mask.sides[-1], mask.sides[-2]) == image.sides


def items_of(pairs: Sequence[Pair]) -> Iterator[Item]:
    """Put together what belongs to one image (several gold slices of a volume), in the order of `pairs`."""
    for image, group in groupby(pairs, key=lambda pair: pair.image):
        same = list(group)
        masks = tuple((p.mask, p.gold_slice if p.mask == p.gold else None) for p in same if p.mask is not None)
        golds = tuple((p.gold, p.gold_slice) for p in same if p.gold is not None)
        if masks:
            yield Item(same[0].name, same[0].group, same[0].position, image, masks, golds)


def survey(item: Item, *, ignore: Sequence[int] = ()) -> Item:
    """Read the files of an item, one after the other, and add the figures; `ignore` as in `read_mask`."""
    from septum.io.images import read_image

    unreadable: list[tuple[Path, str]] = []
    image_facts = mask_facts = None
    frames: NDArray[Any] | None = None
    try:
        image = read_image(item.image)
        frames = image_frames(image)
        image_facts = _image_facts(image, frames)
    except SeptumError as error:
        unreadable.append((item.image, error.given))
    try:
        mask_facts = _mask_facts(item.mask, image_facts.axes if image_facts else "", frames, ignore)
    except SeptumError as error:
        unreadable.append((item.mask, error.given))
    golds = []
    for path, section in item.golds:
        try:
            if path != item.mask:
                read_image(path, labels=True)
            golds.append((path, section))
        except SeptumError as error:
            unreadable.append((path, error.given))
    return replace(
        item, image_facts=image_facts, mask_facts=mask_facts, golds=tuple(golds), unreadable=tuple(unreadable)
    )


def image_frames(image: Image) -> NDArray[Any]:
    """Return ``(T, C, *S)`` of the image's dtype; T is 1 where the image has none."""
    return image.array if "T" in image.axes else image.array[np.newaxis]


def mask_frames(mask: Image, axes: str) -> NDArray[Any]:
    """Return ``(T, C, *S)`` of the mask's dtype, with T and Z named as in the `axes` of its image.

    A stack of pages does not always say whether it goes through depth or time; a mask follows its image.
    """
    array = mask.array
    if "T" in mask.axes and "Z" not in mask.axes and "Z" in axes and "T" not in axes:
        return np.moveaxis(array, 0, 1)[np.newaxis]  # TCYX -> 1 C Z Y X
    if "Z" in mask.axes and "T" not in mask.axes and "T" in axes and "Z" not in axes:
        return np.moveaxis(array, 1, 0)  # CZYX -> T C Y X
    return image_frames(mask)


def read_mask(path: Path, axes: str, *, ignore: Sequence[int] = ()) -> tuple[Image, list[Labels]]:
    """Read a mask file as labels, one per frame.

    Parameters
    ----------
    path
        The file.
    axes
        Those of its image.
    ignore
        Values that mean not annotated, beside -1.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    from septum.io.images import read_image

    mask = read_image(path, labels=True)
    lossy = path.suffix.lower() in LOSSY
    return mask, [_without(read_labels(frame, lossy=lossy), ignore) for frame in mask_frames(mask, axes)]


def _without(labels: Labels, ignore: Sequence[int]) -> Labels:
    """Set the values that mean not annotated to `IGNORE`."""
    met = tuple(value for value in ignore if (labels.array == value).any())
    if not met:
        return labels
    return replace(labels, array=np.where(np.isin(labels.array, met), np.int32(IGNORE), labels.array), ignored=met)


def _image_facts(image: Image, frames: NDArray[Any]) -> ImageFacts:
    holes = 0
    if frames.dtype.kind == "f":
        holes = frames.size - int(np.count_nonzero(np.isfinite(frames)))
    values = frames[np.isfinite(frames)] if holes else frames.reshape(-1)
    if not values.size:
        values = np.zeros(1)
    low, high = float(values.min()), float(values.max())
    sample = values[:: max(1, -(-values.size // _SAMPLE))].astype(np.float64)
    quantiles = np.quantile(sample, [0.01, 0.5, 0.99])
    spatial = [a for a in image.axes if a in "ZYX"]
    sizes = [image.pixel_size_um.get(a) for a in spatial]
    last = frames[:, -1]
    return ImageFacts(
        dtype=str(frames.dtype),
        axes=image.axes,
        frames=frames.shape[0],
        sides=frames.shape[2:],
        channels=frames.shape[1],
        low=low,
        high=high,
        mean=float(values.mean(dtype=np.float64)),
        percentiles=(float(quantiles[0]), float(quantiles[1]), float(quantiles[2])),
        holes=holes,
        constant=low == high,
        spare=frames.shape[1] > 1 and bool(last.min() == last.max()),
        spacing_um=None if None in sizes else tuple(float(s) for s in sizes if s is not None),
        digest=_digest(frames),
    )


def _mask_facts(path: Path, axes: str, images: NDArray[Any] | None, ignore: Sequence[int]) -> MaskFacts:
    mask, labels = read_mask(path, axes, ignore=ignore)
    frames = mask_frames(mask, axes)
    problem = next((found.problem for found in labels if found.problem), "")
    fits = images is not None and images.shape[0] == len(labels) and images.shape[2:] == frames.shape[2:]
    counted = []
    for number, found in enumerate(labels if not problem else ()):
        image = fill_holes(images[number]) if fits and images is not None else None
        counted.append(census(found.array, image))
    agreed, is_turned = _agreement(labels, images) if not problem else (None, False)
    return MaskFacts(
        dtype=str(frames.dtype),
        axes=mask.axes,
        frames=len(labels),
        sides=frames.shape[2:],
        channels=frames.shape[1],
        mends=tuple(sorted({code for found in labels for code in found.mends})),
        problem=problem,
        census=tuple(counted),
        agreement=agreed,
        turned=is_turned,
        digest=_digest(frames),
        ignored=tuple(sorted({value for found in labels for value in found.ignored})),
    )


def _agreement(labels: Sequence[Labels], images: NDArray[Any] | None) -> tuple[Agreement | None, bool]:
    """Compare the first frame that has labels with its image; see `MaskFacts`."""
    if images is None or images.ndim != 4 or len(labels) != len(images):
        return None, False
    number = next((n for n, found in enumerate(labels) if found.array.max(initial=0) > 0), None)
    if number is None:
        return None, False
    image, mask = fill_holes(images[number]), labels[number].array
    if mask.shape == image.shape[1:]:
        return agreement(image, mask), False
    swapped = mask.shape == image.shape[:0:-1]
    return None, swapped and turned(image, mask)


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
