"""Object scores: true and predicted objects matched one to one by their intersection over union (IoU).

The definitions are those of StarDist (Schmidt et al. 2018, Weigert et al. 2020; ``stardist.matching``). Thresholds are
compared in whole numbers: 0.6 is 3/5 exactly, so an object of IoU 3/5 matches at 0.6 on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from septum.errors import UsageError
from septum.metrics.contingency import Table

THRESHOLDS = tuple(k / 20 for k in range(10, 20))


@dataclass(frozen=True, eq=False)
class Match:
    """Matched objects of one image at one threshold.

    Attributes
    ----------
    threshold
        Smallest IoU of a match, in (0, 1].
    truth, predicted
        ``(tp,) int64``, the ids of the matched pairs, by rising id of the true object.
    iou
        ``(tp,) float64``, their IoU, at least `threshold`.
    n_truth, n_predicted
        Number of objects in the image, matched or not.
    """

    threshold: float
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    iou: NDArray[np.float64]
    n_truth: int
    n_predicted: int


@dataclass(frozen=True)
class MatchingScores:
    """Object scores at one threshold; every ratio is 0 where nothing matches, as in StarDist."""

    threshold: float
    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    ap: float
    """tp / (tp + fp + fn): StarDist's "accuracy", cellpose's and Kaggle 2018's "average precision"."""
    mean_matched_iou: float
    mean_true_iou: float
    panoptic_quality: float


def match(table: Table, threshold: float = 0.5) -> Match:
    """Match true and predicted objects one to one.

    Of all assignments the one with the most pairs of IoU >= `threshold` is taken, and of these the one with the largest
    sum of IoU over all assigned pairs (the weight of StarDist). At 0.5 and above at most one partner of an object can
    be larger than the threshold, so no search is needed; equal halves at exactly 0.5 go to the lower id.

    Parameters
    ----------
    table
        Table of one image, from `contingency.table`.
    threshold
        In (0, 1]; rounded to the nearest fraction with a denominator of at most 1000.

    Raises
    ------
    UsageError
        If `threshold` is not in (0, 1].
    """
    limit = exact(threshold)
    pairs = _candidates(table) if limit >= Fraction(1, 2) else _assigned(table, limit)
    return _at(table, pairs, limit)


def scores(
    tables: Table | Sequence[Table], *, thresholds: Sequence[float] = THRESHOLDS, by_image: bool = False
) -> tuple[MatchingScores, ...]:
    """Score objects at several thresholds.

    Parameters
    ----------
    tables
        One table per image. Counts and sums of IoU are pooled over images.
    thresholds
        Each in (0, 1].
    by_image
        Average the ratios over images instead of pooling (counts are still sums).

    Returns
    -------
    tuple of MatchingScores
        One entry per threshold::

            precision = tp / (tp + fp)           recall = tp / (tp + fn)
            f1 = 2 tp / (2 tp + fp + fn)         ap = tp / (tp + fp + fn)
            mean_matched_iou = sum IoU / tp      mean_true_iou = sum IoU / (tp + fn)
            panoptic_quality = sum IoU / (tp + fp/2 + fn/2)

    Raises
    ------
    UsageError
        If a threshold is not in (0, 1].
    """
    images = [tables] if isinstance(tables, Table) else list(tables)
    rows = np.array([columns(t, thresholds=thresholds) for t in images]).reshape(-1, len(thresholds), 4)
    pooled = rows.sum(axis=0)
    values = shares(pooled)
    if by_image and images:
        values = {name: v.mean(axis=0) for name, v in shares(rows).items()}
    results = []
    for k, threshold in enumerate(thresholds):
        tp, true, predicted = (int(n) for n in pooled[k, :3])
        ratios = {name: float(v[k]) for name, v in values.items()}
        results.append(MatchingScores(threshold=float(threshold), tp=tp, fp=predicted - tp, fn=true - tp, **ratios))
    return tuple(results)


