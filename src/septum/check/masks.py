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
from septum.check.issues import IssueKind, Observation
from septum.check.smoothing import color_codes, has_jpeg_artifacts, restore_two_values, unsmooth
from septum.check.statistics import PairStatistics
from septum.errors import UsageError
from septum.pairing.object_folders import without_alpha
from septum.words import list_some, pluralize

MASK_NO_LABELS = IssueKind(
    "mask-no-labels",
    "error",
    "mask",
    "whose values are not labels",
    "left out of the copy of `septum check --fix`",
    todo="save each as whole numbers in one channel, as PNG or TIFF",
    leaves_out=True,
)
MASK_FLOAT = IssueKind("mask-float", "mended", "mask", "saved as floating-point numbers", "read as whole numbers")
MASK_NAN = IssueKind("mask-nan", "mended", "mask", "with NaN", "NaN is read as not annotated")
MASK_GRAY_RGB = IssueKind("mask-gray-rgb", "mended", "mask", "with three equal channels", "one channel is read")
MASK_ALPHA = IssueKind(
    "mask-alpha", "mended", "mask", "drawn in alpha, with the same color everywhere", "alpha is read as the mask"
)
CLASS_CHANNELS = IssueKind(
    "class-channels", "mended", "mask", "with a channel for each class", "each channel is one class, numbered from 0"
)
LABEL_CHANNELS = IssueKind(
    "label-channels",
    "mended",
    "mask",
    "with a channel or page for each label",
    "each is one label, numbered from 1; where two overlap the smaller one is kept",
)
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
    "each is learned as an image without objects",
    todo="remove a pair whose objects were not drawn",
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
    MASK_ALPHA,
    CLASS_CHANNELS,
    LABEL_CHANNELS,
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
_MOST_OVERLAP = 0.05  # share of the labeled pixels that masks of single objects may share


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
    background
        Value of the background that became 0; 0 if it was 0.
    """

    array: NDArray[np.int32]
    mends: tuple[IssueKind, ...] = ()
    restored: bool = False
    problem: str = ""
    ignored: tuple[int, ...] = ()
    background: int = 0


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


def require_values(ignore: Sequence[int], background: int | None, pairs: Sequence[PairStatistics]) -> None:
    """Raise `UsageError` if no mask holds a value that an option names: probably a typing error."""
    stats = [pair.mask_stats for pair in pairs if pair.mask_stats]
    met = {value for one in stats for value in one.ignored}
    named = [("--ignore-value", value, value in met) for value in ignore]
    if background:
        named.append(("--background", background, any(one.background for one in stats)))
    for option, value, found in named:
        if stats and not found:
            held = sorted({v for one in stats for c in one.census for v in c.values})
            expected = f"a value of the masks: {list_some(held, _NAMED_VALUES)}" if held else "a value of the masks"
            raise UsageError(
                f"{option} {value}: no mask holds it", expected, f"correct the value, or leave {option} out"
            )


def read_labels(mask: NDArray[Any], *, lossy: bool = False) -> Labels:
    """Read one frame of a mask as labels.

    Floating-point numbers that are whole become integers; NaN is not annotated. Three equal channels are one; different
    ones are colors, one label per color (see `COLOR`). Alpha is dropped, unless the color is the same everywhere: then
    alpha is the mask. Channels of one value beside 0 that do not overlap are labels (see `merge_labels`). If values
    between a few main values run along the borders (a smoothed or resized mask), each pixel gets a main value (see
    `septum.check.smoothing.unsmooth`).

    Parameters
    ----------
    mask
        ``(C, *S)``, any real dtype; labels of 0 and more, -1 not annotated.
    lossy
        The file format changes values (JPEG): two main values can be restored, more cannot. Masks that went through
        JPEG earlier are detected by `septum.check.smoothing.has_jpeg_artifacts`.
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
    """Return one channel of labels or three of colors, and why this is impossible or ``""``."""
    planes, in_alpha = without_alpha(planes)
    if in_alpha:
        mends.append(MASK_ALPHA)
    if len(planes) > 1 and (merged := merge_labels(planes)) is not None:
        labels, each_pixel = merged
        mends.append(CLASS_CHANNELS if each_pixel else LABEL_CHANNELS)
        return labels[np.newaxis], ""
    channels = len(planes)
    if channels == 1:
        return planes, ""
    if channels not in (3, 4):
        way = "numpy.argmax makes one of a channel for each class"
        return planes, f"{channels} channels that overlap or hold several values; {way}"
    color = planes[:3]
    if (color[0] == color[1]).all() and (color[0] == color[2]).all():
        mends.append(MASK_GRAY_RGB)
        return color[:1], ""
    if color.max() > 255:
        return planes, "colors of more than 8 bits"
    mends.append(MASK_COLORS)
    return color, ""


def merge_labels(planes: NDArray[Any]) -> tuple[NDArray[np.int64], bool] | None:
    """Merge channels or pages that hold one label each into one mask.

    Parameters
    ----------
    planes
        ``(N, *S)``, N > 1, any real dtype, any values.

    Returns
    -------
    labels, each_pixel
        ``(*S)`` int64. If all planes have the same value and exactly one is not 0 at each pixel, its number from 0, and
        True: classes. Otherwise its number from 1, and 0 where all are 0, and False; where two overlap that of the
        smaller one. None if a plane holds several values beside 0 or a negative one, if more than a twentieth of the
        labeled pixels overlap, or if three planes are colors, which leave pixels black or have several values.
    """
    flat = planes.reshape(len(planes), -1)
    tops = flat.max(axis=1, keepdims=True)
    if not ((flat == 0) | (flat == tops)).all() or tops.min() < 0:
        return None
    on = planes != 0
    number = np.count_nonzero(on, axis=0)
    if (number == 1).all() and len(set(tops[tops > 0].tolist())) == 1:
        return on.argmax(axis=0), True
    if len(planes) == 3 or np.count_nonzero(number > 1) > _MOST_OVERLAP * np.count_nonzero(number):
        return None
    labels = np.zeros(planes.shape[1:], np.int64)
    for plane in np.argsort([-np.count_nonzero(one) for one in on], kind="stable"):
        labels[on[plane]] = plane + 1
    return labels, False


def _sharpen(planes: NDArray[np.int64], mends: list[IssueKind], *, lossy: bool) -> tuple[NDArray[np.int64], bool, str]:
    """Return main values only if a mask was smoothed; whether two values were restored; why that is impossible."""
    if lossy and len(np.unique(color_codes(planes))) > 2:
        problem = "saved as JPEG, which changed its values; export it as PNG or TIFF"
    elif (sharpened := unsmooth(planes)) is not None:
        mends.append(MASK_SMOOTHED)
        return sharpened[0], False, ""
    elif has_jpeg_artifacts(color_codes(planes)):
        problem = "blurred, as by JPEG or smoothing; export it again as PNG or TIFF"
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
