"""The command that reproduces a published result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from septum.cli import options
from septum.cli.progress import orderly
from septum.cli.text import json_text
from septum.events import Event, Warned
from septum.prediction.events import ImageDone, TileDone
from septum.progress import Display, Progress, show_training
from septum.report.numbers import format_seconds, format_table, score_format
from septum.reproduce.settings import ReproduceSettings
from septum.training.events import Checked, Planned, Resumed, Saved, Step, Validated
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.reproduce.results import Reproduced


def reproduce(settings: ReproduceSettings, display: Display) -> None:
    """Reproduce a result of the U-Net paper of 2015.

    NAME is isbi2012, dic-hela or phc-u373. Trains by a fixed protocol, predicts images that no model has seen, scores
    them as the challenge does, and writes a report with our figure beside the paper's. Download the data first: septum
    fetch NAME. The same command continues where it was stopped.

    Example: septum reproduce dic-hela --budget 1h -o reproduced/dic-hela
    """
    from septum.io.formats import format_path
    from septum.reproduce import reproduce as job
    from septum.reproduce.page import write_reproduction
    from septum.reproduce.results import Reproduced
    from septum.reproduce.results import as_json as figures

    found: Reproduced | None = None
    with (
        orderly(settings.out) as stop,
        Progress("steps", display, waiting="preparing the images") as progress,
    ):
        for event in job.reproduce(settings, stop):
            if isinstance(event, Reproduced):
                found = event
                page = write_reproduction(found)
            else:
                _show(event, progress)
    if found is None:  # stopped: `orderly` has said so and left
        return
    if display.json:
        typer.echo(json_text({"command": "reproduce", **figures(found), "report": page}))
        return
    typer.echo("\n".join(reproduction_lines(found)))
    typer.echo(f"report: {format_path(page)}  (done in {format_seconds(found.seconds)})")


def _show(event: Event, progress: Progress) -> None:
    """Show one event on the way."""
    from septum.reproduce.results import FoldStarted, Scoring

    match event:
        case FoldStarted(name, index, count, says):
            progress.say(f"part {index + 1} of {count}, {name}: {says}")
        case Scoring(images):
            progress.say(f"scoring {pluralize(images, 'image')}")
        case TileDone(path, tile, tiles):
            progress.show_stage("predicting", tile, tiles, note=path.name, unit="tiles")
        case ImageDone(path, output, seconds):
            progress.say(f"{path.name} -> {output}  {format_seconds(seconds)}")
        case Warned(text):
            progress.warn(text)
        case Step(step, total, loss):
            progress.show_stage("training", step, total, note=f"loss {loss:.3f}", unit="steps")
        case Checked() | Planned() | Resumed() | Saved() | Validated():
            show_training(event, progress)


def reproduction_lines(found: Reproduced) -> list[str]:
    """Return our scores beside the paper's as tables, and what must be known to read them."""
    lines = []
    for result in found.results:
        what = pluralize(result.images, "image")
        what += "" if result.objects is None else f", {pluralize(result.objects, 'object')}"
        rows: list[list[object]] = [[f"{result.title}, {what}", "ours", "U-Net 2015", "next best then"]]
        rows += [[s.score, *map(_digits, (s.value, s.unet_2015, s.next_best))] for s in result.lines]
        lines += format_table(rows)
    return [*lines, *found.notes]


def _digits(value: float | None) -> str:
    return "-" if value is None or value != value else format(value, score_format(value))


command = options.command(reproduce, ReproduceSettings)
