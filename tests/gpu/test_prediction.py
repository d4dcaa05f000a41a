"""Prediction on a pretended GPU: devices, precision, and what it waits for; the memory of a tile by fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch

from septum.arrays.normalize import NormalizeSettings
from septum.arrays.tiles import plan_tiles
from septum.nn.device import Device, find_device
from septum.nn.ensemble import Ensemble, Network
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.memory import tile_bytes
from septum.prediction.tiled import image_probabilities, largest_output

Pretend = Callable[..., AbstractContextManager[Any]]

SHAPES = {
    "paper": UNetSettings(width=2, depths=(1, 1)),
    "padded": UNetSettings(width=2, depths=(2, 2), padding="same", batch_norm=True),
    "volumes": UNetSettings(width=2, depths=(1, 1, 1), padding="same", batch_norm=True),
}


def _network(settings: UNetSettings, device: Device, *, members: int = 1) -> Network:
    made = [for_prediction(UNet(settings, seed=seed).to(device.torch)) for seed in range(members)]
    return made[0] if members == 1 else Ensemble(made)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_prediction_waits_once_a_tile_and_is_that_of_the_processor(pretend: Pretend, name: str, members: int) -> None:
    settings = SHAPES[name]
    rank = len(settings.depths)
    image = np.random.default_rng(0).random((1, *(30,) * rank), dtype=np.float32)

    def predict(device: Device, network: Network) -> np.ndarray:
        limit = (16,) * rank
        return image_probabilities(network, image, device=device, normalization=NormalizeSettings(), max_output=limit)

    cpu = find_device("cpu")
    expected = predict(cpu, _network(settings, cpu, members=members))
    with pretend() as gpu:
        device = find_device("cuda")
        network = _network(settings, device, members=members)
        gpu.forget_waits()
        gpu.dtypes.clear()
        found = predict(device, network)
        assert gpu.waits == {("to the processor", "_compute"): 2**rank}
        assert set().union(*gpu.dtypes.values()) <= {torch.float32, torch.int64}  # of pooling: the places of maxima
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "members"),
    [
        (UNetSettings.paper(), 1),
        (UNetSettings(width=16, padding="same", batch_norm=True), 1),
        (UNetSettings(width=32, padding="same", batch_norm=True), 5),
        (UNetSettings(width=32, depths=(4, 4, 4), padding="same"), 1),
        (UNetSettings(width=32, depths=(2, 4, 4), padding="same"), 3),
        (UNetSettings(width=64, depths=(3, 3), channels=3, classes=8), 2),
    ],
    ids=str,
)
def test_the_largest_tile_takes_the_memory_that_is_planned_for_it(
    pretend: Pretend, settings: UNetSettings, members: int
) -> None:
    """Fake tensors have shapes only: nothing is computed, and the account of their memory is exact."""
    with pretend(fake=True) as gpu:
        device = find_device("cuda")
        network = _network(settings, device, members=members)
        weights = gpu.allocated
        limit = largest_output(settings, device)
        tile = plan_tiles([2 * side for side in limit], settings.geometry, limit)[0]
        sides = [stop - start for start, stop in tile.read]
        with torch.inference_mode():
            network(torch.zeros(1, settings.channels, *sides, device=device.torch))
        taken = gpu.peak - weights
    # A deep network of volumes needs more for the smallest tile: its context is wider than what is left of the limit.
    smallest = all(
        part.stop - part.start <= side for part, side in zip(tile.write, settings.geometry.grid, strict=True)
    )
    assert taken > 0.3 * 6e9 and (taken < 1.05 * 6e9 or smallest)
    assert taken < tile_bytes(settings, sides, members=members)
