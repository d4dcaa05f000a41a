"""Objects far apart that have one id by mistake: told from one object that is seen in pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import relabel_consecutive

# A piece is an object of its own if it is not much smaller than the largest piece of the id and farther from it than an
# object is wide. Closer pieces may be one object behind another one; specks are no objects. Pieces that are cut by the
# same side of the image may meet outside, and have to be three times as far apart.
_SHARE = 0.25
_MOST = 4  # pieces of an id, also on average; more are no mistake in an id
_BEYOND = 3

Box = tuple[tuple[int, int], ...]


def set_apart(labels: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """Give pieces of one id that are objects of their own new ids.

    Parameters
    ----------
    labels
        ``(*S)`` ids, 0 background, -1 not annotated; two or three axes.

    Returns
    -------
    labels
        ``(*S)`` int32; new ids follow the largest one.
    ids
        Which ids had several objects, rising.
    """
    import cc3d

    numbers, ids = relabel_consecutive(np.maximum(labels, 0))
    pieces, total = cc3d.connected_components(numbers, connectivity=8 if numbers.ndim == 2 else 26, return_N=True)
    own: NDArray[np.int32] = labels.astype(np.int32)
    if total == len(ids) or total > _MOST * len(ids):  # all whole, or no ids at all
        return own, ()
    stats = cc3d.statistics(pieces)
    sizes = stats["voxel_counts"].astype(np.int64)
    boxes: list[Box] = [()]  # of the background, which may be nowhere
    boxes += [tuple((s.start, s.stop) for s in box) for box in stats["bounding_boxes"][1:]]
    owner = np.zeros(total + 1, np.int64)
    owner[pieces.ravel()] = numbers.ravel()
    by_id = np.argsort(owner[1:], kind="stable") + 1
    groups = np.split(by_id, np.flatnonzero(np.diff(owner[by_id])) + 1)
    width = np.median([_width(int(sizes[group].sum()), own.ndim) for group in groups])
    wrong, largest = [], int(own.max())
    for group in groups:
        if not 2 <= len(group) <= _MOST:
            continue
        kept = [int(group[np.argmax(sizes[group])])]
        near = max(float(width), _width(int(sizes[kept[0]]), own.ndim))
        for piece in sorted((int(p) for p in group if p != kept[0]), key=lambda p: -sizes[p]):
            if sizes[piece] >= _SHARE * sizes[kept[0]] and all(
                _gap(boxes[piece], boxes[k]) > near * (_BEYOND if _cut_alike(boxes[piece], boxes[k], own.shape) else 1)
                for k in kept
            ):
                largest += 1
                own[pieces == piece] = largest
                kept.append(piece)
        if len(kept) > 1:
            wrong.append(int(ids[owner[kept[0]] - 1]))
    return own, tuple(sorted(wrong))


def _width(size: int, rank: int) -> float:
    """Return the diameter of the disk or ball of a size."""
    return float(2 * np.sqrt(size / np.pi) if rank == 2 else 2 * np.cbrt(0.75 * size / np.pi))


def _gap(one: Box, other: Box) -> float:
    """Return the distance of two boxes, which the pieces in them are apart at least."""
    steps = [max(0, b[0] - a[1], a[0] - b[1]) for a, b in zip(one, other, strict=True)]
    return float(np.hypot.reduce(steps))


def _cut_alike(one: Box, other: Box, shape: tuple[int, ...]) -> bool:
    """Say whether two boxes reach the same side of the image."""
    sides = zip(one, other, shape, strict=True)
    return any((a[0] == 0 == b[0]) or (a[1] == n == b[1]) for a, b, n in sides)
