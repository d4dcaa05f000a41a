"""Training targets from masks: separate touching objects, make class targets, label connected components.

An object mask holds ids of 1 and more, 0 for background, and `UNANNOTATED`. A class mask holds 0 .. K - 1 and
`UNANNOTATED`. A target is uint8, with `IGNORE_INDEX` in place of `UNANNOTATED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.axes import relative_spacing
from septum.errors import DataError

UNANNOTATED = -1
"""Value of mask pixels (int32) that are not annotated."""

IGNORE_INDEX = 255
"""Value of target pixels (uint8) that are not annotated; the loss ignores them."""


def check_labels(labels: NDArray[np.integer[Any]]) -> None:
    """Raise `DataError` if an object mask has a negative value other than `UNANNOTATED`.

    Parameters
    ----------
    labels
        ``(*S)`` integers: ids, 0 background, `UNANNOTATED`.
    """
    if labels.size and (lowest := int(labels.min())) < UNANNOTATED:
        raise DataError(
            f"a mask with the value {lowest}",
            f"0 for background, {UNANNOTATED} for pixels that are not annotated, ids of 1 and more for objects",
            "find the file with: septum check DATA",
        )


def relabel_consecutive(labels: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Renumber objects 1 .. N in the order of their ids.

    Parameters
    ----------
    labels
        ``(*S)`` integers: ids of 1 and more, 0 background, `UNANNOTATED`.

    Returns
    -------
    numbers
        ``(*S)`` int32: 0 background, objects 1 .. N; `UNANNOTATED` is kept.
    ids
        ``(N,)`` int64: ``ids[i - 1]`` is the former id of object ``i``.

    Raises
    ------
    DataError
        If a value is negative and not `UNANNOTATED`.
    """
    if labels.size == 0:
        return labels.astype(np.int32), np.empty(0, np.int64)
    check_labels(labels)
    # A table is linear in the pixels, but its length is the highest id: ids such as 10^9 are sorted instead.
    # Entry 0 of the table is UNANNOTATED, entry 1 background.
    shifted = labels.astype(np.int64).ravel() + 1
    if int(shifted.max()) <= 2 * labels.size + 2**16:
        present = np.bincount(shifted, minlength=2) > 0
        ids = np.flatnonzero(present[2:]) + 1
    else:
        ids = np.unique(shifted)
        ids = ids[ids > 1] - 1
        shifted = np.where(shifted > 1, np.searchsorted(ids, shifted - 1) + 2, shifted)
        present = np.ones(len(ids) + 2, bool)
    table = np.cumsum(present[2:], dtype=np.int32)
    numbers = np.concatenate([np.array([UNANNOTATED, 0], np.int32), table])[shifted]
    return numbers.reshape(labels.shape), ids.astype(np.int64)


def separate_touching(labels: NDArray[np.integer[Any]], *, gap_px: int = 1) -> NDArray[np.int32]:
    """Separate touching objects by background (paper, section 3: the separation border).

    In the result a pixel of an object has no pixel of another object within `gap_px` pixels along any axis or diagonal,
    so that no two objects touch under any connectivity. The pixels are taken only from the **larger** object of each
    pair (of equally large ones from the lower id): the border is as thin as allowed, and a small object beside a large
    one keeps its shape. Outlines that face background do not change.

    No object is lost: an object that would vanish between its neighbors keeps its innermost pixels, and the neighbors
    yield to these. (If even that leaves no room, such as for two adjacent objects of one pixel each, both stay.)

    Parameters
    ----------
    labels
        ``(Y, X)`` or ``(Z, Y, X)`` integers: ids of 1 and more, 0 background, `UNANNOTATED`. An id in several pieces is
        one object.
    gap_px
        Thickness of the border in pixels, 0 or more; 0 changes nothing.

    Returns
    -------
    separated
        ``(*S)`` int32 with the same ids; `UNANNOTATED` is kept.

    Raises
    ------
    DataError
        If a value is negative and not `UNANNOTATED`, or too large for int32.
    """
    numbers, ids = relabel_consecutive(labels)
    separated = _as_int32(labels)
    if len(ids) < 2 or gap_px == 0:
        return separated
    order = np.zeros(len(ids) + 1, np.int32)
    order[1 + np.argsort(-_sizes(numbers, len(ids)), kind="stable")] = np.arange(1, len(ids) + 1)
    rank = order[np.maximum(numbers, 0)]
    kept = np.zeros(labels.shape, bool)
    while True:
        # A pixel becomes background if an object of higher rank (smaller, or a remnant to keep) is near.
        stays = (rank > 0) & (kept | (local_extreme(np.maximum, rank, reach_px=gap_px) == rank))
        vanished = _sizes(np.where(stays, numbers, 0), len(ids)) == 0
        if not vanished.any():
            return np.where((numbers > 0) & ~stays, np.int32(0), separated)
        remnants = _innermost(numbers, np.flatnonzero(vanished) + 1)
        kept |= remnants
        # The rest of such an object is removed; its remnants outrank all objects near them.
        rank[np.isin(numbers, np.flatnonzero(vanished) + 1)] = 0
        rank[remnants] = numbers[remnants] + len(ids)


