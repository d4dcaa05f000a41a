"""Values of mask files read as labels: floating-point numbers, colors, smoothed borders, values without a meaning.

Masks are saved as 0 and 255, as colors, as floating-point numbers, smoothed by a resize, or through JPEG. What can be
undone for certain is undone here and named by an issue kind; values that are no labels are a problem. `septum check`
prints both, training reads its masks by the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED, relabel_consecutive
from septum.check.boundary_agreement import local_extreme
from septum.check.issues import IssueKind, Observation, list_some, pluralize
from septum.check.jpeg_artifacts import has_jpeg_artifacts, restore_two_values
from septum.check.statistics import PairStatistics
from septum.errors import UsageError

MASK_NO_LABELS = IssueKind(
    "mask-no-labels",
    "error",
    "mask",
    "whose values are no labels",
    "the copy of --fix leaves them out",
    todo="save the masks again with whole numbers, as PNG or TIFF",
    leaves_out=True,
)
MASK_FLOAT = IssueKind("mask-float", "mended", "mask", "saved as floating-point numbers", "read as whole numbers")
MASK_NAN = IssueKind("mask-nan", "mended", "mask", "with NaN", "NaN is read as not annotated")
MASK_GRAY_RGB = IssueKind("mask-gray-rgb", "mended", "mask", "with three equal channels", "one channel is read")
MASK_COLORS = IssueKind("mask-colors", "mended", "mask", "in color", "each color is one label")
MASK_SMOOTHED = IssueKind(
    "mask-smoothed",
    "mended",
    "mask",
    "with values in between along the borders (smoothed or resized)",
    "each pixel gets a main value",
)
MASK_LABEL_PAGES = IssueKind(
    "mask-label-pages", "mended", "mask", "with a page for each label", "the pages are read as one mask"
)
MASK_LARGE_IDS = IssueKind("mask-large-ids", "mended", "mask", "with ids above 2^31", "numbered from 1")
IGNORED = IssueKind("ignored", "mended", "mask", "with values that --ignore-value names", "read as not annotated")
MASK_EMPTY = IssueKind(
    "mask-empty",
    "warning",
    "mask",
    "with background only",
    "learned as an image without objects",
    todo="remove the pair if its objects were not drawn",
)
MASK_UNANNOTATED = IssueKind(
    "mask-unannotated", "warning", "mask", "in which nothing is annotated", "left out", leaves_out=True
)
PAGE_UNANNOTATED = IssueKind(
    "page-unannotated", "warning", "mask", "with pages in which nothing is annotated", "these pages are left out"
)
KINDS = (
    MASK_NO_LABELS,
    MASK_FLOAT,
    MASK_NAN,
    MASK_GRAY_RGB,
    MASK_COLORS,
    MASK_SMOOTHED,
    MASK_LABEL_PAGES,
    MASK_LARGE_IDS,
    IGNORED,
    MASK_EMPTY,
    MASK_UNANNOTATED,
    PAGE_UNANNOTATED,
)

COLOR = 1 << 24
"""A color that is not gray becomes the label ``COLOR + 65536 red + 256 green + blue``; a gray one its gray value."""

_LARGEST = 2**31 - 1
_NAMED_PAGES, _NAMED_VALUES = 5, 8


@dataclass(frozen=True)
class Labels:
    """One frame of a mask, read as labels.

    Attributes
    ----------
    array
        ``(*S)`` int32, `UNANNOTATED` where not annotated; all 0 if there is a problem.
    mends
        Issue kinds of the repairs.
    restored
        The two values were restored after JPEG, which is not certain enough for training.
    problem
        Why the values are no labels, as a phrase; ``""`` if they are.
    ignored
        Values that became `UNANNOTATED` because the user declared them as not annotated.
    """

    array: NDArray[np.int32]
    mends: tuple[IssueKind, ...] = ()
    restored: bool = False
    problem: str = ""
    ignored: tuple[int, ...] = ()


def detect_in_pair(pair: PairStatistics) -> Iterator[Observation]:
    """Yield the repairs of a mask, and the pages that are empty or not annotated."""
    stats = pair.mask_stats
    if stats is None or pair.image_stats is None:
        return
    if stats.problem:
        yield Observation(MASK_NO_LABELS, pair.mask, stats.problem)
    for kind in stats.mends:
        yield Observation(kind, pair.mask)
    if "label-pages" in stats.changes:
        yield Observation(MASK_LABEL_PAGES, pair.mask, pluralize(len(stats.census[0].values), "label"))
    unannotated = [number for number, c in enumerate(stats.census) if not c.values and not c.background]
    if stats.census and len(unannotated) == len(stats.census):
        yield Observation(MASK_UNANNOTATED, pair.mask)
        return
    if unannotated:
        yield Observation(PAGE_UNANNOTATED, pair.mask, f"{len(unannotated)} of {len(stats.census)}")
    if stats.ignored:
        yield Observation(IGNORED, pair.mask)
    empty = [number for number, c in enumerate(stats.census) if not c.values and c.background]
    if empty:
        several = len(stats.census) > 1
        yield Observation(MASK_EMPTY, pair.mask, f"page {list_some(empty, _NAMED_PAGES)}" if several else "")


def require_ignored_values(ignore: Sequence[int], pairs: Sequence[PairStatistics]) -> None:
    """Raise `UsageError` if no mask holds one of the values to ignore: probably a typing error."""
    stats = [pair.mask_stats for pair in pairs if pair.mask_stats]
    met = {value for one in stats for value in one.ignored}
    for value in ignore:
        if stats and value not in met:
            held = sorted({v for one in stats for c in one.census for v in c.values})
            raise UsageError(
                f"--ignore-value {value}: no mask holds it",
                f"a value of the masks, such as {list_some(held, _NAMED_VALUES)}",
            )


def read_labels(mask: NDArray[Any], *, lossy: bool = False) -> Labels:
    """Read one frame of a mask as labels.

    Floating-point numbers that are whole become integers; NaN is not annotated. Three equal channels are one; different
    ones are colors, one label per color (see `COLOR`); a fourth channel is dropped. If values between a few main values
    run along the borders (a smoothed or resized mask), each pixel gets a main value (see `unsmooth`).

    Parameters
    ----------
    mask
        ``(C, *S)``, any real dtype, C = 1, 3 or 4; labels of 0 and more, -1 not annotated.
    lossy
        The file format changes values (JPEG): two main values can be restored, more cannot. Masks that went through
        JPEG earlier are detected by `septum.check.jpeg_artifacts.has_jpeg_artifacts`.
    """
    mends: list[IssueKind] = []
    planes, problem = _whole_numbers(mask, mends)
    if not problem:
        planes, problem = _one_or_three(planes, mends)
    if not problem and planes.shape[0] == 3 and planes.min() < 0:
        problem = "negative values in a color mask"
    lowest = int(planes.min()) if planes.size and not problem else 0
    if lowest < UNANNOTATED:
        problem = f"the value {lowest}, where only {UNANNOTATED} (not annotated) may be negative"
    restored = False
    if not problem and lowest >= 0:
        planes, restored, problem = _sharpen(planes, mends, lossy=lossy)
    if problem:
        return Labels(np.zeros(mask.shape[1:], np.int32), problem=problem)
    labels = planes[0] if planes.shape[0] == 1 else _packed(planes)
    if labels.size and labels.max() > _LARGEST:
        labels = relabel_consecutive(labels)[0].astype(np.int64)
        mends.append(MASK_LARGE_IDS)
    return Labels(labels.astype(np.int32), tuple(mends), restored)


def _whole_numbers(mask: NDArray[Any], mends: list[IssueKind]) -> tuple[NDArray[np.int64], str]:
    """Return int64 values of the same shape, and why this is impossible or ``""``."""
    if mask.dtype.kind in "biu":
        if mask.dtype == np.uint64 and mask.size and mask.max() > 2**62:
            return np.zeros(mask.shape, np.int64), "values above 2^62"
        return mask.astype(np.int64), ""
    values = mask.astype(np.float64)
    missing = np.isnan(values)
    if missing.any():
        mends.append(MASK_NAN)
        values[missing] = UNANNOTATED
    zeros = np.zeros(mask.shape, np.int64)
    if np.isinf(values).any() or (values.size and np.abs(values).max() > 2**62):
        return zeros, "infinite values"
    whole = np.rint(values)
    if np.abs(values - whole).max(initial=0) < 1e-3:
        mends.append(MASK_FLOAT)
        return whole.astype(np.int64), ""
    low, high = float(values[~missing].min()), float(values[~missing].max())
    ends = (round(low), round(high))
    if mask.shape[0] == 1 and not missing.any() and abs(low - ends[0]) < 1e-3 and abs(high - ends[1]) < 1e-3:
        scaled = np.rint((values - low) * (255 / (high - low))).astype(np.int64)
        sharpened = unsmooth(scaled)
        if sharpened is not None and sharpened[1] == ((0,), (255,)):
            mends.append(MASK_SMOOTHED)
            return np.where(sharpened[0] == 0, np.int64(ends[0]), np.int64(ends[1])), ""
    return zeros, f"fractions between {low:g} and {high:g}"


def _one_or_three(planes: NDArray[np.int64], mends: list[IssueKind]) -> tuple[NDArray[np.int64], str]:
    channels = planes.shape[0]
    if channels == 1:
        return planes, ""
    if channels not in (3, 4):
        return planes, f"{channels} channels"
    color = planes[:3]
    if (color[0] == color[1]).all() and (color[0] == color[2]).all():
        mends.append(MASK_GRAY_RGB)
        return color[:1], ""
    if color.max() > 255:
        return planes, "colors of more than 8 bits"
    mends.append(MASK_COLORS)
    return color, ""


def _sharpen(planes: NDArray[np.int64], mends: list[IssueKind], *, lossy: bool) -> tuple[NDArray[np.int64], bool, str]:
    """Return main values only if a mask was smoothed; whether two values were restored; why that is impossible."""
    if lossy and len(np.unique(_codes(planes))) > 2:
        problem = "saved as JPEG, which changed its values; export it as PNG or TIFF"
    elif (sharpened := unsmooth(planes)) is not None:
        mends.append(MASK_SMOOTHED)
        return sharpened[0], False, ""
    elif has_jpeg_artifacts(_codes(planes)):
        problem = "blurred, as by JPEG or smoothing; export it anew as PNG or TIFF"
    else:
        return planes, False, ""
    restored = restore_two_values(planes)
    return (planes, False, problem) if restored is None else (restored, True, "")


def _packed(planes: NDArray[np.int64]) -> NDArray[np.int64]:
    red, green, blue = planes
    packed: NDArray[np.int64] = COLOR + 65536 * red + 256 * green + blue
    gray = (red == green) & (red == blue)
    packed[gray] = red[gray]
    return packed


def color_of(label: int) -> tuple[int, int, int]:
    """Return red, green and blue, 0 .. 255, of a label made from a color; a gray label gives three equal values."""
    if label < COLOR:
        return label, label, label
    return (label >> 16) & 255, (label >> 8) & 255, label & 255


def _codes(planes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number for each color, ``(*S)``, of ``(C, *S)``."""
    codes: NDArray[np.int64] = planes[0] if len(planes) == 1 else (planes[0] * 256 + planes[1]) * 256 + planes[2]
    return codes


