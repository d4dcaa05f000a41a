"""Compare predictions with truth: scores with their intervals, scores of every image, a list of every object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from septum.check.background import background_value
from septum.check.census import Census
from septum.check.label_kind import infer_label_kind
from septum.errors import DataError, SeptumError
from septum.evaluation.frames import Readings, ScoredFrame, labels_of, open_frames, read_fitted
from septum.evaluation.pairs import ScoredPair, ScoredPairs, format_names, pair_with_truth
from septum.evaluation.results import (
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
    write_results,
)
from septum.evaluation.scores import ScoreTask, score_frame
from septum.io.annotations.formats import is_drawn
from septum.io.files import read_mask
from septum.io.formats import format_path
from septum.io.tiff import stated_kind
from septum.metrics import aggregate
from septum.metrics.aggregate import ScoreFamily
from septum.metrics.calibration import BINS
from septum.pairing.foreign import describe, way_out
from septum.words import list_some, pluralize

__all__ = ["EvaluateSettings", "Evaluation", "evaluate"]

WORST = 10
"""Number of true objects of lowest IoU that a result names."""


@dataclass
class _Collected:
    """The scored frames of one prediction: one entry per frame in the first four lists."""

    names: list[str] = field(default_factory=list)
    frames: list[tuple[Path, Path]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    rows: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)
    objects: list[ObjectScore] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def table(self, key: str) -> NDArray[np.float64] | None:
        """Return the columns of all frames ``(n, ...)``, or None if a frame lacks them."""
        rows = [r[key] for r in self.rows if key in r]
        return np.stack(rows) if rows and len(rows) == len(self.rows) else None

    def only(self, names: Sequence[str]) -> _Collected:
        """Return the frames with these names, in their order; without objects, notes and failures."""
        keep = [self.names.index(n) for n in names]
        return _Collected(
            [self.names[k] for k in keep],
            [self.frames[k] for k in keep],
            [self.groups[k] for k in keep],
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
        A file that cannot be read or does not fit its truth is among the failures of its result; the other files are
        scored.

    Raises
    ------
    SeptumError
        If the paths do not go together, nothing fits, or not one image could be scored.
    """
    paired = [pair_with_truth(p, settings.truth, ignore=settings.ignore_mask) for p in settings.predicted]
    task, readings, notes = _task(settings, paired)
    collected = [_collect(p, settings.truth, *_with_predicted(task, readings, p)) for p in paired]
    families = _families(task, collected)
    results = [_result(p, c, families, settings.seed) for p, c in zip(settings.predicted, collected, strict=True)]
    differences = _differences(collected, families, settings.seed) if len(collected) == 2 else ()
    notes += _notes(paired, collected, results)
    if len(collected) == 2 and (left := len(set(collected[0].names) ^ set(collected[1].names))):
        notes.append(f"differences leave out {pluralize(left, 'image')} that only one prediction has")
    evaluation = Evaluation(task.metrics, tuple(results), differences, tuple(notes), ())
    return evaluation if settings.out is None else write_results(evaluation, settings.out)


def _task(settings: EvaluateSettings, paired: Sequence[ScoredPairs]) -> tuple[ScoreTask, Readings, list[str]]:
    """Choose the metrics and infer the meaning of the truth's values; each file is read once for both.

    The truth is that of all predictions: one of them may lack the only image of a class or of a sequence.
    """
    readings = Readings(settings.metrics is not None and "isbi" in settings.metrics, settings.axes)
    items = {i.truth: i for pairs in reversed(paired) for i in pairs.items}
    sequences = tuple(sorted({i.sequence for i in items.values()}))
    if settings.metrics is None and paired[0].challenge:
        note = "metrics: ctc, because the truth has the challenge's layout and may name only some objects"
        return ScoreTask(("ctc",), sequences=sequences), readings, [note]
    if settings.metrics is not None and not {"pixels", "instances"} & set(settings.metrics):
        return ScoreTask(settings.metrics, sequences=sequences), readings, []
    masks = list(_censuses(items.values(), settings.axes, "truth"))
    notes: list[str] = []
    metrics: tuple[Metric, ...] = settings.metrics or ()
    if not metrics:
        meaning = infer_label_kind(masks, objects=True if all(map(is_drawn, items)) else None)
        metrics = ("instances",) if meaning.kind == "objects" else ("pixels",)
        doubt = meaning.unclear or ("a guess" if meaning.guess else "")
        because = f"because the truth holds {meaning.reason}" + (f" ({doubt})" if doubt else "")
        notes.append(f"metrics: {metrics[0]}, {because}")
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
    if "instances" in metrics:
        readings = replace(readings, true_background=objects.background, rims=objects.ignore)
    return task, readings, notes


