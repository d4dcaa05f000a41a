"""Several GPUs: one process of two, whose messages go nowhere, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from septum.training import distributed as module
from septum.training.distributed import Processes
from septum.training.trainer import Trainer

Pretend = Callable[..., AbstractContextManager[Any]]


@pytest.fixture
def group() -> Iterator[None]:
    distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    distributed.destroy_process_group()


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record how networks are wrapped; what PyTorch's wrapper does in the backward pass is not tested here."""
    found = list[dict[str, Any]]()

    class Wrapped(nn.Module):
        def __init__(self, network: nn.Module, device_ids: Any, forward_sync_buffers: bool) -> None:
            super().__init__()
            self.network = network
            places = {parameter.device for parameter in network.parameters()}
            found.append({"device_ids": device_ids, "places": places, "buffers": forward_sync_buffers})

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits: tuple[torch.Tensor, ...] = self.network(x)
            return logits

    monkeypatch.setattr(module, "DistributedDataParallel", Wrapped)
    return found


@pytest.mark.parametrize("rank", [2, 3])
def test_a_step_of_one_of_two_processes_waits_for_nothing(
    pretend: Pretend,
    make_trainer: Callable[..., Trainer],
    group: None,
    wrapped: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
) -> None:
    sent, reduce = list[torch.device](), distributed.all_reduce
    with pretend() as gpu:

        def counted(tensor: torch.Tensor) -> Any:
            sent.append(gpu.where(tensor))  # in the backward pass no call from Python is seen, and `.device` is real
            return reduce(tensor)

        monkeypatch.setattr(distributed, "all_reduce", counted)
        trainer = make_trainer(device="cuda", processes=Processes(0, 2, 0), rank=rank, tile=16)
        gpu.forget_waits()
        for _ in range(2):
            sent.clear()
            loss = trainer.training_step(1.0)
            assert not gpu.waits
        assert loss.is_cuda and loss.item() > 0
        norms = [m for m in trainer.network.modules() if type(m).__name__.startswith("SyncBatchNorm")]
        # Two messages forward and one backward for each normalization; annotated pixels; the loss.
        assert len(norms) == 6 and len(sent) == 3 * len(norms) + 2
        assert set(sent) == {torch.device("cuda:0")}
    assert wrapped == [{"device_ids": [0], "places": {torch.device("cuda:0")}, "buffers": False}]
