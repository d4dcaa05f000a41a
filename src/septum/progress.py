"""Progress of long jobs: a bar on a terminal, plain lines elsewhere; for the command line and for Python alike.

All that happens on the way goes to the standard error stream.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event as Signal
from threading import Thread
from typing import TYPE_CHECKING, Self

from septum.compiling import listening
from septum.events import Event, Warned, Working
from septum.experiments.events import HeldOutDone, PartStarted, PartTrained, ReportWritten, SeedsCompared
from septum.io.formats import format_path
from septum.report.curve import Curve
from septum.report.events import Reporting
from septum.report.numbers import format_scores, format_seconds
from septum.training.events import Checked, Finished, Planned, Resumed, Saved, Step, Trained, Validated
from septum.words import pluralize

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.status import Status


@dataclass(frozen=True)
class Display:
    """What a command shows: `quiet`, warnings and the last line; `verbose`, details; `json`, one document."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False


SILENT_S = 5.0  # at most, elsewhere than on a terminal: then a line says what runs
LONG_S, RARE_S = 300.0, 30.0  # in jobs of more than this, at most
LINE_EVERY_PERCENT = 10
RATE_FROM_S = 0.5  # a rate over less time says nothing
RATE_OVER_S = 30.0  # speeds change: the rate is that of the last half minute
COMPILING = "compiling loops, once on this computer"


class Progress:
    """A bar with rate and time left on a terminal; elsewhere a line every 10 percent, and every 5 s (30 s later).

    Parameters
    ----------
    unit
        What is counted: ``"steps"``, ``"images"``.
    display
        Quiet or one JSON document: warnings only; verbose: details as well.
    waiting
        What runs before there is anything to count, beside a spinner on a terminal: ``"opening the images"``.
    """

    def __init__(self, unit: str, display: Display = Display(), *, waiting: str = "") -> None:
        self.unit = unit
        self.quiet = display.quiet or display.json
        self.verbose = display.verbose and not self.quiet
        self.waiting = waiting
        self.warnings: list[str] = []
        self._stage, self._whole = "", unit  # what is counted in a stage of the whole, and the unit of the whole
        self._terminal = sys.stderr.isatty() and not self.quiet
        self._mark: Status | None = None
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._counts: deque[tuple[float, float]] = (
            deque()
        )  # time and count: one before the last half minute, those in it
        self._percent = -100.0  # of the last plain line
        self._working = (waiting, time.monotonic())  # what runs, and since when
        self._counted: tuple[float, int, str] | None = None  # the last count; None if work without a count began since
        self._before: str | None = None  # what ran before loops are compiled
        # Since when the clock of rates stands still, None if it goes, and the seconds that it stood still before.
        self._still: tuple[float | None, float] = (None, 0.0)
        self._listening = ExitStack()
        self._begun = self._printed = time.monotonic()
        self._most = 0.0  # done so far: the count never falls
        self._ended = Signal()
        self._watch: Thread | None = None

    def __enter__(self) -> Self:
        if not self.quiet:
            self._listening.enter_context(listening(self._compile))
        if not self._terminal and not self.quiet:
            self._watch = Thread(target=self._break_silence, daemon=True)
            self._watch.start()
        if self._terminal and self.waiting:
            from rich.console import Console

            console = Console(stderr=True)
            # Terminals of other encodings cannot show the usual dots.
            unicode = console.encoding.startswith("utf")
            self._mark = console.status(self.waiting, spinner="dots" if unicode else "line")
            self._mark.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        self._ended.set()
        for shown in (self._mark, self._bar, self._watch):
            if isinstance(shown, Thread):
                shown.join()
            elif shown is not None:
                shown.stop()

    def work(self, text: str) -> None:
        """Say what runs from now on, in which nothing is counted: on a terminal at once, elsewhere if it takes long."""
        self._counted = None
        self._run(text, time.monotonic())
        if self._before is None:
            self._note(text)

    def _run(self, text: str, now: float) -> None:
        if self._before is None:
            self._working = (text, now)
        else:
            self._before = text

    def _note(self, text: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=text)
        elif self._mark is not None:
            self._mark.update(text)

    def _compile(self, compiling: bool) -> None:
        """Say that loops are compiled, and leave that time out of the rate unless other threads count meanwhile."""
        now = time.monotonic()
        since, still_s = self._still
        if compiling:
            self._still = (now, still_s)
            self._before, self._working = self._working[0], (COMPILING, now)
            self._note(COMPILING)
        elif self._before is not None:
            self._still = (None, still_s + (0.0 if since is None else now - since))
            before, self._before = self._before, None
            self._run(before, now)
            self._note(before if self._counted is None else self._counted[2])

    def _clock(self) -> float:
        """Return seconds, without those in which loops were compiled and nothing else was done."""
        since, still_s = self._still
        return (time.monotonic() if since is None else since) - still_s

    def _break_silence(self) -> None:
        """Print what runs and since when, whenever nothing has happened for a while."""
        while not self._ended.wait(0.2):
            text, since = self._working
            now = time.monotonic()
            if not text or now - self._printed < self._longest_silence(now):
                continue
            if self._counted is not None and self._before is None and now - since < SILENT_S:
                self._print(self._line(*self._counted))
            else:
                self._print(f"{text} ... {format_seconds(now - since)}")

    def _longest_silence(self, now: float) -> float:
        return SILENT_S if now - self._begun < LONG_S else RARE_S

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
        if self._stage:  # the stages of an image are over: images are counted again
            self._stage = ""
            self.begin(self._whole)
        self._count(done, total, note)

    def _count(self, done: float, total: int, note: str) -> None:
        if self.quiet:
            return
        self._still = (None, self._still[1])
        now, clock = time.monotonic(), self._clock()
        done = self._most = max(done, self._most)
        self._run(f"{int(done)}/{total} {self.unit}", now)
        self._counted = (done, total, note)
        self._counts.append((clock, done))
        while len(self._counts) > 2 and self._counts[1][0] <= clock - RATE_OVER_S:
            self._counts.popleft()
        if self._terminal:
            self._show_bar(done, total, note)
        else:
            self._show_line(now, done, total, note)

    def begin(self, unit: str) -> None:
        """Count something else from now on: count and rate begin anew."""
        self.unit, self._most = unit, 0.0
        self._counts.clear()
        self._percent = -100.0
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def show_stage(self, stage: str, done: float, total: int, *, note: str = "", unit: str = "blocks") -> None:
        """Say that `done` of `total` units have passed a stage; count and rate begin anew with each stage."""
        if stage != self._stage:
            self._whole = self._whole if self._stage else self.unit
            self._stage = stage
            self.begin(unit)
        self._count(done, total, f"{stage}  {note}")

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
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
                get_time=self._clock,
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
        last_percent = self._percent
        decade = percent // LINE_EVERY_PERCENT > last_percent // LINE_EVERY_PERCENT
        # A little sooner than the line that breaks the silence.
        if not decade and now - self._printed < 0.9 * self._longest_silence(now):
            return
        self._percent = percent
        self._print(self._line(done, total, note))

    def _line(self, done: float, total: int, note: str) -> str:
        parts = [f"{int(done)}/{total} {self.unit if total != 1 else self.unit.removesuffix('s')}"]
        (begun, first), (last, _) = self._counts[0], self._counts[-1]
        if done > first and last - begun >= RATE_FROM_S:
            speed = (done - first) / (last - begun)
            parts += [rate_text(speed, self.unit), f"{format_seconds(max(0.0, total - done) / speed)} left"]
        return "  ".join([*parts, note] if note else parts)