def _censuses(
    items: Iterable[ScoredPair], named_axes: str | None, role: Literal["truth", "prediction"]
) -> Iterator[Census]:
    """Count the values of each mask; a file that cannot be read fails later, when it is scored."""
    from septum.check.census import census

    for item in items:
        try:
            drawn = role == "truth" and is_drawn(item.truth)
            mask = None if drawn else read_mask(item.truth if role == "truth" else item.predicted, axes=named_axes)
            if mask is None or "T" in mask.axes:  # pages can be labels of one mask, as the other file shows
                truth, predicted, _ = read_fitted(item, axes=named_axes)
                mask = truth if role == "truth" else predicted
            labels, axes, _ = labels_of(mask, role)
            stated = None if drawn else stated_kind(mask)
            yield from [replace(census(part), stated=stated) for part in (labels if "T" in axes else labels[None])]
        except SeptumError:
            continue


def _with_predicted(task: ScoreTask, readings: Readings, pairs: ScoredPairs) -> tuple[ScoreTask, Readings]:
    """Return task and readings with the meaning of the values of a prediction, which all its images have in common.

    Of most truths a class value is no place of another class; then no image is read for it.
    """
    if "pixels" in task.metrics and any(task.classes.index(v) != v for v in task.classes if v < len(task.classes)):
        values = set[int]()
        for mask in _censuses(pairs.items, readings.axes, "prediction"):
            values.update(mask.values, [0] if mask.background else [])
        places = set(range(len(task.classes)))
        task = replace(task, places=values <= places and not values <= set(task.classes))
    return task, _with_background(task, readings, pairs)


def _with_background(task: ScoreTask, readings: Readings, pairs: ScoredPairs) -> Readings:
    """Return the readings with the background of a prediction of ids; only a prediction without 0 is read for it."""
    if not {"instances", "ctc"} & set(task.metrics) or task.pieces:
        return readings
    counted: list[Census] = []
    for mask in _censuses(pairs.items, readings.axes, "prediction"):
        if mask.background:
            return readings
        counted.append(mask)
    return replace(readings, predicted_background=background_value(counted))


def _collect(pairs: ScoredPairs, truth: Path, task: ScoreTask, readings: Readings) -> _Collected:
    """Score every frame; name each file that fails, and leave it out."""
    collected = _Collected()
    first: SeptumError | None = None
    if pairs.missing:
        message = f"no prediction in {format_path(pairs.predicted)}; the scores are of the other images"
        collected.failures.append(Failure(format_names(pairs.missing, truth), message))
    for item in pairs.items:
        if item.markers and "ctc" not in task.metrics:
            continue
        try:
            frames = open_frames(item, readings)
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
        scored = score_frame(frame, task)
        collected.names.append(frame.name)
        collected.frames.append((frame.item.predicted, frame.item.truth))
        collected.groups.append(frame.item.sequence)
        collected.rows.append(scored.columns)
        collected.objects += scored.objects
        for note in (*frame.notes, *scored.notes):
            collected.notes[note] = collected.notes.get(note, 0) + 1


def _families(task: ScoreTask, collected: Sequence[_Collected]) -> dict[str, tuple[Metric, ScoreFamily]]:
    """Return by key of the columns the metric that they belong to, and the scores that are computed from them."""
    tables = [t for c in collected if (t := c.table("pixels")) is not None]
    um = bool(tables) and all(bool((t[:, :-1, 7] == t[:, :-1, 8]).all()) and t[:, :-1, 8].any() for t in tables)
    every: dict[Metric, ScoreFamily] = {
        "isbi": aggregate.ISBI,
        "ctc": aggregate.ctc_scores(task.sequences),
        "instances": aggregate.INSTANCES,
        "pixels": aggregate.pixel_scores(task.classes, um=um),
    }
    families: dict[str, tuple[Metric, ScoreFamily]] = {metric: (metric, every[metric]) for metric in task.metrics}
    if all(c.table("calibration") is not None for c in collected):
        families["calibration"] = ("pixels", aggregate.CALIBRATION)
    return families


