"""Read masks and images as they were meant, where that is certain.

Masks come as 0 and 255, as colors, as real numbers, smoothed by a resize, or through JPEG; images with holes and with
other numbers of channels. What can be undone without a doubt is undone here and named by a code; what cannot is named
as a problem. `septum check` prints both, training uses the same functions in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED, relabel_consecutive
from septum.check.jpeg_artifacts import smeared
from septum.errors import DataError

COLOR = 1 << 24
"""A color that is not gray becomes the label ``COLOR + 65536 red + 256 green + blue``; a gray one its gray value."""

_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Labels:
    """A mask as it was meant.

    Attributes
    ----------
    array
        ``(*S)`` int32, `UNANNOTATED` where not annotated; all 0 if there is a problem.
    mends
        Codes of what was done: ``"mask-float"``, ``"mask-nan"``, ``"mask-gray-rgb"``, ``"mask-colors"``,
        ``"mask-smoothed"``, ``"mask-large-ids"``.
    problem
        Why the mask cannot be read, as a phrase; ``""`` if it can.
    ignored
        Values that became `UNANNOTATED` because a person said that they mean not annotated.
    """

    array: NDArray[np.int32]
    mends: tuple[str, ...] = ()
    problem: str = ""
    ignored: tuple[int, ...] = ()


def read_labels(mask: NDArray[Any], *, lossy: bool = False) -> Labels:
    """Read a mask as labels.

    Real numbers that are whole become whole; NaN is not annotated. Three equal channels are one; different ones are
    colors, one label per color (see `COLOR`); a fourth channel is dropped. If values between a few main values run
    along the borders (a smoothed or resized mask), pixels go back to the main values (see `unsmooth`).

    Parameters
    ----------
    mask
        ``(C, *S)``, any real dtype, C = 1, 3 or 4.
    lossy
        The file format changes values (JPEG): two main values can be restored, more cannot. Masks that were JPEG
        before are told by `septum.check.jpeg_artifacts.smeared`.
    """
    mends: list[str] = []
    planes, problem = _whole_numbers(mask, mends)
    if not problem:
        planes, problem = _one_or_three(planes, mends)
    if not problem and planes.shape[0] == 3 and planes.min() < 0:
        problem = "negative values in a color mask"
    lowest = int(planes.min()) if planes.size and not problem else 0
    if lowest < UNANNOTATED:
        problem = f"the value {lowest}, where only {UNANNOTATED} (not annotated) may be negative"
    if problem:
        return Labels(np.zeros(mask.shape[1:], np.int32), (), problem)
    smooth, problem = _sharpened(planes, lossy=lossy) if lowest >= 0 else (None, "")
    if problem:
        return Labels(np.zeros(mask.shape[1:], np.int32), (), problem)
    if smooth is not None:
        planes = smooth
        mends.append("mask-smoothed")
    labels = planes[0] if planes.shape[0] == 1 else _packed(planes)
    if labels.size and labels.max() > _LARGEST:
        labels = relabel_consecutive(labels)[0].astype(np.int64)
        mends.append("mask-large-ids")
    return Labels(labels.astype(np.int32), tuple(mends))


def _whole_numbers(mask: NDArray[Any], mends: list[str]) -> tuple[NDArray[np.int64], str]:
    """Return int64 of the same shape and why it cannot be, or an empty phrase."""
    if mask.dtype.kind in "biu":
        if mask.dtype == np.uint64 and mask.size and mask.max() > 2**62:
            return np.zeros(mask.shape, np.int64), "values above 2^62"
        return mask.astype(np.int64), ""
    values = mask.astype(np.float64)
    missing = np.isnan(values)
    if missing.any():
        mends.append("mask-nan")
        values[missing] = UNANNOTATED
    zeros = np.zeros(mask.shape, np.int64)
    if np.isinf(values).any() or (values.size and np.abs(values).max() > 2**62):
        return zeros, "infinite values"
    whole = np.rint(values)
    if np.abs(values - whole).max(initial=0) < 1e-3:
        mends.append("mask-float")
        return whole.astype(np.int64), ""
    low, high = float(values[~missing].min()), float(values[~missing].max())
    ends = (round(low), round(high))
    if mask.shape[0] == 1 and not missing.any() and abs(low - ends[0]) < 1e-3 and abs(high - ends[1]) < 1e-3:
        scaled = np.rint((values - low) * (255 / (high - low))).astype(np.int64)
        found = unsmooth(scaled)
        if found is not None and found[1] == ((0,), (255,)):
            mends.append("mask-smoothed")
            return np.where(found[0] == 0, np.int64(ends[0]), np.int64(ends[1])), ""
    return zeros, f"fractions between {low:g} and {high:g}"


def _one_or_three(planes: NDArray[np.int64], mends: list[str]) -> tuple[NDArray[np.int64], str]:
    channels = planes.shape[0]
    if channels == 1:
        return planes, ""
    if channels not in (3, 4):
        return planes, f"{channels} channels"
    color = planes[:3]
    if (color[0] == color[1]).all() and (color[0] == color[2]).all():
        mends.append("mask-gray-rgb")
        return color[:1], ""
    if color.max() > 255:
        return planes, "colors of more than 8 bits"
    mends.append("mask-colors")
    return color, ""


def _sharpened(planes: NDArray[np.int64], *, lossy: bool) -> tuple[NDArray[np.int64] | None, str]:
    """Return main values only where a mask was smoothed, None where it was not, and why it cannot be undone."""
    if lossy and _distinct(planes) > 2:
        smooth = two_levels(planes)
        return smooth, "" if smooth is not None else "saved as JPEG, which changed its values; export it as PNG or TIFF"
    if (found := unsmooth(planes)) is not None:
        return found[0], ""
    if not smeared(_codes(planes)):
        return None, ""
    smooth = two_levels(planes)
    return smooth, "" if smooth is not None else "smeared, as by JPEG or smoothing; export it anew as PNG or TIFF"


def _packed(planes: NDArray[np.int64]) -> NDArray[np.int64]:
    red, green, blue = planes
    packed: NDArray[np.int64] = COLOR + 65536 * red + 256 * green + blue
    gray = (red == green) & (red == blue)
    packed[gray] = red[gray]
    return packed


def color_of(label: int) -> tuple[int, int, int]:
    """Return red, green, blue (0 .. 255) of a label made from a color; gray labels give themselves three times."""
    if label < COLOR:
        return label, label, label
    return (label >> 16) & 255, (label >> 8) & 255, label & 255


def _distinct(planes: NDArray[np.int64]) -> int:
    return len(np.unique(_codes(planes)))


def _codes(planes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number per pixel that tells colors apart; ``(C, *S)`` to ``(*S)``."""
    codes: NDArray[np.int64] = planes[0] if len(planes) == 1 else (planes[0] * 256 + planes[1]) * 256 + planes[2]
    return codes