# A smoothed mask is detected by its borders. In a clean mask hardly any pixel lies strictly between the lowest and the
# highest of its neighbors (only where three labels meet); in a smoothed one a third of the border pixels do.
_SPAN = 32  # values closer than this cannot be distinguished from ids
_BETWEEN = 0.15  # share of the border pixels
_MOST = 8  # main values
_LEVELS = 3  # distinct values in between; fewer may be thin classes
_COVER = 0.9  # share of the even areas (without the largest value) that main values explain


def unsmooth(planes: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[tuple[int, ...], ...]] | None:
    """Undo the smoothing of a mask of a few well separated values.

    Parameters
    ----------
    planes
        ``(C, *S)`` int64, values >= 0: gray (C = 1) or colors (C = 3).

    Returns
    -------
    planes, main
        ``(C, *S)`` int64 with main values only, and the main values, rising. Of two main values a pixel gets the closer
        one; of more, a pixel off every main value gets that of the nearest pixel which has one. None if the mask is not
        smoothed, or if its main values cannot be determined (ids of many objects).
    """
    if planes.size == 0 or (span := int(planes.max()) - int(planes.min())) < _SPAN:
        return None
    codes = _codes(planes)
    distinct = len(np.unique(codes))
    if distinct < 2 + _LEVELS:
        return None
    low, high = (np.stack([local_extreme(way, plane) for plane in planes]) for way in (np.minimum, np.maximum))
    even = (low == high).all(axis=0)
    between = ((low < planes) & (planes < high)).any(axis=0)
    if np.count_nonzero(between) < _BETWEEN * np.count_nonzero(~even):
        return None
    main = _main_values(planes[:, even], span)
    if main is None or len(main) < 2 or distinct - len(main) < _LEVELS:
        return None
    return _to_main(planes, main, span), tuple(tuple(int(v) for v in row) for row in main)


