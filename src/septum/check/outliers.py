"""Images unlike the others: in intensities, in size, or in the size of their objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from septum.arrays.normalize import QUANTILES, inverted
from septum.check.issues import IssueKind, Observation, format_shape
from septum.check.statistics import ImageStatistics, PairStatistics

_LOOK = "look at the image: leave it out if it was taken otherwise"
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
    todo="check the magnification of the image, and its mask",
)
KINDS = (INTENSITY_OUTLIER, INTENSITY_UNLIKE, SIZE_OUTLIER, OBJECT_SIZE_OUTLIER)

_FEWEST_IMAGES = 8  # fewer do not define the usual range
_UNLIKE = 4.0  # times the 95th percentile of the distances to the nearest other image
_UNLIKE_LEAST = 0.3  # standard deviations
_DIM, _LEVELS = 8, 32  # this many times less contrast than the median, with so few gray values that it matters
_SIZE = 64  # this many times fewer or more pixels than the median
_OBJECT_SIZE = 4  # times the median diameter, at least


def detect(pairs: Sequence[PairStatistics], *, objects: bool) -> Iterator[Observation]:
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
    for channels in {len(curve) for _, curve in several}:
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