def _result(
    predicted: Path, collected: _Collected, families: Mapping[str, tuple[Metric, ScoreFamily]], seed: int
) -> ScoredPrediction:
    scores: list[Score] = []
    alone: list[dict[str, float]] = [{} for _ in collected.names]
    for key, (metric, family) in families.items():
        rows = collected.table(key)
        assert rows is not None
        estimates = aggregate.estimates(rows, family.finish, groups=collected.groups, seed=seed)
        scores += [
            Score(metric, name, e.value, e.low, e.high, family.higher_is_better(name), name in family.headlines)
            for name, e in estimates.items()
        ]
        for name, each in family.finish(rows).items():
            for k, value in enumerate(each.tolist()):
                alone[k][name] = value
    names = zip(collected.names, collected.frames, alone, strict=True)
    true = sorted((o for o in collected.objects if o.kind == "true"), key=lambda o: o.iou)
    return ScoredPrediction(
        predicted=predicted,
        scores=tuple(s for s in scores if not (s.metric == "ctc" and math.isnan(s.value))),
        images=tuple(ImageScores(n, p, t, s) for n, (p, t), s in names),
        objects=tuple(collected.objects),
        worst=tuple(true[:WORST]),
        reliability=_reliability(collected),
        failures=tuple(collected.failures),
    )


def _differences(
    both: Sequence[_Collected], families: Mapping[str, tuple[Metric, ScoreFamily]], seed: int
) -> tuple[Difference, ...]:
    """Compare two predictions over the images that both have, with the same draws for both."""
    common = [n for n in both[0].names if n in set(both[1].names)]
    if not common:
        return ()
    first, second = (c.only(common) for c in both)
    differences = []
    for key, (metric, family) in families.items():
        before, after = first.table(key), second.table(key)
        assert before is not None and after is not None
        results = aggregate.differences(before, after, family.finish, groups=first.groups, seed=seed)
        differences += [
            Difference(metric, name, e.value, e.low, e.high, family.higher_is_better(name))
            for name, e in results.items()
            if not name.endswith("threshold")
        ]
    return tuple(d for d in differences if not (d.metric == "ctc" and math.isnan(d.value)))


def _reliability(collected: _Collected) -> tuple[Bin, ...]:
    table = collected.table("calibration")
    if table is None:
        return ()
    nan = float("nan")
    return tuple(
        Bin(k / BINS, (k + 1) / BINS, int(n), sure / n if n else nan, right / n if n else nan)
        for k, (n, sure, right) in enumerate(table.sum(axis=0).tolist())
    )


def _notes(
    paired: Sequence[ScoredPairs], collected: Sequence[_Collected], results: Sequence[ScoredPrediction]
) -> list[str]:
    notes = []
    for items, frames, result in zip(paired, collected, results, strict=True):
        where = f"{format_path(items.predicted)}: " if len(paired) > 1 else ""
        count = len(frames.names)
        for note, times in frames.notes.items():
            notes.append(where + note + ("" if times == count else f" (in {times} of {count} images)"))
        if items.unread:
            notes.append(f"{where}passed over {describe(items.unread)}; {way_out(items.unread)}")
        if items.unscored:
            unscored = f"{pluralize(len(items.unscored), 'prediction')} without truth, not scored"
            notes.append(f"{where}{unscored}: {format_names(items.unscored, items.predicted)}")
        bare = [score.name for score in result.scores if math.isnan(score.low) and math.isfinite(score.value)]
        if bare and count > 1:
            notes.append(f"{where}no interval of {list_some(bare, 4)}: only one image or sequence defines the score")
    if any(len(c.names) < 2 for c in collected):
        notes.append("no interval: a bootstrap over images needs at least two")
    return notes
