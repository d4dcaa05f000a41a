"""A training without an end goes on while the validation scores improve, and then ends."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from septum.errors import UsageError
from septum.events import Event, Warned
from septum.io.tensors import read_model
from septum.training import loop as train_module
from septum.training import schedule as schedule_module
from septum.training import trainer as trainer_module
from septum.training.events import Step, Trained, Validated
from septum.training.interrupt import StopRequest
from septum.training.loop import train
from septum.training.settings import TrainSettings


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    values = {"data": (data,), "out": out, "budget_s": None, "width": 2, "depth": 1, "tile": 36, "batch": 2}
    return TrainSettings.model_validate(values | {"device": "cpu"} | changes)


@pytest.fixture(autouse=True)
def short_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate after every third step, and let these validations count."""
    monkeypatch.setattr(trainer_module, "PASS_STEPS", (3, 3))
    monkeypatch.setattr(trainer_module, "WARM_UP_STEPS", 0)


def _scored(monkeypatch: pytest.MonkeyPatch, merits: list[float]) -> None:
    """Make the validations return these selection scores, and the last one from then on."""
    given = itertools.chain(merits, itertools.repeat(merits[-1]))
    real = trainer_module.Trainer.validate

    def validate(self: trainer_module.Trainer, stop: StopRequest) -> object:
        value = next(given)
        monkeypatch.setattr(trainer_module, "selection_score", lambda scores: value)
        return real(self, stop)

    monkeypatch.setattr(trainer_module.Trainer, "validate", validate)


def _steps(events: list[Event]) -> list[int]:
    return [r.step for r in events if isinstance(r, Step)]


def test_training_ends_a_third_of_the_steps_after_five_validations_without_gain(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first three improve; the others gain less than counts.
    _scored(monkeypatch, [0.3, 0.4, 0.5, 0.501, 0.5015])
    events = list(train(_settings(disks, tmp_path / "run")))
    last = events[-1]
    assert isinstance(last, Trained)
    # Validation 3 is at step 9, validation 8 at step 24; a third of 24 follows.
    assert last.steps == 32
    assert _steps(events) == list(range(1, 33))
    assert [r.step for r in events if isinstance(r, Validated)] == [*range(3, 31, 3), 32]
    rates = [r.rate for r in events if isinstance(r, Step)]
    assert rates[:24] == [pytest.approx(1e-3 * (k + 1) / 100) for k in range(24)]
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[-1] < 0.1 * max(rates)


def test_training_goes_on_while_the_score_improves(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scored(monkeypatch, [0.01 * k for k in range(1, 21)])
    *_, last = train(_settings(disks, tmp_path / "run"))
    assert isinstance(last, Trained)
    assert last.steps == (60 + 15) + 25


def test_until_plateau_ends_a_number_of_steps_early(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scored(monkeypatch, [0.5])
    settings = _settings(disks, tmp_path / "run", steps=60, until_plateau=True)
    *_, last = train(settings)
    assert isinstance(last, Trained)
    assert last.steps == 18 + 6  # of the validations at every third step the first gains, five do not
    *_, whole = train(_settings(disks, tmp_path / "whole", steps=20))
    assert isinstance(whole, Trained)
    assert whole.steps == 20


def test_there_is_no_plateau_before_anything_was_learned(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scored(monkeypatch, [0.0] * 12 + [0.5])  # a score from step 39 on
    monkeypatch.setattr(trainer_module, "HOPELESS_STEPS", 40)
    *_, last = train(_settings(disks, tmp_path / "endless"))
    assert isinstance(last, Trained)
    assert last.steps == (39 + 15) + 18
    monkeypatch.undo()
    monkeypatch.setattr(trainer_module, "WARM_UP_STEPS", 0)
    monkeypatch.setattr(trainer_module, "HOPELESS_STEPS", 0)
    _scored(monkeypatch, [0.0])
    events = list(train(_settings(disks, tmp_path / "run", steps=40, until_plateau=True)))
    rates = [event.rate for event in events if isinstance(event, Step)]
    assert rates[:30] == [pytest.approx(1e-3 * (k + 1) / 100) for k in range(30)]  # until three quarters of the steps
    assert rates[31:] == sorted(rates[31:], reverse=True)


def test_scores_of_the_warm_up_begin_no_plateau(disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _scored(monkeypatch, [0.5])
    monkeypatch.setattr(trainer_module, "WARM_UP_STEPS", 30)
    *_, last = train(_settings(disks, tmp_path / "run"))
    assert isinstance(last, Trained)
    assert last.steps == 42 + 14  # of the validations at every third step, those from step 30 to 42 bring no gain


def test_a_training_that_learns_nothing_ends_with_a_warning(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scored(monkeypatch, [0.0])
    monkeypatch.setattr(trainer_module, "HOPELESS_STEPS", 20)
    events = list(train(_settings(disks, tmp_path / "run")))
    assert isinstance(events[-1], Trained)
    assert events[-1].steps == 33 + 11  # validations at steps 21, 24, 27, 30 and 33
    assert [e.text for e in events if isinstance(e, Warned)][-1] == (
        "the score of the held-out images is still 0 after 44 steps: look with `septum check` whether the masks fit "
        "the images, or train longer with another --budget or --steps and a new folder with -o"
    )


@pytest.mark.parametrize("stop", [7, 20])
def test_a_stopped_run_ends_bit_identical(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(train_module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(train_module, "KEEP_STEPS", 1)
    monkeypatch.setattr(schedule_module, "PATIENCE", 2)
    monkeypatch.setattr(trainer_module, "HOPELESS_STEPS", 12)
    # With real scores, whatever they are.
    whole = list(train(_settings(disks, tmp_path / "whole")))
    for event in train(_settings(disks, tmp_path / "run")):
        if isinstance(event, Step) and event.step == stop:
            break
    again = list(train(_settings(disks, tmp_path / "run")))
    assert _steps(again) == _steps(whole)[stop - 1 :]
    one, other = (read_model(tmp_path / name / "model.safetensors")[0] for name in ("whole", "run"))
    assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


def test_a_training_to_a_plateau_needs_held_out_images(disks: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "one" / kind).mkdir(parents=True)
        np.save(tmp_path / "one" / kind / "a.npy", np.load(disks / kind / "a.npy"))
    with pytest.raises(UsageError, match="at least two annotated images"):
        list(train(_settings(tmp_path / "one", tmp_path / "run", kind="objects")))
    assert not (tmp_path / "run" / "settings.json").exists()
