"""Results as text: numbers, aligned tables, reports, and the one JSON document of ``--json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from septum.report.numbers import format_interval, format_number, format_table, format_value
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.check.repair import RepairedFile
    from septum.evaluation.results import Difference, Evaluation
    from septum.experiments.events import SeedsCompared
    from septum.prediction.events import ImageFailed
    from septum.report.curve import Curve

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def repair_lines(fixed: Sequence[RepairedFile], out: Path) -> list[str]:
    """Return what was done to make a repaired copy: each file that was changed or left out, and the sum of all."""
    lines = []
    for record in fixed:
        done = ", ".join(record.done)
        if record.written is None:
            lines.append(f"left out: {record.source}: {done}")
        elif record.done:
            lines.append(f"repaired: {record.source} -> {record.written}: {done}")
    written = [record for record in fixed if record.written is not None]
    mended = sum(bool(record.done) for record in written)
    return [
        *lines,
        f"{out}: {pluralize(len(written), 'file')}, {mended} of them repaired; {len(fixed) - len(written)} left out",
    ]


def evaluation_lines(found: Evaluation) -> list[str]:
    """Return the headline scores as a table; with two predictions also what the second gains, with its interval."""
    first = found.results[0]
    shown = [score for score in first.scores if score.headline] or list(first.scores)
    if len(found.results) == 1:
        rows = [["score", "value", "95 % interval"]]
        rows += [[s.name, format_number(s.value), format_interval(s.low, s.high)] for s in shown]
        return format_table(rows)
    second = {(s.metric, s.name): s for s in found.results[1].scores}
    differences = {(d.metric, d.name): d for d in found.differences}
    rows = [["score", *(str(r.predicted) for r in found.results), "difference", "95 % interval", ""]]
    for score in shown:
        other, change = second.get((score.metric, score.name)), differences.get((score.metric, score.name))
        row = [score.name, format_number(score.value), format_number(other.value if other else None)]
        if change is None:
            rows.append([*row, "-", "-", ""])
            continue
        rows.append([*row, f"{change.value:+.3f}", format_interval(change.low, change.high), _verdict(change, found)])
    return format_table(rows)


def image_score_lines(found: Evaluation) -> list[str]:
    """Return the headline scores of each image alone as a table, one table for each prediction."""
    lines = []
    for result in found.results:
        shown = {score.name for score in result.scores if score.headline}
        found_in = dict.fromkeys(name for image in result.images for name in image.scores)
        names = [name for name in found_in if name in shown] or list(found_in)
        rows: list[list[object]] = [[str(result.predicted), *names]]
        rows += [[image.name, *(image.scores.get(name) for name in names)] for image in result.images]
        lines += format_table(rows)
    return lines


def echo_failures(failed: Sequence[ImageFailed]) -> None:
    """Print each image that failed to the standard error stream, with the reason."""
    for image in failed:
        reason = image.message.removeprefix(f"{image.path}: ").replace("\n", "\n  ")
        typer.echo(f"failed: {image.path}: {reason}", err=True)


def seeds_lines(compared: SeedsCompared, averaged: Mapping[str, float]) -> list[str]:
    """Return the scores of the same training with several seeds as a table, and which model is kept."""
    rows: list[list[object]] = [["held-out images", *(f"seed {s}" for s in compared.seeds), "mean", "sd", "averaged"]]
    for name, values in compared.scores.items():
        rows.append([name, *values, compared.mean(name), compared.deviation(name), averaged[name]])
    return [*format_table(rows), f"kept: the average of the {len(compared.seeds)} networks"]


def curve_lines(curve: Curve) -> list[str]:
    """Return a learning curve as a table, and what it says in one sentence."""
    rows: list[list[object]] = [["training images", curve.score, "95 % interval"]]
    for n, value, (low, high) in zip(curve.images, curve.values, curve.intervals, strict=True):
        rows.append([str(n), value, format_interval(low, high)])
    rows += [[f"{n}, expected", value, format_interval(low, high)] for n, value, low, high in curve.ahead]
    return [*format_table(rows), curve.words]


def described(facts: Mapping[str, object]) -> list[str]:
    """Return named facts as lines ``name  value``, those without a value left out."""
    lines = {key.replace("_", " "): format_value(value) for key, value in facts.items()}
    width = max(len(key) for key in lines)
    return [f"{key:<{width}}  {text}" for key, text in lines.items() if text]


def _verdict(change: Difference, found: Evaluation) -> str:
    """Say which prediction is better; only where the interval leaves 0 out."""
    if math.isnan(change.low) or change.low <= 0 <= change.high:
        return "no clear difference"
    better = found.results[(change.value > 0) == change.higher_is_better]
    return f"{better.predicted} is better"


def plain(value: object) -> Json:
    """Return `value` as JSON knows it: dataclasses by the fields that they show, paths as strings, NaN as null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def json_text(document: Mapping[str, object]) -> str:
    """Return the document of ``--json``."""
    return json.dumps(plain(document), indent=2)
