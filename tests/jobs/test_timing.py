"""The clock chooses the width where a time was given, and nothing where steps were."""

from __future__ import annotations

from pathlib import Path

import pytest

from septum.jobs import planning, timing
from septum.jobs.plan import Facts, Plan, make_plan
from septum.jobs.records import Planned, Step
from septum.jobs.timing import fit_width, step_seconds
from septum.jobs.train import TrainSettings, train
from septum.nn.device import find_device

FACTS = Facts(channels=1, classes=2, sides=(40, 40), anisotropy=(1, 1), object_px=None, gpu=False)
CPU = find_device("cpu")


def test_a_step_is_timed() -> None:
    plan, _ = make_plan(FACTS, depth=1, width=2)
    narrow = step_seconds(plan, CPU)
    assert 0 < narrow < 5
    wide, _ = make_plan(FACTS, depth=1, width=48)
    assert step_seconds(wide, CPU) > narrow


@pytest.mark.parametrize(
    ("budget_s", "rank", "width"),
    [(10.0, 2, 16), (1800.0, 2, 16), (3000.0, 2, 24), (15_000.0, 2, 48), (1e6, 2, 64), (1e6, 3, 32)],
)
def test_the_widest_network_is_taken_of_which_enough_steps_fit(
    monkeypatch: pytest.MonkeyPatch, budget_s: float, rank: int, width: int
) -> None:
    def quadratic(plan: Plan, device: object) -> float:
        return 0.2 * (plan.network.width / 16) ** 2

    monkeypatch.setattr(timing, "step_seconds", quadratic)
    facts = Facts(channels=1, classes=2, sides=(64,) * rank, anisotropy=(1,) * rank, object_px=None, gpu=False)
    plan, reason = fit_width(make_plan(facts)[0], CPU, budget_s)
    assert plan.network.width == width
    assert plan.tile == make_plan(facts)[0].tile
    assert reason.startswith(f"width {width}: a step takes")


def test_steps_never_depend_on_the_clock_and_a_run_that_goes_on_keeps_its_width(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def fitted(plan: Plan, device: object, budget_s: float) -> tuple[Plan, str]:
        timed.append(budget_s)
        return plan.model_copy(update={"network": plan.network.model_copy(update={"width": 3})}), "width 3: timed"

    monkeypatch.setattr(planning, "fit_width", fitted)
    shared = {"data": (disks,), "depth": 1, "tile": 36}
    by_steps = TrainSettings.model_validate({**shared, "out": tmp_path / "steps", "steps": 1})
    list(train(by_steps))
    assert timed == []
    by_time = TrainSettings.model_validate({**shared, "out": tmp_path / "time", "budget_s": 5.0})
    for record in train(by_time):
        if isinstance(record, Planned):
            assert "width 3: timed" in record.lines
            assert sum(line.startswith("width") for line in record.lines) == 1
        if isinstance(record, Step):
            break
    (again,) = [r.lines for r in train(by_time) if isinstance(r, Planned)]
    assert "width 3: timed" in again
    assert timed == [5.0]
    list(train(TrainSettings.model_validate({**shared, "out": tmp_path / "asked", "budget_s": 3.0, "width": 2})))
    assert timed == [5.0]
