"""Long work as generators for a thread: the events of Septum's jobs become updates for a panel.

A generator runs in a thread; nothing here knows a window. A stop is a request that the generator polls: a training
saves its state, a prediction and a ranking end after the tile that is computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from septum.errors import UsageError
from septum.events import Event, Warned, Working
from septum.experiments.events import ReportWritten
from septum.experiments.run import run_training
from septum.prediction.events import BlockDone, ImageDone, ImageFailed, ImageStarted, Opened, TileDone
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.report.numbers import format_scores, format_seconds
from septum.review.settings import SuggestSettings
from septum.review.suggest import Judged, Suggested, suggest
from septum.training.events import Checked, Planned, Step, Stopped, Trained, Validated
from septum.training.interrupt import StopRequest
from septum.training.settings import TrainSettings

R = TypeVar("R")
_EVERY_S = 0.1  # a window need not hear more often

_WARNING = "warning: "  # napari shows a warning as one

_one_job = threading.Lock()


@dataclass(frozen=True)
class Update:
    """News of a job.

    Attributes
    ----------
    text
        What runs, in a sentence; empty: as before.
    share
        What is done of it, 0..1; None: unknown.
    point
        Step and loss of a training.
    warning
        A finding to look at.
    """

    text: str = ""
    share: float | None = None
    point: tuple[int, float] | None = None
    warning: str = ""


@dataclass(frozen=True)
class Learned:
    """The end of a training: the model, None if it was stopped; a sentence; the report, if there is one."""

    model: Path | None
    text: str
    report: Path | None = None


@dataclass(frozen=True)
class PredictedFile:
    """The end of a prediction: the file with the result, None if it was stopped, and a sentence."""

    result: Path | None
    text: str


@dataclass
class _Found:
    """What the events of a job have told so far."""

    ended: Event | None = None
    report: Path | None = None
    failures: list[str] = field(default_factory=list)


Work = Generator[Update, None, R]


def train(settings: TrainSettings, stop: StopRequest) -> Work[Learned]:
    """Train as ``septum train`` does.

    Raises
    ------
    SeptumError
        As the training; UsageError if another job runs.
    """
    found = _Found()
    with closing(_follow(run_training(settings, stop=stop), found, None)) as updates:
        yield from updates
    match found.ended:
        case Trained(model, scores, steps, seconds):
            words = format_scores(scores) or "no image was held out, so there is no score"
            return Learned(model, f"trained: {words}; {steps} steps, {format_seconds(seconds)}", found.report)
        case Stopped(step, folder):
            return Learned(None, f"stopped after step {step}; the state is saved in {folder}")
    return Learned(None, "stopped")


def predict(settings: PredictSettings, stop: StopRequest) -> Work[PredictedFile]:
    """Predict one image as ``septum predict`` does, tile by tile, and block by block if it is large.

    Raises
    ------
    SeptumError
        If the image or the model are wrong; UsageError if another job runs.
    """
    found = _Found()
    with closing(_follow(predict_files(settings), found, stop)) as updates:
        yield from updates
    if isinstance(found.ended, ImageDone):
        done = found.ended
        objects = "" if done.objects is None else f"{done.objects} objects, "
        return PredictedFile(done.output, f"{objects}{format_seconds(done.seconds)}")
    return PredictedFile(None, "stopped")


def rank(settings: SuggestSettings, stop: StopRequest) -> Work[Suggested | None]:
    """Rank images, frames and sections by how unsure the model is, as ``septum suggest`` does; None if stopped.

    Raises
    ------
    SeptumError
        As the ranking; UsageError if another job runs.
    """
    found = _Found()
    with closing(_follow(suggest(settings), found, stop)) as updates:
        yield from updates
    return found.ended if isinstance(found.ended, Suggested) else None


def _follow(events: Iterable[Event], found: _Found, stop: StopRequest | None) -> Generator[Update, None, None]:
    """Run a job to its end, or to a stop if the job itself does not poll one; yield updates, not too many."""
    if not _one_job.acquire(blocking=False):
        raise UsageError("another job of Septum runs", "one at a time", "wait for its end, or stop it")
    shown = 0.0
    try:
        for event in events:
            if stop is not None and stop.requested:
                return
            _remember(event, found)
            update = describe(event)
            often = isinstance(event, Step | TileDone | BlockDone)
            if update is None or (often and time.monotonic() - shown < _EVERY_S):
                continue
            shown = time.monotonic()
            yield update
    finally:
        close: Callable[[], object] | None = getattr(events, "close", None)
        if close is not None:
            close()
        _one_job.release()


def _remember(event: Event, found: _Found) -> None:
    match event:
        case Trained() | Stopped() | ImageDone() | Suggested():
            found.ended = event
        case ReportWritten(path):
            found.report = path


def describe(event: Event) -> Update | None:
    """Return what an event tells a person; None for an event that needs no words."""
    match event:
        case Working(text):
            return Update(text)
        case Warned(text):
            return Update(warning=text)
        case Opened(_, str(words)):
            return Update(words)
        case Checked(report):
            warnings = [line.removeprefix(_WARNING) for line in report.lines() if line.startswith(_WARNING)]
            return Update("the data was checked", warning="\n".join(warnings))
        case Planned(lines):
            return Update(lines[0] if lines else "planned")
        case Step(step, total, loss):
            return Update(f"step {step} of {total}, loss {loss:.3f}", min(1.0, step / max(1, total)), (step, loss))
        case Validated(step, _, scores):
            return Update(f"step {step}: held-out images {format_scores(scores)}")
        case ImageStarted(path):
            return Update(f"predicting {path.name}", 0.0)
        case TileDone(_, tile, tiles):
            return Update(f"tile {tile} of {tiles}", tile / (tiles + 1))
        case BlockDone(_, stage, done, blocks):
            return Update(f"{stage}: block {int(done)} of {blocks}", done / max(1, blocks))
        case ImageFailed(path, message):
            return Update(warning=f"{path.name}: {message}")
        case Judged(path, index, count, done, total):
            return Update(f"{path.name}: {done} of {total}", (index + done / total) / count)
    return None
