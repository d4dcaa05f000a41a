"""Read one pair after another and keep figures only: what `septum check` judges and training plans by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.intensity_profile import intensity_curve, thumbnail
from septum.arrays.targets import UNANNOTATED
from septum.check.boundary_agreement import Agreement, Turned, agreement, best_orientation, turned
from septum.check.census import census
from septum.check.masks import Labels, fill_holes, read_labels
from septum.check.placement import Placement, orientations
from septum.check.split_ids import set_apart
from septum.check.statistics import ImageFacts, MaskFacts, PairStatistics
from septum.errors import SeptumError

if TYPE_CHECKING:
    from pathlib import Path

    from septum.io.image import Image
    from septum.pairing.find import Pair

# Percentiles and brightness come from a regular sample of this many pixels per channel.
_SAMPLE = 1_000_000

_FRAMES = 8  # of a stack are compared with their masks
_MOST_CHANNELS = 5  # that are taken for channels although the file says pages
_CLEARLY = 1.15  # times the contrast of the next best order of axes


def items_of(pairs: Sequence[Pair]) -> Iterator[PairStatistics]:
    """Put together what belongs to one image (several gold slices of a volume), in the order of `pairs`."""
    for image, group in groupby(pairs, key=lambda pair: pair.image):
        same = list(group)
        masks = tuple((p.mask, p.gold_slice if p.mask == p.gold else None) for p in same if p.mask is not None)
        golds = tuple((p.gold, p.gold_slice) for p in same if p.gold is not None)
        if masks:
            first = same[0]
            yield PairStatistics(first.name, first.group, first.position, image, masks, golds, field=first.field)


def survey(item: PairStatistics, *, ignore: Sequence[int] = ()) -> PairStatistics:
    """Read the files of an item, one after the other, and add the figures; `ignore` as in `read_mask`."""
    from septum.io.open import read_image

    unreadable: list[tuple[Path, str]] = []
    image_facts = mask_facts = None
    frames: NDArray[Any] | None = None
    try:
        image = read_image(item.image, axes=item.axes)
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


def with_channels(items: Sequence[PairStatistics], *, ignore: Sequence[int] = ()) -> list[PairStatistics]:
    """Read images again as channels whose pages are no pages: in all pairs alike the mask has one page.

    Files that name no axes are read as pages. So many of them as there are in every image, and a mask of one page for
    them all, are channels: first or last of the dimensions.
    """
    wanted = {_channel_axes(item) for item in items if item.image_facts and item.mask_facts}
    if len(items) < 2 or len(wanted) != 1 or None in wanted:
        return list(items)
    axes = next(w[0] for w in wanted if w is not None)
    return [survey(replace(item, axes=axes), ignore=ignore) if item.image_facts else item for item in items]


def _channel_axes(item: PairStatistics) -> tuple[str, int] | None:
    """Return the axes that make channels of an image's pages, and their number; None if they are no channels."""
    image, mask = item.image_facts, item.mask_facts
    if image is None or mask is None or image.axes != "TCYX" or image.channels > 1 or mask.axes != "CYX":
        return None
    if image.sides == mask.sides and image.frames <= _MOST_CHANNELS:
        return "CYX", image.frames
    if (image.frames, image.sides[0]) == mask.sides and image.sides[1] <= _MOST_CHANNELS:
        return "YXC", image.sides[1]
    return None


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
    from septum.io.open import read_image
    from septum.pairing.object_folders import is_object_folder, read_object_masks

    mask = read_object_masks(path) if is_object_folder(path) else read_image(path, labels=True)
    return mask, [_without(read_labels(frame, lossy=is_lossy(path)), ignore) for frame in mask_frames(mask, axes)]


def is_lossy(path: Path) -> bool:
    """Return True if the format of a file changes the values that are saved."""
    from septum.io.formats import format_of

    kind = format_of(path.name)
    return kind is not None and kind.lossy


