"""Values of a run's report: what its page shows and ``metrics.json`` holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.events import Event
from septum.io.atomic import whole_file
from septum.metrics import calibration, matching
from septum.metrics.aggregate import Estimate
from septum.metrics.contingency import Table
from septum.report.curve import Curve
from septum.report.gallery import FOUND, Case, ImageLine, ScoredSample
from septum.settings import MaskKind

PAGE, METRICS = "report.html", "metrics.json"
"""Files of a report in the run folder; the second is written last."""

_SIZE_CLASSES = 4


@dataclass(frozen=True)
class SizeClass:
    """True objects of similar size.

    Attributes
    ----------
    low_px, high_px
        Smallest and largest diameter (that of a disk or ball of equal size).
    count, found
        Number of objects, and of those whose match has an IoU of `FOUND` or more.
    median_iou
        Median of their best IoU with any predicted object.
    """

    low_px: float
    high_px: float
    count: int
    found: int
    median_iou: float


@dataclass(frozen=True, eq=False)
class ObjectFigures:
    """Objects of the scored images: how many were found, missed, merged and split.

    Attributes
    ----------
    true, predicted
        Number of true and of predicted objects.
    missed, false
        True objects without a match of IoU `FOUND`, and predicted objects without one.
    merged
        True objects more than half of which lies in a predicted object that also holds more than half of another one.
    split
        True objects that hold more than half of each of two or more predicted ones.
    diameter_px, iou
        ``(true,) float64``: diameter of each true object, and its best IoU with any predicted one.
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
    diameter_px: NDArray[np.float64]
    iou: NDArray[np.float64]
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


@dataclass(frozen=True, eq=False)
class RunReport(Event):
    """Everything that the report of a run shows.

    Attributes
    ----------
    folder : Path
        The run folder, which holds ``log.csv``.
    created : str
        Date and time, UTC.
    kind : str
        ``"objects"`` or ``"classes"``.
    class_values : tuple of int
        Value of each class in the masks.
    facts, findings : tuple
        Facts on the data, and issues of the check as (severity, sentence).
    split, reasons, plan, device
        Sentence on the held-out images; a sentence for each choice; all settings; the device and the reason for it.
    warnings, remarks : tuple of str
        Warnings of the training, and sentences on what stands out in the results.
    steps, best_step, seconds, budget_s
        Figures of the training; `budget_s` is None if steps were asked for. For several trainings `best_step` is 0.
    held_out : int
        Number of held-out images.
    start_scores : dict
        Scores before the first step, of the weights of another model; empty without them.
    model_scores : dict
        Scores in the model file, of all held-out images.
    scores : dict
        Estimates from the images in `images`; empty without any.
    images : tuple of ImageLine
        The scored images, the worst first.
    worst, best : tuple of Case
        Images that are shown, the worst (best) first; no image is in both.
    objects : ObjectFigures or None
        None for classes.
    reliability : Reliability or None
        None without scored images.
    timing, memory, versions : dict
        Figures by name; see `metrics`.
    command : str
        Command that repeats the training.
    seed : int
        Seed of the run.
    fingerprint : str
        Fingerprint of the data.
    note : str
        Note on the images that the scores are of; ``""`` if there is none.
    curve : Curve or None
        The learning curve, if there is one.
    """

    folder: Path
    created: str
    kind: MaskKind
    class_values: tuple[int, ...]
    facts: tuple[str, ...]
    findings: tuple[tuple[str, str], ...]
    split: str
    reasons: tuple[str, ...]
    plan: Mapping[str, Any]
    device: str
    warnings: tuple[str, ...]
    steps: int
    best_step: int
    seconds: float
    budget_s: float | None
    held_out: int
    model_scores: Mapping[str, float]
    scores: Mapping[str, Estimate]
    images: tuple[ImageLine, ...]
    worst: tuple[Case, ...]
    best: tuple[Case, ...]
    objects: ObjectFigures | None
    reliability: Reliability | None
    timing: Mapping[str, float | None]
    memory: Mapping[str, int | None]
    versions: Mapping[str, str]
    command: str
    seed: int
    fingerprint: str
    start_scores: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    curve: Curve | None = None
    remarks: tuple[str, ...] = ()


