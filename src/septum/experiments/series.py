"""Several trainings as one run, one after the other, each in a folder of its own: folds, seeds, parts of the data.

::

    RUN/settings.json, plan.json    as of a single run
    RUN/fold-1/, fold-2/ ...        a run folder each; see `septum.train.run_folder`
    RUN/scores.json                 the scores of all together
    RUN/model.safetensors           the result

All follow one plan, that of the first. The time budget is shared out in equal parts of what is left, after what is done
with the trained networks at the end.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from septum.check.samples import LoadedData, Sample
from septum.errors import UsageError
from septum.events import Warned
from septum.experiments.events import PartStarted, PartTrained
from septum.report.collect import TrainingLog, observe
from septum.report.summary import RunReport
from septum.train.distributed import described_processes
from septum.train.events import Checked, Planned, Stopped, Trained
from septum.train.interrupt import StopRequest
from septum.train.loop import train
from septum.train.run_folder import RunFolder, read_plan_file
from septum.train.settings import SplitSettings, TrainSettings

# Share of a budget that is kept for the end until the first training has shown how long predictions take, and the most
# that is kept for them at all.
_END, _MOST_END = 0.12, 0.25
# Of a budget: tuning on all held-out images, and the report.
_TUNING, _REPORT = 0.04, 0.03


@dataclass(frozen=True)
class SeriesPart:
    """One training of a series: the name of its folder, its title, and where it differs from the others."""

    folder: str
    title: str
    split: SplitSettings
    seed: int


@dataclass
class Series:
    """The trainings of a run and their time.

    Parameters
    ----------
    settings
        Of the run; `steps` are those of each training, `budget_s` is that of all.
    parts
        The trainings, in order.
    again
        The command that repeats the run.
    ends
        Held-out images that are predicted at the end.
    """

    settings: TrainSettings
    parts: Sequence[SeriesPart]
    again: str
    ends: int
    seen: TrainingLog = field(default_factory=TrainingLog)
    _begin: float = field(default_factory=time.monotonic)
    _earlier_s: float = 0.0
    _reserved_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the run began, all sessions together."""
        return time.monotonic() - self._begin + self._earlier_s

    @property
    def seconds_left(self) -> float | None:
        """Seconds of the budget that are left; None without a budget."""
        return None if self.settings.budget_s is None else self.settings.budget_s - self.seconds

    @property
    def tuning_s(self) -> float | None:
        """Seconds that tuning at the end may take; None without a budget."""
        return None if self.settings.budget_s is None else _TUNING * self.settings.budget_s

    @property
    def report_s(self) -> float:
        """Return the seconds that the report at the end may take; 0 without a budget."""
        return _REPORT * (self.settings.budget_s or 0.0)

    def folder(self, part: SeriesPart) -> Path:
        """Return the run folder of a part."""
        return self.settings.out / part.folder

    def held_out(self, part: SeriesPart, loaded: LoadedData) -> list[Sample]:
        """Return the images that a training held out, by what it wrote itself.

        Raises
        ------
        FileError
            If its plan cannot be read.
        """
        names = set(read_plan_file(self.folder(part)).get("held_out", []))
        return [sample for sample in loaded.samples if sample.name in names]

    def trainings(self, loaded: LoadedData, stop: StopRequest) -> Generator[Any, None, list[Trained] | None]:
        """Train every part, or go on where it was stopped; return what came of them, None where `stop` was asked for.

        Yields
        ------
        PartStarted, the records of `septum.report.collect.observe` but Checked and Trained, and PartTrained for each
        part. The plan is said once.
        """
        self._reserved_s = _END * (self.settings.budget_s or 0.0)
        done: list[Trained] = []
        for index, part in enumerate(self.parts):
            yield PartStarted(part.title, index, len(self.parts), part.folder)
            before = self.seconds
            settings = self._settings(part, len(self.parts) - index)
            if index:
                self._share_plan(settings.out)
            last: Trained | None = None
            for record in observe(settings, train(settings, stop, loaded=loaded), again=self.again):
                said = self._said(record, first=index == 0)
                if isinstance(record, Trained):
                    last = record
                elif said is not None:
                    if index == 0 or not isinstance(said, Planned):
                        self.seen.hear(said)
                    yield said
                if isinstance(record, Stopped):
                    return None
            assert last is not None
            self._earlier_s += max(0.0, last.seconds - (self.seconds - before))
            done.append(last)
            yield PartTrained(part.title, last)
        return done

    def _settings(self, part: SeriesPart, left: int) -> TrainSettings:
        """Return the settings of a part; its time is what it was at its first start."""
        asked: dict[str, Any] = {"out": self.folder(part), "seed": part.seed, "split": part.split}
        if self.settings.budget_s is not None:
            before = RunFolder(self.folder(part)).read_settings().get("budget_s")
            share = (self.settings.budget_s - self.seconds - self._reserved_s) / left
            asked["budget_s"] = before if isinstance(before, float) else max(1.0, int(share * 10) / 10)
        return self.settings.model_copy(update=asked)

    def _share_plan(self, folder: Path) -> None:
        """Let a part begin with the plan of the first."""
        if not (folder / "plan.json").exists():
            RunFolder(folder).write_json("plan.json", read_plan_file(self.folder(self.parts[0])))

    def _said(self, record: Any, *, first: bool) -> Any:
        """Return what is passed on of a record; None for what was said before."""
        match record:
            case Checked():
                return None
            case Planned(lines) if not first:
                return Planned(lines[:1])
            case RunReport(timing={"predict_image_s": float(one)}) if self.settings.budget_s is not None:
                wanted = 1.2 * one * self.ends + (_TUNING + _REPORT) * self.settings.budget_s
                self._reserved_s = min(wanted, _MOST_END * self.settings.budget_s)
        return record


def several_processes(what: str) -> UsageError:
    """Return the error that says that a series trains in one process."""
    return UsageError(
        f"{what} with several processes",
        "one process",
        f"leave --devices out, and start one run for each GPU, or train without {what}",
    )


def refuse_processes(what: str) -> None:
    """Raise `UsageError` in one of several processes: a series trains in one process."""
    if described_processes().world > 1:
        raise several_processes(what)


@contextmanager
def held(settings: TrainSettings) -> Iterator[tuple[RunFolder, list[Warned]]]:
    """Hold the folder of a series.

    Yields
    ------
    The folder, and what a person should know.

    Raises
    ------
    UsageError
        If another process trains there.
    FileError
        If it cannot be written.
    """
    folder = RunFolder(settings.out, parts=True)
    with folder.lock() as warning:
        yield folder, [Warned(warning)] if warning else []


def claim(folder: RunFolder, settings: TrainSettings, kind: str, value: int | bool) -> None:
    """See that an earlier start asked for the same; the data are compared by each training."""
    folder.check_same_settings(settings, {}, {kind: value})
