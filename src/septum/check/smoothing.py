"""Masks that were smoothed, resized or saved as JPEG: detected by their pixels, whatever the name of the file.

Smoothing along borders is undone for certain (`unsmooth`). JPEG changes labels: masks of more than two values cannot be
restored (`septum.check.masks.MASK_NO_LABELS`); masks of two values are not used for training either, but the copy of
``--fix`` holds their two values again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import local_extreme
from septum.check.issues import IssueKind, Observation
from septum.check.statistics import PairStatistics

MASK_JPEG = IssueKind(
    "mask-jpeg",
    "warning",
    "mask",
    "of two values that JPEG or smoothing blurred",
    "left out",
    fix="restores the two values",
    todo="or export the masks again as PNG or TIFF",
    leaves_out=True,
)
KINDS = (MASK_JPEG,)

_BLOCK = 8  # pixels; JPEG works on blocks of 8 x 8
_MOST_BLOCKS = 2_000  # a regular sample of these is tested
_VALUES = 5  # distinct values in a block; labels hardly ever have as many
_OFF = 0.2  # share of a block's pixels that have none of its two most frequent values
_SHARE = 0.5  # of the blocks that hold several values
_FEWEST_BLOCKS = 4
_SPAN = 32  # values closer than this cannot be distinguished from ids


def detect_in_pair(pair: PairStatistics) -> Iterator[Observation]:
    """Yield an observation if the two values of the mask would have to be restored."""
    if pair.mask_stats is not None and pair.mask_stats.restored:
        yield Observation(MASK_JPEG, pair.mask)


def has_jpeg_artifacts(codes: NDArray[Any]) -> bool:
    """Return True if a mask went through JPEG: most 8 x 8 blocks that hold a border hold many values on few pixels.

    Clean labels have two or three values in such a block. Many tiny objects are no artifacts: most pixels between them
    are background.

    Parameters
    ----------
    codes
        ``(*S)`` integers, one number for each label or color; any range.
    """
    sides = [n // _BLOCK for n in codes.shape[-2:]]
    if not all(sides):
        return False
    cut = codes[..., : sides[0] * _BLOCK, : sides[1] * _BLOCK]
    blocks = cut.reshape(-1, sides[0], _BLOCK, sides[1], _BLOCK).swapaxes(2, 3).reshape(-1, _BLOCK * _BLOCK)
    several = np.flatnonzero(blocks.min(axis=1) != blocks.max(axis=1))
    if len(several) < _FEWEST_BLOCKS:
        return False
    chosen = blocks[several[:: -(-len(several) // _MOST_BLOCKS)]]
    distinct = 1 + np.count_nonzero(np.diff(np.sort(chosen, axis=1), axis=1), axis=1)
    return sum(map(_is_blurred, chosen[distinct >= _VALUES])) > _SHARE * len(chosen)


def _is_blurred(block: NDArray[Any]) -> bool:
    counts = np.unique(block, return_counts=True)[1]
    return block.size - int(np.sort(counts)[-2:].sum()) >= _OFF * block.size


def restore_two_values(planes: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Restore the two values of a gray mask that went through JPEG.

    Parameters
    ----------
    planes
        ``(C, *S)`` int64, values >= 0.

    Returns
    -------
    planes
        ``(1, *S)`` int64: each pixel has the closer one of two values of `planes`, which are the most frequent value of
        the lower half of the range and that of the upper half. None if the mask is in color, if the range is shorter
        than 32, or if the middle third of the range holds more than a quarter as many pixels as the rarer half: it may
        be a third value.
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


def color_codes(planes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number for each color.

    Parameters
    ----------
    planes
        ``(C, *S)`` int64, values of 0 and more: gray (C = 1) of any value, or colors (C = 3) of 8 bits.

    Returns
    -------
    codes
        ``(*S)`` int64, any values of 0 and more, equal where the colors are equal.
    """
    codes: NDArray[np.int64] = planes[0] if len(planes) == 1 else (planes[0] * 256 + planes[1]) * 256 + planes[2]
    return codes


# A smoothed mask is detected by its borders. In a clean mask hardly any pixel lies strictly between the lowest and the
# highest of its neighbors (only where three labels meet); in a smoothed one a third of the border pixels do.
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
    codes = color_codes(planes)
    distinct = len(np.unique(codes))
    if distinct < 2 + _LEVELS:
        return None
    small = planes.astype(np.min_scalar_type(int(planes.max())))  # less memory to go through
    low, high = (np.stack([local_extreme(way, plane) for plane in small]) for way in (np.minimum, np.maximum))
    even = (low == high).all(axis=0)
    between = ((low < small) & (small < high)).any(axis=0)
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
    _, first, counts = np.unique(color_codes(colors), return_index=True, return_counts=True)
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
