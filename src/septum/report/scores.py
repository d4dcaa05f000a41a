"""Scores of a run's held-out images for its report: each image, all with intervals, objects by size, calibration.

Every figure is a function of the contingency tables and the calibration columns of single images, so that an interval
is the same function of other sums (see `septum.metrics.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from septum.evaluate.scores import finish_instances
from septum.metrics import bootstrap, calibration, ctc, matching, pixel, rand
from septum.metrics.contingency import Table

Array = NDArray[np.float64]

FOUND = 0.5
"""An object is found where its match has this IoU or more."""

# Scores at IoU 0.5 or above that are shown beside SEG: their names here, and those of `septum.evaluate.scores`.
_INSTANCE = {
    "AP50": "AP@0.50",
    "AP": "AP",
    "F1": "F1@0.50",
    "precision": "precision@0.50",
    "recall": "recall@0.50",
    "PQ": "PQ@0.50",
}
_SIZE_CLASSES = 4


@dataclass(frozen=True, eq=False)
class ScoredSample:
    """One held-out image that was predicted again and compared with its truth.

    Attributes
    ----------
    name, group
        Of the sample.
    sides
        In pixels.
    seconds
        That its prediction took.
    gold, full
        Table with the gold truth, which is the mask where there is none, and with the mask. Labels are object ids, or
        classes 0 .. K - 1.
    sure
        ``(BINS, 3) float64`` of `septum.metrics.calibration.columns`.
    areas
        Table of `septum.metrics.isbi.areas` where classes are lines and areas, of all images then.
    """

    name: str
    group: str
    sides: tuple[int, ...]
    seconds: float
    gold: Table
    full: Table
    sure: Array
    areas: Table | None = None


@dataclass(frozen=True)
class Estimate:
    """A score over all images with its 95 % bootstrap interval over images; NaN where not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SizeClass:
    """True objects of like size.

    Attributes
    ----------
    low_px, high_px
        Smallest and largest diameter (that of a disk or ball of equal size).
    count, found
        Objects, and those of them whose match has an IoU of `FOUND` or more.
    median_iou
        Median of their best IoU with any predicted object.
    """

    low_px: float
    high_px: float
    count: int
    found: int
    median_iou: float


@dataclass(frozen=True, eq=False)
class Objects:
    """What became of every object of the scored images.

    Attributes
    ----------
    true, predicted
        How many there are.
    missed, false
        True ones without a match of IoU `FOUND`, and predicted ones without.
    merged
        True objects more than half of which lies in a predicted object that also holds more than half of another one.
    split
        True objects that hold more than half of each of two or more predicted ones.
    diameter_px, iou
        ``(true,) float64``: of each true object, and its best IoU with any predicted one.
    found
        ``(true,) bool``.
    by_size
        Up to four classes of about equal count, small objects first.
    """

    true: int
    predicted: int
    missed: int
    false: int
    merged: int
    split: int
    diameter_px: Array
    iou: Array
    found: NDArray[np.bool_]
    by_size: tuple[SizeClass, ...]


@dataclass(frozen=True)
class Reliability:
    """Calibration of all scored pixels.

    Attributes
    ----------
    error
        Expected calibration error, 0..1; NaN without pixels.
    confidence, right, share
        Of each bin that holds pixels: mean confidence, share of right pixels, share of all pixels; each 0..1.
    """

    error: float
    confidence: tuple[float, ...]
    right: tuple[float, ...]
    share: tuple[float, ...]


def estimates(
    images: Sequence[ScoredSample], kind: Literal["objects", "classes"], *, values: Sequence[int], seed: int
) -> dict[str, Estimate]:
    """Score all images together.

    Parameters
    ----------
    images
        At least one.
    kind
        ``"objects"`` gives ``SEG`` (from the gold truth), ``AP50``, ``AP``, and ``F1``, ``precision``, ``recall``,
        ``PQ`` at IoU 0.5. ``"classes"`` gives ``dice``, ``iou`` (means over all classes but the first),
        ``pixel_error``, and ``dice V`` of the class with value V where there are several; before them ``V_Rand`` of
        lines and areas.
    values
        Value of each class in the masks.
    seed
        Of the bootstrap. Frames of one group are drawn among themselves.
    """
    rows = np.stack([_columns(image, kind, len(values)) for image in images])
    found = {name: float(value) for name, value in _finish(rows.sum(axis=0), kind, values).items()}
    if len(images) < 2:
        return {name: Estimate(value, float("nan"), float("nan")) for name, value in found.items()}
    samples = resampled(images, kind, values=values, seed=seed)
    return {name: Estimate(value, *bootstrap.interval(samples[name])) for name, value in found.items()}


def resampled(
    images: Sequence[ScoredSample], kind: Literal["objects", "classes"], *, values: Sequence[int], seed: int
) -> dict[str, Array]:
    """Return the scores of `estimates` for each bootstrap sample, ``(bootstrap.REPEATS,)`` each.

    The same seed draws the same images: predictions of two models of the same images, in the same order, can be
    compared draw by draw.
    """
    rows = np.stack([_columns(image, kind, len(values)) for image in images])
    strata = np.unique([image.group for image in images], return_inverse=True)[1].astype(np.int64)
    return _finish(bootstrap.resample(rows, bootstrap.weights(strata, seed=seed)), kind, values)


