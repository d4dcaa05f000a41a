"""A time budget decides the width, a number of steps does not; memory limits the batch and the tile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.memory import training_bytes
from septum.training import planner
from septum.training.events import Planned, Step
from septum.training.fingerprint import Fingerprint
from septum.training.loop import train
from septum.training.plan import Plan
from septum.training.planner import fit_memory, fit_width, step_seconds
from septum.training.presets import make_plan
from septum.training.settings import TrainSettings

FINGERPRINT = Fingerprint(channels=1, classes=2, sides=(40, 40), anisotropy=(1, 1))
CPU = find_device("cpu")


def _plan(fingerprint: Fingerprint = FINGERPRINT, **values: int) -> Plan:
    return make_plan(fingerprint, TrainSettings(data=(), out=Path("run"), **values))[0]


def test_a_wider_network_takes_longer_for_a_step() -> None:
    narrow = step_seconds(_plan(depth=1, width=2), CPU)
    assert 0 < narrow < 5
    assert step_seconds(_plan(depth=1, width=48), CPU) > narrow


@pytest.mark.parametrize(
    ("budget_s", "rank", "width"),
    [(10.0, 2, 16), (1800.0, 2, 16), (4000.0, 2, 16), (5000.0, 2, 32), (18_000.0, 2, 64), (1e6, 2, 64), (1e6, 3, 32)],
)
def test_the_widest_network_with_enough_steps_is_chosen(
    monkeypatch: pytest.MonkeyPatch, budget_s: float, rank: int, width: int
) -> None:
    timed: list[int] = []

    def quadratic(plan: Plan, device: object) -> float:
        timed.append(plan.network.width)
        return 0.2 * (timed[-1] / 16) ** 2

    monkeypatch.setattr(planner, "step_seconds", quadratic)
    fingerprint = Fingerprint(channels=1, classes=2, sides=(64,) * rank, anisotropy=(1,) * rank)
    plan, reason = fit_width(_plan(fingerprint), CPU, budget_s)
    assert plan.network.width == width
    assert plan.tile == _plan(fingerprint).tile
    assert reason.startswith(f"width {width}: a step takes")
    if 0.75 * budget_s < 4000 * 0.2:
        assert timed == [16], "where 4000 steps of the narrowest one do not fit, no wider one is timed"


def test_only_a_time_budget_decides_the_width_and_a_resumed_run_keeps_it(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def fitted(plan: Plan, device: object, budget_s: float) -> tuple[Plan, str]:
        timed.append(budget_s)
        return plan.model_copy(update={"network": plan.network.model_copy(update={"width": 3})}), "width 3: timed"

    monkeypatch.setattr(planner, "fit_width", fitted)
    shared = {"data": (disks,), "depth": 1, "tile": 36}
    by_steps = TrainSettings.model_validate({**shared, "out": tmp_path / "steps", "steps": 1})
    list(train(by_steps))
    assert timed == []
    by_time = TrainSettings.model_validate({**shared, "out": tmp_path / "time", "budget_s": 5.0})
    for event in train(by_time):
        if isinstance(event, Planned):
            assert "width 3: timed" in event.lines
            assert sum(line.startswith("width") for line in event.lines) == 1
        if isinstance(event, Step):
            break
    again = next(r.lines for r in train(by_time) if isinstance(r, Planned))
    assert "width 3: timed" in again
    assert timed == [5.0]
    asked = TrainSettings.model_validate({**shared, "out": tmp_path / "asked", "budget_s": 3.0, "width": 2})
    next(r for r in train(asked) if isinstance(r, Planned))
    assert timed == [5.0]


def test_a_step_keeps_between_a_third_and_all_of_the_estimated_bytes() -> None:
    for settings, tile in (
        (UNetSettings(depths=(3, 3), width=8, batch_norm=True), (156, 156)),
        (UNetSettings(depths=(2, 2), width=8), (92, 124)),
        (UNetSettings(depths=(1, 2, 2), width=4, batch_norm=True, padding="same"), (24, 48, 48)),
        (UNetSettings(depths=(2, 2), width=8, batch_norm=True, padding="same", classes=40), (96, 96)),
    ):
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        network = DeeplySupervised(UNet(settings), 0.5, seed=0)
        output = settings.geometry.output(tile)
        target, weight = torch.zeros(2, *output, dtype=torch.long), torch.ones(2, *output)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network.loss(network(torch.zeros(2, 1, *tile)), target, weight, dice=1.0)[0].backward()
        estimated = training_bytes(settings, tile, 2) - 24_000_000
        assert estimated / 3 < sum(kept.values()) < estimated


def test_a_memory_limit_reduces_the_batch_and_then_the_tile() -> None:
    plan = _plan()
    assert fit_memory(plan, 1 << 40) == (plan, ())
    one = training_bytes(plan.network, plan.tile, 1)
    fewer, reasons = fit_memory(plan, one)
    assert (fewer.batch, fewer.tile) == (1, plan.tile)
    assert reasons[0].startswith("tile 40 x 40, 1 a step: ")
    smaller, _ = fit_memory(plan, one - 1_000_000)
    assert smaller.batch == 1
    assert smaller.output[0] < plan.output[0]
    assert training_bytes(smaller.network, smaller.tile, 1) <= one - 1_000_000
    least, _ = fit_memory(plan, 1)  # the smallest tile, if nothing fits
    assert max(least.output) <= 16