# A smoothed mask, found by its borders. In a clean mask hardly any pixel lies strictly between the lowest and the
# highest of its neighbors (only where three labels meet); in a smoothed one a third of the border pixels do.
_SPAN = 32  # values closer than this cannot be told from ids
_BETWEEN = 0.15  # share of the border pixels
_MOST = 8  # main values
_LEVELS = 3  # distinct values in between; fewer may be thin classes
_COVER = 0.9  # share of the even areas (without the largest value) that main values explain


def unsmooth(planes: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[tuple[int, ...], ...]] | None:
    """Undo the smoothing of a mask of a few well separated values.

    Parameters
    ----------
    planes
        ``(C, *S)`` int64 of 0 and more: gray (C = 1) or colors (C = 3).

    Returns
    -------
    planes, main
        ``(C, *S)`` int64 with main values only, and these, rising. Between two main values a pixel goes to the closer
        value; between more, pixels off every main value go to that of the nearest pixel which has one. None if the
        mask is not smoothed, or its main values cannot be told (ids of many objects).
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    if planes.size == 0 or (span := int(planes.max()) - int(planes.min())) < _SPAN:
        return None
    codes = _codes(planes)
    distinct = len(np.unique(codes))
    if distinct < 2 + _LEVELS:
        return None
    window = (1,) + (3,) * (planes.ndim - 1)
    low, high = minimum_filter(planes, size=window, mode="nearest"), maximum_filter(planes, size=window, mode="nearest")
    even = (low == high).all(axis=0)
    between = ((low < planes) & (planes < high)).any(axis=0)
    if np.count_nonzero(between) < _BETWEEN * np.count_nonzero(~even):
        return None
    main = _main_values(planes[:, even], span)
    if main is None or len(main) < 2 or distinct - len(main) < _LEVELS:
        return None
    return _to_main(planes, main, span), tuple(tuple(int(v) for v in row) for row in main)


def two_levels(planes: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Undo what JPEG did to a mask of two values.

    Parameters
    ----------
    planes
        ``(1, *S)`` int64, gray.

    Returns
    -------
    planes
        ``(1, *S)`` int64: each pixel the closer one of the most frequent value of the lower half of the range and that
        of the upper half. None if the mask is in color, the two are closer than 32, or as many pixels as a quarter of
        the rarer half lie in the middle third: then there may have been a third value.
    """
    low, high = int(planes.min()), int(planes.max())
    if len(planes) > 1 or high - low < _SPAN:
        return None
    counts = np.bincount(planes.ravel() - low)
    half, third = len(counts) // 2, len(counts) // 3
    if counts[third:-third].sum() > min(counts[:half].sum(), counts[half:].sum()) / 4:
        return None
    levels = np.array([low + counts[:half].argmax(), low + half + counts[half:].argmax()], np.int64)
    restored: NDArray[np.int64] = levels[(planes > levels.mean()).astype(np.int64)]
    return restored


