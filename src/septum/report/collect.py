"""Collect the report of a run while it trains and at its end.

The report shows what the finished model predicts of held-out images. Those whose objects the training has tuned are not
predicted again; the others are, by the same code as ``septum predict``.
"""

from __future__ import annotations

import math
import platform
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.check.check import Report
from septum.errors import FileError, SeptumError
from septum.events import Warned
from septum.prediction.memory import peak_bytes
from septum.prediction.model import Model, open_model
from septum.report.events import Reporting
from septum.report.gallery import Gallery, ScoredSample, estimates, shown
from septum.report.plots import read_log
from septum.report.summary import RunReport, has_report, object_figures, reliability, remarks
from septum.training.events import Checked, Maps, Planned, Step, Trained
from septum.training.run_folder import read_plan_file
from septum.training.settings import TrainSettings, command_line

# Seconds that drawing the page takes, and the least that predictions for it may take.
_DRAWING_S, _LEAST_S = 1.0, 1.0
# Without a time budget, predictions for the report take at most this share of the training, or this many seconds.
_SHARE, _MOST_S = 0.05, 60.0


@dataclass
class TrainingLog:
    """Collect the content of a report from the events of a training.

    Attributes
    ----------
    report
        Report of the check of the data.
    planned
        Sentences of the plan.
    warnings
        Warnings, in order.
    stepped
        True if this process did a training step.
    predicted
        Maps that objects were tuned on (`septum.training.events.Maps`).
    trained
        The last event of a finished training.
    """

    report: Report | None = None
    planned: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    stepped: bool = False
    predicted: Mapping[str, tuple[NDArray[np.float16], float]] = field(default_factory=dict)
    trained: Trained | None = None

    @property
    def device(self) -> str:
        """Return the device and the reason for it; ``""`` if the plan does not say."""
        return next((line.removeprefix("device: ") for line in self.planned if line.startswith("device: ")), "")

    def add(self, event: object) -> None:
        """Keep the content of an event."""
        match event:
            case Checked(report):
                self.report = report
            case Planned(lines):
                self.planned = lines
            case Warned(text):
                self.warnings.append(text)
            case Step():
                self.stepped = True
            case Maps(predicted):
                self.predicted = predicted
            case Trained():
                self.trained = event


def observe(settings: TrainSettings, training: Iterable[Any], *, again: str = "") -> Iterator[Any]:
    """Yield the events of a training, then those of its report.

    Parameters
    ----------
    settings
        Settings of the training.
    training
        Events of `septum.training.loop.train`; others may be among them.
    again
        Command that repeats the run, if not `rebuilt_command` of the settings.

    Yields
    ------
    The events; after the last one of a finished training `Reporting` and `RunReport`, or `Warned` if no report can be
    made. A run that has its report (`septum.report.summary.has_report`) does not get another one.
    """
    log = TrainingLog()
    for event in training:
        if not isinstance(event, Maps):  # these are large, and only for the report
            yield event
        log.add(event)
    if log.trained is None or log.report is None:
        return
    if not log.stepped and has_report(settings.out):
        return
    try:
        yield from _collect(settings, log, log.report, log.trained, again)
    except (SeptumError, MemoryError) as error:
        # The model is complete, and the user asked for the model.
        yield Warned(f"no report of this run: {str(error) or 'not enough memory'}")


def _collect(
    settings: TrainSettings, log: TrainingLog, report: Report, trained: Trained, again: str
) -> Iterator[Reporting | Warned | RunReport]:
    begin = time.monotonic()
    names = [str(name) for name in read_plan_file(settings.out).get("held_out", [])]
    yield Reporting(settings.out, sum(name not in log.predicted for name in shown(names)))
    gallery = Gallery(open_model(trained.model, settings.device), log.predicted)
    for problem in gallery.fill(report, names, _seconds_left(settings, trained)):
        log.warnings.append(problem)
        yield Warned(problem)
    yield build_report(settings, log, gallery, begin=begin, again=again)


