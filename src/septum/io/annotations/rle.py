"""Run lengths of pixels, as COCO and CVAT write them: numbers of pixels outside and inside in turn, outside first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decode_runs(
    runs: Sequence[int] | NDArray[np.int64], height: int, width: int, *, by_column: bool
) -> NDArray[np.bool_]:
    """Decode run lengths.

    Parameters
    ----------
    runs
        ``(N,)`` integers of 0 and more, pixels outside and inside in turn; together height times width.
    height, width
        Of the box, in pixels; the caller has checked that they fit into memory.
    by_column
        True if the runs go down the columns (COCO), False if along the rows (CVAT).

    Returns
    -------
    inside
        ``(height, width)`` bool, True inside.

    Raises
    ------
    ValueError
        If the runs are not whole numbers from 0, or together not the pixels of the box.
    """
    try:
        lengths = np.asarray(runs, dtype=np.int64).reshape(-1)
    except OverflowError as error:
        raise ValueError("run lengths above 2^63") from error
    if (lengths < 0).any():
        raise ValueError("a run length below 0")
    if height < 0 or width < 0 or sum(lengths.tolist()) != height * width:
        raise ValueError(f"run lengths of {sum(lengths.tolist())} pixels for a box of {height} x {width}")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(width, height).T if by_column else flat.reshape(height, width)


def uncompressed(text: str) -> NDArray[np.int64]:
    """Decode the text of compressed run lengths of COCO.

    Parameters
    ----------
    text
        Characters from ``0`` to ``o``: five bits each, a sixth one if the number goes on, lowest first; from the fourth
        number on the difference to the last but one.

    Returns
    -------
    runs
        ``(N,)`` int64, counts of pixels, 0 and more; negative ones if the text is damaged.

    Raises
    ------
    ValueError
        If the text holds other characters, ends within a number, or a number has more than 60 bits.
    """
    bits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not bits.size:
        return bits
    if bits.min() < 0 or bits.max() > 63:
        raise ValueError("run lengths with characters that are none of COCO's")
    last = (bits & 32) == 0
    if not last[-1]:
        raise ValueError("run lengths that end within a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digit = np.arange(bits.size) - np.repeat(starts, ends - starts + 1)
    if digit.max() >= 12:
        raise ValueError("a run length of more than 60 bits")
    numbers = np.add.reduceat((bits & 31) << (5 * digit), starts)
    negative = (bits[ends] & 16) != 0
    numbers = np.where(negative, numbers - (np.int64(1) << (5 * (ends - starts + 1))), numbers)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
