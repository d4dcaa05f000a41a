from __future__ import annotations

import numpy as np
import pytest
import torch

from septum.arrays.normalize import NormalizeSettings, statistics
from septum.nn.device import find_device
from septum.nn.ensemble import Ensemble, members_of
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.memory import tile_bytes
from septum.prediction.tiled import TiledPredictor, image_probabilities, region_probabilities
from septum.prediction.tta import averaged_probabilities

SETTINGS = UNetSettings(depths=(2, 2), width=2, classes=3)


def _members(count: int = 3) -> list[UNet]:
    return [for_prediction(UNet(SETTINGS, seed=seed)) for seed in range(count)]


def test_ensemble_gives_the_mean_probability() -> None:
    members = _members()
    x = torch.randn(2, 1, 48, 44, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        each = [torch.softmax(member(x), dim=1) for member in members]
        torch.testing.assert_close(torch.softmax(Ensemble(members)(x), dim=1), sum(each) / 3)
    assert members_of(Ensemble(members)) == tuple(members)
    assert members_of(members[0]) == (members[0],)


def test_probabilities_below_float_range_are_averaged() -> None:
    members = _members(2)
    with torch.no_grad():
        for member in members:
            member.head.bias.copy_(torch.tensor([0.0, 500.0, -500.0]))
    with torch.inference_mode():
        found = torch.softmax(Ensemble(members)(torch.zeros(1, 1, 44, 44)), dim=1)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:, 1], torch.ones_like(found[:, 1]))


@pytest.mark.parametrize("tta", [False, True])
def test_tiles_of_an_ensemble_equal_the_whole(tta: bool) -> None:
    members, cpu = _members(), find_device("cpu")
    image = np.random.default_rng(0).normal(size=(1, 53, 38)).astype(np.float32)
    stats, whole = statistics(image, NormalizeSettings()), (slice(0, 53), slice(0, 38))
    predict = averaged_probabilities if tta else region_probabilities
    found = [
        list(predict(TiledPredictor(network, cpu, (side, side)), image, stats, whole))[-1][0].copy()
        for network, side in ((Ensemble(members), 8), (Ensemble(members), 64), *((m, 16) for m in members))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=2e-6)
    np.testing.assert_allclose(found[0], np.mean(found[2:], axis=0), atol=2e-6)
    if not tta:
        alone = image_probabilities(Ensemble(members), image, device=cpu, normalization=NormalizeSettings())
        np.testing.assert_allclose(alone, found[1], atol=2e-6)


def test_memory_plan_of_an_ensemble_adds_only_the_sum_of_logits() -> None:
    one, two, many = (tile_bytes(SETTINGS, (300, 300), members=n) for n in (1, 2, 9))
    assert one + 3 * 4 * 256**2 <= two == many < 2 * one
