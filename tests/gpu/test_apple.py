"""Training and prediction on a pretended GPU of Apple: no float64, and only operations that exist there."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from septum.arrays.normalize import NormalizeSettings
from septum.nn.device import find_device
from septum.nn.unet import for_prediction
from septum.prediction.tiled import image_probabilities
from septum.training.trainer import Trainer

Pretend = Callable[..., AbstractContextManager[Any]]


@cache
def kernels() -> dict[str, str]:
    """Return the entry of each operation in PyTorch's own table of kernels."""
    torchgen = pytest.importorskip("torchgen")
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = re.split(r"^- func: ", table.read_text(), flags=re.MULTILINE)[1:]
    return {entry.partition("(")[0]: entry for entry in entries}


def exists_on_apple(name: str) -> bool:
    """Return True if an operation has a kernel for Apple GPUs, or is composed of others."""
    entry = kernels()[name]
    if delegate := re.search(r"structured_delegate: (\S+)", entry):
        return exists_on_apple(delegate[1])
    return (
        "dispatch:" not in entry or re.search(r"^ +(.*, )?(MPS|Composite\w+)(, .*)?:", entry, re.MULTILINE) is not None
    )


@pytest.mark.parametrize("options", [{}, {"rank": 3, "tile": 16}, {"preset": "paper", "tile": 40}], ids=str)
def test_training_and_prediction_use_operations_that_apple_gpus_have(
    pretend: Pretend, make_trainer: Callable[..., Trainer], options: dict[str, Any]
) -> None:
    shape = (1, *(36,) * options.get("rank", 2))
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    with pretend("mps") as gpu:
        assert find_device("auto").torch.type == "mps"
        trainer = make_trainer(device="mps", **options)
        losses = [trainer.training_step(1.0) for _ in range(2)]
        assert all(loss.device.type == "mps" for loss in losses)
        image_probabilities(
            for_prediction(trainer.averaged_network()),
            image,
            device=trainer.device,
            normalization=NormalizeSettings(),
        )
        dtypes = set().union(*gpu.dtypes.values())
    assert torch.bfloat16 not in dtypes and torch.float64 not in dtypes
    assert "convolution" in gpu.operations and "convolution_backward" in gpu.operations
    assert [name for name in sorted(gpu.operations) if not exists_on_apple(name)] == []


def test_the_table_of_kernels_is_understood() -> None:
    for name in ("grid_sampler_2d", "max_pool2d", "add.Tensor", "lerp_.Scalar", "relu_", "_softmax"):
        assert exists_on_apple(name), name
    for name in ("geqrf", "_fft_c2c.out", "mkldnn_linear", "lstsq"):
        assert name not in kernels() or not exists_on_apple(name) or name.startswith("_fft"), name


def test_float64_on_an_apple_gpu_is_noticed(pretend: Pretend) -> None:
    with pretend("mps"), pytest.raises(AssertionError, match="no float64"):
        torch.ones(3, device="mps").double()
