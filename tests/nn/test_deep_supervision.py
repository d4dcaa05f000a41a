"""Deep supervision: the loss with and without coarser levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.loss import soft_dice, weighted_cross_entropy
from septum.nn.unet import UNet, UNetSettings

PLAIN = UNetSettings(depths=(3, 3), width=2, padding="same", classes=3)


def _given(network: UNet, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    sides = network.geometry.input_for((24,) * len(network.settings.depths))
    output = network.geometry.output(sides)
    x = torch.randn(batch, 1, *sides, generator=draw)
    y = torch.randint(0, network.settings.classes, (batch, *output), generator=draw).to(torch.uint8)
    return x, y, torch.rand(batch, *output, generator=draw)


def test_without_coarser_levels_it_equals_the_network_and_its_loss() -> None:
    network = UNet(PLAIN, seed=1)
    made = DeeplySupervised(network, 0.0, seed=2)
    x, y, w = _given(network)
    logits = made(x)
    assert len(logits) == 1 and torch.equal(logits[0], network(x))
    energy, annotated = made.loss(logits, y, w, dice=2.0)
    expected = weighted_cross_entropy(network(x), y, w)
    assert (float(energy.detach()), float(annotated)) == pytest.approx(
        (float((expected[0] + 2 * soft_dice(network(x), y)).detach()), float(expected[1]))
    )
    assert [n for n, _ in made.named_parameters()] == [f"network.{n}" for n, _ in network.named_parameters()]


def test_the_first_prediction_is_the_share_of_each_class() -> None:
    made = DeeplySupervised(UNet(PLAIN, seed=1), 0.5, seed=2)
    shares = np.array([0.9, 0.0998, 0.0002])
    made.set_prior(shares)
    for head in (made.network.head, *made.heads):
        torch.nn.init.zeros_(head.weight)
    for logits in made(_given(made.network)[0]):
        p = torch.softmax(logits.detach(), dim=1).movedim(1, -1).reshape(-1, 3).numpy()
        np.testing.assert_allclose(p, np.broadcast_to(shares, p.shape), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        (PLAIN, [(2, 2), (4, 4)]),
        (PLAIN.model_copy(update={"padding": "valid"}), [(2, 2), (4, 4)]),
        (UNetSettings(depths=(1, 3), width=2, padding="same"), [(1, 2), (1, 4)]),
        (UNetSettings(depths=(0, 2, 2), width=2, padding="same"), [(1, 2, 2)]),
        (UNetSettings(depths=(1, 1), width=2), []),
    ],
)
def test_coarse_pixel_is_compared_with_all_fine_pixels_it_covers(
    settings: UNetSettings, factors: list[tuple[int, ...]]
) -> None:
    network = UNet(settings, seed=1)
    made = DeeplySupervised(network, 0.5, seed=2)
    x, y, w = _given(network)
    logits = made(x)
    assert torch.equal(logits[0], network(x)) and len(logits) == 1 + len(factors)
    expected = float(weighted_cross_entropy(logits[0].detach(), y, w)[0])
    for level, (coarse, factor) in enumerate(zip(logits[1:], factors, strict=True)):
        fine = coarse.detach()
        for axis, times in enumerate(factor, start=2):
            fine = fine.repeat_interleave(times, axis)
            margin = fine.shape[axis] - y.shape[axis - 1]
            assert margin >= 0 and margin % 2 == 0
            fine = fine.narrow(axis, margin // 2, y.shape[axis - 1])
        expected += 0.5 * 0.25**level * float(weighted_cross_entropy(fine, y, w)[0])
    energy, annotated = made.loss(logits, y, w, dice=0)
    assert float(energy.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(annotated) == y.numel()
    torch.autograd.backward(energy)
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.heads.parameters())


def test_coarse_logits_are_aligned_with_their_receptive_fields() -> None:
    """Also without padding, the logits of a coarse pixel are aligned with its receptive field."""
    for padding in ("same", "valid"):
        network = UNet(PLAIN.model_copy(update={"padding": padding, "classes": 2}), seed=1).double()
        made = DeeplySupervised(network, 0.5, seed=2).double()
        with torch.no_grad():
            for weight in made.parameters():  # symmetric weights
                weight.fill_(0.1 if weight.ndim > 1 else 0)
        sides = network.geometry.input_for((48, 48))
        (side, _), (output, _) = sides, network.geometry.output(sides)
        x = torch.zeros(1, 1, *sides, dtype=torch.float64)
        x[..., side // 2 - 1 : side // 2 + 1, side // 2 - 1 : side // 2 + 1] = 1
        for level, (changed, still) in enumerate(zip(made(x), made(torch.zeros_like(x)), strict=True)):
            moved = (changed - still).abs().sum(dim=(0, 1))
            places = moved.sum(1) / moved.sum()
            centers = (torch.arange(len(places)) + 0.5) * 2**level - (len(places) * 2**level - output) / 2
            assert float((places * centers).sum().detach()) == pytest.approx(output / 2), (padding, level)


def test_initial_weights_follow_the_seed() -> None:
    made = [DeeplySupervised(UNet(PLAIN, seed=1), 0.5, seed=seed).heads[1].weight for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
