"""SEG and DET of the Cell Tracking Challenge.

A result object S belongs to a reference object R of the same frame when it covers more than half of it:
``|R and S| > |R| / 2``. At most one S can; one S may belong to several R. Source: Maška et al. 2014 (SEG), Matula et
al. 2015 (DET), checked against the challenge's own programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.metrics.contingency import Table

SPLIT_COST, MISS_COST, EXTRA_COST = 5, 10, 1


@dataclass(frozen=True)
class Detection:
    """DET of a sequence and the operations behind it.

    Attributes
    ----------
    det
        In [0, 1], 1 is best; NaN without any marker.
    markers
        Reference markers in all frames.
    misses
        Markers that no result object covers by more than half (FN).
    extras
        Result objects without marker (FP).
    splits
        Cuts that result objects on several markers would need (NS).
    """

    det: float
    markers: int
    misses: int
    extras: int
    splits: int


def seg_objects(table: Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the Jaccard index of every reference object of one frame.

    Parameters
    ----------
    table
        Of one frame. The truth may be partial: only the objects it names count.

    Returns
    -------
    ids
        ``(n,) int64``, reference objects in rising order.
    jaccard
        ``(n,) float64`` in [0, 1]: ``|R and S| / |R or S|``, 0 where no S covers more than half of R.
    """
    ids, sizes = table.truth_objects
    row, _, shared, union = table.overlaps
    covers = 2 * shared > sizes[row]
    jaccard = np.zeros(ids.size)
    jaccard[row[covers]] = shared[covers] / union[covers]
    return ids, jaccard


def seg(tables: Table | Iterable[Table]) -> float:
    """Return SEG: the mean Jaccard index over all reference objects of all frames.

    Extra result objects cost nothing. The mean is over objects, not over frames.

    Parameters
    ----------
    tables
        One per frame that has a segmentation truth, or a single one.

    Returns
    -------
    float
        In [0, 1], 1 is best; NaN without any reference object (the challenge's program stops with an error there).
    """
    frames = [tables] if isinstance(tables, Table) else tables
    jaccard = np.concatenate([np.zeros(0), *(seg_objects(t)[1] for t in frames)])
    return float(jaccard.mean()) if jaccard.size else float("nan")


def det(tables: Table | Iterable[Table], *, penalize_extra: bool = True) -> Detection:
    """Return DET: one minus the cost of mending the detections, relative to that of an empty result.

    ``DET = 1 - min(5 NS + 10 FN + 1 FP, 10 M) / (10 M)`` with M markers.

    Parameters
    ----------
    tables
        One per frame, the truth being the tracking markers (``man_track*.tif``), or a single one.
    penalize_extra
        False leaves out the FP term, as the challenge does for sparsely annotated data sets.
    """
    frames = [tables] if isinstance(tables, Table) else tables
    markers = misses = extras = splits = 0
    for table in frames:
        sizes = table.truth_objects[1]
        row, column, shared, _ = table.overlaps
        covered = np.bincount(column[2 * shared > sizes[row]], minlength=table.predicted_objects[0].size)
        markers += sizes.size
        misses += sizes.size - int(covered.sum())
        extras += int((covered == 0).sum())
        splits += int(np.maximum(covered - 1, 0).sum())
    if not markers:
        return Detection(float("nan"), 0, 0, extras, splits)
    cost = SPLIT_COST * splits + MISS_COST * misses + (EXTRA_COST * extras if penalize_extra else 0)
    return Detection(1 - min(cost, MISS_COST * markers) / (MISS_COST * markers), markers, misses, extras, splits)
