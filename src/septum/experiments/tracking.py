"""Log a training to TensorBoard or MLflow, for the comparison of many runs. Nothing is logged unless it is asked for.

A tracker follows the events of a run; each of several trainings has a name of its own. Trackers are optional: one that
fails is dropped with a warning, and the training continues. No package is imported before there is something to log.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter

from septum.errors import UsageError
from septum.events import Event, Warned
from septum.experiments.events import PartStarted, PartTrained, SeedsCompared
from septum.io.atomic import whole_file
from septum.report.curve import Curve
from septum.training.events import Planned, Resumed, Step, Stopped, Trained, Validated
from septum.training.run_folder import RunFolder, read_plan_file
from septum.words import reason_of

Value = str | int | float | bool
Outcome = Literal["finished", "stopped", "failed"]

# Files of a training that are logged beside its scores; of the whole run also its model.
_FILES = ("report.html", "metrics.json", "plan.json")
_MOST_SENDING = 1000
# Settings of the user win. By default MLflow reports its use to its makers, prints messages between the
# lines of the training, waits four minutes for a server that does not answer, and sends each value on its own, out of
# order.
MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1",
    "MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE": "1",
}
_MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Tracker(Protocol):
    """A log of trainings, one at a time; the training ``""`` is the run itself."""

    @property
    def name(self) -> str:
        """Name in warnings."""

    def begin(self, part: str, *, after: int | None, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        """Log the training `part` from now on: ``"fold-1"``, ``"seed-3"``, ``"images-8"``, or ``""``.

        Parameters
        ----------
        after
            Number of steps that are done: the log of later steps of an earlier start is replaced. None: an earlier
            start completed the training; if its log is complete too, nothing is added to it.
        lines
            The plan, one sentence a line.
        values
            Settings and plan by name: ``"network.width"``.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step by name."""

    def end(self, outcome: Outcome, files: Sequence[Path] = ()) -> None:
        """End this training, which left these files; unless it is finished, also the run that it is part of."""


def open_trackers(run: Path, *, tensorboard: bool = False, mlflow: bool = False) -> list[Tracker]:
    """Return the trackers that are asked for; nothing is written yet in the run folder `run`.

    Raises
    ------
    UsageError
        If one is not installed.
    """
    trackers: list[Tracker] = []
    for wanted, package, tracker in ((tensorboard, "tensorboard", TensorBoard), (mlflow, "mlflow", MLflow)):
        if wanted and find_spec(package) is None:
            raise UsageError(
                f"--{package} without {tracker.name}",
                f"{tracker.name}, which is not installed with Septum by itself",
                f"pip install 'septum[{package}]', or leave --{package} out",
            )
        trackers += [tracker(run)] if wanted else []
    return trackers


def track(events: Iterable[Event], run: Path, trackers: Sequence[Tracker]) -> Generator[Event, None, None]:
    """Yield the events of a run and log them; yield Warned where a tracker fails, which is then dropped.

    Parameters
    ----------
    events
        Events of one training, or of several in one run; others may be among them.
    run
        The run folder.
    trackers
        Not used before the training does its first step, or is resumed.
    """
    followers = [_Follower(tracker, run) for tracker in trackers]
    outcome: Outcome = "failed"
    try:
        for event in events:
            yield event
            yield from _observe(followers, event)
            outcome = "stopped" if isinstance(event, Stopped) else outcome
        # Not at Trained: the report, which is logged as well, is written after it.
        yield from _observe(followers, None)
        outcome = "stopped" if outcome == "stopped" else "finished"
    except (GeneratorExit, KeyboardInterrupt):
        outcome = "stopped"
        raise
    finally:
        for follower in followers:
            with suppress(Exception):
                follower.tracker.end(outcome)


def _observe(followers: list[_Follower], event: Event | None) -> Iterator[Warned]:
    """Log an event, None for the end of all, to every tracker."""
    for follower in list(followers):
        try:
            follower.finish() if event is None else follower.observe(event)
        except Exception as error:  # a full disk, a dead server, a version that does not fit: no common base class
            followers.remove(follower)
            reason = reason_of(error)
            yield Warned(f"{follower.tracker.name} failed, the training goes on without it: {reason}")


@dataclass
class _Follower:
    """A tracker, and the training that it logs now."""

    tracker: Tracker
    run: Path
    part: str = ""
    lines: dict[str, tuple[str, ...]] = field(default_factory=dict)  # plan by training
    begun: bool = False
    trained: Trained | None = None

    def observe(self, event: Event) -> None:
        """Log the values of an event."""
        match event:
            case PartStarted(folder=part):
                self.part, self.begun = part, False
            case Planned(lines):
                self.lines[self.part] = lines
            case Resumed(step):
                self._begin(after=step)
            case Step(step, _, loss, rate):
                self._begin(after=0)
                self.tracker.log(step, {"train/loss": loss, "train/rate": rate})
            case Validated(step, _, scores):
                self._begin(after=0)  # a training that starts from a model is scored before its first step
                self._log(step, {f"held-out/{name}": value for name, value in scores.items()})
            case SeedsCompared(scores=scores):
                self._log(0, {f"seeds/{name}-mean": event.mean(name) for name in scores})
                self._log(0, {f"seeds/{name}-deviation": event.deviation(name) for name in scores})
            case Curve(name, images, values):
                for number, value in zip(images, values, strict=True):
                    self._log(number, {f"images/{name}": value})
            case PartTrained(_, trained):
                self.observe(trained)
                self.finish()
                self.part, self.begun = "", False
            case Trained(_, scores, steps, seconds):
                self.trained = event
                self._log(
                    steps, {**{f"final/{name}": value for name, value in scores.items()}, "final/seconds": seconds}
                )

    def finish(self) -> None:
        """End a complete training, with its files."""
        if self.trained is not None:
            names = _FILES if self.part else (*_FILES, self.trained.model.name)
            files = [self.run / self.part / name for name in names]
            self.tracker.end("finished", [path for path in files if path.is_file()])
            self.trained = None

    def _begin(self, *, after: int | None) -> None:
        if not self.begun:
            values = flat_settings(self.run / self.part)
            self.tracker.begin(self.part, after=after, lines=self.lines.get(self.part, ()), values=values)
            self.begun = True

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the finite ones of values; nothing else of this training may have been seen, if it is complete."""
        self._begin(after=None)
        self.tracker.log(step, {name: value for name, value in values.items() if math.isfinite(value)})


