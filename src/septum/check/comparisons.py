"""Comparison of the images of a data set: copies, near-duplicates, and outliers in intensity, size and object size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import QUANTILES, inverted
from septum.check.images import fill_holes
from septum.check.issues import IssueKind, Observation, distinct_names, format_shape
from septum.check.reading import Files
from septum.check.statistics import ImageStatistics, PairStatistics

DUPLICATE = IssueKind("duplicate", "warning", "pair", "equal to another one", "left out", leaves_out=True)
DUPLICATE_CONFLICT = IssueKind(
    "duplicate-conflict",
    "warning",
    "image",
    "equal to another one, but with a different mask",
    "all copies are on one side of the split",
    todo="keep the better mask",
)
NEAR_DUPLICATE = IssueKind(
    "near-duplicate",
    "warning",
    "image",
    "nearly equal to another one",
    "all copies are on one side of the split",
)
SEQUENCE = IssueKind("sequence", "warning")
_LOOK = "look at such an image: leave it out if it was taken in another way"
INTENSITY_OUTLIER = IssueKind(
    "intensity-outlier", "warning", "image", "much dimmer than the others, with few gray values", todo=_LOOK
)
INTENSITY_UNLIKE = IssueKind(
    "intensity-unlike", "warning", "image", "with intensities distributed unlike those of all others", todo=_LOOK
)
SIZE_OUTLIER = IssueKind("size-outlier", "warning", "image", "much smaller or larger than the others", todo=_LOOK)
OBJECT_SIZE_OUTLIER = IssueKind(
    "object-size-outlier",
    "warning",
    "mask",
    "with objects much smaller or larger than in the others",
    todo="check the magnification of each image, and its mask",
)
KINDS = (
    *(DUPLICATE, DUPLICATE_CONFLICT, NEAR_DUPLICATE, SEQUENCE),
    *(INTENSITY_OUTLIER, INTENSITY_UNLIKE, SIZE_OUTLIER, OBJECT_SIZE_OUTLIER),
)

_FEWEST_FRAMES = 8  # of a sequence
# Thumbnails of copies (other brightness, JPEG, another size) correlate by 0.99 and more. Those of neighboring frames of
# a time lapse correlate by up to 0.997 as well, so the fine detail decides: that of copies correlates by 0.6 and more.
_ALIKE, _CERTAINLY, _DETAIL = 0.98, 0.999, 0.6
_SEQUENCE_SHARE = 0.8  # of the images
_SIDE = 1024  # of larger images the middle part is compared
_CELLS = {2: 16, 3: 8}  # of a thumbnail along each axis, by the number of axes
_CELLS_2D = _CELLS[2] ** 2
_BLOCK = 256  # thumbnails that are compared with all earlier ones at once

_FEWEST_IMAGES = 8  # fewer do not define the usual range
_UNLIKE = 4.0  # times the 95th percentile of the distances to the nearest other image
_UNLIKE_LEAST = 0.3  # standard deviations
_DIM, _LEVELS = 8, 32  # this many times less contrast than the median, with so few gray values that it matters
_SIZE = 64  # this many times fewer or more pixels than the median
_OBJECT_SIZE = 4  # times the median diameter, at least

Pairs = dict[int, PairStatistics]


def detect_duplicates(pairs: Mapping[int, PairStatistics], files: Files) -> tuple[Pairs, list[Observation]]:
    """Find images that are equal, or nearly equal, to an earlier one; mirrored and rotated copies too.

    Neighbors in one stack or sequence are alike by nature and are not compared.

    Parameters
    ----------
    pairs
        By index.
    files
        Reader of the data set, for the fine detail of images that look alike.

    Returns
    -------
    pairs, observations
        The pairs with `PairStatistics.copy_of` set, or with one group if nearly all of them are frames of a sequence.
    """
    marked, seen, equal = dict(pairs), [], set()
    firsts: dict[str, int] = {}
    for index, pair in pairs.items():
        if pair.image_stats is None or pair.mask_stats is None:
            continue
        first = firsts.setdefault(pair.image_stats.digest, index)
        if first == index:
            continue
        other = pairs[first]
        same = other.mask_stats is not None and other.mask_stats.digest == pair.mask_stats.digest
        equal.add(index)
        kind = DUPLICATE if same else DUPLICATE_CONFLICT
        seen.append(Observation(kind, pair.image, f"= {distinct_names((other.image, pair.image))[0]}", pair=index))
        marked = _mark_copies(marked, first, index)
    left = {k: p for k, p in pairs.items() if k not in equal and p.image_stats and p.image_stats.thumbnail}
    for index, first, how in _near_duplicates(left, files):
        name = distinct_names((pairs[first].image, pairs[index].image))[0]
        seen.append(Observation(NEAR_DUPLICATE, pairs[index].image, f"= {name}{how}", pair=index))
        marked = _mark_copies(marked, first, index)
    return _as_sequence(marked, seen)


def _as_sequence(pairs: Pairs, seen: list[Observation]) -> tuple[Pairs, list[Observation]]:
    """Group nearly all images as frames of one sequence if they are alike: otherwise none could be held out."""
    name, count = Counter(p.copy_of for p in pairs.values() if p.copy_of).most_common(1)[0] if seen else ("", 0)
    if count < _FEWEST_FRAMES or count < _SEQUENCE_SHARE * len(pairs):
        return pairs, seen
    frames = {k: replace(p, copy_of="", group=name, position=k) for k, p in pairs.items() if p.copy_of == name}
    text = f"{count} of {len(pairs)} images look like frames of one sequence: the last fifth of them is held out"
    kept = [o for o in seen if o.kind is not NEAR_DUPLICATE]
    return pairs | frames, [*kept, Observation(SEQUENCE, text=text)]


def _mark_copies(pairs: Pairs, first: int, index: int) -> Pairs:
    name = pairs[first].copy_of or pairs[first].name
    return pairs | {i: replace(pairs[i], copy_of=name) for i in (first, index)}


def _near_duplicates(pairs: Mapping[int, PairStatistics], files: Files) -> Iterator[tuple[int, int, str]]:
    """Yield (index, index of an earlier image, how it is turned) of images that are nearly equal."""
    for length in {len(p.image_stats.thumbnail) for p in pairs.values() if p.image_stats}:
        same = {k: p for k, p in pairs.items() if p.image_stats and len(p.image_stats.thumbnail) == length}
        keys = list(same)
        table = np.asarray([p.image_stats.thumbnail for p in same.values() if p.image_stats])
        for place, alike in _alike_earlier(table, turns=8 if length == _CELLS_2D else 1):
            for turn, best, likeness in alike:
                key, one, other = keys[place], pairs[keys[place]], pairs[keys[best]]
                if one.group and one.group == other.group:  # neighbors
                    continue
                if _same_detail(one, other, turn, likeness=likeness, files=files):
                    yield key, keys[best], ", turned or mirrored" if turn else ""
                    break


def _alike_earlier(table: NDArray[np.float64], turns: int) -> Iterator[tuple[int, list[tuple[int, int, float]]]]:
    """Compare each thumbnail, turned, with all earlier ones, many at once, which takes a tenth of the time.

    Yields
    ------
    place, alike
        A row of the table, and for each turn whose most similar earlier row correlates by more than `_ALIKE`: the turn,
        that row, and the correlation.
    """
    side = round(table.shape[1] ** 0.5)
    for start in range(0, len(table), _BLOCK):
        rows, alike = table[start : start + _BLOCK], dict[int, list[tuple[int, int, float]]]()
        end = start + len(rows)
        earlier = np.arange(end) < np.arange(start, end)[:, np.newaxis]
        for turn in range(turns):
            turned = _turn(rows.reshape(-1, side, side), turn).reshape(len(rows), -1) if turn else rows
            likeness = np.where(earlier, turned @ table[:end].T, -1)
            best = likeness.argmax(axis=1)
            for row in np.flatnonzero(likeness[np.arange(len(rows)), best] > _ALIKE).tolist():
                alike.setdefault(row, []).append((turn, int(best[row]), float(likeness[row, best[row]])))
        yield from ((start + row, alike[row]) for row in sorted(alike))


def _turn(image: NDArray[Any], turn: int) -> NDArray[Any]:
    """Turn the last two axes by right angles, after mirroring from the fourth turn on."""
    return np.rot90(np.swapaxes(image, -1, -2) if turn >= 4 else image, turn % 4, axes=(-2, -1))


def _same_detail(one: PairStatistics, other: PairStatistics, turn: int, *, likeness: float, files: Files) -> bool:
    """Return True if the fine detail of two images with similar thumbnails is the same."""
    from scipy.ndimage import uniform_filter

    details = []
    for pair, how in ((one, turn), (other, 0)):
        flat = fill_holes(files.image(pair.image, pair.named_axes).array).mean(axis=0, dtype=np.float32)
        flat = _turn(flat, how) if flat.ndim == 2 else flat
        middle = tuple(slice(max(0, (n - _SIDE) // 2), max(0, (n - _SIDE) // 2) + _SIDE) for n in flat.shape)
        details.append(flat[middle] - uniform_filter(flat[middle], 5))
    if details[0].shape != details[1].shape:
        return likeness > _CERTAINLY
    return float(np.corrcoef(details[0].ravel(), details[1].ravel())[0, 1]) > _DETAIL


def thumbnail(image: NDArray[Any]) -> tuple[float, ...]:
    """Compute a standardized thumbnail of 16 x 16 (volumes 8 x 8 x 8) block means, nearly equal for copies.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, finite.

    Returns
    -------
    means
        In scan order; their mean is 0, the sum of their squares 1. Empty for constant images and for images with fewer
        than twice as many pixels along an axis.
    """
    means = image.mean(axis=0, dtype=np.float64)
    count = _CELLS[means.ndim]
    if min(means.shape) < 2 * count:
        return ()
    for axis, side in enumerate(means.shape):
        starts = np.arange(count) * side // count
        lengths = np.diff([*starts, side]).reshape([-1 if a == axis else 1 for a in range(means.ndim)])
        means = np.add.reduceat(means, starts, axis=axis) / lengths
    means -= means.mean()
    length = float(np.linalg.norm(means))
    return tuple((means / length).ravel().tolist()) if length > 0 else ()


def detect_outliers(pairs: Sequence[PairStatistics], *, objects: bool) -> Iterator[Observation]:
    """Yield images unlike the others, with figures; sizes of `objects` are compared if the masks hold ids."""
    images = [(pair, pair.image_stats) for pair in pairs if pair.image_stats]
    if len(images) < _FEWEST_IMAGES:
        return
    yield from _intensities(images)
    pixels = np.asarray([float(np.prod(stats.sides)) for _, stats in images])
    for (pair, stats), ratio in zip(images, pixels / np.median(pixels), strict=True):
        if not 1 / _SIZE <= ratio <= _SIZE:
            usual = images[int(np.argsort(pixels)[len(pixels) // 2])][1]
            detail = f"{format_shape(stats.sides)}, usual {format_shape(usual.sides)}"
            yield Observation(SIZE_OUTLIER, pair.image, detail)
    if objects:
        sizes = ((pair, [n for c in pair.census for n in c.counts], len(stats.sides)) for pair, stats in images)
        yield from _object_sizes([(pair, float(np.median(counts)), rank) for pair, counts, rank in sizes if counts])


def _intensities(images: Sequence[tuple[PairStatistics, ImageStatistics]]) -> Iterator[Observation]:
    contrasts = np.asarray([max(s.percentiles[2] - s.percentiles[0], 1e-12) for _, s in images])
    middle = float(np.median(contrasts))
    dim = set()
    for (pair, stats), contrast in zip(images, contrasts, strict=True):
        levels = min(stats.levels, contrast + 1) if "int" in stats.dtype else stats.levels
        if contrast * _DIM < middle and levels < _LEVELS:
            dim.add(pair.name)
            detail = f"contrast 1/{middle / contrast:.2g} of the median, about {levels:.0f} gray values"
            yield Observation(INTENSITY_OUTLIER, pair.image, detail)
    several = [(p, np.asarray(s.curve).reshape(s.channels, len(QUANTILES))) for p, s in images if not s.constant]
    for channels in sorted({len(curve) for _, curve in several}):
        alike = [(pair, curve) for pair, curve in several if len(curve) == channels]
        if len(alike) < _FEWEST_IMAGES:
            continue
        table = np.stack([curve for _, curve in alike])
        away = np.stack([np.abs(table - curve).mean(axis=(1, 2)) for curve in table])
        np.fill_diagonal(away, np.inf)
        nearest = away.min(axis=1)
        usual = max(_UNLIKE_LEAST, _UNLIKE * float(np.quantile(nearest, 0.95, method="lower")))
        for (pair, curve), far in zip(alike, nearest, strict=True):
            if far > usual and pair.name not in dim:
                other = np.abs(table - inverted(curve)).mean(axis=(1, 2)).min()
                way = ", as if inverted" if other < usual else ""
                detail = f"{far:.2g} standard deviations{way}; usual {usual:.2g}"
                yield Observation(INTENSITY_UNLIKE, pair.image, detail)


def _object_sizes(images: Sequence[tuple[PairStatistics, float, int]]) -> Iterator[Observation]:
    widths = np.asarray([size ** (1 / rank) for _, size, rank in images])
    if len(widths) < _FEWEST_IMAGES:
        return
    logs = np.log(widths)
    middle = float(np.median(logs))
    usual = max(float(np.log(_OBJECT_SIZE)), 3.5 * 1.4826 * float(np.median(np.abs(logs - middle))))
    for (pair, _, _), width, log in zip(images, widths, logs, strict=True):
        if abs(log - middle) > usual:
            yield Observation(OBJECT_SIZE_OUTLIER, pair.mask, f"{width:.3g} pixels, usual {np.exp(middle):.3g}")