def _as_int32(labels: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return a copy of the ids as int32; raise `DataError` if one does not fit."""
    if labels.size and (highest := int(labels.max())) > np.iinfo(np.int32).max:
        raise DataError(
            f"an object with the id {highest}",
            f"ids of at most {np.iinfo(np.int32).max}",
            "number the objects anew, with relabel_consecutive or another program",
        )
    return labels.astype(np.int32)


def object_target(labels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Convert object ids to the two classes background (0) and object (1).

    Parameters
    ----------
    labels
        ``(*S)`` integers, usually from `separate_touching`: ids of 1 and more, 0 background, `UNANNOTATED`.

    Returns
    -------
    target
        ``(*S)`` uint8: classes 0 and 1, and `IGNORE_INDEX` (255).
    """
    target = (labels > 0).astype(np.uint8)
    target[labels == UNANNOTATED] = IGNORE_INDEX
    return target


def class_target(mask: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Convert a class mask to a target.

    Parameters
    ----------
    mask
        ``(*S)`` integers: classes 0 .. 254, `UNANNOTATED`.

    Returns
    -------
    target
        ``(*S)`` uint8: the classes, and `IGNORE_INDEX` (255).

    Raises
    ------
    DataError
        If a value is neither a class below 255 nor `UNANNOTATED`.
    """
    lowest, highest = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if lowest < UNANNOTATED or highest >= IGNORE_INDEX:
        raise DataError(
            f"a mask of classes with values from {lowest} to {highest}",
            f"classes 0 to {IGNORE_INDEX - 1}, {UNANNOTATED} for pixels that are not annotated",
            "if the values are ids of objects, train with --kind objects",
        )
    target = mask.astype(np.uint8)
    target[mask == UNANNOTATED] = IGNORE_INDEX
    return target


def ignore_far_background(
    labels: NDArray[np.integer[Any]], *, reach_px: float, spacing: Sequence[float] | None = None
) -> NDArray[np.int32]:
    """Mark background far from all objects as unannotated, for masks that label only some of the objects.

    Parameters
    ----------
    labels
        ``(*S)`` integers: ids of 1 and more, 0 background, `UNANNOTATED`.
    reach_px
        Largest distance from the center of an object pixel at which background is kept, in pixels of the finest axis.
    spacing
        Pixel size along each axis in any unit; only the ratios count. None: all equal.

    Returns
    -------
    near
        ``(*S)`` int32 ids: `labels`, with `UNANNOTATED` for background farther away; for all of it if there is no
        object.

    Raises
    ------
    DataError
        If an id is too large for int32.
    """
    import edt

    sizes = relative_spacing(spacing, labels.ndim)
    free = np.ascontiguousarray(labels <= 0)
    near = _as_int32(labels)
    if free.all():
        near[:] = UNANNOTATED
        return near
    square = edt.edtsq(free, anisotropy=sizes, black_border=False)
    near[(near == 0) & (square > reach_px**2)] = UNANNOTATED
    return near


def drop_unannotated(predicted: NDArray[np.int32], truth: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Remove predicted objects of which more than half lies where the truth is not annotated.

    None of them can match a true object: the intersection over union with any of them is below one half.

    Parameters
    ----------
    predicted
        ``(*S)`` int32: ids, 0 background.
    truth
        ``(*S)`` integers: ids or classes, `UNANNOTATED`.

    Returns
    -------
    known
        ``(*S)`` int32: `predicted` with these objects set to background (0).
    """
    sizes = np.bincount(predicted.ravel(), minlength=1)
    unknown = np.bincount(predicted[truth == UNANNOTATED], minlength=len(sizes))
    return np.where(2 * unknown[predicted] > sizes[predicted], np.int32(0), predicted)


def connected_components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label the face-connected components of a mask (4 neighbors in 2D, 6 in 3D).

    Parameters
    ----------
    mask
        ``(Y, X)`` or ``(Z, Y, X)`` bool, True for foreground.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, components 1 .. N in scan order.
    """
    import cc3d

    if mask.size == 0:
        return np.zeros(mask.shape, np.int32)
    labels = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=4 if mask.ndim == 2 else 6)
    return np.asarray(labels).astype(np.int32)


def _sizes(numbers: NDArray[np.int32], objects: int) -> NDArray[np.int64]:
    """Count the pixels of objects 1 .. `objects`."""
    return np.bincount(np.maximum(numbers, 0).ravel(), minlength=objects + 1)[1:]


def _innermost(numbers: NDArray[np.int32], objects: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Flag the pixels of `objects` that lie farthest from the outline of their object; ``(*S)`` bool."""
    import edt

    inside = np.isin(numbers, objects)
    depth = np.where(inside, edt.edt(np.maximum(numbers, 0), black_border=True), 0)
    deepest = np.zeros(int(numbers.max()) + 1, np.float32)
    np.maximum.at(deepest, numbers[inside], depth[inside])
    return inside & (depth >= deepest[np.maximum(numbers, 0)])


def object_sizes(labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Count the pixels of each object.

    Parameters
    ----------
    labels
        ``(*S)`` integers: object ids of 1 and more; 0 and less are no objects.

    Returns
    -------
    sizes
        ``(N,)`` int64 in the order of the ids, 1 or more.
    """
    ids = labels[labels > 0]
    if not len(ids):
        return np.zeros(0, np.int64)
    # Counting takes a tenth of the time of sorting, and little memory if ids are numbers of objects.
    sizes = np.bincount(ids) if int(ids.max()) <= labels.size else np.unique(ids, return_counts=True)[1]
    return sizes[sizes > 0]


def local_extreme(extreme: np.ufunc, values: NDArray[Any], *, reach_px: int = 1) -> NDArray[Any]:
    """Return the largest or smallest value around each pixel; ten times as fast as the filters of SciPy.

    Parameters
    ----------
    extreme
        `numpy.maximum` or `numpy.minimum`.
    values
        ``(*S)``, any real dtype, any range.
    reach_px
        Pixels on each side that count along each axis: 1 for 3 x 3 (x 3) pixels.

    Returns
    -------
    values
        ``(*S)`` of the same dtype and range; pixels beyond the sides of the image do not count.
    """
    found = values.copy()
    for axis in range(values.ndim):
        spread(found, axis, reach_px, extreme)
    return found


def spread(values: NDArray[Any], axis: int, window: int, choose: np.ufunc) -> None:
    """Replace each value by the smallest or largest within `window` pixels along an axis, in place.

    Parameters
    ----------
    values
        ``(*S)``, any real dtype, any range.
    axis, window, choose
        The axis, pixels on each side, and `numpy.minimum` or `numpy.maximum`.
    """
    turned = np.moveaxis(values, axis, 0)
    reached = 0
    while reached < window:
        step = min(2 * reached + 1, window - reached)
        before = turned.copy(order="K")  # in the order of the memory: the axes of `turned` are not in that order
        choose(turned[step:], before[:-step], out=turned[step:])
        choose(turned[:-step], before[step:], out=turned[:-step])
        reached += step


def equivalent_diameters(sizes: NDArray[np.integer[Any]], rank: int) -> NDArray[np.float64]:
    """Compute the diameters of disks (rank 2) or balls (rank 3) of given sizes.

    Parameters
    ----------
    sizes
        ``(N,)`` integers, 0 or more: numbers of pixels.
    rank
        2 or 3.

    Returns
    -------
    diameters
        ``(N,)`` float64, in pixels, 0 or more.
    """
    wide: NDArray[np.float64] = 2 * np.sqrt(sizes / np.pi) if rank == 2 else 2 * np.cbrt(0.75 * sizes / np.pi)
    return wide


def width_by_area(labels: NDArray[np.integer[Any]]) -> tuple[int, float]:
    """Count the objects of an image, and compute their typical width, which fragments hardly change.

    Parameters
    ----------
    labels
        ``(Y, X)`` or ``(Z, Y, X)`` integers: object ids of 1 and more; 0 and less are no objects.

    Returns
    -------
    count
        Number of objects.
    width_px
        Diameter (`equivalent_diameters`) of the object at which half of the area of all objects is reached, from the
        smallest on; 0 without objects.
    """
    sizes = np.sort(object_sizes(labels))
    if not len(sizes):
        return 0, 0.0
    areas = np.cumsum(sizes)
    middle = sizes[np.searchsorted(areas, areas[-1] / 2)]
    return len(sizes), float(equivalent_diameters(np.array([middle]), labels.ndim)[0])
