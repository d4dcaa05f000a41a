"""The contingency table: the number of pixels that each pair of a true and a predicted label shares.

Rand, information, matching, SEG, DET and the pixel scores are all functions of this one sparse table, so an image is
read once for any number of scores. It is read slab by slab, in runs of equal labels: the memory is that of a slab and
of the pairs found, not of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError

SLAB_PIXELS = 1 << 18
LARGEST_ID = (1 << 32) - 1


class Overlaps(NamedTuple):
    """Pairs of a true and a predicted object that share pixels; each field is ``(Q,) int64`` for the Q pairs.

    Attributes
    ----------
    row, column
        Indices of the true and of the predicted object in `Table.truth_objects` and `Table.predicted_objects`.
    shared, union
        Number of pixels in both, number of pixels in either.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    shared: NDArray[np.int64]
    union: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """Number of pixels shared by true label i and predicted label j, for the pairs that occur; label 0 is background.

    Attributes
    ----------
    truth, predicted
        ``(P,) int64``, the labels of each pair, 0 included, sorted by truth, then by predicted.
    count
        ``(P,) int64``, pixels of each pair, 1 or more. Ignored pixels are in no pair.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    count: NDArray[np.int64]

    @property
    def pixels(self) -> int:
        """Number of pixels that count, background included."""
        return int(self.count.sum())

    @cached_property
    def truth_objects(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True objects: ids ``(n,) int64`` rising, without 0, and their sizes ``(n,) int64`` in pixels."""
        return _sizes(self.truth, self.count)

    @cached_property
    def predicted_objects(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Predicted objects: ids ``(n,) int64`` rising, without 0, and their sizes ``(n,) int64`` in pixels."""
        return _sizes(self.predicted, self.count)

    @cached_property
    def overlaps(self) -> Overlaps:
        """The pairs of two objects, without background."""
        both = (self.truth > 0) & (self.predicted > 0)
        ids_true, sizes_true = self.truth_objects
        ids_predicted, sizes_predicted = self.predicted_objects
        row = np.searchsorted(ids_true, self.truth[both])
        column = np.searchsorted(ids_predicted, self.predicted[both])
        shared = self.count[both]
        return Overlaps(row, column, shared, sizes_true[row] + sizes_predicted[column] - shared)


def renumbered(counted: Table, numbers: NDArray[np.int64]) -> Table:
    """Return the table of an image after its predicted objects are renumbered, merged or removed.

    Parameters
    ----------
    counted
        Table of the image with predicted labels 0 .. N.
    numbers
        ``(N + 1,)`` int64 in 0 .. 2^32 - 1: new label of each predicted label; 0: background.
    """
    key, count = _sum(
        (counted.truth.astype(np.uint64) << np.uint64(32)) | numbers[counted.predicted].astype(np.uint64), counted.count
    )
    return Table((key >> np.uint64(32)).astype(np.int64), (key & np.uint64(LARGEST_ID)).astype(np.int64), count)


def table(truth: NDArray[Any], predicted: NDArray[Any], *, ignore: NDArray[np.bool_] | None = None) -> Table:
    """Count the pixels that each pair of labels shares.

    Parameters
    ----------
    truth, predicted
        ``(*S)`` labels of any integer type or bool, ids 0 to 2^32 - 1, any number of axes. Negative labels of the
        truth mark pixels that are not annotated and do not count.
    ignore
        ``(*S)`` bool, True where a pixel does not count; None if all count.

    Raises
    ------
    DataError
        If the shapes differ, a label is not an integer, or a predicted label is negative.
    """
    _check(truth, predicted, ignore)
    keys: list[NDArray[np.uint64]] = []
    counts: list[NDArray[np.int64]] = []
    held, limit = 0, SLAB_PIXELS
    for slab in _slabs(truth.shape):
        key, count = _runs(truth[slab], predicted[slab], None if ignore is None else ignore[slab])
        keys.append(key)
        counts.append(count)
        held += key.size
        # Labels that change at every pixel fill the lists as fast as the image is read; joining early keeps them small.
        if held > limit:
            key, count = _join(keys, counts)
            keys, counts, held, limit = [key], [count], key.size, max(SLAB_PIXELS, 2 * key.size)
    key, count = _join(keys, counts)
    return Table((key >> np.uint64(32)).astype(np.int64), (key & np.uint64(LARGEST_ID)).astype(np.int64), count)


def values(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the distinct values of labels, ``(*S)`` integers, as ``(n,) int64`` in rising order; negative ones too."""
    distinct = [np.zeros(0, np.int64)]
    for slab in _slabs(labels.shape):
        flat = labels[slab].reshape(-1)
        starts = np.append(np.ones(min(1, flat.size), np.bool_), flat[1:] != flat[:-1])
        distinct.append(np.unique(flat[starts]).astype(np.int64))
    return np.unique(np.concatenate(distinct))


def centroids(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Compute the mean position of every object.

    Parameters
    ----------
    labels
        ``(*S)`` integer labels; 0 and negative labels are no objects.

    Returns
    -------
    ids
        ``(n,) int64`` in rising order.
    centroid
        ``(n, len(S)) float64`` in pixels; the center of the first pixel is 0.
    """
    ids_of: list[NDArray[np.int64]] = []
    sums_of: list[NDArray[np.float64]] = []
    for slab in _slabs(labels.shape):
        place = np.nonzero(labels[slab] > 0)
        ids, inverse = np.unique(labels[slab][place].astype(np.int64), return_inverse=True)
        offset = (slab.start,) + (0,) * (labels.ndim - 1)
        columns = [np.bincount(inverse, p + o, ids.size) for p, o in zip(place, offset, strict=True)]
        ids_of.append(ids)
        sums_of.append(np.stack([*columns, np.bincount(inverse, minlength=ids.size).astype(np.float64)], axis=1))
    ids, inverse = np.unique(np.concatenate(ids_of), return_inverse=True)
    total = np.zeros((ids.size, labels.ndim + 1))
    np.add.at(total, inverse, np.concatenate(sums_of))
    return ids, total[:, :-1] / total[:, -1:]


def _check(truth: NDArray[Any], predicted: NDArray[Any], ignore: NDArray[np.bool_] | None) -> None:
    for name, other in (("prediction", predicted), ("ignore mask", ignore)):
        if other is not None and other.shape != truth.shape:
            raise DataError(
                f"truth of {_shape(truth)} pixels, {name} of {_shape(other)}",
                "the same size",
                "compare images that belong to each other",
            )
    for name, labels in (("truth", truth), ("prediction", predicted)):
        if labels.dtype.kind not in "iub":
            raise DataError(
                f"{name} of type {labels.dtype}", "labels, which are integers", "threshold or round it first"
            )


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape))


def _slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the first axis into slabs of about `SLAB_PIXELS` pixels; one empty slab for an empty image."""
    per_row = max(1, int(np.prod(shape[1:], dtype=np.int64)))
    rows = max(1, SLAB_PIXELS // per_row)
    for start in range(0, max(1, shape[0]), rows):
        yield slice(start, min(start + rows, shape[0]))


def _runs(
    truth: NDArray[Any], predicted: NDArray[Any], ignore: NDArray[np.bool_] | None
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the label pairs of one slab, each packed into one number, and the number of pixels of each."""
    flat = [a.reshape(-1) for a in (truth, predicted, ignore) if a is not None]
    changes = np.ones(flat[0].size, np.bool_)
    np.not_equal(flat[0][1:], flat[0][:-1], out=changes[1:])
    for labels in flat[1:]:
        changes[1:] |= labels[1:] != labels[:-1]
    start = np.flatnonzero(changes)
    length = np.diff(start, append=flat[0].size)
    t, p = (labels[start].astype(np.int64) for labels in flat[:2])
    kept = t >= 0
    if ignore is not None:
        kept &= ~flat[2][start].astype(np.bool_)
    if not kept.all():
        t, p, length = t[kept], p[kept], length[kept]
    if t.size and (p.min() < 0 or max(t.max(), p.max()) > LARGEST_ID):
        raise DataError(
            f"labels from {min(t.min(), p.min())} to {max(t.max(), p.max())}",
            f"0 to {LARGEST_ID}, where 0 is background",
            "renumber the objects",
        )
    return _sum((t.astype(np.uint64) << np.uint64(32)) | p.astype(np.uint64), length)


def _join(
    keys: list[NDArray[np.uint64]], counts: list[NDArray[np.int64]]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    if len(keys) == 1:
        return keys[0], counts[0]
    return _sum(np.concatenate(keys), np.concatenate(counts))


def _sum(key: NDArray[np.uint64], count: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sort the keys and add the counts of equal keys."""
    if not key.size:
        return key, count
    order = np.argsort(key)
    key = key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    return key[first], np.add.reduceat(count[order], first)


def _sizes(labels: NDArray[np.int64], count: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ids, inverse = np.unique(labels, return_inverse=True)
    sizes = np.zeros(ids.size, np.int64)
    np.add.at(sizes, inverse, count)
    objects = ids > 0
    return ids[objects], sizes[objects]
