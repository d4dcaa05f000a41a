"""Scores of several images: what each image adds is summed, and the sums become scores.

Every score is a function of sums over images. A *columns* function computes what one image adds, as an array; a
*finish* function turns sums of such arrays into scores. The same finish gives the scores of one image, of all images,
and of each bootstrap sample, hence the intervals. Validation during training, the report of a run and
``septum evaluate`` all take their scores from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.metrics import bootstrap, calibration, ctc, isbi, matching, pixel, rand
from septum.metrics.contingency import Table

Array = NDArray[np.float64]
Finish = Callable[[Array], dict[str, Array]]

LEAST_GROUPS = 6
"""Bootstrap samples draw whole groups where there are this many. All of six independent groups lie on one side of the
true score in 3 % of all cases, all of five in 6 %: five whole groups have no 95 % interval."""

# Scores of objects of held-out images: their names there, and the names of `finish_instances`.
_OBJECTS = {
    "AP50": "AP@0.50",
    "AP75": "AP@0.75",
    "AP": "AP",
    "F1": "F1@0.50",
    "precision": "precision@0.50",
    "recall": "recall@0.50",
    "PQ": "PQ@0.50",
}
# First of the thresholds of IoU at which outlines count: 0.75.
_OUTLINES = matching.THRESHOLDS.index(0.75)
# Scores at each threshold of IoU: their names in `septum.metrics.matching`, and here.
_INSTANCES = {
    "ap": "AP",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "panoptic_quality": "PQ",
    "mean_true_iou": "mean true IoU",
    "mean_matched_iou": "mean matched IoU",
}


@dataclass(frozen=True)
class ScoreFamily:
    """Scores of ``septum evaluate`` that are computed from the same columns.

    Attributes
    ----------
    finish
        Turns sums of columns into scores by name.
    headlines
        Names of the scores that a short table shows.
    errors
        Beginnings of the names of errors and distances, of which less is better.
    """

    finish: Finish
    headlines: tuple[str, ...]
    errors: tuple[str, ...] = ()

    def higher_is_better(self, name: str) -> bool:
        """Return True if more of this score is better."""
        return not name.startswith(self.errors)


@dataclass(frozen=True)
class Estimate:
    """A score over all images with its 95 % bootstrap interval over images or groups; NaN where not defined."""

    value: float
    low: float
    high: float


def estimates(rows: Array, finish: Finish, *, groups: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Score all images together, with intervals over images.

    Parameters
    ----------
    rows
        ``(n, ...) float64``, columns of at least one image, any finite values.
    finish
        Turns their sum into scores.
    groups
        Group of each image, such as its sequence; ``""`` is an image on its own. Of `LEAST_GROUPS` or more groups, an
        image on its own counted as one, whole groups are drawn, because images of one group are alike; otherwise images
        are drawn.
    seed
        Seed of the bootstrap.

    Returns
    -------
    dict
        By name of the score; the interval is NaN where one image, or one whole group, alone defines the score.
    """
    return _with_intervals(finish(rows.sum(axis=0)), resampled(rows, finish, groups=groups, seed=seed))


def differences(
    first: Array, second: Array, finish: Finish, *, groups: Sequence[str], seed: int
) -> dict[str, Estimate]:
    """Compare two predictions of the same images by the paired bootstrap: both see the same draws.

    Parameters
    ----------
    first, second
        ``(n, ...) float64``, columns of the same images in the same order, any finite values.
    finish, groups, seed
        As for `estimates`.

    Returns
    -------
    dict
        By name of the score: second minus first, with its interval.
    """
    before, after = finish(first.sum(axis=0)), finish(second.sum(axis=0))
    drawn = [resampled(rows, finish, groups=groups, seed=seed) for rows in (first, second)]
    return _with_intervals(
        {name: after[name] - before[name] for name in before},
        {name: drawn[1][name] - drawn[0][name] for name in drawn[0]},
    )


