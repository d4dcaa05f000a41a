"""Score frames: what each adds to a score (columns), and how sums of columns become scores (finish).

The same finish turns one frame's columns into its own scores, their sum into those of the data set, and the sums of
bootstrap samples into intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.evaluate.frames import ScoredFrame
from septum.evaluate.results import Metric, ObjectScore
from septum.io.paths import format_path
from septum.metrics import calibration, contingency, ctc, isbi, matching, pixel, surface, thinning
from septum.metrics.contingency import Table

Array = NDArray[np.float64]
Finish = Callable[[Array], dict[str, Array]]
WHITE = 255
EXTRA_BELOW = 0.5


@dataclass(frozen=True)
class ScoreTask:
    """What is scored, and what the truth's values mean.

    Attributes
    ----------
    metrics
        Which scores.
    classes
        Class values of all truths, rising (pixels).
    unknown
        Values of the truth whose pixels do not count (pixels).
    mixed
        Some truths are of 0 and 1, others of 0 and 255, and mean the same (pixels).
    pieces
        The truth has one value for all objects: each connected piece is one (instances).
    sequences
        Names of the challenge's sequences (ctc).
    """

    metrics: tuple[Metric, ...]
    classes: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    mixed: bool = False
    pieces: bool = False
    sequences: tuple[str, ...] = ()


@dataclass
class Rows:
    """What one frame adds: columns by metric (and ``"calibration"``), its objects, and what was understood."""

    columns: dict[str, Array] = field(default_factory=dict)
    objects: list[ObjectScore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def score_frame(frame: ScoredFrame, task: ScoreTask) -> Rows:
    """Score one frame.

    Raises
    ------
    DataError
        If its values do not suit a metric.
    """
    rows = Rows()
    if "isbi" in task.metrics:
        _score_isbi(frame, rows)
    if "ctc" in task.metrics:
        _score_ctc(frame, task.sequences, rows)
    if "instances" in task.metrics:
        _score_instances(frame, task, rows)
    if "pixels" in task.metrics:
        _score_pixels(frame, task, rows)
    return rows


def _score_isbi(frame: ScoredFrame, rows: Rows) -> None:
    truth = contingency.values(frame.truth)
    if (truth > 0).sum() > 1:
        raise DataError(
            f"{format_path(frame.item.truth)}: {(truth > 0).sum()} values other than 0",
            "membranes 0 and cells 1 or 255",
            "score object ids with --metrics instances",
        )
    proposal = _proposal(frame, rows)
    unknown = frame.truth < 0
    ignore = frame.ignore if not unknown.any() else unknown if frame.ignore is None else unknown | frame.ignore
    section = isbi.section(frame.truth > 0, proposal, ignore=ignore)
    rows.columns["isbi"] = isbi.columns(section)
    rows.columns["calibration"] = calibration.columns(proposal[None], (frame.truth > 0).astype(np.int8), ignore=ignore)


def _proposal(frame: ScoredFrame, rows: Rows) -> NDArray[np.float32]:
    """Return the probability of the inside, whatever a person saved it as."""
    if frame.probability is not None:
        if len(frame.probability) != 1:
            raise DataError(
                f"{format_path(frame.item.predicted)}: {len(frame.probability)} probability maps",
                "one, of the inside of cells",
                "save that map alone",
            )
        return np.asarray(frame.probability[0], np.float32)
    labels = _integers(frame)
    values = contingency.values(labels)
    if values.size <= 2 and values[0] in (0, values[-1]):
        return (labels > 0).astype(np.float32)
    if labels.dtype == np.uint8:
        rows.notes.append("gray values of 8 bits were read as probabilities: value / 255")
        return np.asarray(labels.astype(np.float32) / np.float32(WHITE))
    raise DataError(
        f"{format_path(frame.item.predicted)}: {values.size} values of {labels.dtype}",
        "a probability map (real numbers from 0 to 1, or 8 bits), or a binary one",
        "score object ids with --metrics instances",
    )


def _score_ctc(frame: ScoredFrame, sequences: Sequence[str], rows: Rows) -> None:
    table = contingency.table(frame.truth, _integers(frame), ignore=frame.ignore)
    columns = np.zeros((len(sequences), 6))
    place = sequences.index(frame.item.sequence)
    if frame.item.markers:
        found = ctc.det(table)
        columns[place, 2:] = found.markers, found.misses, found.extras, found.splits
    else:
        ids, jaccard = ctc.seg_objects(table)
        columns[place, :2] = jaccard.sum(), jaccard.size
        _, _, partner = matching.ious(table)
        rows.objects += _true_objects(frame.name, frame.truth, table, ids, jaccard, partner)
    rows.columns["ctc"] = columns


def _score_instances(frame: ScoredFrame, task: ScoreTask, rows: Rows) -> None:
    truth = thinning.components(frame.truth > 0) if task.pieces else frame.truth
    predicted = _pieces(_integers(frame), rows)
    table = contingency.table(truth, predicted, ignore=frame.ignore)
    rows.columns["instances"] = matching.columns(table)
    if not rows.objects:
        rows.objects += _true_objects(frame.name, truth, table, *matching.ious(table))
    _, column, shared, union = table.overlaps
    ids, sizes = table.predicted_objects
    best = np.zeros(ids.size)
    np.maximum.at(best, column, shared / union)
    extra = best < EXTRA_BELOW
    if extra.any():
        centers = dict(zip(*(a.tolist() for a in contingency.centroids(predicted)), strict=True))
        for number, size, iou in zip(ids[extra].tolist(), sizes[extra].tolist(), best[extra].tolist(), strict=True):
            rows.objects.append(ObjectScore(frame.name, "extra", number, 0, iou, size, tuple(centers[number])))


def _true_objects(
    name: str,
    truth: NDArray[np.integer[Any]],
    table: Table,
    ids: NDArray[np.int64],
    iou: Array,
    partner: NDArray[np.int64],
) -> list[ObjectScore]:
    numbers, centers = contingency.centroids(truth)
    places = np.searchsorted(numbers, ids)
    sizes = table.truth_objects[1]
    return [
        ObjectScore(name, "true", int(i), int(p), float(v), int(n), tuple(c.tolist()))
        for i, p, v, n, c in zip(ids, partner, iou, sizes, centers[places], strict=True)
    ]


def _pieces(labels: NDArray[np.integer[Any]], rows: Rows) -> NDArray[np.integer[Any]]:
    """Return a prediction of only 0 and 255 with its pieces numbered, others as they are; doubts become notes."""
    values = contingency.values(labels)
    if values.tolist() in ([0, WHITE], [WHITE]):
        rows.notes.append("the prediction is 0 and 255: each connected piece was taken as an object")
        return thinning.components(labels > 0)
    if values.tolist() == [0, 1] and thinning.components(labels > 0).max() > 1:
        rows.notes.append("the prediction is 0 and 1, one object in several pieces; if it is a class map, number them")
    return labels


def _integers(frame: ScoredFrame) -> NDArray[np.integer[Any]]:
    if frame.predicted is None:
        raise DataError(
            f"{format_path(frame.item.predicted)}: probabilities",
            "object ids",
            "predict with --output labels, or score with --metrics pixels",
        )
    return frame.predicted


def _score_pixels(frame: ScoredFrame, task: ScoreTask, rows: Rows) -> None:
    classes, truth = task.classes, _class_truth(frame.truth, task)
    predicted = _class_map(frame, classes, rows)
    scores = pixel.scores(truth, predicted, classes=classes, ignore=frame.ignore)
    columns = np.zeros((len(classes) + 1, 9))
    unknown = truth < 0
    ignore = frame.ignore if not unknown.any() else unknown if frame.ignore is None else unknown | frame.ignore
    for k, (value, found) in enumerate(zip(classes, scores.classes, strict=True)):
        columns[k, :3] = found.tp, found.fp, found.fn
        if k:
            columns[k, 3:] = _distances(truth == value, predicted == value, frame.spacing_um, ignore)
    columns[-1, :2] = scores.wrong, scores.pixels
    rows.columns["pixels"] = columns
    if frame.probability is not None and len(frame.probability) in (1, len(classes)):
        places = np.searchsorted(np.asarray(classes), truth)
        rows.columns["calibration"] = calibration.columns(
            frame.probability, np.where(unknown, -1, places), ignore=frame.ignore
        )


def _class_truth(truth: NDArray[np.integer[Any]], task: ScoreTask) -> NDArray[np.integer[Any]]:
    if task.mixed:
        return np.where(truth > 0, WHITE, truth)
    return np.where(np.isin(truth, task.unknown), -1, truth.astype(np.int64)) if task.unknown else truth


def _distances(
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    spacing: tuple[float, ...] | None,
    ignore: NDArray[np.bool_] | None,
) -> tuple[float, ...]:
    """Return both distances in pixels and in micrometers, then how often each pair is defined (0 or 1)."""
    pixels = surface.distances(truth, predicted, ignore=ignore)
    if pixels.average != pixels.average:
        return (0.0,) * 6
    if spacing is None:
        return (*pixels, 0.0, 0.0, 1.0, 0.0)
    return (*pixels, *surface.distances(truth, predicted, spacing=spacing, ignore=ignore), 1.0, 1.0)


def _class_map(frame: ScoredFrame, classes: Sequence[int], rows: Rows) -> NDArray[np.integer[Any]]:
    """Return the prediction in the truth's class values, whatever a person saved it as."""
    table = np.asarray(classes)
    if frame.probability is not None:
        maps = frame.probability
        if len(maps) == 1 and len(classes) == 2:
            rows.notes.append(f"a pixel is of class {classes[1]} where its probability is above 0.5")
            return np.asarray(table[(maps[0] > 0.5).astype(np.int64)])
        if len(maps) != len(classes):
            raise DataError(
                f"{format_path(frame.item.predicted)}: {len(maps)} probability maps",
                f"{len(classes)}, one for each class of the truth ({', '.join(map(str, classes))})",
                "name the truth that the model was trained with",
            )
        return np.asarray(table[maps.argmax(axis=0)])
    labels = _integers(frame)
    values = contingency.values(labels)
    if set(values.tolist()) <= set(classes):
        return labels
    if values[0] >= 0 and values[-1] < len(classes):
        shown_values = ", ".join(f"{k} as {v}" for k, v in enumerate(classes) if k in values)
        rows.notes.append(f"predicted classes were read by their place among the truth's values: {shown_values}")
        return np.asarray(table[labels])
    if len(classes) == 2 and values.size <= 2 and values[0] in (0, values[-1]):
        rows.notes.append(f"predicted {values[-1]} was read as {classes[1]}")
        return np.asarray(table[(labels > 0).astype(np.int64)])
    if len(classes) == 2 and labels.dtype == np.uint8 and values[-1] > 127:
        rows.notes.append(f"gray values of 8 bits above 127 were read as {classes[1]}")
        return np.asarray(table[(labels > 127).astype(np.int64)])
    foreign = sorted(set(values.tolist()) - set(classes))
    rows.notes.append(
        f"predicted values that are no class of the truth count as wrong: {', '.join(map(str, foreign[:5]))}"
        + (" ..." if len(foreign) > 5 else "")
    )
    return labels