def own_scores(
    image: ScoredSample, kind: Literal["objects", "classes"], *, values: Sequence[int]
) -> tuple[dict[str, float], float]:
    """Return the scores of one image, and the number by which images are ranked, 0 (worst) to 1.

    The rank is the mean of SEG and AP50, of V_Rand and Dice, or Dice, as `septum.train.validation.selection_score` of
    all images. An image in which there is nothing to find ranks 1 if nothing was found there and 0 if something was.
    """
    scores = {k: float(v) for k, v in _finish(_columns(image, kind, len(values)), kind, values).items()}
    rank = np.mean([scores[name] for name in ("SEG", "AP50", "V_Rand", "dice") if name in scores])
    if np.isfinite(rank):
        return scores, float(rank)
    return scores, float(not (image.full.predicted > 0).any())


def object_figures(images: Sequence[ScoredSample]) -> Objects:
    """Return what became of every object of images whose labels are object ids."""
    diameters, ious, hits = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, np.bool_)]
    predicted = false = merged = split = 0
    for image in images:
        ids, best, _ = matching.ious(image.full)
        match = matching.match(image.full, FOUND)
        sizes = image.full.truth_objects[1].astype(np.float64)
        rank3 = len(image.sides) == 3
        diameters.append(2 * np.cbrt(0.75 * sizes / np.pi) if rank3 else 2 * np.sqrt(sizes / np.pi))
        ious.append(best)
        hits.append(np.isin(ids, match.truth))
        predicted += match.n_predicted
        false += match.n_predicted - match.truth.size
        both = merged_and_split(image.full)
        merged, split = merged + both[0], split + both[1]
    diameter, iou, found = np.concatenate(diameters), np.concatenate(ious), np.concatenate(hits)
    return Objects(
        true=diameter.size,
        predicted=predicted,
        missed=int((~found).sum()),
        false=false,
        merged=merged,
        split=split,
        diameter_px=diameter,
        iou=iou,
        found=found,
        by_size=_by_size(diameter, iou, found),
    )


def merged_and_split(table: Table) -> tuple[int, int]:
    """Return how many true objects of an image are merged with others, and how many are split (see `Objects`)."""
    row, column, shared, _ = table.overlaps
    true_sizes, sizes = table.truth_objects[1], table.predicted_objects[1]
    swallowed = 2 * shared > true_sizes[row]
    holds = np.bincount(column[swallowed], minlength=sizes.size)
    parts = np.bincount(row[2 * shared > sizes[column]], minlength=true_sizes.size)
    return int(holds[holds > 1].sum()), int((parts > 1).sum())


def reliability(images: Sequence[ScoredSample]) -> Reliability:
    """Return the calibration of all pixels of images together."""
    totals = np.sum([image.sure for image in images], axis=0).reshape(-1, 3)
    held = totals[totals[:, 0] > 0]
    return Reliability(
        error=float(calibration.finish(totals)),
        confidence=tuple((held[:, 1] / held[:, 0]).tolist()),
        right=tuple((held[:, 2] / held[:, 0]).tolist()),
        share=tuple((held[:, 0] / max(1.0, held[:, 0].sum())).tolist()),
    )


def _columns(image: ScoredSample, kind: str, classes: int) -> Array:
    """Return what one image adds: ``(11, 4)`` of objects, SEG in the last row; ``(classes + 2, 3)`` of classes."""
    if kind == "objects":
        jaccard = ctc.seg_objects(image.gold)[1]
        last = np.array([[jaccard.sum(), jaccard.size, 0.0, 0.0]])
        return np.concatenate([matching.columns(image.full), last])
    found = pixel.of_table(image.full, classes=range(classes))
    counts = [(c.tp, c.fp, c.fn) for c in found.classes]
    areas = (0.0, 0, 0) if image.areas is None else (rand.score(image.areas).f, 1, 0)
    return np.array([*counts, (found.wrong, found.pixels, 0), areas], np.float64)


def _finish(totals: Array, kind: str, values: Sequence[int]) -> dict[str, Array]:
    """Turn sums of `_columns`, ``(..., rows, columns)``, into scores ``(...)``; NaN where not defined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if kind == "objects":
            scores = finish_instances(totals[..., :-1, :])
            seg = totals[..., -1, 0] / totals[..., -1, 1]
            return {"SEG": seg, **{name: scores[key] for name, key in _INSTANCE.items()}}
        tp, fp, fn = np.moveaxis(totals[..., :-2, :], -1, 0)
        dice, iou = 2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn)
        found = {"V_Rand": totals[..., -1, 0] / totals[..., -1, 1]} if totals[..., -1, 1].all() else {}
        found |= {"dice": _mean(dice[..., 1:]), "iou": _mean(iou[..., 1:])}
        found["pixel_error"] = totals[..., -2, 0] / totals[..., -2, 1]
    if len(values) > 2:
        found |= {f"dice {value}": dice[..., k] for k, value in enumerate(values) if k}
    return found


def _mean(scores: Array) -> Array:
    """Return the mean along the last axis of what is defined, NaN where nothing is."""
    defined = np.isfinite(scores)
    return np.asarray(np.where(defined, scores, 0).sum(axis=-1) / defined.sum(axis=-1))


def _by_size(diameter: Array, iou: Array, found: NDArray[np.bool_]) -> tuple[SizeClass, ...]:
    """Cut objects into classes of about equal count; objects of one size stay together."""
    if not diameter.size:
        return ()
    limits = np.unique(np.quantile(diameter, np.arange(1, _SIZE_CLASSES) / _SIZE_CLASSES))
    place = np.searchsorted(limits, diameter, side="left")
    classes = []
    for number in np.unique(place):
        inside = place == number
        low, high = float(diameter[inside].min()), float(diameter[inside].max())
        classes.append(SizeClass(low, high, int(inside.sum()), int(found[inside].sum()), float(np.median(iou[inside]))))
    return tuple(classes)
