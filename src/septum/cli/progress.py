"""Records of long jobs become a progress bar on a terminal, and plain lines elsewhere.

All that happens on the way goes to the standard error stream; the standard output is left to the result, so that
``septum predict ... --json > result.json`` holds the result and nothing else.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from septum.cli.text import curve_lines, json_text, seeds_lines
from septum.events import Event, Warned
from septum.experiments.events import PartTrained, ReportWritten, SeedsCompared
from septum.io.formats import format_path
from septum.prediction.events import (
    BlockDone,
    ImageDone,
    ImageFailed,
    ImageSkipped,
    ImageStarted,
    Opened,
    Predicted,
    ShardDone,
    TileDone,
    format_factors,
)
from septum.progress import Display, Progress, show_training
from septum.report.curve import Curve
from septum.report.numbers import format_scores, format_seconds, format_spent
from septum.training.events import Trained
from septum.training.interrupt import StopRequest, stop_on_signals
from septum.words import format_bytes, pluralize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass
class Learned:
    """The result of a training: its end, which the first of several processes has, and the parts of a series."""

    trained: Trained | None = None
    parts: list[PartTrained] = field(default_factory=list)
    compared: SeedsCompared | None = None
    curve: Curve | None = None
    report: Path | None = None


def follow_training(job: Iterable[Event], progress: Progress) -> Learned:
    """Run a training to its end, showing each record; return what came of it."""
    learned = Learned()
    for record in job:
        show_training(record, progress)
        match record:
            case Trained():
                learned.trained = record
            case PartTrained():
                learned.parts.append(record)
            case SeedsCompared():
                learned.compared = record
            case Curve():
                learned.curve = record
            case ReportWritten(path):
                learned.report = path
    return learned


def series_document(learned: Learned) -> dict[str, object]:
    """Return what a run of several trainings adds to its JSON document; nothing for a single one."""
    found: dict[str, object] = {}
    if learned.parts:
        found["parts"] = [{"title": part.title, **vars(part.trained)} for part in learned.parts]
    if learned.compared is not None:
        compared = learned.compared
        found["seeds"] = {
            name: {"values": values, "mean": compared.mean(name), "deviation": compared.deviation(name)}
            for name, values in compared.scores.items()
        }
    if learned.curve is not None:
        found["learning_curve"] = learned.curve
    return found


def say_training(learned: Learned, display: Display, warnings: list[str], *, command: str = "train") -> None:
    """Print the result of a training: tables of a run of several, and the model with its scores."""
    result = learned.trained
    if result is None:  # one of several processes: only the first speaks
        return
    if display.json:
        document = {"command": command, **vars(result), "report": learned.report, **series_document(learned)}
        document["warnings"] = warnings
        typer.echo(json_text(document))
        return
    if learned.compared is not None and result.scores:
        typer.echo("\n".join(seeds_lines(learned.compared, result.scores)))
    if learned.curve is not None:
        typer.echo("\n".join(curve_lines(learned.curve)))
    if not display.quiet and (spent := format_spent(result.activities_s, result.seconds)):
        typer.echo(f"time: {spent}")
    scores = f"{format_scores(result.scores)}; " if result.scores else ""
    steps = pluralize(result.steps, "step")
    typer.echo(f"model: {result.model}  ({scores}{steps}, {format_seconds(result.seconds)})")


@dataclass
class Outcome:
    """The outcome of a prediction: images done, images failed and files for other programs in order; time; memory.

    `shards`: number of images of which this process did a part of the blocks; `skipped`: images that had a result.
    """

    done: list[ImageDone] = field(default_factory=list)
    failed: list[ImageFailed] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    exported: list[Path] = field(default_factory=list)
    shards: int = 0
    skipped: list[ImageSkipped] = field(default_factory=list)


def follow_prediction(job: Iterable[Event], progress: Progress, outcome: Outcome) -> None:
    """Run a prediction, showing each record; `outcome` is filled on the way, so it holds where the job raises."""
    from septum.export.results import Exported

    index = count = 0
    started = False
    finished: set[Path] = set()  # an image that is done may fail after that, for another program
    for record in job:
        match record:
            case Opened(count, words):
                if words is not None:
                    progress.say(words)
            case ImageStarted(path, index, count):
                # Of many small images the first speaks for all, unless details are asked for.
                (progress.say if record.blocks or not started else progress.detail)(layout_text(record))
                started = True
                progress.show(index, count, note=path.name)
            case TileDone(path, tile, tiles):
                # The last part of an image is to make its objects and to write them.
                progress.show(index + tile / (tiles + 1), count, note=f"{path.name}, tile {tile} of {tiles}")
            case BlockDone(path, stage, done, blocks):
                progress.show_stage(stage, done, blocks, note=path.name)
            case ImageDone(path, output, seconds, objects, scale):
                outcome.done.append(record)
                found = "" if objects is None else f", {pluralize(objects, 'object')}"
                if scale is not None:
                    found += f", scale {format_factors(scale if isinstance(scale, tuple) else (scale,))}"
                finished.add(path)
                progress.show(len(finished), count, note=path.name)
                progress.say(f"{path} -> {output}  {format_seconds(seconds)}{found}")
            case Exported(source, written, notes):
                outcome.exported += written
                progress.detail(f"  {', '.join(map(str, written))}")
                for note in notes:
                    progress.warn(f"{source.name}: {note}")
            case ShardDone(path, left):
                outcome.shards += 1
                what = f"{pluralize(left, 'block')} left to other parts" if left else "all parts are done"
                progress.say(
                    f"{path}: this part is done, {what}; put them together with the same command without --shard"
                )
            case ImageSkipped(path, output):
                outcome.skipped.append(record)
                finished.add(path)
                progress.detail(f"{path}: its result is there: {output}")
            case ImageFailed(path):
                outcome.failed.append(record)
                finished.add(path)
                progress.show(len(finished), count, note=path.name)
                progress.say(f"{path} failed")
            case Warned(text):
                progress.warn(text)
            case Predicted(seconds=seconds, peak_bytes=peak):
                outcome.seconds, outcome.peak_bytes = seconds, peak


def layout_text(record: ImageStarted) -> str:
    """Return one line on how an image will be predicted, and what that takes."""
    sides = " x ".join(map(str, record.sides))
    level = f"{record.level}, as the result; " if record.level else ""
    words = [f"{pluralize(record.tiles, 'tile')} of {sides} pixels"]
    if record.blocks:
        words.append(pluralize(record.blocks, "block"))
    words.append(f"at most {format_bytes(record.peak_bytes)} of memory")
    if record.seconds is not None:
        words.append(f"about {format_seconds(record.seconds)}")
    start = "continues: " if record.resumed else ""
    return f"{record.path}: {start}{level}{', '.join(words)}"


@contextmanager
def stoppable(farewell: Callable[[], str]) -> Iterator[None]:
    """Leave with a sentence and code 130 when a person presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nstopped: {farewell()}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def orderly(run: Path) -> Iterator[StopRequest]:
    """End a training in order on Ctrl-C or SIGTERM; leave with how to continue and 128 + the number of the signal."""
    with stop_on_signals() as stop:
        try:
            yield stop
        except KeyboardInterrupt:
            stop.request()
    if stop.requested:
        if os.environ.get("RANK", "0") == "0":  # of several processes only the first speaks
            typer.echo(f"\nstopped: {_how_to_continue(run)}", err=True)
        raise typer.Exit(128 + (stop.number or signal.SIGINT))


def _how_to_continue(run: Path) -> str:
    if any(run.rglob("checkpoints/step-*")):
        return f"the same command continues from the last checkpoint in {format_path(run)}"
    return "no checkpoint was written yet; the same command begins again"