def _main_values(colors: NDArray[np.int64], span: int) -> NDArray[np.int64] | None:
    """Return ``(K, C)`` main values, rising, of even areas ``(C, n)``; None if other values are frequent too."""
    if not colors.size:
        return None
    _, first, counts = np.unique(_codes(colors), return_index=True, return_counts=True)
    values = colors[:, first].T
    near, apart = max(2, round(0.012 * span)), 0.1 * span
    left = counts.astype(np.float64)
    main: list[NDArray[np.int64]] = []
    others = counts.sum() - counts[np.abs(values - values[counts.argmax()]).max(axis=1) <= near].sum()
    covered = -1.0  # the largest value is not counted
    while (
        len(main) < _MOST and left.sum() > 0 and (not main or covered < _COVER * others or left.max() > 0.02 * others)
    ):
        peak = values[left.argmax()]
        if main and np.abs(np.asarray(main) - peak).max(axis=1).min() < apart:
            left[left.argmax()] = 0
            continue
        close = np.abs(values - peak).max(axis=1) <= near
        covered = covered + left[close].sum() if main else 0.0
        main.append(peak)
        left[close] = 0
    if covered < _COVER * others:
        return None
    return np.unique(np.asarray(main), axis=0)


def _to_main(planes: NDArray[np.int64], main: NDArray[np.int64], span: int) -> NDArray[np.int64]:
    """Set each pixel of ``(C, *S)`` to one of the ``(K, C)`` main values."""
    column = (slice(None),) + (None,) * (planes.ndim - 1)
    distance = np.stack([((planes - value[column]) ** 2).sum(axis=0) for value in main])
    nearest = distance.argmin(axis=0)
    if len(main) > 2:
        # Between black and white lies gray: the closest value may be a third class, so the closest pixel decides.
        from scipy.ndimage import distance_transform_edt

        off = distance.min(axis=0) > (0.04 * span) ** 2
        if off.any() and not off.all():
            place = distance_transform_edt(off, return_distances=False, return_indices=True)
            nearest = nearest[tuple(place)]
    return np.moveaxis(main[nearest], -1, 0)
