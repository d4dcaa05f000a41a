"""Score single frames: compute what each frame adds to the scores, and list its objects.

`septum.metrics.aggregate` turns the sums over frames into scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.evaluation.frames import ScoredFrame
from septum.evaluation.results import Metric, ObjectScore
from septum.io.formats import format_path
from septum.metrics import calibration, contingency, ctc, isbi, matching, pixel, surface, thinning
from septum.metrics.contingency import Table
from septum.words import pluralize

Array = NDArray[np.float64]
WHITE = 255
EXTRA_BELOW = 0.5
"""A predicted object that overlaps every true one by less than this IoU is listed as extra."""


@dataclass(frozen=True)
class ScoreTask:
    """The scores to compute, and the meaning of the values of the truth.

    Attributes
    ----------
    metrics
        Metrics to compute.
    classes
        Class values of all truths, rising (pixels).
    unknown
        Values of the truth whose pixels do not count (pixels).
    mixed
        Some truths hold 0 and 1, others 0 and 255, with the same meaning (pixels).
    places
        All images of the prediction are read by places among the class values, or none is; None: a value has the same
        meaning in both readings, so that each image tells (pixels).
    pieces
        The truth has one value for all objects: each connected piece is an object (instances).
    sequences
        Names of the sequences of the challenge (ctc).
    """

    metrics: tuple[Metric, ...]
    classes: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    mixed: bool = False
    places: bool | None = None
    pieces: bool = False
    sequences: tuple[str, ...] = ()


@dataclass
class FrameColumns:
    """What one frame adds: columns by metric (and ``"calibration"``), its objects, and notes on how it was read."""

    columns: dict[str, Array] = field(default_factory=dict)
    objects: list[ObjectScore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def score_frame(frame: ScoredFrame, task: ScoreTask) -> FrameColumns:
    """Score one frame with every metric of the task.

    Raises
    ------
    DataError
        If its values do not suit a metric.
    """
    result = FrameColumns()
    if "isbi" in task.metrics:
        _score_isbi(frame, result)
    if "ctc" in task.metrics:
        _score_ctc(frame, task.sequences, result)
    if "instances" in task.metrics:
        _score_instances(frame, task, result)
    if "pixels" in task.metrics:
        _score_pixels(frame, task, result)
    return result


def _score_isbi(frame: ScoredFrame, result: FrameColumns) -> None:
    truth = contingency.values(frame.truth)
    if (truth > 0).sum() > 1:
        raise DataError(
            f"{format_path(frame.item.truth)}: {pluralize(int((truth > 0).sum()), 'value')} other than 0",
            "membranes 0 and cells 1 or 255",
            "score object ids with --metrics instances",
        )
    proposal = _proposal(frame, result)
    ignore = _ignored(frame, frame.truth < 0)
    section = isbi.section(frame.truth > 0, proposal, ignore=ignore)
    result.columns["isbi"] = isbi.columns(section)
    result.columns["calibration"] = calibration.columns(
        proposal[None], (frame.truth > 0).astype(np.int8), ignore=ignore
    )


def _ignored(frame: ScoredFrame, unknown: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return the pixels that do not count: those of the ignore mask, and those that are not annotated."""
    if not unknown.any():
        return frame.ignore
    return unknown if frame.ignore is None else unknown | frame.ignore


def _proposal(frame: ScoredFrame, result: FrameColumns) -> NDArray[np.float32]:
    """Return the probability of the inside, from a map of probabilities, 8-bit gray values or two values."""
    if frame.probability is not None:
        if len(frame.probability) != 1:
            raise DataError(
                f"{format_path(frame.item.predicted)}: {pluralize(len(frame.probability), 'probability map')}",
                "one, of the inside of cells",
                "save that map alone",
            )
        return np.asarray(frame.probability[0], np.float32)
    labels = _integers(frame)
    values = contingency.values(labels)
    if values.size <= 2 and values[0] in (0, values[-1]):
        return (labels > 0).astype(np.float32)
    if labels.dtype == np.uint8:
        result.notes.append("gray values of 8 bits were read as probabilities: value / 255")
        return np.asarray(labels.astype(np.float32) / np.float32(WHITE))
    raise DataError(
        f"{format_path(frame.item.predicted)}: {values.size} values of {labels.dtype}",
        "a probability map (real numbers from 0 to 1, or 8 bits), or a binary one",
        "score object ids with --metrics instances",
    )


def _score_ctc(frame: ScoredFrame, sequences: Sequence[str], result: FrameColumns) -> None:
    table = contingency.table(frame.truth, _integers(frame), ignore=frame.ignore)
    columns = np.zeros((len(sequences), 6))
    columns[sequences.index(frame.item.sequence)] = ctc.columns(table, markers=frame.item.markers)
    result.columns["ctc"] = columns
    if not frame.item.markers:
        _, _, partner = matching.ious(table)
        result.objects += _true_objects(frame.name, frame.truth, table, *ctc.seg_objects(table), partner)


def _score_instances(frame: ScoredFrame, task: ScoreTask, result: FrameColumns) -> None:
    truth = thinning.components(frame.truth > 0) if task.pieces else frame.truth
    predicted = _numbered(_integers(frame), result)
    table = contingency.table(truth, predicted, ignore=frame.ignore)
    result.columns["instances"] = matching.columns(table)
    if not result.objects:
        result.objects += _true_objects(frame.name, truth, table, *matching.ious(table))
    result.objects += _extra_objects(frame.name, predicted, table)


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


