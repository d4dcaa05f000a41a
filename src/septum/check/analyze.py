"""Read each pair once and compute its statistics, from which issues are detected and training is planned."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import finite_pixels, intensity_curve, quantiles
from septum.check.alignment import find_order
from septum.check.boundary_agreement import (
    Agreement,
    BestOrientation,
    best_orientation,
    is_rotated,
    measure_agreement,
)
from septum.check.census import census
from septum.check.comparisons import thumbnail
from septum.check.images import fill_holes, kind_of_planes, page_axes
from septum.check.masks import Labels, read_labels
from septum.check.reading import Files, image_frames
from septum.check.split_ids import separate_split_ids
from septum.check.statistics import ImageStatistics, MaskStatistics, PairStatistics
from septum.errors import SeptumError, UsageError
from septum.io.annotations.formats import is_drawn
from septum.io.image import Image
from septum.io.tiff import stated_kind
from septum.pairing.fit import Grid, disagreement, grid_of, orientation_codes
from septum.pairing.object_folders import is_object_folder
from septum.pairing.pair import Pair
from septum.pairing.parts import Survey, is_large, refusal, survey, windows
from septum.threads import map_in_threads

_SAMPLE = 1_000_000  # percentiles come from a regular sample of this many values
_FRAMES = 8  # of a stack are compared with their masks


def analyze_all(pairs: Sequence[Pair], files: Files) -> list[PairStatistics]:
    """Read all pairs and compute their statistics; pages that files misname are read as `page_axes` says."""
    analyzed = map_in_threads(lambda pair: analyze(pair, files), group_by_image(pairs))
    axes = page_axes(analyzed) if files.axes is None else None
    if axes is None:
        return analyzed
    files.release_labels()

    def again(pair: PairStatistics) -> PairStatistics:
        return analyze(replace(pair, named_axes=axes), files) if pair.image_stats else pair

    return map_in_threads(again, analyzed)


def group_by_image(pairs: Sequence[Pair]) -> Iterator[PairStatistics]:
    """Yield one entry per image, in the order of `pairs`; several gold slices of a volume belong to one image."""
    for image, group in groupby(pairs, key=lambda pair: pair.image):
        same = list(group)
        masks = tuple((p.mask, p.gold_slice if p.mask == p.gold else None) for p in same if p.mask is not None)
        golds = tuple((p.gold, p.gold_slice) for p in same if p.gold is not None)
        if masks:
            first = same[0]
            yield PairStatistics(first.name, first.group, first.position, image, masks, golds, field=first.field)


def analyze(pair: PairStatistics, files: Files) -> PairStatistics:
    """Read the files of a pair and add their statistics."""
    unreadable: list[tuple[Path, str]] = []
    image_stats = mask_stats = None
    frames: NDArray[Any] | None = None
    try:
        image = files.image(pair.image, pair.named_axes)
        if is_large(image):
            if (in_parts := _analyze_in_parts(pair, image, files)) is not None:
                return in_parts
            image = files.load(pair.image)
        frames = image_frames(image)
        with files.in_turn(frames.size):
            image_stats = _image_statistics(image, frames)
    except SeptumError as error:
        unreadable.append((pair.image, _reason(error)))
    try:
        if image_stats is not None or not is_drawn(pair.mask):
            with files.in_turn(0 if frames is None else frames.size):
                mask_stats = _mask_statistics(pair.mask, image_stats.grid if image_stats else None, frames, files)
    except SeptumError as error:
        unreadable.append((pair.mask, _reason(error)))
    golds = []
    for path, section in pair.golds:
        try:
            if path != pair.mask:
                files.mask(path)
            golds.append((path, section))
        except SeptumError as error:
            unreadable.append((path, _reason(error)))
    return replace(
        pair, image_stats=image_stats, mask_stats=mask_stats, golds=tuple(golds), unreadable=tuple(unreadable)
    )


def analyze_mask(pair: PairStatistics, files: Files) -> PairStatistics:
    """Compute the statistics of the mask of a pair again, after `Files.interpret`."""
    if pair.mask_stats is None:
        return pair
    if pair.survey is not None:
        image = files.image(pair.image, pair.named_axes)
        return replace(pair, mask_stats=_mask_statistics_in_parts(pair, pair.survey, image, files))
    frames = image_frames(files.image(pair.image, pair.named_axes)) if pair.image_stats else None
    with files.in_turn(0 if frames is None else frames.size):
        return replace(pair, mask_stats=_mask_statistics(pair.mask, pair.grid, frames, files))


def _analyze_in_parts(pair: PairStatistics, image: Image, files: Files) -> PairStatistics | None:
    """Compute the statistics of a large pair part by part; None if it has to be read whole."""
    other = is_drawn(pair.mask) or is_object_folder(pair.mask)
    if other or pair.is_sliced or pair.field is not None or any(path != pair.mask for path, _ in pair.golds):
        return None
    mask = files.stored_mask(pair.mask)
    if refusal(image, mask):
        return None
    with files.in_turn(math.prod(image.shape)):
        figures = survey(image, mask)
        if not -1 <= figures.values[0] <= figures.values[-1] <= np.iinfo(np.int32).max:
            return None
        stats = _image_statistics(image, figures.sampled[None], figures)
        pair = replace(pair, survey=figures, image_stats=stats)
        found = _mask_statistics_in_parts(pair, figures, image, files)
    return None if found is None else replace(pair, mask_stats=found)


def _mask_statistics_in_parts(
    pair: PairStatistics, figures: Survey, image: Image, files: Files
) -> MaskStatistics | None:
    """Compute the statistics of the mask of a large image in some windows; None if its values need a repair."""
    mask, zeros = files.stored_mask(pair.mask), bool((figures.values == 0).any())
    counted, agreements = [], []
    for window in windows(figures, image.shape[1:]):
        read = read_labels(mask[(slice(None), *window)])
        if read.problem or read.mends:
            return None
        labels, pixels = files.interpreted(read.array, zeros=zeros), fill_holes(image[(slice(None), *window)])
        counted.append(replace(census(labels, pixels), stated=stated_kind(mask)))
        agreements.append(measure_agreement(pixels, labels))
    met = {value for value in files.ignore if (figures.values == value).any()}
    background = files.background if files.background is not None else 0 if zeros else files.found_background
    filled = [c for c in counted if c.values]
    return MaskStatistics(
        dtype=str(mask.dtype),
        axes=mask.axes,
        frames=1,
        sides=mask.shape[1:],
        channels=1,
        mends=(),
        restored=False,
        problem="",
        census=tuple(filled or counted[:1]),
        agreements=tuple(a for a in agreements if a is not None)[:_FRAMES],
        orientation=None,
        reorder=None,
        likely_order=None,
        rotated=False,
        split_ids=(),
        digest=figures.digests[1],
        ignored=tuple(sorted(met)),
        background=background if (figures.values == background).any() else 0,
    )


def _reason(error: SeptumError) -> str:
    """Return why a file cannot be read; raise the error again if an option is the reason."""
    if isinstance(error, UsageError):
        raise error
    return error.given


def _image_statistics(image: Image, frames: NDArray[Any], parts: Survey | None = None) -> ImageStatistics:
    """Compute the statistics of an image from its frames; with `parts` of pixels ``(1, C, n)`` spread over it."""
    holes = 0
    if frames.dtype.kind == "f":
        holes = frames.size - int(np.count_nonzero(finite_pixels(frames)))
    values = frames[finite_pixels(frames)] if holes else frames.reshape(-1)
    if not values.size:
        values = np.zeros(1)
    if parts is None:
        low, high = float(values.min()), float(values.max())
        flat = tuple(c for c in range(frames.shape[1]) if frames[:, c].min() == frames[:, c].max())
    else:
        ends = [end for end in (*parts.low, *parts.high) if np.isfinite(end)] or [0.0]
        low, high, holes = float(min(ends)), float(max(ends)), parts.holes
        flat = tuple(np.flatnonzero(parts.low == parts.high).tolist())
    inner = quantiles(values[:: max(1, -(-values.size // _SAMPLE))], (0.01, 0.5, 0.99))
    sizes = [image.pixel_size_um.get(a) for a in image.axes if a in "ZYX"]
    last = frames.shape[1] - 1
    spare = last in (1, 3) and last in flat and bool(frames[:, last].any())
    filled = frames if not holes else np.stack([fill_holes(frame) for frame in frames])
    curve, levels = intensity_curve(np.moveaxis(filled, 1, 0))
    return ImageStatistics(
        dtype=str(frames.dtype),
        axes=image.axes,
        frames=frames.shape[0],
        sides=frames.shape[2:] if parts is None else image.shape[1:],
        channels=frames.shape[1],
        low=low,
        high=high,
        mean=float(values.mean(dtype=np.float64)),
        percentiles=(float(inner[0]), float(inner[1]), float(inner[2])),
        holes=holes,
        constant=low == high,
        spare=spare,
        gray=_is_gray(frames, spare=spare),
        flat=flat,
        spacing_um=None if None in sizes else tuple(float(s) for s in sizes if s is not None),
        digest=_digest(frames) if parts is None else parts.digests[0],
        curve=tuple(curve.ravel().tolist()),
        levels=levels,
        thumbnail=thumbnail(filled[0]) if len(frames) == 1 and parts is None else (),
        file_axes=image.file_axes,
        affine=image.affine,
        orientation=image.orientation,
        full_sides=image.full_sides,
        stated=image.stated,
    )


def _mask_statistics(path: Path, grid: Grid | None, images: NDArray[Any] | None, files: Files) -> MaskStatistics:
    mask, changes = files.fitted(path, grid)
    labels, frames = files.labels(path, grid), image_frames(mask)
    stored, kind = files.mask(path, grid).affine, stated_kind(files.mask(path, grid))
    problem = next((frame.problem for frame in labels if frame.problem), "")
    readable = labels if not problem else []
    comparable = images is not None and images.shape[0] == len(readable)
    fits = comparable and images is not None and images.shape[2:] == frames.shape[2:]
    counted = tuple(
        replace(census(frame.array, fill_holes(images[number]) if fits and images is not None else None), stated=kind)
        for number, frame in enumerate(readable)
    )
    orientation = reorder = likely_order = None
    rotated = False
    if comparable and images is not None:
        orientation = _orientation(readable, images)
        swapped = images.ndim == 4 and images.shape[2:] == frames.shape[:1:-1] != frames.shape[2:]
        rotated = swapped and _is_rotated(readable, images)
        if not rotated:
            reorder, likely_order = find_order(frames.shape[2:], images.shape[2:], orientation)
    in_pieces = [f.array for f, c in zip(readable, counted, strict=True) if c.split and c.pieces <= 4 * len(c.values)]
    return MaskStatistics(
        dtype=str(frames.dtype),
        axes=mask.axes,
        frames=len(labels),
        sides=frames.shape[2:],
        channels=frames.shape[1],
        mends=tuple(sorted({kind for frame in labels for kind in frame.mends}, key=lambda kind: kind.code)),
        restored=any(frame.restored for frame in readable),
        problem=problem,
        census=counted,
        agreements=_agreements(readable, images) if fits and images is not None else (),
        orientation=orientation,
        reorder=reorder,
        likely_order=likely_order,
        rotated=rotated,
        split_ids=tuple(sorted({i for array in in_pieces for i in separate_split_ids(array)[1]})),
        digest=_digest(frames),
        ignored=tuple(sorted({value for frame in labels for value in frame.ignored})),
        background=next((frame.background for frame in labels if frame.background), 0),
        changes=changes,
        stored_orientation=orientation_codes(stored) if stored is not None and "oriented" in changes else "",
        planes=kind_of_planes(files.mask(path, grid), grid) if files.axes is None else "",
        persistence=_persistence(readable),
        disagreement=None if grid is None else disagreement(grid_of(mask), grid),
        filled=files.filled(path),
    )


def _persistence(labels: Sequence[Labels]) -> float:
    """Return the median share of the ids of a page that the next page has in the same place; 0 without such pages."""
    shares = []
    for page, following in itertools.pairwise(frame.array for frame in labels):
        ids, others = np.unique(page[page > 0]), np.unique(following[following > 0])
        if len(ids) and len(others) and page.shape == following.shape:
            same = np.unique(page[(page == following) & (page > 0)])
            shares.append(len(same) / min(len(ids), len(others)))
    return float(np.median(shares)) if shares else 0.0


def _is_gray(frames: NDArray[Any], *, spare: bool) -> bool:
    """Return True if the three color channels are equal."""
    color = frames[:, :-1] if spare else frames
    return color.shape[1] == 3 and np.array_equal(color[:, :2], color[:, 1:], equal_nan=color.dtype.kind == "f")


def _labeled(labels: Sequence[Labels]) -> list[int]:
    """Return up to eight of the frames that have labels, evenly spread."""
    numbers = [n for n, frame in enumerate(labels) if frame.array.max(initial=0) > 0]
    return [numbers[i] for i in np.unique(np.linspace(0, len(numbers) - 1, _FRAMES).round().astype(int)) if numbers]


def _agreements(labels: Sequence[Labels], images: NDArray[Any]) -> tuple[Agreement, ...]:
    if images.ndim != 4:
        return ()
    measured = (measure_agreement(fill_holes(images[n]), labels[n].array) for n in _labeled(labels))
    return tuple(a for a in measured if a is not None)


def _orientation(labels: Sequence[Labels], images: NDArray[Any]) -> BestOrientation | None:
    """Return the best order of axes of the first frame that has labels; None for images."""
    if images.ndim != 5 or not (numbers := _labeled(labels)):
        return None
    return best_orientation(fill_holes(images[numbers[0]]), labels[numbers[0]].array)


def _is_rotated(labels: Sequence[Labels], images: NDArray[Any]) -> bool:
    numbers = _labeled(labels)
    return bool(numbers) and is_rotated(fill_holes(images[numbers[0]]), labels[numbers[0]].array)


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