def resampled(rows: Array, finish: Finish, *, groups: Sequence[str], seed: int) -> dict[str, Array]:
    """Compute the scores of each bootstrap sample.

    Equal seeds and groups draw the same images, so two predictions of the same images in the same order can be compared
    draw by draw.

    Parameters
    ----------
    rows, finish, groups, seed
        As for `estimates`; `rows` is ``(n, ...) float64``, any finite values.

    Returns
    -------
    dict
        By name ``(bootstrap.REPEATS,) float64`` scores; all are NaN where one image, or one whole group, alone defines
        the score: nothing varies then.
    """
    drawn = _whole_groups(rows, groups)
    samples = finish(bootstrap.resample(drawn, bootstrap.weights(len(drawn), seed=seed)))
    if len(drawn) < 2:
        return {name: np.full(bootstrap.REPEATS, np.nan) for name in samples}
    without = finish(drawn.sum(axis=0) - drawn)  # each of them left out
    return {
        name: values if np.isfinite(without[name]).all() else np.full_like(values, np.nan)
        for name, values in samples.items()
    }


def _whole_groups(rows: Array, groups: Sequence[str]) -> Array:
    """Return the sums of the rows of each group, or the rows if there are fewer than `LEAST_GROUPS` groups."""
    keys = [group or place for place, group in enumerate(groups)]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    if not LEAST_GROUPS <= len(places) < len(rows):
        return rows
    sums = np.zeros((len(places), *rows.shape[1:]))
    np.add.at(sums, [places[key] for key in keys], rows)
    return sums


def _with_intervals(values: dict[str, Array], samples: dict[str, Array]) -> dict[str, Estimate]:
    """Pair each score with the interval of its bootstrap values; NaN where there are none."""
    return {name: Estimate(float(value), *bootstrap.interval(samples[name])) for name, value in values.items()}


def object_columns(gold: Table, full: Table) -> Array:
    """Compute what one held-out image adds to the scores of objects.

    Parameters
    ----------
    gold
        Table with the gold truth, which may contain only some of the objects: SEG is computed from it.
    full
        Table with the mask, which contains every object: all other scores are computed from it.

    Returns
    -------
    ndarray
        ``(11, 4) float64``, non-negative: columns of `septum.metrics.matching` at ten thresholds; in the last row the
        sum of the Jaccard indices, the number of reference objects, 0 and 0.
    """
    seg = ctc.columns(gold)[:2]
    return np.concatenate([matching.columns(full), [[*seg, 0.0, 0.0]]])


def finish_objects(totals: Array) -> dict[str, Array]:
    """Turn sums of `object_columns` into SEG, AP50, AP75, AP, and F1, precision, recall and PQ at IoU 0.5.

    Parameters
    ----------
    totals
        ``(..., 11, 4) float64``, non-negative sums.

    Returns
    -------
    dict
        By name ``(...) float64`` in [0, 1]; SEG is NaN without reference objects.
    """
    scores = finish_instances(totals[..., :-1, :])
    with np.errstate(invalid="ignore", divide="ignore"):
        seg = totals[..., -1, 0] / totals[..., -1, 1]
    return {"SEG": seg, **{name: scores[key] for name, key in _OBJECTS.items()}}


def class_columns(full: Table, *, classes: int, areas: Table | None = None) -> Array:
    """Compute what one held-out image adds to the scores of classes.

    Parameters
    ----------
    full
        Table of the image whose labels are classes 0..K-1.
    classes
        K, the number of classes.
    areas
        Table of `septum.metrics.isbi.areas` where the classes are lines and areas; None otherwise.

    Returns
    -------
    ndarray
        ``(K + 2, 3) float64``, non-negative: columns of `septum.metrics.pixel`; in the last row V_Rand, 1 and 0, or
        zeros without areas.
    """
    last = (0.0, 0.0, 0.0) if areas is None else (rand.score(areas).f, 1.0, 0.0)
    return np.concatenate([pixel.columns(full, classes=range(classes)), [last]])


def finish_classes(values: Sequence[int]) -> Finish:
    """Return the finish of `class_columns` for classes with these values in the masks.

    It turns ``(..., K + 2, 3)`` sums into ``V_Rand`` (the mean over images, where lines part areas), ``dice`` and
    ``iou`` (means over all classes but the first), ``pixel_error``, and with more than two classes ``dice V`` of each
    value V.
    """

    def finish(totals: Array) -> dict[str, Array]:
        each = pixel.ratios(totals[..., :-2, :])
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = {"V_Rand": totals[..., -1, 0] / totals[..., -1, 1]} if totals[..., -1, 1].all() else {}
            scores |= {name: pixel.mean_of_defined(each[name][..., 1:]) for name in ("dice", "iou")}
            scores["pixel_error"] = totals[..., -2, 0] / totals[..., -2, 1]
        if len(values) > 2:
            scores |= {f"dice {value}": each["dice"][..., k] for k, value in enumerate(values) if k}
        return scores

    return finish