def _extra_objects(name: str, predicted: NDArray[np.integer[Any]], table: Table) -> list[ObjectScore]:
    """List the predicted objects that overlap every true one by less than `EXTRA_BELOW`."""
    _, column, shared, union = table.overlaps
    ids, sizes = table.predicted_objects
    best = np.zeros(ids.size)
    np.maximum.at(best, column, shared / union)
    extra = best < EXTRA_BELOW
    if not extra.any():
        return []
    centers = dict(zip(*(a.tolist() for a in contingency.centroids(predicted)), strict=True))
    return [
        ObjectScore(name, "extra", number, 0, iou, size, tuple(centers[number]))
        for number, size, iou in zip(ids[extra].tolist(), sizes[extra].tolist(), best[extra].tolist(), strict=True)
    ]


def _numbered(labels: NDArray[np.integer[Any]], result: FrameColumns) -> NDArray[np.integer[Any]]:
    """Return a prediction of only 0 and 255 with its pieces numbered, others as they are; doubts become notes."""
    values = contingency.values(labels)
    if values.tolist() in ([0, WHITE], [WHITE]):
        result.notes.append("the prediction is 0 and 255: each connected piece was taken as an object")
        return thinning.components(labels > 0)
    if values.tolist() == [0, 1] and thinning.components(labels > 0).max() > 1:
        result.notes.append(
            "the prediction is 0 and 1, one object in several pieces; if it is a class map, number them"
        )
    return labels


def _integers(frame: ScoredFrame) -> NDArray[np.integer[Any]]:
    if frame.predicted is None:
        raise DataError(
            f"{format_path(frame.item.predicted)}: probabilities",
            "object ids",
            "predict with --output labels, or score with --metrics pixels",
        )
    return frame.predicted


def _score_pixels(frame: ScoredFrame, task: ScoreTask, result: FrameColumns) -> None:
    classes, truth = task.classes, _class_truth(frame.truth, task)
    predicted = _class_map(frame, task, result)
    table = contingency.table(truth, predicted, ignore=frame.ignore)
    columns = np.zeros((len(classes) + 1, 9))
    columns[:, :3] = pixel.columns(table, classes=classes)
    unknown = truth < 0
    ignore = _ignored(frame, unknown)
    for k, value in enumerate(classes[1:], start=1):
        columns[k, 3:] = _distances(truth == value, predicted == value, frame.spacing_um, ignore)
    result.columns["pixels"] = columns
    if frame.probability is not None and len(frame.probability) in (1, len(classes)):
        places = np.searchsorted(np.asarray(classes), truth)
        result.columns["calibration"] = calibration.columns(
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
    """Return both distances in pixels, both in micrometers, and whether each pair is defined (0 or 1)."""
    spacings = [None] if spacing is None else [None, spacing]
    found = surface.distances_in_units(truth, predicted, spacings=spacings, ignore=ignore)
    if np.isnan(found[0].average):
        return (0.0,) * 6
    return (*found[0], *(found[1] if spacing else (0.0, 0.0)), 1.0, float(spacing is not None))


def _class_map(frame: ScoredFrame, task: ScoreTask, result: FrameColumns) -> NDArray[np.integer[Any]]:
    """Return the prediction in the class values of the truth, from probabilities, class indices or gray values."""
    classes = task.classes
    if frame.probability is not None:
        return _most_probable(frame, frame.probability, classes, result)
    table, labels = np.asarray(classes), _integers(frame)
    values = contingency.values(labels)
    if set(values.tolist()) <= set(classes) and not task.places:
        return labels
    if task.places is not False and values[0] >= 0 and values[-1] < len(classes):
        shown_values = ", ".join(f"{k} as {v}" for k, v in enumerate(classes) if k in values)
        result.notes.append(f"predicted classes were read by their place among the truth's values: {shown_values}")
        return np.asarray(table[labels])
    if len(classes) == 2 and values.size <= 2 and values[0] in (0, values[-1]):
        result.notes.append(f"predicted {values[-1]} was read as {classes[1]}")
        return np.asarray(table[(labels > 0).astype(np.int64)])
    if len(classes) == 2 and labels.dtype == np.uint8 and values[-1] > 127:
        result.notes.append(f"gray values of 8 bits above 127 were read as {classes[1]}")
        return np.asarray(table[(labels > 127).astype(np.int64)])
    foreign = sorted(set(values.tolist()) - set(classes))
    result.notes.append(
        f"predicted values that are not classes of the truth count as wrong: {', '.join(map(str, foreign[:5]))}"
        + (" ..." if len(foreign) > 5 else "")
    )
    return labels


def _most_probable(
    frame: ScoredFrame, maps: NDArray[np.float32], classes: Sequence[int], result: FrameColumns
) -> NDArray[np.integer[Any]]:
    """Return the class value of the largest probability; with one map and two classes the second one above 0.5."""
    table = np.asarray(classes)
    if len(maps) == 1 and len(classes) == 2:
        result.notes.append(f"a pixel is of class {classes[1]} where its probability is above 0.5")
        return np.asarray(table[(maps[0] > 0.5).astype(np.int64)])
    if len(maps) != len(classes):
        raise DataError(
            f"{format_path(frame.item.predicted)}: {pluralize(len(maps), 'probability map')}",
            f"{len(classes)}, one for each class of the truth ({', '.join(map(str, classes))})",
            "name the truth that the model was trained with",
        )
    return np.asarray(table[maps.argmax(axis=0)])
