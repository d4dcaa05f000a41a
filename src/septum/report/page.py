"""Write the report of a run as one self-contained page: no network, no other file, no JavaScript needed.

The numbers are those of `septum.report.summary.metrics`, which ``metrics.json`` holds too; each is written in the page
as ``<data value="0.8376">0.838</data>`` with its path in ``metrics.json``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from septum.errors import FileError
from septum.io.atomic import whole_file
from septum.io.formats import format_path
from septum.report import plots
from septum.report.cases import Picture, class_color, pictures
from septum.report.gallery import Case
from septum.report.numbers import SCORE_TITLES, format_seconds, format_value
from septum.report.summary import PAGE, RunReport, has_intervals, metrics, write_metrics
from septum.training.model_selection import MAIN_SCORES
from septum.words import format_bytes

MEANINGS = {
    "SEG": "mean IoU of all true objects, 0 for those not found",
    "AP50": "found objects, as a share of all true or predicted ones, at IoU 0.5",
    "AP75": "the same at IoU 0.75: outlines count",
    "AP": "the same, averaged over IoU 0.5 to 0.95",
    "F1": "harmonic mean of precision and recall",
    "precision": "share of predicted objects that are true",
    "recall": "share of true objects that were found",
    "PQ": "panoptic quality: F1 times the mean IoU of found objects",
    "V_Rand": "areas are neither joined through gaps in lines nor cut",
    "dice": "overlap, mean over all classes but the background",
    "iou": "intersection over union, mean over all classes but the background",
    "pixel_error": "share of wrong pixels, 0 is best",
}


def write_page(report: RunReport) -> Path:
    """Write ``report.html``, then ``metrics.json``, into the run folder; return the path of the page.

    Raises
    ------
    FileError
        If a file cannot be written.
    """
    path = report.folder / PAGE
    with whole_file(path) as part:
        # File names may contain bytes that are not text.
        part.write_bytes(page(report).encode("utf-8", "backslashreplace"))
    write_metrics(report)
    return path


def page(report: RunReport) -> str:
    """Return the page of a report as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    numbers = metrics(report)
    environment.filters |= {"seconds": format_seconds, "size": format_bytes, "path": format_path, "shell": shlex.quote}
    environment.globals |= {"number": _number_of(numbers), "class_color": class_color, "whisker": whisker}
    style, script, template = (_part(name) for name in ("page.css", "page.js", "page.html"))
    drawn, longest = pictures([*report.worst, *report.best], report.kind)
    return environment.from_string(template).render(
        style=Markup(style),
        script=Markup(script),
        # Only this script may run, so a file name that got into the page as code would not.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        r=report,
        name="/".join(report.folder.absolute().parts[-2:]),
        m=numbers,
        titles=SCORE_TITLES,
        meanings=MEANINGS,
        headlines=[name for name in MAIN_SCORES[report.kind] if name in report.scores],
        table=_columns(report),
        shown_cases=_cases(report, drawn),
        longest=longest,
        reduced=any(max(case.image.shape[-2:]) > longest for case in (*report.worst, *report.best)),
        differs=_differs(report),
        intervals=has_intervals(report),
        plan=list(_flat(report.plan)),
        **_plots(report),
    )


def _part(name: str) -> str:
    return files("septum.report").joinpath(name).read_text(encoding="utf-8")


def _number_of(numbers: Mapping[str, Any]) -> Any:
    """Return the template function that shows one number of ``metrics.json``, given its path there."""

    def number(*place: str | int, form: str = ".3f") -> Markup:
        value: Any = numbers
        for step in place:
            value = value[step]
        if value is None:
            return Markup('<span class="none">&ndash;</span>')
        text = format(value, form)
        return Markup('<data value="{}" data-key="{}">{}</data>').format(
            json.dumps(value), ".".join(str(step) for step in place), text
        )

    return number


def _columns(report: RunReport) -> list[str]:
    """Return the names of the scores in the table of images: those that are defined for at least one image."""
    return [name for name in report.scores if any(line.scores[name] == line.scores[name] for line in report.images)]


def _cases(report: RunReport, drawn: Sequence[Sequence[Picture]]) -> list[tuple[str, list[tuple[Case, Any]]]]:
    """Return the worst and the best images with their pictures."""
    pairs = list(zip((*report.worst, *report.best), drawn, strict=True))
    count = len(report.worst)
    return [(name, group) for name, group in (("Worst", pairs[:count]), ("Best", pairs[count:])) if group]


def _differs(report: RunReport) -> bool:
    """Return True if the scores in the model file differ from those shown: of more images, or rounded probabilities."""
    return any(
        name in report.scores and not abs(value - report.scores[name].value) < 5e-4
        for name, value in report.model_scores.items()
    )


def _flat(plan: Mapping[str, Any], front: str = "") -> Any:
    """Yield the settings of a plan as (name, value), with nested names joined."""
    for name, value in plan.items():
        title = f"{front}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{title}: ")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            yield title, json.dumps(value)
        else:
            yield title, "-" if value is None else format_value(value)


def _plots(report: RunReport) -> dict[str, Markup | dict[str, int] | None]:
    """Return the plots by name, None if there is nothing to draw."""
    drawn: dict[str, Markup | dict[str, int] | None] = dict.fromkeys(
        ("loss_plot", "scores_plot", "sizes_plot", "reliability_plot", "score_lines", "curve_plot")
    )
    if report.curve is not None:
        drawn["curve_plot"] = plots.curve_plot(report.curve)
    try:
        columns = plots.read_log(report.folder / "log.csv")
    except FileError:
        columns = {}
    if columns:
        steps = columns["step"]
        drawn["loss_plot"] = plots.loss_plot(steps, columns["loss"], report.best_step)
        scores = {n: v for n, v in columns.items() if n in report.model_scores and np.isfinite(v).any()}
        if scores:
            drawn["scores_plot"] = plots.scores_plot(
                *plots.with_start(steps, scores, report.start_scores), report.best_step
            )
            drawn["score_lines"] = {name: number for number, name in enumerate(scores)}
    if report.objects is not None and report.objects.true:
        drawn["sizes_plot"] = plots.sizes_plot(report.objects.diameter_px, report.objects.iou, report.objects.found)
    if report.reliability is not None and report.reliability.share:
        one = len(report.class_values) == 2
        label = "predicted probability" if one else "probability of the predicted class"
        sure = report.reliability
        drawn["reliability_plot"] = plots.reliability_plot(sure.confidence, sure.right, sure.share, label)
    return drawn


def whisker(value: float | None, low: float | None, high: float | None) -> Markup:
    """Draw a score of ``metrics.json`` with its interval; parts that are not defined are left out."""
    return plots.whisker(*(float("nan") if v is None else v for v in (value, low, high)))
