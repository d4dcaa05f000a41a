"""The memory of a training step, planned and by the account of fake tensors: shapes only, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from septum.prediction.memory import training_bytes
from septum.training.trainer import Trainer

Pretend = Callable[..., AbstractContextManager[Any]]


@pytest.mark.parametrize(
    "options",
    [
        {"width": 64, "depth": 4, "tile": 512, "batch": 1},
        {"width": 64, "depth": 4, "tile": 256, "batch": 4, "precision": "float32"},
        {"preset": "paper", "width": 64, "depth": 4, "tile": 572, "batch": 1, "precision": "float32"},
        {"width": 32, "depth": 4, "tile": 96, "batch": 2, "rank": 3, "precision": "float32"},
        {"width": 16, "depth": 2, "tile": 64, "batch": 2, "rank": 3},
        {"width": 128, "depth": 4, "tile": 64, "batch": 1},  # the weights take most of it
    ],
    ids=str,
)
def test_a_step_takes_no_more_memory_than_planned(
    pretend: Pretend, make_trainer: Callable[..., Trainer], options: dict[str, Any]
) -> None:
    with pretend(fake=True) as gpu:
        trainer = make_trainer(device="cuda", **options)
        for _ in range(2):  # the state to go back to is renewed while the old one is held
            trainer.training_step(1.0)
            trainer.state.keep()
        taken = gpu.peak
    plan = trainer.plan
    planned = training_bytes(plan.network, plan.tile, plan.batch)
    assert 0.25 * planned < taken < planned