def finish_isbi(totals: Array) -> dict[str, Array]:
    """Turn sums of ``(..., 11, columns)`` into the challenge's scores, and the thresholds of the official two."""
    scores = isbi.finish(totals)
    found = {name: value for name, (value, _) in scores.items()}
    thresholds = np.asarray(isbi.THRESHOLDS)
    return found | {f"{name} threshold": thresholds[scores[name][1]] for name in ("V_Rand", "V_Info")}


def finish_ctc(sequences: Sequence[str]) -> Finish:
    """Return how sums of ``(..., sequences, 6)`` become SEG and DET: means over sequences, and each sequence."""

    def finish(totals: Array) -> dict[str, Array]:
        jaccard, objects, markers, misses, extras, splits = np.moveaxis(totals, -1, 0)
        cost = ctc.SPLIT_COST * splits + ctc.MISS_COST * misses + ctc.EXTRA_COST * extras
        with np.errstate(invalid="ignore", divide="ignore"):
            each = {
                "SEG": np.where(objects > 0, jaccard / objects, np.nan),
                "DET": np.where(markers > 0, 1 - np.minimum(cost / (ctc.MISS_COST * markers), 1), np.nan),
            }
        found = {name: _defined_mean(values) for name, values in each.items()}
        if len(sequences) > 1:
            for name, values in each.items():
                found |= {f"{name} {s}": values[..., k] for k, s in enumerate(sequences)}
        return found

    return finish


