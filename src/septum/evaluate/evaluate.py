"""Compare predictions with truth: scores with their intervals, of every image, of every object.

Nothing is printed and no progress goes down: `evaluate` returns an `Evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.check.label_kind import infer_label_kind
from septum.errors import DataError, SeptumError
from septum.evaluate.files import write_results
from septum.evaluate.frames import ScoredFrame, labels_of, open_frames
from septum.evaluate.pairs import ScoredPairs, find_items, format_names
from septum.evaluate.results import (
    Bin,
    Difference,
    EvaluateSettings,
    Evaluation,
    Failure,
    ImageScores,
    Metric,
    ObjectScore,
    Score,
    ScoredPrediction,
)
from septum.evaluate.scores import (
    Finish,
    ScoreTask,
    finish_calibration,
    finish_ctc,
    finish_instances,
    finish_isbi,
    finish_pixels,
    score_frame,
)
from septum.io.open import read_image
from septum.io.paths import format_path
from septum.metrics import bootstrap, isbi
from septum.metrics.calibration import BINS

if TYPE_CHECKING:
    from septum.check.census import Census

__all__ = ["EvaluateSettings", "Evaluation", "evaluate"]

WORST = 10
HEADLINES = {
    "isbi": ("V_Rand", "V_Info", "warping error", "Rand error", "pixel error"),
    "ctc": ("SEG", "DET"),
    "instances": ("AP", "AP@0.50", "AP@0.75", "F1@0.50", "PQ@0.50"),
    "pixels": ("Dice", "IoU", "wrong pixels", "ECE"),
}
_ERRORS = ("wrong pixels", "ECE", "ASD", "HD95")


@dataclass
class _Collected:
    """Everything read of one prediction: one entry per frame in each list, one row per frame in each table."""

    names: list[str] = field(default_factory=list)
    frames: list[tuple[Path, Path]] = field(default_factory=list)
    strata: list[tuple[str, bool]] = field(default_factory=list)
    rows: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)
    objects: list[ObjectScore] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def table(self, key: str) -> NDArray[np.float64] | None:
        """Return ``(n, ...)``, or None where not every frame has these columns."""
        rows = [r[key] for r in self.rows if key in r]
        return np.stack(rows) if rows and len(rows) == len(self.rows) else None

    def stratum(self) -> NDArray[np.int64]:
        return np.unique(np.array([f"{s}/{m}" for s, m in self.strata]), return_inverse=True)[1].astype(np.int64)

    def only(self, names: Sequence[str]) -> _Collected:
        """Return the frames of these names, in their order; without objects, notes and failures."""
        keep = [self.names.index(n) for n in names]
        return _Collected(
            [self.names[k] for k in keep],
            [self.frames[k] for k in keep],
            [self.strata[k] for k in keep],
            [self.rows[k] for k in keep],
        )


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Score one prediction, or compare two.

    Parameters
    ----------
    settings
        See `EvaluateSettings`.

    Returns
    -------
    Evaluation
        A file that cannot be read or does not fit its truth is among the failures of its result; the others are
        scored all the same.

    Raises
    ------
    SeptumError
        If the paths do not go together, nothing fits, or not one image could be scored.
    """
    paired = [find_items(p, settings.truth, ignore=settings.ignore) for p in settings.predicted]
    task, notes = _task(settings, paired[0])
    collected = [_collect(items, task) for items in paired]
    finishes = _finishes(task, collected)
    results = [_result(p, c, finishes, settings.seed) for p, c in zip(settings.predicted, collected, strict=True)]
    differences = _differences(collected, finishes, settings.seed) if len(collected) == 2 else ()
    notes += _notes(settings.predicted, paired, collected)
    if len(collected) == 2 and (left := len(set(collected[0].names) ^ set(collected[1].names))):
        notes.append(f"differences leave out {left} images that only one prediction has")
    evaluation = Evaluation(task.metrics, tuple(results), differences, tuple(notes), ())
    return evaluation if settings.out is None else write_results(evaluation, settings.out)


