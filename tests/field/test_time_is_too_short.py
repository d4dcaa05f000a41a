"""A budget in which nothing can be learned; a finished run that is started again; silence in long work."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import septum
from septum.errors import SeptumWarning, UsageError
from septum.events import Warned, Working
from septum.progress import Display, Progress, show_training
from septum.report.events import Reporting
from septum.training.events import Step
from septum.training.loop import train
from septum.training.schedule import FEWEST_STEPS, TIMED_STEPS, Schedule, short_budget
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer

Data = Callable[..., Path]
SMALL: dict[str, Any] = {"width": 1, "depth": 1, "batch": 1, "device": "cpu"}


def ids(_: int, mask: np.ndarray, __: Path) -> np.ndarray:
    return mask.astype(np.uint16)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def spend(clock: list[float], *, prepared_s: float, budget_s: float | None, steps: int) -> str:
    schedule = Schedule(None if budget_s else steps, budget_s)
    clock[0] += prepared_s
    for step in range(1, steps + 1):
        schedule.start_step()
        clock[0] += 0.5
        schedule.finish_step(step)
    return short_budget(schedule, steps, prepared_s=prepared_s)


def test_a_budget_of_a_few_steps_is_said_to_teach_next_to_nothing(clock: list[float]) -> None:
    assert spend(clock, prepared_s=1, budget_s=3, steps=4) == (
        "the model has learned next to nothing: 4 steps fitted into 3 s; give --budget 4m or more, or --steps 300"
    )


def test_preparing_that_took_most_of_a_budget_is_named(clock: list[float]) -> None:
    assert spend(clock, prepared_s=58, budget_s=60, steps=1) == (
        "the model has learned next to nothing: 1 step fitted into 60 s; preparing the data took 58 s; "
        "give --budget 5m or more, or --steps 300"
    )


def test_enough_steps_and_a_number_of_steps_are_no_reason(clock: list[float]) -> None:
    assert spend(clock, prepared_s=1, budget_s=60, steps=FEWEST_STEPS) == ""
    assert spend(clock, prepared_s=1, budget_s=None, steps=2) == ""


def test_a_budget_that_is_too_short_is_named_as_soon_as_some_steps_were_timed(clock: list[float]) -> None:
    schedule = Schedule(None, 10.0)
    clock[0] += 1
    for step in range(1, 4):
        schedule.start_step()
        clock[0] += 0.5
        schedule.finish_step(step)
    assert short_budget(schedule, 3, prepared_s=1, ended=False) == (
        "the model will learn next to nothing: about 18 steps fit into 10 s; stop with Ctrl-C, then give --budget 4m "
        "or more, or --steps 300, and a new folder with -o"
    )
    assert short_budget(Schedule(None, 600.0), 3, prepared_s=1, ended=False) == ""


def test_the_warning_comes_before_the_budget_is_spent(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, step = [100.0], Trainer.training_step

    def now() -> float:
        clock[0] += 1e-3
        return clock[0]

    def slow_step(self: Trainer, rate_factor: float) -> torch.Tensor:
        clock[0] += 0.5
        return step(self, rate_factor)

    monkeypatch.setattr(time, "monotonic", now)
    monkeypatch.setattr(Trainer, "training_step", slow_step)
    settings = TrainSettings(data=(data(ids, count=3),), out=tmp_path / "run", budget_s=10.0, **SMALL)
    events = list(train(settings))
    early = next(i for i, event in enumerate(events) if isinstance(event, Warned) and "will learn" in str(event))
    assert sum(isinstance(event, Step) for event in events[:early]) == TIMED_STEPS
    assert sum("will learn" in str(event) for event in events) == 1
    assert sum("has learned next to nothing" in str(event) for event in events) == 1


def test_a_training_with_such_a_budget_warns(data: Data) -> None:
    with pytest.warns(SeptumWarning) as found:  # another one can be that tuning was stopped
        septum.train(data(ids, count=3), budget_s=0.1, verbose=False, **SMALL)
    texts = [str(one.message) for one in found]
    assert any(re.search("the model has learned next to nothing: .* fitted into 0.1 s", text) for text in texts)


def test_a_finished_run_says_that_it_is_done_and_how_to_go_on(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = data(ids, count=3), tmp_path / "run"
    septum.train(folder, out=run, steps=2, **SMALL)
    first = capsys.readouterr().err
    septum.train(folder, out=run, steps=2, **SMALL)
    again = capsys.readouterr().err
    assert "this run was finished before" not in first
    assert again.splitlines()[-1] == (
        "this run was finished before, after 2 steps: nothing is trained again; to train on, start from its weights in "
        f"a new folder: septum train DATA --from {run / 'model.safetensors'} -o FOLDER"
    )
    assert "device: " in first
    assert "device: " not in again


@pytest.mark.parametrize("change", ["longer", "more data"])
def test_a_longer_run_or_more_data_are_told_the_way_out(data: Data, tmp_path: Path, change: str) -> None:
    run = tmp_path / "run"
    septum.train(data(ids, count=3), out=run, steps=1, **SMALL)
    folder = data(ids, count=3 if change == "longer" else 4)
    with pytest.raises(UsageError) as caught:
        septum.train(folder, out=run, steps=2 if change == "longer" else 1, **SMALL)
    assert caught.value.todo.startswith(
        f"to go on from what it has learned, add --from {run / 'model.safetensors'} and give a new folder with -o; or "
        "repeat the earlier command"
    )
    septum.train(folder, out=tmp_path / "other", steps=2, from_model=run / "model.safetensors", **SMALL)


class Lines(io.StringIO):
    def isatty(self) -> bool:
        return False


def test_long_work_without_a_count_is_not_silent(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    lines = Lines()
    monkeypatch.setattr("sys.stderr", lines)
    with Progress("steps", waiting="opening every file") as progress:
        for _ in range(24):  # 24 s in 1.2 s
            clock[0] += 1.0
            time.sleep(0.05)
        show_training(Working("scoring held-out images"), progress)
        clock[0] += 4.0
        time.sleep(0.5)
    said = lines.getvalue().splitlines()
    assert 2 <= len(said) <= 5
    assert all(line.startswith(("opening every file ... ", "scoring held-out images ... ")) for line in said)


def test_quiet_work_is_silent(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    lines = Lines()
    monkeypatch.setattr("sys.stderr", lines)
    with Progress("steps", Display(quiet=True), waiting="opening every file"):
        clock[0] += 60.0
        time.sleep(0.5)
    assert lines.getvalue() == ""


def test_one_step_and_no_image_are_said_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("steps") as progress:
        show_training(Step(1, 1, 0.5, 0.1, 1.0), progress)
        show_training(Reporting(Path("run"), 0), progress)
    assert capsys.readouterr().err.splitlines() == ["1/1 step  loss 0.500"]