def finish_instances(totals: Array) -> dict[str, Array]:
    """Turn sums of ``(..., 10, 4)`` into the object scores at each threshold, and AP, their mean."""
    names = {
        "ap": "AP",
        "f1": "F1",
        "precision": "precision",
        "recall": "recall",
        "panoptic_quality": "PQ",
        "mean_true_iou": "mean true IoU",
        "mean_matched_iou": "mean matched IoU",
    }
    shares = matching.shares(totals)
    found = {"AP": shares["ap"].mean(axis=-1)}
    for k, threshold in enumerate(matching.THRESHOLDS):
        found |= {f"{label}@{threshold:.2f}": shares[name][..., k] for name, label in names.items()}
    return found


def finish_pixels(classes: Sequence[int], *, um: bool) -> Finish:
    """Return how sums of ``(..., classes + 1, 9)`` become pixel scores; distances in micrometers or pixels."""

    def finish(totals: Array) -> dict[str, Array]:
        tp, fp, fn = np.moveaxis(totals[..., :-1, :3], -1, 0)
        distances = totals[..., :-1, 5:7] if um else totals[..., :-1, 3:5]
        counted = totals[..., :-1, 8 if um else 7]
        unit = "um" if um else "px"
        with np.errstate(invalid="ignore", divide="ignore"):
            each = {
                "Dice": 2 * tp / (2 * tp + fp + fn),
                "IoU": tp / (tp + fp + fn),
                "precision": tp / (tp + fp),
                "recall": tp / (tp + fn),
                "ASD": distances[..., 0] / counted,
                "HD95": distances[..., 1] / counted,
            }
            wrong = totals[..., -1, 0] / totals[..., -1, 1]
        found = {name: _defined_mean(each[name][..., 1:]) for name in ("Dice", "IoU")} | {"wrong pixels": wrong}
        for name, values in each.items():
            for k, value in enumerate(classes):
                distance = name in ("ASD", "HD95")
                if not (distance and k == 0):
                    found[f"{name} {value}" + (f" ({unit})" if distance else "")] = values[..., k]
        return found

    return finish


def finish_calibration(totals: Array) -> dict[str, Array]:
    """Turn sums of ``(..., BINS, 3)`` into the expected calibration error."""
    return {"ECE": calibration.finish(totals)}


def _defined_mean(values: Array) -> Array:
    """Mean along the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(defined.any(axis=-1), total / np.maximum(defined.sum(axis=-1), 1), np.nan))
