"""What the network is to answer, made from masks: touching objects set apart, two classes, components.

A mask of objects holds ids of 1 and more, 0 for background and `IGNORE` for pixels that are not annotated. A mask of
classes holds 0 .. K - 1 and `IGNORE`. A target is uint8, with `IGNORED` in the place of `IGNORE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass


from septum.errors import DataError

IGNORE = -1
"""A pixel of a mask (int32) that is not annotated."""

IGNORED = 255
"""A pixel of a target (uint8) that is not annotated."""


def check_labels(labels: NDArray[np.integer[Any]]) -> None:
    """Raise `DataError` if a value of a mask of objects, ``(*S)`` integers, is negative and not `IGNORE`."""
    if labels.size and (lowest := int(labels.min())) < IGNORE:
        raise DataError(
            f"a mask with the value {lowest}",
            f"0 for background, {IGNORE} for pixels that are not annotated, ids of 1 and more for objects",
            "run `septum check` on the data, it names the file",
        )


def relabel_consecutive(labels: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Give objects the numbers 1 .. N, in the order of their ids.

    Parameters
    ----------
    labels
        ``(*S)`` integers: ids of 1 and more, 0 background, `IGNORE` where not annotated.

    Returns
    -------
    numbers
        ``(*S)`` int32, 0 background, 1 .. N the objects, `IGNORE` kept.
    ids
        ``(N,)`` int64: ``ids[i - 1]`` is the id that object ``i`` had.

    Raises
    ------
    DataError
        If a value is negative and not `IGNORE`.
    """
    if labels.size == 0:
        return labels.astype(np.int32), np.empty(0, np.int64)
    check_labels(labels)
    # A table is linear in the pixels, but its length is the highest id: ids such as 10^9 are sorted instead.
    # Entry 0 of the table is IGNORE, entry 1 background; no copy of the mask is masked or compared per object.
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
    numbers = np.concatenate([np.array([IGNORE, 0], np.int32), table])[shifted]
    return numbers.reshape(labels.shape), ids.astype(np.int64)


def separate_touching(labels: NDArray[np.integer[Any]], *, gap_px: int = 1) -> NDArray[np.int32]:
    """Set touching objects apart by background (paper, section 3: the separation border).

    Afterwards a pixel of an object has no pixel of another object within `gap_px` pixels along any axis or diagonal,
    so no two objects touch under any connectivity. The pixels are taken from the **larger** object of each pair only
    (of two equally large ones from that with the lower id): the border is as thin as allowed, and a small object
    beside a large one stays as it is. Outlines that face background are not touched.

    No object is lost: one that would vanish between its neighbors keeps its most interior pixels, and the neighbors
    give way to these. (Where even that leaves no room, such as two objects of one pixel each side by side, both stay.)

    Parameters
    ----------
    labels
        ``(Y, X)`` or ``(Z, Y, X)`` integers: ids of 1 and more, 0 background, `IGNORE` where not annotated.
        An id in several pieces is one object.
    gap_px
        Thickness of the border in pixels, 0 or more; 0 changes nothing.

    Returns
    -------
    separated
        ``(*S)`` int32 with the same ids; `IGNORE` is kept.

    Raises
    ------
    DataError
        If a value is negative and not `IGNORE`.
    """
    from scipy.ndimage import maximum_filter

    numbers, ids = relabel_consecutive(labels)
    separated = labels.astype(np.int32)
    if len(ids) < 2 or gap_px == 0:
        return separated
    order = np.zeros(len(ids) + 1, np.int32)
    order[1 + np.argsort(-_sizes(numbers, len(ids)), kind="stable")] = np.arange(1, len(ids) + 1)
    rank = order[np.maximum(numbers, 0)]
    kept = np.zeros(labels.shape, bool)
    while True:
        # A pixel goes if an object of higher rank (a smaller one, or a remnant to be kept) is near.
        stays = (rank > 0) & (kept | (maximum_filter(rank, size=2 * gap_px + 1, mode="constant") == rank))
        vanished = _sizes(np.where(stays, numbers, 0), len(ids)) == 0
        if not vanished.any():
            return np.where((numbers > 0) & ~stays, np.int32(0), separated)
        remnants = _innermost(numbers, np.flatnonzero(vanished) + 1)
        kept |= remnants
        # The rest of such an object goes; its remnants outrank all that is near them.
        rank[np.isin(numbers, np.flatnonzero(vanished) + 1)] = 0
        rank[remnants] = numbers[remnants] + len(ids)