def ious(table: Table) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Compute the best IoU of each true object with any predicted object, matched or not.

    Returns
    -------
    ids
        ``(n,) int64`` of the true objects in rising order.
    best
        ``(n,) float64``, 0 where nothing overlaps.
    partner
        ``(n,) int64``, the id of that predicted object, 0 where nothing overlaps.
    """
    ids = table.truth_objects[0]
    best = np.zeros(ids.size)
    partner = np.zeros(ids.size, np.int64)
    row, column, shared, union = table.overlaps
    order = np.argsort(shared / union, kind="stable")
    best[row[order]] = (shared / union)[order]
    partner[row[order]] = table.predicted_objects[0][column[order]]
    return ids, best, partner


def exact(threshold: float) -> Fraction:
    """Return `threshold` as the nearest fraction with a denominator up to 1000, or raise `UsageError`."""
    limit = Fraction(float(threshold)).limit_denominator(1000) if threshold == threshold else Fraction(0)
    if not 0 < limit <= 1:
        raise UsageError(f"IoU threshold {threshold}", "more than 0 and at most 1", "0.5 is the usual one")
    return limit


def _all_thresholds(table: Table, limits: Sequence[Fraction]) -> list[Match]:
    """Match one image at every threshold; thresholds of 0.5 and more share one list of candidates."""
    candidates = _candidates(table)
    half = Fraction(1, 2)
    return [_at(table, candidates if limit >= half else _assigned(table, limit), limit) for limit in limits]


def _at(table: Table, pairs: NDArray[np.int64], limit: Fraction) -> Match:
    """Keep those of the one-to-one `pairs` (indices into ``table.overlaps``) that reach `limit`."""
    row, column, shared, union = (a[pairs] for a in table.overlaps)
    kept = limit.denominator * shared >= limit.numerator * union
    ids_true, ids_predicted = table.truth_objects[0], table.predicted_objects[0]
    return Match(
        threshold=float(limit),
        truth=ids_true[row[kept]],
        predicted=ids_predicted[column[kept]],
        iou=shared[kept] / union[kept],
        n_truth=ids_true.size,
        n_predicted=ids_predicted.size,
    )


def _candidates(table: Table) -> NDArray[np.int64]:
    """Return the pairs with IoU >= 1/2, one per object: a second pair can only be an equal half."""
    row, column, shared, union = table.overlaps
    pairs = np.flatnonzero(2 * shared >= union)
    pairs = pairs[np.unique(row[pairs], return_index=True)[1]]
    pairs = pairs[np.unique(column[pairs], return_index=True)[1]]
    return np.sort(pairs)


def _assigned(table: Table, limit: Fraction) -> NDArray[np.int64]:
    """Return the best assignment below 1/2, computed separately for every group of objects that overlap each other."""
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    row, column, shared, union = table.overlaps
    n, m = table.truth_objects[0].size, table.predicted_objects[0].size
    weight = (limit.denominator * shared >= limit.numerator * union) + shared / union / (2 * max(1, min(n, m)))
    _, group = connected_components(coo_array((weight, (row, column + n)), shape=(n + m, n + m)), directed=False)
    order = np.argsort(group[row], kind="stable")
    taken: list[NDArray[np.int64]] = []
    for pairs in np.split(order, np.flatnonzero(np.diff(group[row][order])) + 1):
        rows, r = np.unique(row[pairs], return_inverse=True)
        columns, c = np.unique(column[pairs], return_inverse=True)
        dense = np.zeros((rows.size, columns.size))
        place = np.full(dense.shape, -1)
        dense[r, c] = weight[pairs]
        place[r, c] = pairs
        assigned = place[linear_sum_assignment(dense, maximize=True)]
        taken.append(assigned[assigned >= 0])
    return np.sort(np.concatenate(taken))


def columns(table: Table, *, thresholds: Sequence[float] = THRESHOLDS) -> NDArray[np.float64]:
    """Compute what one image adds to the scores.

    Returns
    -------
    ndarray
        ``(len(thresholds), 4) float64``, non-negative: matches, true objects, predicted objects, sum of the IoU of the
        matches.
    """
    matches = _all_thresholds(table, [exact(t) for t in thresholds])
    return np.array([(m.truth.size, m.n_truth, m.n_predicted, m.iou.sum()) for m in matches], np.float64)


def shares(totals: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Turn sums of `columns` into scores.

    Parameters
    ----------
    totals
        ``(..., 4) float64``, non-negative sums.

    Returns
    -------
    dict
        By name ``(...) float64`` in [0, 1]; 0 where a divisor is 0.
    """
    hit, truth, predicted, quality = np.moveaxis(totals, -1, 0)
    ratios = {
        "precision": (hit, predicted),
        "recall": (hit, truth),
        "f1": (2 * hit, truth + predicted),
        "ap": (hit, truth + predicted - hit),
        "mean_matched_iou": (quality, hit),
        "mean_true_iou": (quality, truth),
        "panoptic_quality": (2 * quality, truth + predicted),
    }
    # A divisor counts objects: it is 0 or at least 1.
    return {name: np.where(whole > 0, part / np.maximum(whole, 1), 0.0) for name, (part, whole) in ratios.items()}