def rate_text(speed: float, unit: str) -> str:
    """Return a rate in `unit` per second as a person says it: ``"3.2 steps/s"``, below 1 ``"4.1 s/step"``."""
    return f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit.removesuffix('s')}"


def show_training(record: Event, progress: Progress) -> None:
    """Show one record of a training."""
    match record:
        case Checked(report):
            progress.work("planning the training")
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
        case Working(text):
            progress.work(text)
        case Resumed(step, path):
            progress.say(f"going on after step {step} from {path}")
        case Finished(step, model):
            progress.say(
                f"this run was finished before, after {pluralize(step, 'step')}: nothing is trained again; to train "
                f"on, start from its weights in a new folder: septum train DATA --from {format_path(model)} -o FOLDER"
            )
        case Step(step, total, loss):
            progress.show(step, total, note=f"loss {loss:.3f}")
        case Validated(step, total, scores, best):
            progress.say(f"step {step}: held-out images {format_scores(scores)}{' (best so far)' if best else ''}")
        case PartStarted(title):
            progress.begin("steps")
            progress.say(f"--- {title}")
        case PartTrained(title, trained):
            said = f"{format_scores(trained.scores)}; " if trained.scores else ""
            progress.say(f"{title}: {said}{pluralize(trained.steps, 'step')}, {format_seconds(trained.seconds)}")
        case HeldOutDone(done, total):
            if progress.unit != "images":
                progress.begin("images")
            progress.show(done, total, note="held-out images")
        case ReportWritten(path):
            progress.say(f"report: {format_path(path)}")
        case Reporting(count=count):
            if count:
                progress.say(f"report: predicting {pluralize(count, 'held-out image')}")
            progress.work("writing the report")
        case Saved(path):
            progress.detail(f"written: {format_path(path)}")
        case Trained() | SeedsCompared() | Curve():
            pass