def object_target(labels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Turn object ids into the two classes background (0) and object (1).

    Parameters
    ----------
    labels
        ``(*S)`` integers, usually from `separate_touching`: ids of 1 and more, 0 background, `IGNORE` where not
        annotated.

    Returns
    -------
    target
        ``(*S)`` uint8: 0, 1, and `IGNORED` (255).
    """
    target = (labels > 0).astype(np.uint8)
    target[labels == IGNORE] = IGNORED
    return target


def class_target(mask: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Turn a mask of classes into a target.

    Parameters
    ----------
    mask
        ``(*S)`` integers: classes 0 .. 254, `IGNORE` where not annotated.

    Returns
    -------
    target
        ``(*S)`` uint8: the classes, and `IGNORED` (255).

    Raises
    ------
    DataError
        If a value is neither a class that fits uint8 nor `IGNORE`.
    """
    lowest, highest = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if lowest < IGNORE or highest >= IGNORED:
        raise DataError(
            f"a mask of classes with values from {lowest} to {highest}",
            f"classes 0 to {IGNORED - 1}, {IGNORE} for pixels that are not annotated",
            "if the values are ids of objects, train with --kind objects",
        )
    target = mask.astype(np.uint8)
    target[mask == IGNORE] = IGNORED
    return target


def near_objects(
    labels: NDArray[np.integer[Any]], *, reach_px: float, spacing: Sequence[float] | None = None
) -> NDArray[np.int32]:
    """Keep as background only what lies near an object: the rest of a mask that names some objects is not annotated.

    Parameters
    ----------
    labels
        ``(*S)`` integers: ids of 1 and more, 0 background, `IGNORE` where not annotated.
    reach_px
        Largest distance from the center of a pixel of an object, in pixels of the finest axis.
    spacing
        Pixel size along each axis relative to the smallest; None: all equal.

    Returns
    -------
    near
        ``(*S)`` int32: as `labels`, with `IGNORE` for background that is farther away; all of it without an object.
    """
    import edt

    free = np.ascontiguousarray(labels <= 0)
    near: NDArray[np.int32] = labels.astype(np.int32)
    if free.all():
        near[:] = IGNORE
        return near
    square = edt.edtsq(free, anisotropy=tuple(spacing or (1.0,) * labels.ndim), black_border=False)
    near[(near == 0) & (square > reach_px**2)] = IGNORE
    return near


def without_unknown(predicted: NDArray[np.int32], truth: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Leave out objects that the truth can say nothing of: more than half of each lies where it is not annotated.

    None of them can be a true object: their intersection over union with any is below one half.

    Parameters
    ----------
    predicted
        ``(*S)``, ids, 0 background.
    truth
        ``(*S)`` integers, `IGNORE` where not annotated.

    Returns
    -------
    known
        ``(*S)`` int32, 0 in the place of these objects.
    """
    sizes = np.bincount(predicted.ravel(), minlength=1)
    unknown = np.bincount(predicted[truth == IGNORE], minlength=len(sizes))
    return np.where(2 * unknown[predicted] > sizes[predicted], np.int32(0), predicted)


def connected_components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label the face-connected pieces of a mask (4 neighbors in 2D, 6 in 3D).

    Parameters
    ----------
    mask
        ``(Y, X)`` or ``(Z, Y, X)`` bool.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, 1 .. N in the order in which a scan of the array meets them.
    """
    import cc3d

    if mask.size == 0:
        return np.zeros(mask.shape, np.int32)
    found = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=4 if mask.ndim == 2 else 6)
    return np.asarray(found).astype(np.int32)


def _sizes(numbers: NDArray[np.int32], objects: int) -> NDArray[np.int64]:
    """Count the pixels of objects 1 .. `objects`."""
    return np.bincount(np.maximum(numbers, 0).ravel(), minlength=objects + 1)[1:]


def _innermost(numbers: NDArray[np.int32], which: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Mark the pixels of the objects `which` that lie farthest from their object's outline; ``(*S)`` bool."""
    import edt

    inside = np.isin(numbers, which)
    depth = np.where(inside, edt.edt(np.maximum(numbers, 0), black_border=True), 0)
    deepest = np.zeros(int(numbers.max()) + 1, np.float32)
    np.maximum.at(deepest, numbers[inside], depth[inside])
    return inside & (depth >= deepest[np.maximum(numbers, 0)])


def equivalent_diameters(sizes: NDArray[np.integer[Any]], rank: int) -> NDArray[np.float64]:
    """Return the diameters of the disks (rank 2) or balls (rank 3) of so many pixels."""
    wide: NDArray[np.float64] = 2 * np.sqrt(sizes / np.pi) if rank == 2 else 2 * np.cbrt(0.75 * sizes / np.pi)
    return wide
