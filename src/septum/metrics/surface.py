"""Distances between the surfaces of a class in truth and prediction.

A surface pixel is a pixel of the class with a neighbor along an axis that is not of the class; the edge of the image is
no surface, because the object continues there. Both scores follow MedPy (``assd``, ``hd95``) on these surfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Surface pixels search for the other surface until they have looked at this number of rows for each pixel of the box;
# then the distances of all pixels of the box take less time: surfaces lie far apart.
_ROWS = 4


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
    return distances_in_units(truth, predicted, spacings=[spacing], ignore=ignore)[0]


def distances_in_units(
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    *,
    spacings: Sequence[tuple[float, ...] | None],
    ignore: NDArray[np.bool_] | None = None,
) -> list[Distances]:
    """Compute `distances` with several spacings, which share most of the work.

    Parameters
    ----------
    truth, predicted, ignore
        ``(*S)`` bool, as for `distances`.
    spacings
        Sizes of a pixel along each axis; None for 1.

    Returns
    -------
    list
        For each of `spacings`.
    """
    both = truth | predicted
    missing = [Distances(float("nan"), float("nan")) for _ in spacings]
    if not both.any():
        return missing
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
        return missing
    sizes = [(1.0,) * both.ndim if spacing is None else spacing for spacing in spacings]
    directed = (_distances(here, there, sizes) for here, there in (surfaces, surfaces[::-1]))
    return [
        Distances(float((one.mean() + two.mean()) / 2), float(np.percentile(np.concatenate([one, two]), 95)))
        for one, two in zip(*directed, strict=True)
    ]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    outer, surface = ~mask, np.zeros(mask.shape, np.bool_)
    for axis in range(mask.ndim):
        there, here = np.moveaxis(outer, axis, 0), np.moveaxis(surface, axis, 0)
        here[1:] |= there[:-1]
        here[:-1] |= there[1:]
    return surface & mask


def _distances(
    here: NDArray[np.bool_], there: NDArray[np.bool_], spacings: Sequence[tuple[float, ...]]
) -> list[NDArray[np.float64]]:
    """Compute the distance of each pixel of one surface to the nearest pixel of the other, with each spacing."""
    from septum.metrics import _surface as loops

    first = 3 - here.ndim
    rows = loops.row_distances(np.ascontiguousarray(there).reshape((1,) * first + there.shape))
    places, result = np.flatnonzero(here), []
    for spacing in spacings:
        found = np.empty(places.size)
        size_z, size_y, size_x = (1.0,) * first + spacing
        known = loops.search(rows, places, (size_z, size_y, size_x), _ROWS * rows.size, found)
        if known < places.size:
            found[known:] = _whole_distances(there, spacing).reshape(-1)[places[known:]]
        result.append(found)
    return result


def _whole_distances(there: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Compute the distance of every pixel to the nearest pixel of a surface, ``(*S)`` float32."""
    import edt

    distance: NDArray[np.float32] = edt.edt(np.ascontiguousarray(~there), anisotropy=spacing)
    return distance