def remarks(report: RunReport) -> Iterator[str]:
    """Yield sentences on remarkable results."""
    if not report.held_out:
        yield "No image was held out, so nothing here says how good the model is. Annotate more images."
        return
    if report.held_out < 5:
        were = "image was" if report.held_out == 1 else "images were"
        yield (
            f"Only {report.held_out} {were} held out: the scores can be far from those of other images, and "
            + ("the intervals too narrow." if has_intervals(report) else "have no intervals.")
        )
    if report.best_step == report.steps and report.steps > 1:
        yield "The last validation was the best one: a longer training may give a better model."
    objects = report.objects
    if objects is None or not objects.true:
        return
    if objects.merged > max(2, 0.05 * objects.true):
        yield f"{objects.merged} of {objects.true} objects are merged with a neighbor."
    if objects.split > max(2, 0.05 * objects.true):
        yield f"{objects.split} of {objects.true} objects are split into parts."
    share = 1 - objects.missed / objects.true
    for part in objects.by_size:
        if part.count >= 10 and part.found / part.count < share - 0.15:
            yield (
                f"Objects of {part.low_px:.0f} to {part.high_px:.0f} px are found less often than others: "
                f"{part.found} of {part.count}."
            )


def has_intervals(report: RunReport) -> bool:
    """Return True if a score of a report has an interval."""
    return any(math.isfinite(score.low) for score in report.scores.values())


def metrics(report: RunReport) -> dict[str, Any]:
    """Return the numbers of a report as JSON content; numbers that are not defined are None."""
    objects, sure = report.objects, report.reliability
    values: dict[str, Any] = {
        "format": 1,
        "created": report.created,
        "command": report.command,
        "seed": report.seed,
        "kind": report.kind,
        "data_fingerprint": report.fingerprint,
        "steps": report.steps,
        "best_step": report.best_step,
        "held_out": report.held_out,
        "scored": len(report.images),
        "start_scores": report.start_scores,
        "model_scores": report.model_scores,
        "scores": {name: asdict(score) for name, score in report.scores.items()},
        "images": [asdict(line) for line in report.images],
        "objects": None,
        "calibration": None if sure is None else asdict(sure),
        "timing": report.timing,
        "memory": report.memory,
        "versions": report.versions,
        "learning_curve": None if report.curve is None else asdict(report.curve),
    }
    if objects is not None:
        counts = {k: getattr(objects, k) for k in ("true", "predicted", "missed", "false", "merged", "split")}
        values["objects"] = {**counts, "by_size": [asdict(part) for part in objects.by_size]}
    plain = json_ready(values)
    assert isinstance(plain, dict)
    return plain


def has_report(folder: Path) -> bool:
    """Return True if a run folder holds the page and the numbers of its report."""
    return all((folder / name).exists() for name in (PAGE, METRICS))


def write_metrics(report: RunReport) -> Path:
    """Write ``metrics.json`` into the run folder and return its path.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    path = report.folder / METRICS
    with whole_file(path) as part:
        part.write_text(json.dumps(metrics(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def json_ready(value: Any) -> Any:
    """Convert a value to JSON content: tuples to lists, numbers that are not finite to None."""
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def object_figures(images: Sequence[ScoredSample]) -> ObjectFigures:
    """Count found, missed, merged and split objects in images whose labels are object ids."""
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
    return ObjectFigures(
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
    """Count the true objects of an image that are merged with others, and those that are split."""
    row, column, shared, _ = table.overlaps
    true_sizes, sizes = table.truth_objects[1], table.predicted_objects[1]
    swallowed = 2 * shared > true_sizes[row]
    holds = np.bincount(column[swallowed], minlength=sizes.size)
    parts = np.bincount(row[2 * shared > sizes[column]], minlength=true_sizes.size)
    return int(holds[holds > 1].sum()), int((parts > 1).sum())


def reliability(images: Sequence[ScoredSample]) -> Reliability:
    """Compute the calibration of all pixels of images together."""
    totals = np.sum([image.sure for image in images], axis=0).reshape(-1, 3)
    held = totals[totals[:, 0] > 0]
    return Reliability(
        error=float(calibration.finish(totals)),
        confidence=tuple((held[:, 1] / held[:, 0]).tolist()),
        right=tuple((held[:, 2] / held[:, 0]).tolist()),
        share=tuple((held[:, 0] / max(1.0, held[:, 0].sum())).tolist()),
    )


def _by_size(
    diameter: NDArray[np.float64], iou: NDArray[np.float64], found: NDArray[np.bool_]
) -> tuple[SizeClass, ...]:
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
