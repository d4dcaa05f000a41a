"""Named axes of images.

Images are kept in the order ``T C Z Y X``. ``C``, ``Y`` and ``X`` are always present; ``T`` and ``Z`` only if the image
has them. Files use other orders and other letters; `canonical` returns the permutation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from septum.errors import UsageError

ORDER = "TCZYX"


def spatial(axes: str) -> str:
    """Return the spatial part of `axes` in canonical order: ``"YX"`` or ``"ZYX"``."""
    return "".join(a for a in "ZYX" if a in axes)


def walked_axes(axes: str, rank: int) -> str:
    """Return the axes along which an image is walked frame by frame: T, and Z for a model of images."""
    return "".join(a for a in axes if a == "T" or (a == "Z" and rank == 2))


def canonical(axes: str) -> tuple[str, tuple[int, ...]]:
    """Return the canonical order of `axes` and the permutation that leads to it.

    Parameters
    ----------
    axes
        One letter of ``TCZYX`` per array dimension, each at most once, ``Y`` and ``X`` among them, in any order.

    Returns
    -------
    canonical_axes
        The axes in the order ``TCZYX``, with ``C`` added if it was missing.
    permutation
        ``array.transpose(permutation)`` brings the given dimensions into canonical order; a missing ``C`` is then
        inserted with ``numpy.expand_dims`` at ``canonical_axes.index("C")``.

    Raises
    ------
    ValueError
        If a letter is unknown or repeated, or ``Y`` or ``X`` is missing.
    """
    if len(set(axes)) != len(axes) or not set(axes) <= set(ORDER) or not {"Y", "X"} <= set(axes):
        raise ValueError(f"axes {axes!r}: each of {ORDER} at most once, Y and X always")
    permutation = tuple(axes.index(a) for a in ORDER if a in axes)
    full = "".join(a for a in ORDER if a in axes or a == "C")
    return full, permutation


def relative_spacing(spacing: Sequence[float] | None, rank: int) -> tuple[float, ...]:
    """Express the pixel size along each axis in units of the smallest.

    Parameters
    ----------
    spacing
        One number above 0 per axis, in any unit; None: all equal.
    rank
        Number of axes.

    Returns
    -------
    sizes
        `rank` numbers of 1 and more.

    Raises
    ------
    UsageError
        If the number of values is not `rank`, or one is not above 0 and finite.
    """
    sizes = (1.0,) * rank if spacing is None else tuple(float(size) for size in spacing)
    if len(sizes) != rank or not all(0 < size < math.inf for size in sizes):
        raise UsageError(
            f"spacing {spacing} for {rank} axes",
            f"{rank} numbers above 0, one for each axis",
            "give the pixel sizes of all axes",
        )
    return tuple(size / min(sizes) for size in sizes)


def pixels_within(distance: float, sizes: Sequence[float]) -> tuple[int, ...]:
    """Return the whole pixels along each axis within a distance.

    Parameters
    ----------
    distance
        In pixels of the finest axis, 0 or more.
    sizes
        Pixel size along each axis in pixels of the finest, from `relative_spacing`.
    """
    return tuple(int(distance / size) for size in sizes)