def flat_settings(run: Path) -> dict[str, Value]:
    """Return settings and plan of a training by name: ``{"seed": 0, "network.width": 16 ...}``.

    Lists are JSON texts; values that are None and the fingerprints of the images are left out.

    Raises
    ------
    FileError
        If ``settings.json`` or ``plan.json`` in the run folder cannot be read.
    """
    settings = RunFolder(run, parts=True).read_settings()
    settings.pop("images", None)
    return dict(_flat({**settings, **read_plan_file(run)["plan"]}))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Value]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", value if isinstance(value, str | int | float) else json.dumps(value)


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder; each of several trainings has a folder there."""

    name = "TensorBoard"

    def __init__(self, run: Path) -> None:
        self._folder = self._place = run / "tensorboard"
        self._writer: Any = None
        self._last: dict[str, int] = {}  # last step of each value

    def begin(self, part: str, *, after: int | None, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        """Write to the folder of a training: the plan if it is new, otherwise a mark that removes later steps."""
        self.end("finished")
        self._place = self._folder / part
        if not any(self._place.glob("events.out.tfevents.*")):
            self._open(None)
            self._writer.add_text("plan", "\n".join(f"- {line}" for line in lines), 0)
            self._writer.add_text("values", "\n".join(f"    {name} = {value}" for name, value in values.items()), 0)
        elif after is not None:
            self._open(after + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values; where a training went back to an earlier state, the repeated steps replace the first ones."""
        if self._writer is None:
            return
        if any(step <= self._last.get(name, -1) for name in values):
            self._writer.close()
            self._open(step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
            self._last[name] = step

    def end(self, outcome: Outcome, files: Sequence[Path] = ()) -> None:
        """Close the event file; `files` stay where they are."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._last = {}
        # Flushed often: a process that is killed after a checkpoint resumes there and does not repeat earlier steps.
        self._writer = SummaryWriter(str(self._place), purge_step=purge_step, flush_secs=1)


class MLflow:
    """A run of MLflow; those of several trainings are nested in it.

    Variables of MLflow name its place: ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` or
    ``MLFLOW_EXPERIMENT_ID``; the default experiment is ``septum``. ``mlflow.json`` in the run folder holds the id of
    each training, with which a later start resumes it. The queue of MLflow sends the values in the background.
    """

    name = "MLflow"

    def __init__(self, run: Path) -> None:
        self._run, self._note = run, run / "mlflow.json"
        self._connected: Any = None
        self._id: str | None = None  # of the training that is logged
        self._parent: str | None = None  # of the run, while one of several trainings is logged
        self._last: dict[str, int] = {}  # last step of each value
        self._sending: list[Any] = []

    @property
    def _client(self) -> Any:
        if self._connected is None:
            for name, value in MLFLOW_DEFAULTS.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            # The client, not `mlflow.start_run`: an active run of the user stays as it is.
            self._connected = MlflowClient()
        return self._connected

    def begin(self, part: str, *, after: int | None, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        """Resume the run of a training, or create it; `values` are its parameters.

        MLflow cannot remove values: of repeated steps the first ones stay.
        """
        from mlflow.entities import Param, RunTag

        self._id, self._last = None, {}
        run = self._find(part)
        if after is None and run is not None and run.info.status == _MLFLOW_STATUS["finished"]:
            return
        if self._parent is None:
            self._parent = self._resume("")
        self._id = self._resume(part) if part else self._parent
        parameters = [Param(name, str(value)) for name, value in values.items()]
        note = RunTag("mlflow.note.content", "\n\n".join(lines))
        self._client.log_batch(self._id, params=parameters, tags=[note])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values, except of steps that MLflow has."""
        from mlflow.entities import Metric

        if self._id is None:
            return
        now = round(1000 * time.time())
        new = [Metric(name, value, now, step) for name, value in values.items() if step > self._last_step(name)]
        self._last |= {metric.key: step for metric in new}
        if new:
            self._sending.append(self._client.log_batch(self._id, metrics=new, synchronous=False))
        if len(self._sending) > _MOST_SENDING:
            self._sending.pop(0).wait()  # raises the error of a request that failed

    def end(self, outcome: Outcome, files: Sequence[Path] = ()) -> None:
        """Send all values and `files`, and end the run of this training; unless it is finished, also its parent."""
        sending, self._sending = self._sending, []
        for operation in sending:
            operation.wait()
        for path in files if self._id is not None else ():
            self._client.log_artifact(self._id, str(path))
        ended = {self._id} if outcome == "finished" else {self._id, self._parent}
        for run_id in ended - {None}:
            self._client.set_terminated(run_id, _MLFLOW_STATUS[outcome])
        self._id, self._parent = None, None if self._parent in ended else self._parent

    def _last_step(self, name: str) -> int:
        """Return the last step of a value in MLflow; -1 if there is none."""
        if name not in self._last:
            history = self._client.get_metric_history(self._id, name)
            self._last[name] = max((metric.step for metric in history), default=-1)
        return self._last[name]

    def _find(self, part: str) -> Any:
        """Return the run of a training that an earlier start created; None if there is none, or it is deleted."""
        from mlflow.exceptions import MlflowException

        if (run_id := self._ids().get(part or "run")) is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException:  # kept at another address than now
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _resume(self, part: str) -> str:
        """Return the id of the run of a training: of the one that an earlier start created, or of a new one."""
        if (run := self._find(part)) is not None:
            self._client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        tags = {"mlflow.source.name": "septum train"} | ({"mlflow.parentRunId": self._parent} if part else {})
        name = "/".join(filter(None, (self._run.absolute().name, part)))
        made = str(self._client.create_run(self._experiment(), run_name=name, tags=tags).info.run_id)
        with whole_file(self._note) as file:
            file.write_text(json.dumps({**self._ids(), part or "run": made}, indent=2) + "\n", encoding="utf-8")
        return made

    def _experiment(self) -> str:
        """Return the id of the experiment, which is created if there is none of its name."""
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "septum"
        experiment = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if experiment is None else experiment.experiment_id)

    def _ids(self) -> dict[str, str]:
        """Return the ids in ``mlflow.json``; none if the file is missing or damaged."""
        try:
            return TypeAdapter(dict[str, str]).validate_json(self._note.read_bytes())
        except (OSError, ValueError):
            return {}