def _without(labels: Labels, ignore: Sequence[int]) -> Labels:
    """Set the values that mean not annotated to `UNANNOTATED`."""
    met = tuple(value for value in ignore if (labels.array == value).any())
    if not met:
        return labels
    return replace(labels, array=np.where(np.isin(labels.array, met), np.int32(UNANNOTATED), labels.array), ignored=met)


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
    flat = tuple(c for c in range(frames.shape[1]) if frames[:, c].min() == frames[:, c].max())
    last = frames.shape[1] - 1
    filled = frames if not holes else np.stack([fill_holes(frame) for frame in frames])
    curve, levels = intensity_curve(np.moveaxis(filled, 1, 0))
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
        spare=last in (1, 3) and last in flat and bool(frames[:, last].any()),
        flat=flat,
        spacing_um=None if None in sizes else tuple(float(s) for s in sizes if s is not None),
        digest=_digest(frames),
        curve=tuple(curve.ravel().tolist()),
        levels=levels,
        thumbnail=thumbnail(filled[0]) if len(frames) == 1 else (),
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
    agreed = _agreements(labels, images) if fits and images is not None and not problem else ()
    orientation = reorder = None
    is_turned = False
    if images is not None and images.shape[0] == len(labels) and not problem:
        orientation = _orientation(labels, images)
        swapped = images.ndim == 4 and images.shape[2:] == frames.shape[:1:-1] != frames.shape[2:]
        is_turned = swapped and _turned(labels, images)
        reorder = None if is_turned else _reorder(frames.shape[2:], images.shape[2:], orientation)
    ids = [found.array for found, c in zip(labels, counted, strict=False) if c.split and c.pieces <= 4 * len(c.values)]
    apart = {i for array in ids for i in set_apart(array)[1]}
    return MaskFacts(
        dtype=str(frames.dtype),
        axes=mask.axes,
        frames=len(labels),
        sides=frames.shape[2:],
        channels=frames.shape[1],
        mends=tuple(sorted({code for found in labels for code in found.mends})),
        problem=problem,
        census=tuple(counted),
        agreements=agreed,
        orientation=orientation,
        reorder=reorder,
        turned=is_turned,
        apart=tuple(sorted(apart)),
        digest=_digest(frames),
        ignored=tuple(sorted({value for found in labels for value in found.ignored})),
    )


def _labeled(labels: Sequence[Labels]) -> list[int]:
    """Return up to eight of the frames that have labels, evenly spread."""
    numbers = [n for n, found in enumerate(labels) if found.array.max(initial=0) > 0]
    return [numbers[i] for i in np.unique(np.linspace(0, len(numbers) - 1, _FRAMES).round().astype(int)) if numbers]


def _agreements(labels: Sequence[Labels], images: NDArray[Any]) -> tuple[Agreement, ...]:
    if images.ndim != 4:
        return ()
    found = (agreement(fill_holes(images[n]), labels[n].array) for n in _labeled(labels))
    return tuple(a for a in found if a is not None)


def _orientation(labels: Sequence[Labels], images: NDArray[Any]) -> Turned | None:
    """Return the best order of axes of the first frame that has labels; None for images."""
    if images.ndim != 5 or not (numbers := _labeled(labels)):
        return None
    return best_orientation(fill_holes(images[numbers[0]]), labels[numbers[0]].array)


def _turned(labels: Sequence[Labels], images: NDArray[Any]) -> bool:
    numbers = _labeled(labels)
    return bool(numbers) and turned(fill_holes(images[numbers[0]]), labels[numbers[0]].array)


def _reorder(mask: tuple[int, ...], image: tuple[int, ...], orientation: Turned | None) -> Placement | None:
    """Return the order of axes that gives the image's sides, if there is one only or one is clearly the best."""
    if mask == image or len(mask) != len(image):
        return None
    orders = list({p.order: p for p in orientations(mask, image)}.values())
    if len(orders) > 1 and orientation is not None and orientation.contrast > _CLEARLY * orientation.other:
        return orientation.placement
    return orders[0] if len(orders) == 1 else None


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
