"""One entry for all trainings: the requested kind, with its report and its log."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from septum.cli.main import main
from septum.errors import DataError, FileError, UsageError
from septum.events import Warned
from septum.experiments import cross_validation, learning_curve, seeds
from septum.experiments.events import PartTrained, ReportWritten, SeedsCompared
from septum.experiments.run import run_training
from septum.experiments.series import SeriesKind, run_series
from septum.report.summary import RunReport
from septum.training.events import Step, Stopped, Trained
from septum.training.interrupt import StopRequest
from septum.training.settings import TrainSettings


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    small = {"steps": 3, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}
    return TrainSettings.model_validate({"data": (data,), "out": out, **small, **changes})


class Log:
    """A tracker that keeps the last step of each training."""

    name = "Log"

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.outcome = ""

    def begin(self, part: str, **_: Any) -> None:
        self.part = part

    def log(self, step: int, values: dict[str, float]) -> None:
        self.steps[self.part] = step

    def end(self, outcome: str, files: Any = ()) -> None:
        self.outcome = outcome


KINDS: dict[str, Callable[[TrainSettings], Iterator[Any]]] = {
    "septum train --folds 5": lambda settings: cross_validation.train_folds(settings, 5),
    "septum experiment seeds --count 4": lambda settings: seeds.train_seeds(settings, 4),
    "septum experiment learning-curve": learning_curve.train_curve,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainSettings, SeriesKind]]:
    """Settings and kinds of the series that were asked for; none is trained."""
    found: list[tuple[TrainSettings, SeriesKind]] = []
    for module in (cross_validation, seeds, learning_curve):
        monkeypatch.setattr(module, "run_series", lambda settings, kind, _: found.append((settings, kind)) or iter(()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_of_each_kind_repeats_its_run(
    kind: str, asked: list[tuple[TrainSettings, SeriesKind]], tmp_path: Path
) -> None:
    settings = _settings(tmp_path / "it's", tmp_path / "a run", seed=3)
    list(KINDS[kind](settings))
    (_, first) = asked.pop()
    with pytest.raises(SystemExit) as left:
        main(shlex.split(first.command_line(settings))[1:])
    assert not left.value.code
    again, second = asked.pop()
    assert (again, second.name, second.value) == (settings, first.name, first.value)


@pytest.mark.parametrize("kind", KINDS)
def test_several_processes_are_refused_by_the_name_of_the_command(
    kind: str, asked: list[tuple[TrainSettings, SeriesKind]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MASTER_ADDR": "localhost", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    list(KINDS[kind](_settings(tmp_path / "data", tmp_path / "run")))
    with pytest.raises(UsageError, match=f"several processes for {kind}\n") as refused:
        next(run_series(*asked.pop()))
    assert "without torchrun or srun" in str(refused.value) and "--devices" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_single_training_writes_its_report_and_its_log(disks: Path, tmp_path: Path) -> None:
    log = Log()
    events = list(run_training(_settings(disks, tmp_path), trackers=[log]))
    assert [e for e in events if isinstance(e, ReportWritten)] == [ReportWritten(tmp_path / "report.html")]
    assert "<html" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 3
    assert not any(isinstance(e, RunReport) for e in events)
    assert sum(isinstance(e, Trained) for e in events) == 1
    assert (log.steps, log.outcome) == ({"": 3}, "finished")
    again = list(run_training(_settings(disks, tmp_path)))
    assert not any(isinstance(e, Step | ReportWritten) for e in again)


def test_several_trainings_have_a_report_each_and_one_of_the_run(disks: Path, tmp_path: Path) -> None:
    log = Log()
    events = list(run_training(_settings(disks, tmp_path), seeds=2, trackers=[log]))
    folders = [e.path.parent for e in events if isinstance(e, ReportWritten)]
    assert folders == [tmp_path / "seed-0", tmp_path / "seed-1", tmp_path]
    assert sum(isinstance(e, PartTrained) for e in events) == 2
    assert isinstance(events[-2], SeedsCompared) and isinstance(events[-1], Trained)
    assert log.steps == {"seed-0": 3, "seed-1": 3, "": 6}


def test_a_report_that_was_deleted_comes_back(disks: Path, tmp_path: Path) -> None:
    def written_again(out: Path, **kind: int) -> list[Path]:
        events = list(run_training(_settings(disks, out, steps=1), **kind))  # type: ignore[arg-type]
        assert isinstance(events[-1], Trained | ReportWritten)
        return [event.path for event in events if isinstance(event, ReportWritten)]

    single, series = tmp_path / "single", tmp_path / "series"
    assert written_again(single) and len(written_again(series, seeds=2)) == 3
    for name in ("report.html", "metrics.json"):
        (single / name).unlink()
        assert written_again(single) == [single / "report.html"]
        assert (single / name).exists() and written_again(single) == []
        for folder in (series / "seed-1", series):
            (folder / name).unlink()
            assert written_again(series, seeds=2) == [folder / "report.html"]
            assert (folder / name).exists()
    assert written_again(series, seeds=2) == []


def test_folds_stop_between_two_trainings(disks: Path, tmp_path: Path) -> None:
    stop, events = StopRequest(), []
    for event in run_training(_settings(disks, tmp_path), folds=2, stop=stop):
        events.append(event)
        if isinstance(event, PartTrained):
            stop.request()
    assert [e.title for e in events if isinstance(e, PartTrained)] == ["fold 1 of 2"]
    assert isinstance(events[-1], Stopped)


def test_a_learning_curve_of_few_images_is_refused(disks: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a learning curve with 4 images for training and 1 held out"):
        list(run_training(_settings(disks, tmp_path), learning_curve=True))


def test_two_kinds_at_once_are_refused(disks: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folds and learning_curve"):
        list(run_training(_settings(disks, tmp_path / "run"), folds=2, learning_curve=True))
    assert not (tmp_path / "run").exists()


def test_a_report_that_cannot_be_written_is_a_warning(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: RunReport) -> Path:
        raise FileError("report.html: no space left", "a disk with room")

    monkeypatch.setattr("septum.experiments.run.write_page", fail)
    events = list(run_training(_settings(disks, tmp_path, steps=1)))
    assert any(isinstance(e, Warned) and e.text.startswith("no report of this run: ") for e in events)
    assert any(isinstance(e, Trained) for e in events)


def test_settings_with_options_import_nothing_heavy() -> None:
    modules = ["experiments", "review", "reproduce", "demo"]
    code = "; ".join(["import sys", *(f"import septum.{name}.settings" for name in modules)])
    heavy = "{'torch', 'scipy', 'skimage', 'numba', 'zarr', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{code}; print({heavy})"], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
