"""One id on several objects by mistake, distinguished from one object that is seen in several pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import equivalent_diameters, relabel_consecutive
from septum.check.issues import IssueKind, Observation
from septum.check.statistics import PairStatistics
from septum.words import list_some

OBJECT_APART = IssueKind(
    "object-apart",
    "warning",
    "mask",
    "with one id on objects far apart",
    "each id counts as one object",
    fix="gives each object an id of its own",
)
OBJECT_SPLIT = IssueKind(
    "object-split", "warning", "mask", "with objects in several pieces", "each id counts as one object"
)
KINDS = (OBJECT_APART, OBJECT_SPLIT)

# A piece is an object of its own if it is not much smaller than the largest piece of the id and farther from it than an
# object is wide. Closer pieces may be one object behind another one; specks are no objects. Pieces that are cut by the
# same side of the image may meet outside, and have to be three times as far apart.
_SHARE = 0.25
_MOST_PIECES = 4  # of an id, also on average; more pieces are no mistake in an id
_BEYOND = 3
_NAMED_IDS = 3

Box = tuple[tuple[int, int], ...]


def detect(pairs: Sequence[PairStatistics]) -> Iterator[Observation]:
    """Yield masks of ids in which an id has several pieces; masks in which each piece is an object have no ids."""
    for pair in pairs:
        if pair.mask_stats is None or pair.binary_frames:
            continue
        apart = pair.mask_stats.split_ids
        if apart:
            yield Observation(OBJECT_APART, pair.mask, f"id {list_some(apart, _NAMED_IDS)}")
        if (split := sum(c.split for c in pair.census) - len(apart)) > 0:
            yield Observation(OBJECT_SPLIT, pair.mask, f"{split} of {sum(len(c.values) for c in pair.census)}")


def separate_split_ids(labels: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """Give pieces of one id that are objects of their own new ids.

    Parameters
    ----------
    labels
        ``(*S)`` integer ids, 0 background, -1 not annotated; two or three axes.

    Returns
    -------
    labels
        ``(*S)`` int32 ids; new ids follow the largest one.
    ids
        Ids that several objects had, rising.
    """
    import cc3d

    numbers, ids = relabel_consecutive(np.maximum(labels, 0))
    pieces, total = cc3d.connected_components(numbers, connectivity=8 if numbers.ndim == 2 else 26, return_N=True)
    own: NDArray[np.int32] = labels.astype(np.int32)
    if total == len(ids) or total > _MOST_PIECES * len(ids):  # all ids are whole, or the values are no ids at all
        return own, ()
    stats = cc3d.statistics(pieces)
    sizes = stats["voxel_counts"].astype(np.int64)
    boxes: list[Box] = [()]  # of the background, which may be absent
    boxes += [tuple((s.start, s.stop) for s in box) for box in stats["bounding_boxes"][1:]]
    owner = np.zeros(total + 1, np.int64)
    owner[pieces.ravel()] = numbers.ravel()
    by_id = np.argsort(owner[1:], kind="stable") + 1
    groups = np.split(by_id, np.flatnonzero(np.diff(owner[by_id])) + 1)
    width = float(np.median(equivalent_diameters(np.array([sizes[g].sum() for g in groups]), own.ndim)))
    wrong, largest = [], int(own.max())
    for group in groups:
        objects = _objects_of(group, sizes, boxes, own.shape, width)
        for piece in objects[1:]:
            largest += 1
            own[pieces == piece] = largest
        if len(objects) > 1:
            wrong.append(int(ids[owner[objects[0]] - 1]))
    return own, tuple(sorted(wrong))


def _objects_of(
    group: NDArray[np.int64], sizes: NDArray[np.int64], boxes: Sequence[Box], shape: tuple[int, ...], width: float
) -> list[int]:
    """Return the pieces of one id that are objects of their own, the largest first."""
    objects = [int(group[np.argmax(sizes[group])])]
    if not 2 <= len(group) <= _MOST_PIECES:
        return objects
    near = max(width, float(equivalent_diameters(sizes[objects[:1]], len(shape))[0]))
    for piece in sorted((int(p) for p in group if p != objects[0]), key=lambda p: -sizes[p]):
        if sizes[piece] >= _SHARE * sizes[objects[0]] and all(
            _gap(boxes[piece], boxes[k]) > near * (_BEYOND if _cut_alike(boxes[piece], boxes[k], shape) else 1)
            for k in objects
        ):
            objects.append(piece)
    return objects


def _gap(one: Box, other: Box) -> float:
    """Return the distance of two boxes; the pieces in them are at least as far apart."""
    steps = [max(0, b[0] - a[1], a[0] - b[1]) for a, b in zip(one, other, strict=True)]
    return float(np.hypot.reduce(steps))


def _cut_alike(one: Box, other: Box, shape: tuple[int, ...]) -> bool:
    """Return True if two boxes reach the same side of the image."""
    sides = zip(one, other, shape, strict=True)
    return any((a[0] == 0 == b[0]) or (a[1] == n == b[1]) for a, b, n in sides)
