"""Collective operations and joining; trainings of several processes are in test_parallel.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn

from septum.errors import UsageError
from septum.nn.sync_batchnorm import SyncBatchNorm2d, SyncBatchNorm3d, synchronize_batchnorm
from septum.nn.unet import UNet, UNetSettings
from septum.training.distributed import Processes, processes_of_this_training

NAMES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """Create a group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("rank", [2, 3])
def test_shared_normalization_of_one_process_equals_pytorch(rank: int) -> None:
    plain = (nn.BatchNorm2d, nn.BatchNorm3d)[rank - 2](3, momentum=0.03)
    shared = (SyncBatchNorm2d, SyncBatchNorm3d)[rank - 2](3, momentum=0.03)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        plain.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    shared.load_state_dict(plain.state_dict())
    for _ in range(3):
        x = 1e3 + 5 * torch.randn(
            2, 3, *(5,) * rank, generator=generator
        )  # far from 0, where sums of squares lose digits
        wanted = torch.randn(x.shape, generator=generator)
        found = []
        for norm in (plain, shared):
            at = x.clone().requires_grad_()
            norm.zero_grad()
            y = norm(at)
            torch.autograd.backward((y * wanted).sum())
            assert at.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
            found.append((y.detach(), at.grad, norm.weight.grad.clone(), norm.bias.grad.clone()))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, shared.state_dict()[name])
    x = torch.randn(1, 3, *(4,) * rank, generator=generator)
    shared.load_state_dict(plain.state_dict())
    assert torch.equal(plain.eval()(x), shared.eval()(x))


def test_replacing_batch_normalization_keeps_names_values_and_parameters() -> None:
    network = UNet(UNetSettings(depths=(1, 1), width=2, batch_norm=True), seed=1)
    before, parameters = dict(network.state_dict()), list(network.parameters())
    synchronize_batchnorm(network)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    kinds = {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    assert kinds == {SyncBatchNorm2d}


def test_operations_of_one_process_return_its_values() -> None:
    one = Processes()
    assert one.first and list(one.share(3)) == [0, 1, 2]
    assert (one.broadcast(0.1), one.any(True), one.any(False), one.broadcast_text("ü\n🔬")) == (
        0.1,
        True,
        False,
        "ü\n🔬",
    )
    (arrays,) = one.gather([np.array([1, 2]), np.array([], np.int64)])
    assert [a.tolist() for a in arrays] == [[1, 2], []]


def test_shares_are_disjoint_and_complete() -> None:
    for world in (1, 2, 3, 7):
        parts = [list(Processes(rank, world).share(5)) for rank in range(world)]
        assert sorted(i for part in parts for i in part) == [0, 1, 2, 3, 4]


def test_a_single_process_joins_no_group(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SLURM_NTASKS", "4")  # several tasks without an address
    with processes_of_this_training() as processes:
        assert processes == Processes()
    assert not distributed.is_initialized()


def test_slurm_tasks_are_recognized(bare: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "MASTER_ADDR": "n1"}.items():
        bare.setenv(name, value)
    from septum.training import distributed as parallel

    assert parallel.described_processes() == Processes(5, 8, 1)


def test_a_wrong_address_or_rank_is_refused(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("MASTER_ADDR", "127.0.0.1")
    bare.setenv("WORLD_SIZE", "2")
    bare.setenv("RANK", "1")
    with pytest.raises(UsageError, match="cannot reach the others"), processes_of_this_training(1.0):
        pass  # no MASTER_PORT
    bare.setenv("MASTER_PORT", "9")
    with pytest.raises(UsageError, match=r"at 127\.0\.0\.1:9"), processes_of_this_training(1.0):
        pass
    bare.setenv("RANK", "first")
    with pytest.raises(UsageError, match="not a number"), processes_of_this_training():
        pass
