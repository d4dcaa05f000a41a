"""Scores of pixel classes: IoU, Dice, precision and recall of each class, and the share of wrong pixels.

A class that neither the truth nor the prediction contains has no score: its values are NaN, and means leave it out. A
class of the truth that the prediction misses has IoU and Dice 0, and so has one that only the prediction contains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.metrics import contingency
from septum.metrics.contingency import Table


@dataclass(frozen=True)
class ClassScores:
    """Pixels of one class, and the scores made of them (in [0, 1], 1 is best; NaN where the divisor is 0).

    Attributes
    ----------
    value
        The class's value in the masks.
    tp, fp, fn
        Pixels of the class in both, only in the prediction, only in the truth.
    """

    value: int
    tp: int
    fp: int
    fn: int

    @property
    def iou(self) -> float:
        """Tp / (tp + fp + fn), the Jaccard index."""
        return _share(self.tp, self.tp + self.fp + self.fn)

    @property
    def dice(self) -> float:
        """2 tp / (2 tp + fp + fn), which is also F1."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Tp / (tp + fp); NaN where the class is not predicted."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Tp / (tp + fn); NaN where the truth lacks the class."""
        return _share(self.tp, self.tp + self.fn)


@dataclass(frozen=True)
class PixelScores:
    """Scores of all classes.

    Attributes
    ----------
    classes
        One per class, in the order asked for.
    pixels
        Pixels that count.
    wrong
        Those of them that the prediction puts into another class than the truth.
    """

    classes: tuple[ClassScores, ...]
    pixels: int
    wrong: int

    @property
    def pixel_error(self) -> float:
        """Share of wrong pixels, in [0, 1], 0 is best (the pixel error of ISBI 2012 is another number: `isbi`)."""
        return _share(self.wrong, self.pixels)

    def mean(self, score: str) -> float:
        """Mean of ``"iou"``, ``"dice"``, ``"precision"`` or ``"recall"`` over the classes that have one, else NaN."""
        values = [v for c in self.classes if not math.isnan(v := float(getattr(c, score)))]
        return sum(values) / len(values) if values else float("nan")


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
        ``(*S)`` class values, integers or bool; negative ones of the truth mark pixels that do not count.
    classes
        Values to score. Pixels of other values still count as wrong for the classes they hide.
    ignore
        ``(*S)`` bool, true where a pixel does not count.

    Raises
    ------
    DataError
        If the shapes differ or the values are not integers.
    """
    return of_table(contingency.table(truth, predicted, ignore=ignore), classes=classes)


def of_table(table: Table, *, classes: Sequence[int]) -> PixelScores:
    """Score the classes from a contingency table whose labels are class values."""
    same = table.truth == table.predicted
    found = []
    for value in classes:
        tp = int(table.count[same & (table.truth == value)].sum())
        true = int(table.count[table.truth == value].sum())
        positive = int(table.count[table.predicted == value].sum())
        found.append(ClassScores(int(value), tp, positive - tp, true - tp))
    return PixelScores(tuple(found), table.pixels, int(table.count[~same].sum()))


def pool(images: Iterable[PixelScores]) -> PixelScores:
    """Add the pixels of several images that were scored for the same classes."""
    parts = list(images)
    classes = tuple(
        ClassScores(same[0].value, sum(c.tp for c in same), sum(c.fp for c in same), sum(c.fn for c in same))
        for same in zip(*(p.classes for p in parts), strict=True)
    )
    return PixelScores(classes, sum(p.pixels for p in parts), sum(p.wrong for p in parts))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
