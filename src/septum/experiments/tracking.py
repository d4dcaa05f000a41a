"""The course of a training for programs that show many runs beside each other: what is logged, and under which name.

A tracker follows the records of a training, those of several trainings in one run each under a name of its own. It is
company, not cargo: where it fails the training goes on without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from septum.events import Warned
from septum.experiments.events import PartStarted, PartTrained, SeedsCompared
from septum.report.curve import Curve
from septum.train.events import Planned, Resumed, Saved, Step, Stopped, Trained, Validated
from septum.train.run_folder import RunFolder, read_plan_file

Value = str | int | float | bool
Outcome = Literal["finished", "stopped", "failed"]

# What a training leaves that is worth a place beside its figures; of a run of several trainings their one model too.
_FILES = ("report.html", "metrics.json", "plan.json")
_LONGEST = 200  # letters of a reason


class Tracker(Protocol):
    """Where the course of a training is logged. One training at a time; ``""`` is the run itself."""

    @property
    def name(self) -> str:
        """What warnings call it."""

    def ended(self, part: str) -> bool:
        """Say whether an earlier start logged this training to its end."""

    def begin(self, part: str, *, after: int, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        """Log what follows as training `part`.

        Parameters
        ----------
        part
            ``"fold-1"``, ``"seed-3"``, ``"images-8"``; ``""`` for the run itself.
        after
            Steps that are done: those that an earlier start logged beyond are done again.
        lines
            The plan, one sentence a line.
        values
            What was asked for and the plan, by name: ``"network.width"``.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log figures, by name, after so many steps."""

    def sync(self) -> None:
        """Let nothing that was logged wait any longer."""

    def finish(self, files: Sequence[Path]) -> None:
        """End this training, which came to its end and left these files."""

    def close(self, outcome: Outcome) -> None:
        """End all that is still open."""


def tracked(records: Iterable[Any], run: Path, trackers: Sequence[Tracker]) -> Generator[Any, None, None]:
    """Pass on the records of a training and let trackers log it.

    Parameters
    ----------
    records
        Of one training, or of several in one run; others may be among them.
    run
        The run folder.
    trackers
        Nothing is asked of them before the training does its first step, or goes on.

    Yields
    ------
    The records, and Warned where a tracker failed; it is asked for nothing more.
    """
    followers = [_Follower(tracker, run) for tracker in trackers]
    outcome: Outcome = "failed"
    try:
        for record in records:
            yield record
            yield from _each(followers, partial(_Follower.hear, record=record))
            outcome = "stopped" if isinstance(record, Stopped) else outcome
        # Not at the record of the end: what is made of it, such as the report, comes after.
        yield from _each(followers, _Follower.finish)
        outcome = "stopped" if outcome == "stopped" else "finished"
    except (GeneratorExit, KeyboardInterrupt):
        outcome = "stopped"
        raise
    finally:
        for follower in followers:
            with suppress(Exception):
                follower.tracker.close(outcome)


def _each(followers: list[_Follower], act: Callable[[_Follower], None]) -> Iterator[Warned]:
    """Let all of them act; name those that fail and let them go."""
    for follower in list(followers):
        try:
            act(follower)
        except Exception as error:  # a full disk, a server that is gone, a library of another age: no common parent
            followers.remove(follower)
            reason = " ".join(str(error).split()) or type(error).__name__
            yield Warned(f"{follower.tracker.name} failed, the training goes on without it: {reason[:_LONGEST]}")


@dataclass
class _Follower:
    """A tracker, and the training that it logs now."""

    tracker: Tracker
    run: Path
    part: str = ""
    lines: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the plan of each training
    trained: Trained | None = None
    state: Literal["waiting", "logging", "ended"] = "waiting"

    def hear(self, record: object) -> None:
        """Log what a record says."""
        match record:
            case PartStarted(folder=folder):
                self._turn_to(folder)
            case Planned(lines):
                self.lines[self.part] = lines
            case Resumed(step):
                self._begin(after=step)
            case Step(step, _, loss, rate):
                self._begin()
                self.tracker.log(step, {"train/loss": loss, "train/rate": rate})
            case Validated(step, _, scores):
                self._log(step, scores, "held-out/")
            case Saved() if self.state == "logging":
                self.tracker.sync()
            case SeedsCompared(scores=scores):
                self._log(0, {name: record.mean(name) for name in scores}, "seeds/", ending="-mean")
                self._log(0, {name: record.deviation(name) for name in scores}, "seeds/", ending="-deviation")
            case Curve(name, images, values):
                for number, value in zip(images, values, strict=True):
                    self._log(number, {name: value}, "images/")
            case Trained():
                self._end(record)
            case PartTrained(_, trained):
                self._end(trained)
                self.finish()
                self._turn_to("")

    def finish(self) -> None:
        """End a training that came to its end, with what it has left on the disk."""
        if self.state == "logging" and self.trained is not None:
            names = _FILES if self.part else (*_FILES, self.trained.model.name)
            files = [self.run / self.part / name for name in names]
            self.tracker.finish([path for path in files if path.is_file()])

    def _turn_to(self, part: str) -> None:
        self.part, self.trained, self.state = part, None, "waiting"

    def _begin(self, *, after: int = 0) -> None:
        if self.state == "waiting":
            lines, values = self.lines.get(self.part, ()), values_of(self.run / self.part)
            self.tracker.begin(self.part, after=after, lines=lines, values=values)
            self.state = "logging"

    def _log(self, step: int, values: Mapping[str, float], group: str, *, ending: str = "") -> None:
        """Log what a training says that may have come to its end at an earlier start."""
        if self.state == "waiting" and self.tracker.ended(self.part):
            self.state = "ended"
        if self.state != "ended":
            self._begin()
            known = {f"{group}{name}{ending}": value for name, value in values.items() if math.isfinite(value)}
            self.tracker.log(step, known)

    def _end(self, trained: Trained) -> None:
        self.trained = trained
        self._log(trained.steps, {**trained.scores, "seconds": trained.seconds}, "final/")
        if self.state == "logging":
            self.tracker.sync()


def values_of(run: Path) -> dict[str, Value]:
    """Return what was asked of a training and its plan, by name: ``{"seed": 0, "network.width": 16 ...}``.

    Lists are texts; what is None is left out, and so are the images and where they lie.

    Raises
    ------
    FileError
        If ``settings.json`` or ``plan.json`` in the run folder cannot be read.
    """
    asked = RunFolder(run, parts=True).read_settings()
    asked.pop("images", None)
    return dict(_flat({**asked, **read_plan_file(run)["plan"]}))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Value]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", value if isinstance(value, str | int | float) else json.dumps(value)
