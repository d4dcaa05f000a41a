"""Values smeared by lossy compression: told in the pixels, whatever the file is called now."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 8  # pixels; JPEG works on blocks of 8 x 8
_MOST = 2_000  # blocks that are looked at
_VALUES = 5  # distinct values in a block that labels hardly ever have
_OFF = 0.2  # share of a block's pixels that have none of its two most frequent values
_SHARE = 0.5  # of the blocks that hold several values
_FEWEST = 4  # such blocks


def smeared(codes: NDArray[Any]) -> bool:
    """Say whether a mask went through JPEG: most blocks that hold a border hold many values, each on few pixels.

    Clean labels have two or three values in such a block. Many tiny objects are not smeared: most pixels between them
    are background.

    Parameters
    ----------
    codes
        ``(*S)`` integers, one number for each value or color.
    """
    sides = [n // _BLOCK for n in codes.shape[-2:]]
    if not all(sides):
        return False
    cut = codes[..., : sides[0] * _BLOCK, : sides[1] * _BLOCK]
    blocks = cut.reshape(-1, sides[0], _BLOCK, sides[1], _BLOCK).swapaxes(2, 3).reshape(-1, _BLOCK * _BLOCK)
    several = np.flatnonzero(blocks.min(axis=1) != blocks.max(axis=1))
    if len(several) < _FEWEST:
        return False
    chosen = blocks[several[:: -(-len(several) // _MOST)]]
    return sum(map(_is_smeared, chosen)) > _SHARE * len(chosen)


def _is_smeared(block: NDArray[Any]) -> bool:
    counts = np.unique(block, return_counts=True)[1]
    off = block.size - int(np.sort(counts)[-2:].sum())
    return len(counts) >= _VALUES and off >= _OFF * block.size
