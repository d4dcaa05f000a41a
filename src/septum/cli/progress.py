"""Records of long jobs become a progress bar on a terminal, and plain lines elsewhere.

All that happens on the way goes to the standard error stream; the standard output is left to the result, so that
``septum predict ... --json > result.json`` holds the result and nothing else.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import typer

from septum.cli.options import Display
from septum.cli.text import curve_lines, json_text, seeds_lines
from septum.events import Event, Warned
from septum.experiments.events import HeldOutDone, PartStarted, PartTrained, ReportWritten, SeedsCompared
from septum.io.formats import format_path
from septum.prediction.events import (
    BlockDone,
    ImageDone,
    ImageFailed,
    ImageStarted,
    Opened,
    Predicted,
    ShardDone,
    TileDone,
)
from septum.prediction.frames import format_factors
from septum.prediction.memory import format_bytes
from septum.report.curve import Curve
from septum.report.events import Reporting
from septum.report.numbers import format_scores, format_seconds
from septum.training.events import Checked, Planned, Resumed, Saved, Step, Trained, Validated
from septum.training.interrupt import StopRequest, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.status import Status

LINE_EVERY_S = 10.0
LINE_EVERY_PERCENT = 10
RATE_OVER_S = 30.0  # speeds change: the rate is that of the last half minute


class Progress:
    """A bar with rate and time left on a terminal; elsewhere a line every 10 percent, or every 10 s and one percent.

    Parameters
    ----------
    unit
        What is counted: ``"steps"``, ``"images"``.
    display
        Quiet or one JSON document: warnings only; verbose: details as well.
    waiting
        What runs before there is anything to count, beside a spinner on a terminal: ``"opening the images"``.
    """

    def __init__(self, unit: str, display: Display = Display(), *, waiting: str = "") -> None:  # noqa: B008
        self.unit = unit
        self.quiet = display.quiet or display.json
        self.verbose = display.verbose and not self.quiet
        self.waiting = waiting
        self.warnings: list[str] = []
        self._stage = ""
        self._terminal = sys.stderr.isatty() and not self.quiet
        self._mark: Status | None = None
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._counts: deque[tuple[float, float]] = (
            deque()
        )  # time and count: one before the last half minute, those in it
        self._line: tuple[float, float] = (-math.inf, -math.inf)  # time and percent of the last plain line

    def __enter__(self) -> Self:
        if self._terminal and self.waiting:
            from rich.console import Console

            self._mark = Console(stderr=True).status(self.waiting)
            self._mark.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for shown in (self._mark, self._bar):
            if shown is not None:
                shown.stop()

    def say(self, text: str) -> None:
        """Print one line, above the bar where there is one; nothing if quiet."""
        if not self.quiet:
            self._print(text)

    def detail(self, text: str) -> None:
        """Print one line if verbose."""
        if self.verbose:
            self._print(text)

    def warn(self, text: str) -> None:
        """Print one warning, quiet or not, and remember it for the result."""
        self.warnings.append(text)
        self._print(f"warning: {text}")

    def show(self, done: float, total: int, *, note: str = "") -> None:
        """Say that `done` of `total` units are done; `note` is a short text such as ``"loss 0.21"``."""
        if self.quiet:
            return
        now = time.monotonic()
        self._counts.append((now, done))
        while len(self._counts) > 2 and self._counts[1][0] <= now - RATE_OVER_S:
            self._counts.popleft()
        if self._terminal:
            self._show_bar(done, total, note)
        else:
            self._show_line(now, done, total, note)

    def begin(self, unit: str) -> None:
        """Count something else from now on: count and rate begin anew."""
        self.unit = unit
        self._counts.clear()
        self._line = (-math.inf, -math.inf)
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def show_stage(self, stage: str, done: float, total: int, *, note: str = "", unit: str = "blocks") -> None:
        """Say that `done` of `total` units have passed a stage; count and rate begin anew with each stage."""
        if stage != self._stage:
            self._stage = stage
            self.begin(unit)
        self.show(done, total, note=f"{stage}  {note}")

    def _print(self, text: str) -> None:
        live = self._bar or self._mark
        if live is not None:
            live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def _show_bar(self, done: float, total: int, note: str) -> None:
        if self._mark is not None:
            self._mark.stop()
            self._mark = None
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.fields[count]} {task.fields[unit]}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left  {task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, count="", unit=self.unit, rate="", note="")
            self._bar.start()
            self._bar.update(self._task, completed=done)
        assert self._task is not None
        speed = self._bar.tasks[0].speed
        rate = rate_text(speed, self.unit) if speed else ""
        count = f"{int(done)}/{total}"
        self._bar.update(self._task, completed=done, total=total, note=note, count=count, rate=rate)

    def _show_line(self, now: float, done: float, total: int, note: str) -> None:
        percent = 100.0 * done / total if total else 100.0
        last_time, last_percent = self._line
        decade = percent // LINE_EVERY_PERCENT > last_percent // LINE_EVERY_PERCENT
        if not decade and (now - last_time < LINE_EVERY_S or abs(percent - last_percent) < 1):
            return
        self._line = (now, percent)
        parts = [f"{int(done)}/{total} {self.unit}"]
        begun, first = self._counts[0]
        if done > first and now > begun:
            speed = (done - first) / (now - begun)
            parts += [rate_text(speed, self.unit), f"{format_seconds(max(0.0, total - done) / speed)} left"]
        self._print("  ".join([*parts, note] if note else parts))


def rate_text(speed: float, unit: str) -> str:
    """Return a rate in `unit` per second as a person says it: ``"3.2 steps/s"``, below 1 ``"4.1 s/step"``."""
    return f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit.removesuffix('s')}"


@dataclass
class Learned:
    """What came of a training: its end, which the first of several processes has, and what a series is made of."""

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


def show_training(record: Event, progress: Progress) -> None:
    """Show one record of a training."""
    match record:
        case Checked(report):
            for line in report.lines():
                if line.startswith("warning: "):
                    progress.warn(line.removeprefix("warning: "))
                elif not line.startswith("error: "):  # errors end the training; they are said then
                    progress.say(line)
        case Planned(lines):
            for line in lines:
                progress.say(line)
        case Warned(text):
            progress.warn(text)
        case Resumed(step, path):
            progress.say(f"going on after step {step} from {path}")
        case Step(step, total, loss):
            progress.show(step, total, note=f"loss {loss:.3f}")
        case Validated(step, total, scores, best):
            progress.say(f"step {step}: held-out images {format_scores(scores)}{' (best so far)' if best else ''}")
        case PartStarted(title):
            progress.begin("steps")
            progress.say(f"--- {title}")
        case PartTrained(title, trained):
            said = f"{format_scores(trained.scores)}; " if trained.scores else ""
            progress.say(f"{title}: {said}{trained.steps} steps, {format_seconds(trained.seconds)}")
        case HeldOutDone(done, total):
            if progress.unit != "images":
                progress.begin("images")
            progress.show(done, total, note="held-out images")
        case ReportWritten(path):
            progress.say(f"report: {format_path(path)}")
        case Reporting(count=count):
            progress.say(f"report: predicting {count} held-out image{'s' * (count != 1)} once more")
        case Saved(path):
            progress.detail(f"written: {format_path(path)}")
        case Trained() | SeedsCompared() | Curve():
            pass


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
    scores = f"{format_scores(result.scores)}; " if result.scores else ""
    steps = f"{result.steps} step{'s' * (result.steps != 1)}"
    typer.echo(f"model: {result.model}  ({scores}{steps}, {format_seconds(result.seconds)})")


@dataclass
class Outcome:
    """What came of a prediction: images done and failed, in order, seconds of all, and the most memory held."""

    done: list[ImageDone] = field(default_factory=list)
    failed: list[ImageFailed] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0


def follow_prediction(job: Iterable[Event], progress: Progress, outcome: Outcome) -> None:
    """Run a prediction, showing each record; `outcome` is filled on the way, so it holds where the job raises."""
    index = count = 0
    for record in job:
        match record:
            case Opened(words):
                progress.say(words)
            case ImageStarted(path, index, count):
                # Of many small images the first speaks for all, unless details are asked for.
                (progress.say if index == 0 or record.blocks else progress.detail)(layout_text(record))
                progress.show(index, count, note=path.name)
            case TileDone(path, tile, tiles):
                progress.show(index + tile / tiles, count, note=f"{path.name}, tile {tile} of {tiles}")
            case BlockDone(path, stage, done, blocks):
                progress.show_stage(stage, done, blocks, note=path.name)
            case ImageDone(path, output, seconds, objects, scale):
                outcome.done.append(record)
                found = "" if objects is None else f", {objects} object{'s' * (objects != 1)}"
                if scale is not None:
                    found += f", scale {format_factors(scale if isinstance(scale, tuple) else (scale,))}"
                finished = len(outcome.done) + len(outcome.failed)
                progress.show(max(index, finished), count, note=path.name)  # the next may be computed already
                progress.say(f"{path} -> {output}  {format_seconds(seconds)}{found}")
            case ShardDone(path, left):
                what = f"{left} blocks are left to other parts" if left else "all parts are done"
                progress.say(
                    f"{path}: this part is done, {what}; put them together with the same command without --shard"
                )
            case ImageFailed(path):
                outcome.failed.append(record)
                progress.say(f"{path} failed")
            case Warned(text):
                progress.warn(text)
            case Predicted(seconds=seconds, peak_bytes=peak):
                outcome.seconds, outcome.peak_bytes = seconds, peak


def layout_text(record: ImageStarted) -> str:
    """Return one line on how an image will be predicted, and what that takes."""
    sides = " x ".join(map(str, record.sides))
    words = [f"{record.tiles} tile{'s' * (record.tiles != 1)} of {sides} pixels"]
    if record.blocks:
        words.append(f"{record.blocks} block{'s' * (record.blocks != 1)}")
    words.append(f"at most {format_bytes(record.peak_bytes)} of memory")
    if record.seconds is not None:
        words.append(f"about {format_seconds(record.seconds)}")
    start = "continues: " if record.resumed else ""
    return f"{record.path}: {start}{', '.join(words)}"


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
