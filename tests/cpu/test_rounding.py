"""The engine measures which results PyTorch must compute."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from torch import Tensor

from septum.cpu.inference import Engine
from septum.nn.rounding import Rounding, measure_rounding
from septum.nn.unet import UNet, UNetSettings, for_prediction


def _image(*sides: int) -> Tensor:
    return torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_engine_computes_usual_networks(width: int, padding: str, batch_norm: bool) -> None:
    depth = 4 if width < 32 else 3
    shape = UNetSettings(width=width, padding=padding, batch_norm=batch_norm, depths=(depth, depth))
    network = for_prediction(UNet(shape, seed=1))
    engine, x = Engine(network), _image(*network.geometry.input_for((1, 1)))
    assert engine.rounding.accurate
    with torch.inference_mode():
        assert not torch.equal(engine(x), network(x))


def test_networks_with_non_finite_weights_are_computed_by_pytorch() -> None:
    network = for_prediction(UNet(UNetSettings(width=4, depths=(1, 1))))
    assert isinstance(network.head, torch.nn.Conv2d) and network.head.bias is not None
    with torch.no_grad():
        network.head.bias[0] = nan
    engine, x = Engine(network), _image(40, 40)
    assert not engine.rounding.accurate and engine.rounding.difference == inf
    torch.testing.assert_close(engine(x), network(x), rtol=0, atol=0, equal_nan=True)


def test_limits_follow_from_the_tolerance() -> None:
    """Hand-worked: a logit may change by 4e-4; errors are doubled for safety: 1e-5 of a logit allows 20."""
    found = Rounding(relative_error=1e-5, usual_logit=10.0, value_error=4e-6, usual_value=5.0)
    assert found.difference == pytest.approx(5e-5) and found.accurate
    for sign in (-1, 1):
        assert found.admits_logits(torch.tensor([[[1.0]], [[19.9 * sign]]]))
        assert not found.admits_logits(torch.tensor([[[1.0]], [[20.1 * sign]]]))
        assert found.admits_image(torch.tensor([[[0.0, 99.0 * sign]]]))
        assert not found.admits_image(torch.tensor([[[0.0, 101.0 * sign]]]))
    for wrong in (nan, inf):
        assert not found.admits_logits(torch.tensor([[[0.0]], [[wrong]]]))
        assert not found.admits_image(torch.tensor([[[0.0, wrong]]]))
    large = Rounding(relative_error=1e-5, usual_logit=20.1, value_error=4e-6, usual_value=5.0)
    assert not large.accurate and not large.admits_image(torch.zeros(1, 1, 1))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_measured_error_equals_that_of_the_computation(padding: str) -> None:
    network = for_prediction(UNet(UNetSettings(width=2, depths=(2, 2), padding=padding)))
    exact = measure_rounding(network, network)
    assert exact.relative_error == exact.value_error == exact.difference == 0

    def off(x: Tensor) -> Tensor:
        logits: Tensor = network(x).clone()
        logits[:, 1] += 1e-3 * logits.abs().max()
        return logits

    assert measure_rounding(network, off).relative_error == pytest.approx(1e-3, rel=1e-2)
    assert measure_rounding(network, lambda x: off(x) * nan).difference == inf
