"""Tables of cluster ids for `septum.arrays.stitch`: join the reports of blocks, translate ids.

A block reports, each as an int64 array unless noted:

``ends``, ``heights``
    Ids of open clusters whose peak lies in the block, ``(E,)``, and their heights, ``(E,)`` float64.
``leaving``
    Ids under which pixels leave the block, ``(L,)``: their steepest path continues in a neighboring block.
``links``
    ``(2, N)``: an id by which a neighboring block may leave into this one, and the id that this block gave the pixel.
``meetings``
    ``(5, M)``: value, later pixel, step, and the ids of the two clusters, for meetings that are not settled.
``ids``, ``sizes``, ``seeded``, ``firsts``, ``small``
    Objects in the block, see `septum.arrays.stitch`.
``ids``, ``lowest``, ``highest``
    Background in the block that reaches other blocks, and the labels at its faces, see `septum.arrays.stitch`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_NAMES = (
    *("ends", "heights", "leaving", "links", "meetings"),
    *("ids", "sizes", "seeded", "firsts", "small", "lowest", "highest"),
)
_EMPTY = {"links": (2, 0), "meetings": (5, 0)}  # shapes of arrays that no block reports; (0,) for others


def gather_reports(reports: Iterable[Arrays]) -> Arrays:
    """Concatenate the reports of blocks by name along the last axis; a name may be missing in a report."""
    joined: dict[str, list[NDArray[Any]]] = {
        name: [np.zeros(_EMPTY.get(name, 0), np.float64 if name == "heights" else np.int64)] for name in _NAMES
    }
    for report in reports:
        for name, values in report.items():
            joined[name].append(values)
    return {name: np.concatenate(joined.pop(name), axis=-1) for name in list(joined)}


def join_ids(report: Arrays, ratio: float, *, drop_unseeded: bool) -> Arrays:
    """Settle the open meetings of all blocks, and return the ids that change.

    Each leaving id is first linked to the id of the block it leads into, until a cluster with a known height is
    reached. Then the meetings are replayed in the order of the whole image: higher values first, then the scan order of
    the later pixel, then the step.

    Parameters
    ----------
    report
        From `gather_reports`.
    ratio
        As for `septum.arrays.watershed.flood`, squared for squared distances.
    drop_unseeded
        Set the ids of clusters that hold no seed to 0.

    Returns
    -------
    table
        ``old`` and ``new``: sorted ids and their replacements.
    """
    from septum.arrays._watershed import join_clusters

    ends, leaving, links, meetings = (report[name] for name in ("ends", "leaving", "links", "meetings"))
    written = np.concatenate([ends, leaving])
    ids = np.unique(np.concatenate([written, links.ravel(), meetings[3:].ravel()]))
    parent = np.arange(len(ids), dtype=np.int32)
    parent[np.searchsorted(ids, links[0])] = np.searchsorted(ids, links[1])
    heights = np.full(len(ids), -1.0)
    heights[np.searchsorted(ids, ends)] = report["heights"]
    value, _, _, a, b = meetings[:, np.lexsort((meetings[2], meetings[1], -meetings[0]))]
    root = join_clusters(value, np.searchsorted(ids, a), np.searchsorted(ids, b), parent, heights, ratio)
    old = np.unique(written)
    where = root[np.searchsorted(ids, old)]
    assert np.all(heights[where] >= 0), "each leaving id must lead to a cluster with a height"
    new = np.where(np.isinf(heights[where]) | (not drop_unseeded), ids[where], 0)
    return {"old": old[old != new], "new": new[old != new]}


def join_holes(report: Arrays, table: Arrays) -> Arrays:
    """Find the holes among the background components that reach several blocks.

    Parameters
    ----------
    report
        From `gather_reports`: ``ids``, ``lowest``, ``highest``.
    table
        From `join_ids`.

    Returns
    -------
    holes
        ``ids``: sorted ids of the components that one object encloses, ``numbers``: its label.
    """
    ids, inverse = np.unique(look_up(report["ids"], table["old"], table["new"]), return_inverse=True)
    limits = np.iinfo(np.int64)
    lowest, highest = np.full(len(ids), limits.max), np.full(len(ids), limits.min)
    np.minimum.at(lowest, inverse, report["lowest"])
    np.maximum.at(highest, inverse, report["highest"])
    hole = (lowest == highest) & (lowest > 0)
    return {"ids": ids[hole], "numbers": lowest[hole]}


def look_up(
    keys: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64], *, missing: int | None = None
) -> NDArray[np.int64]:
    """Replace keys that occur in a sorted table.

    Parameters
    ----------
    keys
        ``(N,)`` int64, any values.
    old, new
        ``(M,)`` int64 each: the sorted keys of the table and their replacements, any values.
    missing
        Result for keys that are not in `old`; None: the key itself.

    Returns
    -------
    values
        ``(N,)`` int64, any values.
    """
    others = keys if missing is None else np.full_like(keys, missing)
    if len(old) == 0:
        return others
    place = np.minimum(np.searchsorted(old, keys), len(old) - 1)
    return np.where(old[place] == keys, new[place], others)


def run_lengths(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, ...]]:
    """Return the runs of equal values of an array in scan order.

    Translating runs instead of pixels is faster by the mean length of a run.

    Parameters
    ----------
    ids
        ``(*S)`` int64, any values, not empty.

    Returns
    -------
    values, lengths
        ``(N,)`` int64 each: the value and the pixels of each run; lengths are positive.
    shape
        ``S``.
    """
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=len(flat)), ids.shape


def compact_ids(
    ids: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Translate ids by a table and number the distinct results.

    Parameters
    ----------
    ids
        ``(*S)`` int64, 0 background.
    old, new
        ``(M,)`` int64 each, ids: as for `look_up`.

    Returns
    -------
    numbers
        ``(*S)`` int32: indices into `distinct`; 0 for background.
    distinct
        ``(N + 1,)`` int64: the distinct ids, rising; ``distinct[0]`` is 0.
    """
    heads, lengths, shape = run_lengths(ids)
    distinct, number = np.unique(np.concatenate([[0], look_up(heads, old, new)]), return_inverse=True)
    return np.repeat(number[1:].astype(np.int32), lengths).reshape(shape), distinct
