"""Averaged weights equal the mean of the formula, for all kinds of tensors."""

from __future__ import annotations

import pytest
import torch

from septum.nn.optimizer import WeightAverage
from septum.nn.unet import UNet, UNetSettings

SETTINGS = UNetSettings(depths=(1, 1), width=2, batch_norm=True)


def _steps(share: float, count: int) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Average networks of different seeds, as if each were the next step."""
    average, states = WeightAverage(share), []
    for step in range(1, count + 1):
        network = UNet(SETTINGS, seed=step).train()
        network(torch.randn(1, 1, 18, 18, generator=torch.Generator().manual_seed(step)))
        states.append({k: v.clone() for k, v in network.state_dict().items()})
        average.add(network, step)
    return average.tensors, states


def test_share_1_is_the_mean_of_all_steps() -> None:
    found, states = _steps(1.0, 5)
    assert "bottom.1.running_var" in found
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.stack([s[name] for s in states]).mean(0))


def test_share_of_a_tenth_weights_steps_by_a_power_of_their_number() -> None:
    found, states = _steps(0.1, 30)
    # w_t counts (t (t + 1) ... (t + 8)) times, up to a factor: Shamir and Zhang's weights for eta = 9.
    counts = torch.tensor([torch.arange(t, t + 9, dtype=torch.float64).prod() for t in range(1, 31)])
    name = "head.weight"
    expected = sum(c * s[name].double() for c, s in zip(counts / counts.sum(), states, strict=True))
    torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-7)
    # The last two tenths of the steps have most of the weight.
    assert float(counts[-6:].sum() / counts.sum()) == pytest.approx(0.85, abs=0.05)


def test_counters_are_the_latest_and_no_tensor_is_shared_with_the_network() -> None:
    network, average = UNet(SETTINGS, seed=1), WeightAverage(0.1)
    average.add(network, 1)
    before = average.tensors["head.weight"].clone()
    for name, value in network.state_dict().items():
        value.fill_(7) if name.endswith("num_batches_tracked") else value.zero_()
    assert torch.equal(average.tensors["head.weight"], before)
    average.add(network, 2)
    assert all(int(v) == 7 for k, v in average.tensors.items() if k.endswith("num_batches_tracked"))
    torch.testing.assert_close(average.tensors["head.weight"], before * (1 - 1 / 1.1))
