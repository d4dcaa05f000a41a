"""Scores of pixel classes: IoU, Dice, precision and recall of each class, and the share of wrong pixels.

A class that neither the truth nor the prediction contains has no score: its values are NaN, and means leave it out. A
class of the truth that the prediction misses has IoU and Dice 0, and so does a class that only the prediction contains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.metrics import contingency
from septum.metrics.contingency import Table

RATIOS = ("iou", "dice", "precision", "recall")


@dataclass(frozen=True)
class ClassScores:
    """Pixels of one class, and the scores computed from them (in [0, 1], 1 is best; NaN where the divisor is 0).

    Attributes
    ----------
    value
        Value of the class in the masks.
    tp, fp, fn
        Pixels of the class in both, only in the prediction, only in the truth.
    iou
        tp / (tp + fp + fn), the Jaccard index.
    dice
        2 tp / (2 tp + fp + fn), which is also F1.
    precision
        tp / (tp + fp); NaN where the class is not predicted.
    recall
        tp / (tp + fn); NaN where the truth lacks the class.
    """

    value: int
    tp: int
    fp: int
    fn: int
    iou: float
    dice: float
    precision: float
    recall: float


@dataclass(frozen=True)
class PixelScores:
    """Scores of all classes.

    Attributes
    ----------
    classes
        Scores of each class, in the order of the request.
    pixels
        Number of pixels that count.
    wrong
        Number of these pixels whose predicted class differs from the true one.
    """

    classes: tuple[ClassScores, ...]
    pixels: int
    wrong: int

    @property
    def pixel_error(self) -> float:
        """Share of wrong pixels, in [0, 1], 0 is best (the pixel error of ISBI 2012 is another number, see `isbi`)."""
        return self.wrong / self.pixels if self.pixels else math.nan

    def mean(self, score: str) -> float:
        """Compute the mean of one of `RATIOS` over the classes for which it is defined, NaN where there is none."""
        return float(mean_of_defined(np.array([getattr(c, score) for c in self.classes], np.float64)))


def scores(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    *,
    classes: Sequence[int],
    ignore: NDArray[np.bool_] | None = None,
) -> PixelScores:
    """Score the classes of one image.

    Parameters
    ----------
    truth, predicted
        ``(*S)`` class values, integers or bool; negative values of the truth mark pixels that do not count.
    classes
        Values to score. Pixels of other values still count as wrong for the classes that they hide.
    ignore
        ``(*S)`` bool, True where a pixel does not count.

    Raises
    ------
    DataError
        If the shapes differ or the values are not integers.
    """
    return of_table(contingency.table(truth, predicted, ignore=ignore), classes=classes)


def of_table(table: Table, *, classes: Sequence[int]) -> PixelScores:
    """Score the classes from a contingency table whose labels are class values."""
    counts = columns(table, classes=classes)
    shares = ratios(counts[:-1])
    results = []
    for k, value in enumerate(classes):
        tp, fp, fn = (int(n) for n in counts[k])
        iou, dice, precision, recall = (float(shares[name][k]) for name in RATIOS)
        results.append(ClassScores(int(value), tp, fp, fn, iou, dice, precision, recall))
    return PixelScores(tuple(results), pixels=int(counts[-1, 1]), wrong=int(counts[-1, 0]))


def columns(table: Table, *, classes: Sequence[int]) -> NDArray[np.float64]:
    """Compute what one image adds to the scores of classes.

    Parameters
    ----------
    table
        Table of one image whose labels are class values.
    classes
        Values to score.

    Returns
    -------
    ndarray
        ``(K + 1, 3) float64``, non-negative whole numbers: tp, fp and fn of each of the K classes; in the last row the
        wrong pixels, the pixels that count, and 0.
    """
    same = table.truth == table.predicted
    rows = []
    for value in classes:
        tp = table.count[same & (table.truth == value)].sum()
        true, predicted = (table.count[labels == value].sum() for labels in (table.truth, table.predicted))
        rows.append((tp, predicted - tp, true - tp))
    return np.array([*rows, (table.count[~same].sum(), table.pixels, 0)], np.float64)


def ratios(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Turn pixel counts into the scores of each class.

    Parameters
    ----------
    counts
        ``(..., 3) float64``, non-negative: tp, fp and fn.

    Returns
    -------
    dict
        For each name of `RATIOS` ``(...) float64`` in [0, 1]; NaN where the divisor is 0.
    """
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "iou": tp / (tp + fp + fn),
            "dice": 2 * tp / (2 * tp + fp + fn),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
        }


def mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the mean along the last axis over the values that are defined.

    Parameters
    ----------
    values
        ``(..., n) float64`` scores; NaN is not defined.

    Returns
    -------
    ndarray
        ``(...) float64`` scores, in the range of `values`; NaN where no value is defined.
    """
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(defined.any(axis=-1), total / np.maximum(defined.sum(axis=-1), 1), np.nan))
