"""Distances between the surfaces of a class in truth and prediction.

A surface pixel is a pixel of the class with a neighbor along an axis that is not of the class; the edge of the image is
no surface, because the object continues there. Both scores follow MedPy (``assd``, ``hd95``) on these surfaces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Distances(NamedTuple):
    """Distances of two surfaces, in the unit of the spacing; 0 is best, NaN where either class is empty.

    Attributes
    ----------
    average
        Average symmetric surface distance: the mean of the two directed means.
    hausdorff_95
        95th percentile of all distances, both directions together (linear between ranks).
    """

    average: float
    hausdorff_95: float


def distances(
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    *,
    spacing: tuple[float, ...] | None = None,
    ignore: NDArray[np.bool_] | None = None,
) -> Distances:
    """Compute the distances between the true and the predicted surface of a class.

    Parameters
    ----------
    truth, predicted
        ``(*S)`` bool, True inside the class, ``*S`` = ``(Y, X)`` or ``(Z, Y, X)``.
    spacing
        Size of a pixel along each axis; None for 1.
    ignore
        ``(*S)`` bool, True where surface pixels do not count.

    Returns
    -------
    Distances
        Both NaN where the class, or its surface, is missing in one of the two.
    """
    both = truth | predicted
    if not both.any():
        return Distances(float("nan"), float("nan"))
    # A margin of two pixels keeps the surface and its neighbors inside the box.
    box = tuple(
        slice(max(0, int(where[0]) - 2), int(where[-1]) + 3)
        for axis in range(both.ndim)
        for where in [np.flatnonzero(both.any(axis=tuple(a for a in range(both.ndim) if a != axis)))]
    )
    surfaces = [_surface(mask[box]) for mask in (truth, predicted)]
    if ignore is not None:
        surfaces = [s & ~ignore[box] for s in surfaces]
    if not all(s.any() for s in surfaces):
        return Distances(float("nan"), float("nan"))
    first, second = (_distances(here, there, spacing) for here, there in (surfaces, surfaces[::-1]))
    every = np.concatenate([first, second])
    return Distances(float((first.mean() + second.mean()) / 2), float(np.percentile(every, 95)))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    outer, surface = ~mask, np.zeros(mask.shape, np.bool_)
    for axis in range(mask.ndim):
        there, here = np.moveaxis(outer, axis, 0), np.moveaxis(surface, axis, 0)
        here[1:] |= there[:-1]
        here[:-1] |= there[1:]
    return surface & mask


def _distances(
    here: NDArray[np.bool_], there: NDArray[np.bool_], spacing: tuple[float, ...] | None
) -> NDArray[np.float64]:
    """Compute the distance of each pixel of one surface to the nearest pixel of the other."""
    import edt

    distance: NDArray[np.float32] = edt.edt(np.ascontiguousarray(~there), anisotropy=spacing or (1.0,) * there.ndim)
    return distance[here].astype(np.float64)
