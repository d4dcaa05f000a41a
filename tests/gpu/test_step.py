"""A training step on a pretended GPU: devices, precision, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from septum.training.trainer import Trainer

Pretend = Callable[..., AbstractContextManager[Any]]
Make = Callable[..., Trainer]

STEPS = 3
# All augmentation in each tile, so that three steps draw everything that can be drawn.
EVERYTHING = ("augmentation.chance=1",)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="auto"),
        pytest.param({"preset": "paper", "tile": 40}, id="paper, with drop-out"),
        pytest.param({"preset": "fiji", "tile": 40}, id="fiji"),
        pytest.param({"rank": 3, "tile": 16}, id="volumes"),
        pytest.param({"memory": 100_000}, id="images that do not fit on the GPU"),
    ],
)
def test_a_step_waits_for_nothing_and_reading_its_losses_waits_once(
    pretend: Pretend, make_trainer: Make, options: dict[str, Any]
) -> None:
    memory = {"memory": options["memory"]} if "memory" in options else {}
    chosen = {k: v for k, v in options.items() if k != "memory"}
    with pretend(**memory) as gpu:
        trainer = make_trainer(device="cuda", set=EVERYTHING if not chosen else (), **chosen)
        gpu.forget_waits()
        losses = [trainer.training_step(1.0) for _ in range(STEPS)]
        trainer.state.keep()
        assert not gpu.waits
        assert all(loss.is_cuda and loss.dtype == torch.float32 for loss in losses)
        assert all(value > 0 for value in torch.stack(losses).tolist())
        assert gpu.waits == {("tolist", ""): 1}


@pytest.mark.parametrize("rank", [2, 3])
def test_convolutions_are_bfloat16_and_weights_losses_and_coordinates_float32(
    pretend: Pretend, make_trainer: Make, rank: int
) -> None:
    with pretend() as gpu:
        trainer = make_trainer(device="cuda", rank=rank, tile=16)
        gpu.dtypes.clear()
        trainer.training_step(1.0)
        half, single = {torch.bfloat16}, {torch.float32}
        assert gpu.dtypes["convolution"] == gpu.dtypes["convolution_backward"] == half
        names = ("_log_softmax", "_softmax", f"grid_sampler_{rank}d", "linalg_vector_norm")
        assert {name: gpu.dtypes.get(name, single) for name in names} == dict.fromkeys(names, single)
        assert torch.float64 not in set().union(*gpu.dtypes.values())
        for name, weight in trainer.state.supervised.named_parameters():
            assert weight.is_cuda and weight.dtype == torch.float32, name
            assert weight.grad is not None and weight.grad.is_cuda and weight.grad.dtype == torch.float32, name
            moments = trainer.state.optimizer.state[weight]
            assert {moments[k].device.type for k in ("exp_avg", "exp_avg_sq")} == {"cuda"}, name
        assert trainer.state.average is not None
        assert all(value.is_cuda for value in trainer.state.average.tensors.values())


def test_features_are_innermost_in_2d(pretend: Pretend, make_trainer: Make) -> None:
    with pretend():
        trainer, strides = make_trainer(device="cuda"), set()
        for module in trainer.network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda _, given, out: strides.add(out.stride(1)))
        trainer.training_step(1.0)
    assert strides == {1}


def test_a_step_is_that_of_the_processor(pretend: Pretend, make_trainer: Make) -> None:
    def losses(device: str) -> list[float]:
        trainer = make_trainer(device=device, precision="float32", set=EVERYTHING)
        return torch.stack([trainer.training_step(1.0) for _ in range(STEPS)]).tolist()

    here = losses("cpu")
    with pretend():
        assert losses("cuda") == pytest.approx(here, rel=1e-4)


def test_tiles_of_images_that_do_not_fit_on_the_gpu_are_equal_to_the_bit(pretend: Pretend, make_trainer: Make) -> None:
    found = []
    for memory in (1 << 34, 100_000):
        with pretend(memory=memory) as gpu:
            trainer = make_trainer(device="cuda", set=EVERYTHING)
            gpu.forget_waits()
            batches = [trainer.draw_batch(step) for step in range(STEPS)]
            assert not gpu.waits
            assert all(part.is_cuda for batch in batches for part in batch)
            found.append([[part.cpu().numpy().tobytes() for part in batch] for batch in batches])
    assert found[0] == found[1]


def test_tensors_of_two_devices_and_silent_waits_are_noticed(pretend: Pretend) -> None:
    """The pretended GPU itself: what PyTorch refuses on a GPU is refused, and what waits is counted."""
    with pretend() as gpu:
        x = torch.ones(3, 4).to("cuda", non_blocking=True)
        with pytest.raises(AssertionError, match="cpu and cuda:0"):
            x + torch.ones(3, 4)
        with pytest.raises(TypeError, match="cuda:0"):
            x.numpy()
        with pytest.raises(AssertionError, match="before it is there"):
            x.to("cpu", non_blocking=True)
        gpu.forget_waits()
        mask = x > 0
        assert x.sum().item() == 12 and bool(mask.any())
        assert len(x[mask]) == 12 and len(mask.nonzero()) == 12
        x.new_tensor([1.0])
        assert torch.tensor([1.0], device="cuda").cpu().device.type == "cpu"
        (x * 2 + torch.tensor(1.0)).sum()  # a number of the processor may take part
        torch.ones(3, device="cuda").copy_(torch.zeros(3))
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        found = {name: number for (name, _), number in gpu.waits.items()}
        waits = {
            "_local_scalar_dense": 2,
            "index": 1,
            "nonzero": 1,
            "new_tensor": 1,
            "tensor": 1,
            "to the processor": 1,
            "copy_": 1,
        }
        assert found == waits
