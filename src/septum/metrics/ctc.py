"""SEG and DET of the Cell Tracking Challenge.

A result object S belongs to a reference object R of the same frame if it covers more than half of R:
``|R and S| > |R| / 2``. At most one S can; one S may belong to several R. Source: Maška et al. 2014 (SEG), Matula et
al. 2015 (DET), checked against the programs of the challenge.
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
        Number of reference markers in all frames.
    misses
        Markers that no result object covers by more than half (FN).
    extras
        Result objects without a marker (FP).
    splits
        Cuts needed by result objects that cover several markers (NS).
    """

    det: float
    markers: int
    misses: int
    extras: int
    splits: int


def seg_objects(table: Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Compute the Jaccard index of every reference object of one frame.

    Parameters
    ----------
    table
        Table of one frame. The truth may be partial: only the objects that it contains count.

    Returns
    -------
    ids
        ``(n,) int64``, ids of the reference objects in rising order.
    jaccard
        ``(n,) float64`` in [0, 1]: ``|R and S| / |R or S|``, 0 where no S covers more than half of R.
    """
    ids, sizes = table.truth_objects
    row, _, shared, union = table.overlaps
    covers = 2 * shared > sizes[row]
    jaccard = np.zeros(ids.size)
    jaccard[row[covers]] = shared[covers] / union[covers]
    return ids, jaccard


def columns(table: Table, *, markers: bool = False) -> NDArray[np.float64]:
    """Compute what one frame adds to SEG or to DET.

    Parameters
    ----------
    table
        Table of one frame.
    markers
        The truth holds tracking markers (``man_track*.tif``), which count for DET; otherwise outlines, for SEG.

    Returns
    -------
    ndarray
        ``(6,) float64``, non-negative: sum of the Jaccard indices and number of reference objects (0 for markers);
        markers, misses, extras and splits (0 for outlines).
    """
    if not markers:
        jaccard = seg_objects(table)[1]
        return np.array([jaccard.sum(), jaccard.size, 0, 0, 0, 0], np.float64)
    sizes = table.truth_objects[1]
    row, column, shared, _ = table.overlaps
    covered = np.bincount(column[2 * shared > sizes[row]], minlength=table.predicted_objects[0].size)
    misses, extras, splits = sizes.size - covered.sum(), (covered == 0).sum(), np.maximum(covered - 1, 0).sum()
    return np.array([0, 0, sizes.size, misses, extras, splits], np.float64)


def finish(totals: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Turn sums of `columns` into SEG and DET.

    ``SEG = sum of Jaccard indices / reference objects``, ``DET = 1 - min(5 NS + 10 FN + 1 FP, 10 M) / (10 M)`` with M
    markers.

    Parameters
    ----------
    totals
        ``(..., 6) float64``, non-negative sums of `columns`; leading axes are data sets of their own.

    Returns
    -------
    dict
        ``"SEG"`` and ``"DET"``, each ``(...) float64`` in [0, 1], 1 is best; NaN without reference objects or markers.
    """
    jaccard, objects, markers, misses, extras, splits = np.moveaxis(totals, -1, 0)
    cost = SPLIT_COST * splits + MISS_COST * misses + EXTRA_COST * extras
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "SEG": np.where(objects > 0, jaccard / objects, np.nan),
            "DET": np.where(markers > 0, 1 - np.minimum(cost / (MISS_COST * markers), 1), np.nan),
        }


def seg(tables: Table | Iterable[Table]) -> float:
    """Compute SEG: the mean Jaccard index over all reference objects of all frames.

    Extra result objects cost nothing. The mean is over objects, not over frames.

    Parameters
    ----------
    tables
        One table per frame that has a segmentation truth, or a single table.

    Returns
    -------
    float
        In [0, 1], 1 is best; NaN without any reference object (the program of the challenge reports an error then).
    """
    frames = [tables] if isinstance(tables, Table) else tables
    return float(finish(sum((columns(t) for t in frames), np.zeros(6)))["SEG"])


def det(tables: Table | Iterable[Table], *, penalize_extra: bool = True) -> Detection:
    """Compute DET: one minus the cost of repairing the detections, relative to the cost of an empty result.

    Parameters
    ----------
    tables
        One table per frame, the truth being the tracking markers (``man_track*.tif``), or a single table.
    penalize_extra
        False leaves out the FP term, as the challenge does for sparsely annotated data sets.
    """
    frames = [tables] if isinstance(tables, Table) else tables
    totals = sum((columns(t, markers=True) for t in frames), np.zeros(6))
    counted = totals if penalize_extra else totals * (1, 1, 1, 1, 0, 1)
    markers, misses, extras, splits = (int(n) for n in totals[2:])
    return Detection(float(finish(counted)["DET"]), markers, misses, extras, splits)
