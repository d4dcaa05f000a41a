"""Masks that went through JPEG: detected by their pixels, whatever the name of the file.

JPEG changes labels. Masks of more than two values cannot be restored (`septum.check.masks.MASK_NO_LABELS`). Masks of
two values are not used for training either; the copy of ``--fix`` holds their two values again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
_SPAN = 32  # two values closer than this cannot be distinguished from ids


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