def _main_values(colors: NDArray[np.int64], span: int) -> NDArray[np.int64] | None:
    """Return ``(K, C)`` values, rising, that the even areas ``(C, n)`` gather around; None if they do not."""
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
    """Give each pixel of ``(C, *S)`` one of the ``(K, C)`` main values."""
    column = (slice(None),) + (None,) * (planes.ndim - 1)
    distance = np.stack([((planes - value[column]) ** 2).sum(axis=0) for value in main])
    nearest = distance.argmin(axis=0)
    if len(main) > 2:
        # Between black and white lies gray: the closest value may be a third class, so the closest place decides.
        from scipy.ndimage import distance_transform_edt

        off = distance.min(axis=0) > (0.04 * span) ** 2
        if off.any() and not off.all():
            place = distance_transform_edt(off, return_distances=False, return_indices=True)
            nearest = nearest[tuple(place)]
    return np.moveaxis(main[nearest], -1, 0)


def to_classes(
    labels: NDArray[np.integer[Any]], values: Sequence[int], ignore: Sequence[int] = ()
) -> NDArray[np.int32]:
    """Turn values into classes numbered from 0.

    Parameters
    ----------
    labels
        ``(*S)`` integers.
    values
        Rising; ``values[k]`` becomes class k.
    ignore
        Values that mean not annotated, beside `UNANNOTATED`.

    Returns
    -------
    classes
        ``(*S)`` int32, 0 .. K - 1 or `UNANNOTATED`.

    Raises
    ------
    DataError
        If a value is none of these.
    """
    known = np.asarray(values, np.int64)
    index = np.searchsorted(known, labels).clip(0, len(known) - 1)
    classes = np.where(known[index] == labels, index, UNANNOTATED).astype(np.int32)
    strange = (classes == UNANNOTATED) & ~np.isin(labels, [UNANNOTATED, *ignore])
    if strange.any():
        raise DataError(
            f"a mask with the value {int(labels[strange][0])}",
            "values " + ", ".join(map(str, values)),
            "run `septum check` on the data, it names the file",
        )
    return classes


def fill_holes(image: NDArray[Any]) -> NDArray[Any]:
    """Replace values that are not finite.

    NaN becomes the median of the channel's finite values, so that a hole looks like an ordinary place; plus and minus
    infinity become the largest and the smallest finite value, as if the detector had saturated.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype.

    Returns
    -------
    image
        ``(C, *S)``, same dtype; the same array if there is nothing to replace. A channel without a finite value is 0.
    """
    if image.dtype.kind != "f" or np.isfinite(image).all():
        return image
    filled = image.copy()
    for channel in filled:
        finite = channel[np.isfinite(channel)]
        low, middle, high = (finite.min(), np.median(finite), finite.max()) if finite.size else (0, 0, 0)
        np.nan_to_num(channel, copy=False, nan=float(middle), posinf=float(high), neginf=float(low))
    return filled


def fits_channels(given: int, wanted: int, *, spare: bool) -> bool:
    """Say whether `match_channels` can make `wanted` channels of `given`; `spare`: the last one is constant."""
    return given in (1, wanted) or (spare and given == wanted + 1)


def match_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """Give an image the number of channels of its data set.

    Parameters
    ----------
    image
        ``(C, *S)``.
    channels
        Wanted. One channel is repeated; one channel too many is dropped (constant alpha).

    Returns
    -------
    image
        ``(channels, *S)``, same dtype.

    Raises
    ------
    DataError
        If neither applies.
    """
    given = image.shape[0]
    if given == channels:
        return image
    if given == 1:
        return np.repeat(image, channels, axis=0)
    if given == channels + 1:
        return image[:channels]
    raise DataError(f"an image with {given} channels", f"{channels}", "convert it")