def finish_instances(totals: Array) -> dict[str, Array]:
    """Turn sums of `septum.metrics.matching.columns` into the scores at each threshold, and AP, their mean.

    ``"AP@0.75-0.95"`` is the mean of the five upper thresholds, at which outlines count.

    Parameters
    ----------
    totals
        ``(..., 10, 4) float64``, non-negative sums.

    Returns
    -------
    dict
        By name (``"AP"``, ``"AP@0.50"``, ``"F1@0.50"``, ...) ``(...) float64`` in [0, 1].
    """
    shares = matching.shares(totals)
    scores = {"AP": shares["ap"].mean(axis=-1), "AP@0.75-0.95": shares["ap"][..., _OUTLINES:].mean(axis=-1)}
    for k, threshold in enumerate(matching.THRESHOLDS):
        scores |= {f"{label}@{threshold:.2f}": shares[name][..., k] for name, label in _INSTANCES.items()}
    return scores


INSTANCES = ScoreFamily(finish_instances, ("AP", "AP@0.50", "AP@0.75", "AP@0.75-0.95", "F1@0.50", "PQ@0.50"))


def _finish_isbi(totals: Array) -> dict[str, Array]:
    """Turn sums of ``(..., 11, columns)`` into the scores of the challenge, and the thresholds of the official two."""
    scores = isbi.finish(totals)
    values = {name: value for name, (value, _) in scores.items()}
    thresholds = np.asarray(isbi.THRESHOLDS)
    return values | {f"{name} threshold": thresholds[scores[name][1]] for name in ("V_Rand", "V_Info")}


ISBI = ScoreFamily(
    _finish_isbi,
    ("V_Rand", "V_Info", "warping error", "Rand error", "pixel error"),
    tuple(name for name, higher_is_better in isbi.SCORES.items() if not higher_is_better),
)


def _finish_calibration(totals: Array) -> dict[str, Array]:
    return {"ECE": calibration.finish(totals)}


CALIBRATION = ScoreFamily(_finish_calibration, ("ECE",), ("ECE",))


def ctc_scores(sequences: Sequence[str]) -> ScoreFamily:
    """Return the scores of the Cell Tracking Challenge: SEG and DET, means over sequences, and those of each sequence.

    The finish turns ``(..., sequences, 6)`` sums of `septum.metrics.ctc.columns` into scores.
    """

    def finish(totals: Array) -> dict[str, Array]:
        each = ctc.finish(totals)
        scores = {name: pixel.mean_of_defined(values) for name, values in each.items()}
        if len(sequences) > 1:
            for name, values in each.items():
                scores |= {f"{name} {s}": values[..., k] for k, s in enumerate(sequences)}
        return scores

    return ScoreFamily(finish, ("SEG", "DET"))


def pixel_scores(classes: Sequence[int], *, um: bool) -> ScoreFamily:
    """Return the scores of classes with these values; distances are in micrometers, or in pixels.

    The finish turns ``(..., K + 1, 9)`` sums into scores. Columns of each class: tp, fp, fn; ASD and HD95 in pixels,
    then in micrometers; the number of images in which each pair is defined. The last row holds wrong pixels and pixels.
    """
    unit = "um" if um else "px"
    names = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}

    def finish(totals: Array) -> dict[str, Array]:
        shares = pixel.ratios(totals[..., :-1, :3])
        each = {label: shares[name] for name, label in names.items()}
        distances = totals[..., :-1, 5:7] if um else totals[..., :-1, 3:5]
        counted = totals[..., :-1, 8 if um else 7]
        with np.errstate(invalid="ignore", divide="ignore"):
            each |= {"ASD": distances[..., 0] / counted, "HD95": distances[..., 1] / counted}
            wrong = totals[..., -1, 0] / totals[..., -1, 1]
        scores = {name: pixel.mean_of_defined(each[name][..., 1:]) for name in ("Dice", "IoU")} | {
            "wrong pixels": wrong
        }
        for name, values in each.items():
            distance = name in ("ASD", "HD95")
            for k, value in enumerate(classes):
                if not (distance and k == 0):
                    scores[f"{name} {value}" + (f" ({unit})" if distance else "")] = values[..., k]
        return scores

    return ScoreFamily(finish, ("Dice", "IoU", "wrong pixels"), ("wrong pixels", "ASD", "HD95"))