def _task(settings: EvaluateSettings, found: ScoredPairs) -> tuple[ScoreTask, list[str]]:
    """Choose the metrics, and decide what the truth's values mean, in one look at each file."""
    sequences = tuple(sorted({i.sequence for i in found.items}))
    if settings.metrics is None and found.challenge:
        note = "metrics: ctc, for the truth has the challenge's layout and may name only some objects"
        return ScoreTask(("ctc",), sequences=sequences), [note]
    if settings.metrics is not None and not {"pixels", "instances"} & set(settings.metrics):
        return ScoreTask(settings.metrics, sequences=sequences), []
    masks = _censuses(found)
    notes: list[str] = []
    metrics: tuple[Metric, ...] = settings.metrics or ()
    if not metrics:
        meaning = infer_label_kind(masks)
        metrics = ("instances",) if meaning.kind == "objects" else ("pixels",)
        doubt = meaning.unclear or ("a guess" if meaning.guess else "")
        notes.append(f"metrics: {metrics[0]}, for the truth holds {meaning.reason}" + (f" ({doubt})" if doubt else ""))
    classes, objects = infer_label_kind(masks, kind="classes"), infer_label_kind(masks, kind="objects")
    if objects.pieces and "instances" in metrics:
        notes.append("the truth has one value for all objects: each connected piece was taken as one")
    if classes.ignore and "pixels" in metrics:
        notes.append(f"pixels of value {', '.join(map(str, classes.ignore))} in the truth do not count")
    task = ScoreTask(
        metrics=metrics,
        classes=classes.values,
        unknown=classes.ignore,
        mixed=classes.mixed,
        pieces=objects.pieces,
        sequences=sequences,
    )
    return task, notes


def _censuses(found: ScoredPairs) -> list[Census]:
    """Count the values of each truth that can be read; those that cannot be fail when they are scored."""
    from septum.check.census import census

    counted = []
    for path in dict.fromkeys(i.truth for i in found.items):
        try:
            labels, axes = labels_of(read_image(path, labels=True))
            counted += [census(part) for part in (labels if "T" in axes else labels[None])]
        except SeptumError:
            continue
    return counted


def _collect(found: ScoredPairs, task: ScoreTask) -> _Collected:
    """Score every frame; a file that fails is named and left out."""
    collected = _Collected()
    first: SeptumError | None = None
    if found.missing:
        message = f"no prediction in {format_path(found.predicted)}; the scores are of the other images"
        collected.failures.append(Failure(format_names(found.missing), message))
    for item in found.items:
        if item.markers and "ctc" not in task.metrics:
            continue
        try:
            frames = open_frames(item, sections="isbi" in task.metrics)
            _add(collected, frames, task)
        except SeptumError as error:
            first = first or error
            collected.failures.append(Failure(item.name, str(error)))
    if not collected.rows:
        raise first or DataError("no image could be scored", "at least one", "check the names of the files")
    if "ctc" in task.metrics and not any(r["ctc"][:, 1:3].any() for r in collected.rows):
        raise DataError("no reference object in any truth", "at least one", "name the truth that holds objects")
    return collected


def _add(collected: _Collected, frames: Sequence[ScoredFrame], task: ScoreTask) -> None:
    for frame in frames:
        rows = score_frame(frame, task)
        collected.names.append(frame.name)
        collected.frames.append((frame.item.predicted, frame.item.truth))
        collected.strata.append((frame.item.sequence, frame.item.markers))
        collected.rows.append(rows.columns)
        collected.objects += rows.objects
        for note in rows.notes:
            collected.notes[note] = collected.notes.get(note, 0) + 1


def _finishes(task: ScoreTask, collected: Sequence[_Collected]) -> dict[str, tuple[Metric, Finish]]:
    """Return by key of the columns: to which metric they belong, and how their sums become scores."""
    tables = [t for c in collected if (t := c.table("pixels")) is not None]
    um = bool(tables) and all(bool((t[:, :-1, 7] == t[:, :-1, 8]).all()) and t[:, :-1, 8].any() for t in tables)
    every: dict[Metric, Finish] = {
        "isbi": finish_isbi,
        "ctc": finish_ctc(task.sequences),
        "instances": finish_instances,
        "pixels": finish_pixels(task.classes, um=um),
    }
    found: dict[str, tuple[Metric, Finish]] = {m: (m, every[m]) for m in task.metrics}
    if all(c.table("calibration") is not None for c in collected):
        found["calibration"] = ("pixels", finish_calibration)
    return found


