"""Run several trainings, one after the other, as one run: folds, seeds, parts of the training images.

::

    RUN/settings.json, plan.json    as of a single run
    RUN/fold-1/, fold-2/ ...        a run folder each; see `septum.training.run_folder`
    RUN/scores.json                 scores of the resulting model
    RUN/model.safetensors           the resulting model

`run_series` is the driver of every kind. A kind defines the trainings (`Outline`) and the work after the last of
them (`septum.experiments.ensemble.finish_ensemble`, or the learning curve). All follow the plan of the first training.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from septum.check.check import check_data
from septum.check.samples import LoadedData, fingerprint, load_data
from septum.errors import ModelError, UsageError
from septum.events import Event, Warned
from septum.experiments.events import PartStarted, PartTrained
from septum.nn.device import report_memory_shortage
from septum.pairing.sample import Sample
from septum.prediction.model import open_model
from septum.report.collect import TrainingLog, observe, rebuilt_command
from septum.report.summary import RunReport, has_report
from septum.settings import MaskKind
from septum.training.distributed import Processes, described_processes
from septum.training.events import Checked, Planned, Stopped, Trained
from septum.training.interrupt import StopRequest
from septum.training.loop import train
from septum.training.planner import memory_for_images
from septum.training.run_folder import RunFolder, is_begun, is_trained, read_plan_file
from septum.training.settings import MEMORY_ADVICE, SplitSettings, TrainSettings
from septum.training.split import Split, require_objects

# Share of a budget that is reserved for the predictions after the last training: until the report of the first training
# has shown how long a prediction takes, and at most.
_FIRST_RESERVE, _MOST_RESERVE = 0.12, 0.25
# Shares of a budget for tuning on all held-out images, and for the report.
_TUNING, _REPORT = 0.04, 0.03


@dataclass(frozen=True)
class SeriesPart:
    """One training of a series: the name of its folder, its title, and where its settings differ from the others."""

    folder: str
    title: str
    split: SplitSettings
    seed: int


@dataclass(frozen=True)
class Outline:
    """The trainings of a series.

    Attributes
    ----------
    parts : sequence of SeriesPart
        The trainings, in order.
    splits : sequence of Split
        The images of each training; of a part of the training images, all of them.
    sentence : str
        Description of the trainings, for `Planned`.
    predictions : int
        Number of predictions of held-out images after the last training, for the time that they need.
    """

    parts: Sequence[SeriesPart]
    splits: Sequence[Split]
    sentence: str
    predictions: int


@dataclass
class TimeBudget:
    """The time of a series: each training gets an equal share of the time left after a reserve for the predictions.

    Parameters
    ----------
    total_s
        Seconds of the whole run; None without a budget.
    begin
        Start of this session, of `time.monotonic`.
    """

    total_s: float | None
    begin: float = field(default_factory=time.monotonic)
    earlier_s: float = 0.0
    reserved_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.reserved_s = _FIRST_RESERVE * (self.total_s or 0.0)

    @property
    def spent_s(self) -> float:
        """Seconds since the run began, all its sessions together."""
        return time.monotonic() - self.begin + self.earlier_s

    @property
    def left_s(self) -> float | None:
        """Seconds of the budget that are left; None without a budget."""
        return None if self.total_s is None else self.total_s - self.spent_s

    @property
    def tuning_s(self) -> float | None:
        """Seconds for tuning on the held-out images; None without a budget."""
        return None if self.total_s is None else _TUNING * self.total_s

    @property
    def report_s(self) -> float:
        """Seconds for the report; 0 without a budget."""
        return _REPORT * (self.total_s or 0.0)

    def share_s(self, parts_left: int) -> float | None:
        """Return the seconds of the next training when `parts_left` are left to do; None without a budget."""
        if self.left_s is None:
            return None
        return max(1.0, int((self.left_s - self.reserved_s) / parts_left * 10) / 10)

    def reserve(self, predictions: int, prediction_s: float) -> None:
        """Reserve the time of a number of predictions, of which each takes `prediction_s` seconds."""
        if self.total_s is not None:
            wanted = 1.2 * prediction_s * predictions + (_TUNING + _REPORT) * self.total_s
            self.reserved_s = min(wanted, _MOST_RESERVE * self.total_s)


@dataclass(frozen=True)
class Series:
    """A run of several trainings: settings, folder, data, trainings, time, and the log for its report.

    Parameters
    ----------
    settings
        Settings of the run; `steps` are those of each training, `budget_s` is the time of all.
    folder
        The run folder, held by this process.
    loaded
        The annotated images.
    outline
        The trainings.
    command
        Command line that repeats the run.
    budget
        Its time.
    log
        Content of the events so far.
    """

    settings: TrainSettings
    folder: RunFolder
    loaded: LoadedData
    outline: Outline
    command: str
    budget: TimeBudget
    log: TrainingLog

    def part_folder(self, part: SeriesPart) -> Path:
        """Return the run folder of a training."""
        return self.settings.out / part.folder

    def held_out(self, part: SeriesPart) -> list[Sample]:
        """Return the samples that a finished training held out, as its ``plan.json`` names them.

        Raises
        ------
        FileError
            If the file cannot be read.
        """
        names = set(read_plan_file(self.part_folder(part)).get("held_out", []))
        return [sample for sample in self.loaded.samples if sample.name in names]

    def require_objects(self) -> None:
        """Refuse the series if a training of it that is not finished has no object to train on.

        Raises
        ------
        DataError
            If masks hold objects and no image to train on holds one.
        """
        if self.loaded.report.rules.kind == "objects":
            for part, chosen in zip(self.outline.parts, self.outline.splits, strict=True):
                if not is_trained(self.part_folder(part)):
                    require_objects(self.loaded.samples, chosen, part.split)

    def require_same_held_out(self) -> None:
        """Refuse to train if begun trainings held out other images than this version of Septum does.

        Changed data are left to the trainings, which name the images.

        Raises
        ------
        UsageError
            If other images were held out.
        FileError
            If a file of a begun training is damaged.
        """
        folders, data = [self.part_folder(part) for part in self.outline.parts], fingerprint(self.loaded.images)
        if all(is_trained(folder) for folder in folders):
            return
        for path, chosen in zip(folders, self.outline.splits, strict=True):
            if is_begun(path) and (run := RunFolder(path)).read_settings().get("data_fingerprint") == data:
                run.check_held_out([self.loaded.samples[i].name for i in chosen.held_out])

    def warn(self, text: str) -> Warned:
        """Note a warning for the report and return its event."""
        self.log.warnings.append(text)
        return Warned(text)

    def finished(self) -> Trained | None:
        """Return the result of an earlier start that completed the run, report included; None if none did."""
        try:
            header = open_model(self.folder.model, self.settings.device).header
        except ModelError:
            return None
        training = header.training
        if training.get("data_fingerprint") != fingerprint(self.loaded.images):
            return None
        if not has_report(self.folder.path):
            return None
        steps, seconds = int(training.get("steps", 0)), float(training.get("seconds", 0.0))
        return Trained(self.folder.model, header.scores, steps, seconds)

    def train_parts(self, stop: StopRequest) -> Generator[Event, None, list[Trained] | None]:
        """Do every training, or resume it; return their results, or None if a stop was requested.

        Yields
        ------
        For each training PartStarted, the events of `septum.report.collect.observe` except Checked and Trained, and
        PartTrained. Planned of the second and later trainings has its first line only: the plan is the same.
        """
        done: list[Trained] = []
        for index, part in enumerate(self.outline.parts):
            yield PartStarted(part.title, index, len(self.outline.parts), part.folder)
            before = self.budget.spent_s
            settings = self._settings_of(part, len(self.outline.parts) - index)
            if index:
                self._share_plan(settings.out)
            result: Trained | None = None
            for event in observe(settings, train(settings, stop, loaded=self.loaded), again=self.command):
                match event:
                    case Checked():
                        continue
                    case Trained():
                        result = event
                        continue
                    case Planned(lines) if index:
                        yield Planned(lines[:1])
                        continue
                    case RunReport(timing={"predict_image_s": float(seconds)}):
                        self.budget.reserve(self.outline.predictions, seconds)
                self.log.add(event)
                yield event
                if isinstance(event, Stopped):
                    return None
            assert result is not None
            # Of a training of earlier sessions also the time that they took counts.
            self.budget.earlier_s += max(0.0, result.seconds - (self.budget.spent_s - before))
            done.append(result)
            yield PartTrained(part.title, result)
        return done

    def _settings_of(self, part: SeriesPart, parts_left: int) -> TrainSettings:
        """Return the settings of a training; a resumed one keeps the time of its first start."""
        changes: dict[str, Any] = {"out": self.part_folder(part), "seed": part.seed, "split": part.split}
        if self.settings.budget_s is not None:
            before = RunFolder(self.part_folder(part)).read_settings().get("budget_s")
            changes["budget_s"] = before if isinstance(before, float) else self.budget.share_s(parts_left)
        return self.settings.model_copy(update=changes)

    def _share_plan(self, folder: Path) -> None:
        """Copy the plan of the first training into the folder of another one that has none."""
        if not (folder / "plan.json").exists():
            RunFolder(folder).write_json("plan.json", read_plan_file(self.part_folder(self.outline.parts[0])))


@dataclass(frozen=True)
class SeriesKind:
    """A kind of series: folds, seeds or a learning curve.

    Attributes
    ----------
    name, value : str, int or bool
        The request, as ``settings.json`` holds it: ``"folds"``, 5.
    command, options : sequence of str
        The words of the command that asks for it: ``("experiment", "seeds")``, ``("--count", "5")``.
    outline : callable
        Returns the trainings on the given samples, whose masks have this meaning; raises `SeptumError` if there are too
        few.
    finish : callable
        Yields the events after the last training, Trained at the end.
    """

    name: str
    value: int | bool
    command: Sequence[str]
    options: Sequence[str]
    outline: Callable[[Sequence[Sample], MaskKind], Outline]
    finish: Callable[[Series, Sequence[Trained]], Iterator[Event]]

    def command_line(self, settings: TrainSettings) -> str:
        """Return the command line that repeats a run of these settings."""
        return rebuilt_command(settings, self.command, self.options)


def run_series(settings: TrainSettings, kind: SeriesKind, stop: StopRequest | None = None) -> Iterator[Event]:
    """Check and load the data, do the trainings, and finish the run; the same call resumes a stopped run.

    Parameters
    ----------
    settings
        Settings of the run; a time budget is shared out, `steps` are those of each training.
    kind
        Which trainings, and what follows them.
    stop
        Polled between steps and held-out images; if a stop is requested, the training saves its state and the run ends.

    Yields
    ------
    Checked, Planned, the events of `Series.train_parts`, and those of `kind.finish`; Stopped is the last of a run that
    was stopped.

    Raises
    ------
    SeptumError
        As `septum.training.loop.train`; if there are too few images for the trainings; or in one of several processes.
    """
    budget, log = TimeBudget(settings.budget_s), TrainingLog()
    if described_processes().world > 1:
        raise UsageError(
            f"several processes for {shlex.join(['septum', *kind.command, *kind.options])}",
            "one process, because each training of this command has one",
            "start it without torchrun or srun; start one run for each GPU to use several",
        )
    with report_memory_shortage("this training", MEMORY_ADVICE):
        folder = RunFolder(settings.out, parts=True)
        with folder.lock() as warning:
            if warning:
                yield Warned(warning)
            report = check_data(settings, memory_for_images(settings, Processes()))
            yield Checked(report)
            log.add(Checked(report))
            loaded = load_data(report)
            outline = kind.outline(loaded.samples, report.rules.kind)
            series = Series(settings, folder, loaded, outline, kind.command_line(settings), budget, log)
            series.require_objects()
            folder.check_same_settings(settings, {}, {kind.name: kind.value})
            series.require_same_held_out()
            yield Planned((outline.sentence,))
            trained = yield from series.train_parts(stop or StopRequest())
            if trained is not None:
                yield from kind.finish(series, trained)