def build_report(
    settings: TrainSettings, log: TrainingLog, gallery: Gallery, *, begin: float, again: str = "", note: str = ""
) -> RunReport:
    """Build the report of a finished run.

    Parameters
    ----------
    settings
        Settings of the run; its folder holds ``plan.json``.
    log
        Log of the training, with the report of the check and the end of the training.
    gallery
        The scored held-out images.
    begin
        Time of `time.monotonic` at which collecting began.
    again
        Command that repeats the run, if not `rebuilt_command` of the settings.
    note
        Note on the images that the scores are of, if they are more than held-out images.

    Raises
    ------
    FileError
        If the plan cannot be read.
    """
    assert log.report is not None and log.trained is not None
    stored, report, trained, model = read_plan_file(settings.out), log.report, log.trained, gallery.model
    header, images = model.header, gallery.images
    values = header.class_values
    result = RunReport(
        folder=settings.out,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        kind=header.kind,
        class_values=values,
        facts=tuple(line for line in report.lines() if not line.startswith(("error: ", "warning: ", "mended: "))),
        findings=tuple((f.severity, f.line()) for f in report.issues),
        split=log.planned[0] if log.planned else "",
        reasons=tuple(str(reason) for reason in stored.get("reasons", [])),
        plan=header.training.get("plan", {}),
        device=log.device or model.device.name,
        warnings=tuple(log.warnings),
        steps=trained.steps,
        best_step=int(header.training.get("best_step", 0)),
        seconds=trained.seconds,
        budget_s=settings.budget_s,
        held_out=len(stored.get("held_out", [])),
        start_scores=header.training.get("start_scores", {}),
        model_scores=trained.scores,
        scores=estimates(images, header.kind, values=values, seed=settings.seed) if images else {},
        images=tuple(gallery.lines()),
        worst=tuple(gallery.worst),
        best=tuple(gallery.best),
        objects=object_figures(images) if images and header.kind == "objects" else None,
        reliability=reliability(images) if images else None,
        timing=_timing(settings.out, trained, images, begin),
        memory=_memory(model, measured=log.stepped),
        versions=_versions(model),
        command=again or rebuilt_command(settings),
        seed=settings.seed,
        fingerprint=str(header.training.get("data_fingerprint", "")),
        note=note,
    )
    return replace(result, remarks=tuple(remarks(result)))


def _seconds_left(settings: TrainSettings, trained: Trained) -> float:
    """Return the seconds that predictions of held-out images may take for the report."""
    if settings.budget_s is None:
        return max(_MOST_S, _SHARE * trained.seconds)
    return max(_LEAST_S, settings.budget_s - trained.seconds - _DRAWING_S)


def _timing(folder: Path, trained: Trained, images: Sequence[ScoredSample], begin: float) -> dict[str, float | None]:
    """Return the seconds of the training, of a step, of the prediction of an image, and of collecting the report."""
    try:
        seconds = read_log(folder / "log.csv").get("seconds", np.zeros(0))
    except FileError:
        seconds = np.zeros(0)  # with a damaged log only this figure is missing
    steps = np.diff(seconds)
    steps = steps[steps > 0]
    timed = [image for image in images if math.isfinite(image.seconds)]
    return {
        "training_s": trained.seconds,
        **{f"{activity}_s": seconds for activity, seconds in trained.activities_s.items()},
        "in_steps": trained.activities_s["steps"] / trained.seconds if trained.activities_s.get("steps") else None,
        "step_s": float(np.median(steps)) if steps.size else None,
        "predict_image_s": float(np.median([i.seconds for i in timed])) if timed else None,
        "predict_mpixel_per_s": _speed(timed),
        "report_s": time.monotonic() - begin,
    }


def _speed(images: Sequence[ScoredSample]) -> float | None:
    spent = sum(i.seconds for i in images)
    return sum(math.prod(i.sides) for i in images) / 1e6 / spent if spent > 0 else None


def _memory(model: Model, *, measured: bool) -> dict[str, int | None]:
    """Return the peak memory of this process and of the GPU; None if another process trained, or no GPU did."""
    import torch

    gpu = None
    if measured and model.device.torch.type == "cuda":
        gpu = int(torch.cuda.max_memory_allocated(model.device.torch))
    return {"peak_bytes": peak_bytes() if measured else None, "gpu_peak_bytes": gpu}


def _versions(model: Model) -> dict[str, str]:
    made = model.header.training
    return {
        "septum": str(made.get("septum", "")),
        "torch": str(made.get("torch", "")),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": model.device.name,
    }


def rebuilt_command(settings: TrainSettings, command: Sequence[str] = ("train",), options: Sequence[str] = ()) -> str:
    """Return the command line that repeats a training, quoted for a POSIX shell.

    Parameters
    ----------
    settings
        Settings of the training.
    command, options
        Words before and after those of the settings: ``("experiment", "seeds")`` and ``("--count", "5")``.
    """
    return shlex.join(["septum", *command, *command_line(settings), *options])
