"""The values of a run's report: what a page shows and ``metrics.json`` holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from septum.events import Event
from septum.io.atomic import whole_file
from septum.report.curve import Curve
from septum.report.gallery import Case, ImageLine
from septum.report.scores import Estimate, Objects, Reliability


@dataclass(frozen=True, eq=False)
class RunReport(Event):
    """All that the report of a run shows.

    Attributes
    ----------
    folder : Path
        The run folder; it holds ``log.csv``, the course of the training.
    created : str
        Date and time, UTC.
    kind : str
        ``"objects"`` or ``"classes"``.
    class_values : tuple of int
        Value of each class in the masks.
    facts, findings : tuple
        What the check said of the data; findings as (severity, sentence).
    split, reasons, plan, device
        Sentence on what was held out; one sentence a choice; all settings; the device with the reason for it.
    warnings, remarks : tuple of str
        What was said on the way, and what stands out in the results.
    steps, best_step, seconds, budget_s
        Of the training; `budget_s` is None where steps were asked for. Of several trainings together `best_step` is 0.
    held_out : int
        Images that were held out.
    model_scores : dict
        What the model file says: scores of all held-out images.
    scores : dict
        Estimates from the images in `images`; empty without any.
    images : tuple of ImageLine
        The scored images, worst first.
    worst, best : tuple of Case
        Those that are shown, the worst (best) first; no image is in both.
    objects : Objects or None
        None for classes.
    reliability : Reliability or None
        None without scored images.
    timing, memory, versions : dict
        By name; see `metrics`.
    command : str
        What repeats the training.
    seed : int
        Of the run.
    fingerprint : str
        Of the data.
    note : str
        What the scores are of, where there is more to say; ``""`` otherwise.
    curve : Curve or None
        The learning curve, where one was made.
    """

    folder: Path
    created: str
    kind: Literal["objects", "classes"]
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
    objects: Objects | None
    reliability: Reliability | None
    timing: Mapping[str, float | None]
    memory: Mapping[str, int | None]
    versions: Mapping[str, str]
    command: str
    seed: int
    fingerprint: str
    note: str = ""
    curve: Curve | None = None
    remarks: tuple[str, ...] = ()


def remarks(report: RunReport) -> Iterator[str]:
    """Return what a person should see first in the results, in plain words."""
    if not report.held_out:
        yield "No image was held out, so nothing here says how good the model is. Annotate more images."
        return
    if report.held_out < 5:
        yield (
            f"Only {report.held_out} image{'s were' * (report.held_out > 1)}{' was' * (report.held_out == 1)} held "
            "out: the scores can be far from those of other images, and the intervals too narrow."
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


def metrics(report: RunReport) -> dict[str, Any]:
    """Return the numbers of a report as JSON holds them; undefined ones are None. docs/report.md names every key."""
    objects, sure = report.objects, report.reliability
    found: dict[str, Any] = {
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
        found["objects"] = {**counts, "by_size": [asdict(part) for part in objects.by_size]}
    plain = json_ready(found)
    assert isinstance(plain, dict)
    return plain


def write_metrics(report: RunReport) -> Path:
    """Write ``metrics.json`` into the run folder and return its path; after the page, whose completeness it marks.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    path = report.folder / "metrics.json"
    with whole_file(path) as part:
        part.write_text(json.dumps(metrics(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def json_ready(value: Any) -> Any:
    """Return a value as JSON holds it: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
