"""Counters of a checkpoint: exact, checked, and readable from earlier versions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.optimizer import Optimizer
from septum.nn.unet import UNet, UNetSettings
from septum.training.state import Counters, TrainingState

OLD: dict[str, Any] = {
    "step": 40,
    "progress": 0.1 + 0.2,
    "undone": 1,
    "validated": 6,
    "best": 0.75,
    "best_step": 36,
    "stale": 2,
}
OLD |= {"reference": 0.7, "cooling": -1.0, "cooling_end": 0, "row": {"step": 40, "loss": 0.1}, "seconds": 3.0}


def test_counters_are_restored_exactly() -> None:
    found = Counters.model_validate(OLD)
    again = Counters.model_validate(json.loads(json.dumps(found.model_dump())))
    assert again == found
    assert again.progress == 0.1 + 0.2
    assert again.row is not None and isinstance(again.row["step"], int)


def test_names_of_earlier_versions_are_read() -> None:
    before = Counters.model_validate(OLD)
    assert (before.no_improvement, before.anneal_start) == (2, None)
    during = Counters.model_validate({**OLD, "cooling": 0.5, "cooling_end": 53})
    assert (during.anneal_start, during.anneal_end) == (0.5, 53)


def test_initial_counters() -> None:
    initial = Counters.initial()
    assert (initial.step, initial.progress, initial.best, initial.row) == (0, 0.0, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"step": -3},
        {"step": 1.5},
        {"progress": 7.0},
        {"progress": "0.5"},
        {"progress": float("nan")},
        {"best": {"a": 1}},
        {"cooling": 2.0},
        {"row": {"loss": "=cmd()"}},
        {"row": [3]},
    ],
)
def test_impossible_counters_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Counters.model_validate({**OLD, **change})
    with pytest.raises(ValidationError):
        Counters.model_validate({key: value for key, value in OLD.items() if key not in change})


def test_a_rollback_keeps_what_the_run_judges() -> None:
    """A checkpoint of an older version does not know it, and the state to roll back to comes from this checkpoint."""
    network = UNet(UNetSettings(width=2, depths=(1, 1)))
    supervised = DeeplySupervised(network, 0.0, seed=0)
    optimizer = Optimizer(supervised.parameters(), "adam", momentum=0.9)
    state = TrainingState(network, supervised, optimizer, None, torch.device("cpu"))
    state.keep()
    state.counters.step, state.counters.affordable_px, state.counters.most_scored = 7, 1000, 3
    state.roll_back(8)
    assert state.counters.step == 0
    assert (state.counters.affordable_px, state.counters.most_scored) == (1000, 3)