def _result(
    predicted: Path, collected: _Collected, finishes: Mapping[str, tuple[Metric, Finish]], seed: int
) -> ScoredPrediction:
    scores: list[Score] = []
    alone: list[dict[str, float]] = [{} for _ in collected.names]
    for key, (metric, finish) in finishes.items():
        table = collected.table(key)
        assert table is not None
        values, samples = finish(table.sum(axis=0)), _samples(collected, table, finish, seed)
        for name, value in values.items():
            low, high = bootstrap.interval(samples[name]) if samples else (float("nan"), float("nan"))
            scores.append(
                Score(metric, name, float(value), low, high, _higher(metric, name), name in HEADLINES[metric])
            )
        for name, each in finish(table).items():
            for k, value in enumerate(each.tolist()):
                alone[k][name] = value
    names = zip(collected.names, collected.frames, alone, strict=True)
    true = sorted((o for o in collected.objects if o.kind == "true"), key=lambda o: o.iou)
    return ScoredPrediction(
        predicted=predicted,
        scores=tuple(s for s in scores if not (s.metric == "ctc" and s.value != s.value)),
        images=tuple(ImageScores(n, p, t, s) for n, (p, t), s in names),
        objects=tuple(collected.objects),
        worst=tuple(true[:WORST]),
        reliability=_reliability(collected),
        failures=tuple(collected.failures),
    )


def _samples(
    collected: _Collected, table: NDArray[np.float64], finish: Finish, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of the bootstrap samples; nothing with fewer than two images, which do not vary."""
    if len(table) < 2:
        return {}
    return finish(bootstrap.resample(table, bootstrap.weights(collected.stratum(), seed=seed)))


def _differences(
    both: Sequence[_Collected], finishes: Mapping[str, tuple[Metric, Finish]], seed: int
) -> tuple[Difference, ...]:
    """Compare two predictions over the images that both have, with the same draws for both."""
    common = [n for n in both[0].names if n in set(both[1].names)]
    if not common:
        return ()
    first, second = (c.only(common) for c in both)
    found = []
    for key, (metric, finish) in finishes.items():
        tables = [c.table(key) for c in (first, second)]
        values = [finish(t.sum(axis=0)) for t in tables if t is not None]
        samples = [_samples(c, t, finish, seed) for c, t in zip((first, second), tables, strict=True) if t is not None]
        for name in values[0]:
            if name.endswith("threshold"):
                continue
            change = float(values[1][name] - values[0][name])
            low = high = float("nan")
            if samples[0]:
                low, high = bootstrap.interval(samples[1][name] - samples[0][name])
            found.append(Difference(metric, name, change, low, high, _higher(metric, name)))
    return tuple(d for d in found if not (d.metric == "ctc" and d.value != d.value))


def _higher(metric: Metric, name: str) -> bool:
    if metric == "isbi":
        return isbi.SCORES.get(name, True)
    return not name.startswith(_ERRORS)


def _reliability(collected: _Collected) -> tuple[Bin, ...]:
    table = collected.table("calibration")
    if table is None:
        return ()
    nan = float("nan")
    return tuple(
        Bin(k / BINS, (k + 1) / BINS, int(n), sure / n if n else nan, right / n if n else nan)
        for k, (n, sure, right) in enumerate(table.sum(axis=0).tolist())
    )


def _notes(predicted: Sequence[Path], paired: Sequence[ScoredPairs], collected: Sequence[_Collected]) -> list[str]:
    notes = []
    for path, items, found in zip(predicted, paired, collected, strict=True):
        where = f"{format_path(path)}: " if len(predicted) > 1 else ""
        count = len(found.names)
        for note, times in found.notes.items():
            notes.append(where + note + ("" if times == count else f" (in {times} of {count} images)"))
        if items.unscored:
            notes.append(f"{where}{items.unscored} predictions have no truth and are not scored")
    if any(len(c.names) < 2 for c in collected):
        notes.append("no interval: a bootstrap over images needs at least two")
    return notes
