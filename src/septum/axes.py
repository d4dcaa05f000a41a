"""Named axes of images.

An image is kept in the order ``T C Z Y X``. ``C``, ``Y`` and ``X`` are always there; ``T`` and ``Z`` only where
the image has them. Files use other orders and other letters; `canonical` says how one becomes the other.
"""

from __future__ import annotations

from collections.abc import Sequence

ORDER = "TCZYX"
CANONICAL = ("CYX", "CZYX", "TCYX", "TCZYX")


def check_canonical(axes: str) -> str:
    """Return `axes` if it is one of ``CYX``, ``CZYX``, ``TCYX``, ``TCZYX``; raise `ValueError` otherwise."""
    if axes not in CANONICAL:
        raise ValueError(f"axes {axes!r} are none of {', '.join(CANONICAL)}")
    return axes


def spatial(axes: str) -> str:
    """Return the spatial part of `axes` in canonical order: ``"YX"`` or ``"ZYX"``."""
    return "".join(a for a in "ZYX" if a in axes)


def canonical(axes: str) -> tuple[str, tuple[int, ...]]:
    """Say how an array with `axes` becomes canonical.

    Parameters
    ----------
    axes
        One letter of ``TCZYX`` per array dimension, each at most once, ``Y`` and ``X`` among them, in any order.

    Returns
    -------
    canonical_axes
        The axes in the order ``TCZYX``, with ``C`` added if it was missing.
    permutation
        ``array.transpose(permutation)`` puts the given dimensions into canonical order; a missing ``C`` is then
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


def relative_spacing(spacing_um: Sequence[float] | None) -> tuple[float, ...] | None:
    """Return pixel sizes as multiples of the smallest one; None where they are unknown."""
    return None if spacing_um is None else tuple(size / min(spacing_um) for size in spacing_um)
