from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from septum.nn.loss import soft_dice, weighted_cross_entropy


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.randint(0, 3, (2, 4, 5), generator=generator).to(torch.uint8)
    weight = torch.rand(2, 4, 5, generator=generator) * 10
    return logits, target, weight


def test_energy_is_equation_1_with_its_sign() -> None:
    logits, target, weight = _batch()
    e = np.exp(logits.double().numpy())
    p = e / e.sum(axis=1, keepdims=True)
    chosen = np.take_along_axis(p, target.long().numpy()[:, None], axis=1)[:, 0]
    energy, annotated = weighted_cross_entropy(logits, target, weight)
    assert float(energy) == pytest.approx(float((-weight.numpy() * np.log(chosen)).sum()), rel=1e-5)
    assert float(annotated) == 40
    assert energy.dtype == torch.float32


def test_one_pixel_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).reshape(1, 2, 1, 1)  # probabilities 1/4 and 3/4
    for label, expected in ((0, 2 * math.log(4)), (1, 2 * math.log(4 / 3))):
        energy, annotated = weighted_cross_entropy(
            logits, torch.full((1, 1, 1), label, dtype=torch.uint8), torch.full((1, 1, 1), 2.0)
        )
        assert (float(energy), float(annotated)) == (pytest.approx(expected), 1.0)


def test_ignored_pixels_have_no_energy_no_gradient_and_no_count() -> None:
    logits, target, weight = _batch()
    target[0, :2] = 255
    learned = logits.clone().requires_grad_()
    energy, annotated = weighted_cross_entropy(learned, target, weight)
    (gradient,) = torch.autograd.grad(energy, learned)
    assert float(annotated) == 30
    assert float(gradient[0, :, :2].abs().max()) == 0
    assert float(gradient[0, :, 2:].abs().min()) > 0
    rest = weighted_cross_entropy(logits[0:1, :, 2:], target[0:1, 2:], weight[0:1, 2:])[0]
    rest += weighted_cross_entropy(logits[1:], target[1:], weight[1:])[0]
    assert float(energy.detach()) == pytest.approx(float(rest), rel=1e-6)


def test_tile_without_annotation_has_no_energy() -> None:
    logits, target, weight = _batch()
    energy, annotated = weighted_cross_entropy(logits, torch.full_like(target, 255), weight)
    assert (float(energy), float(annotated)) == (0.0, 0.0)


def test_volumes_and_half_precision_logits_are_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 3, 4, 5, generator=generator).to(torch.bfloat16)
    target = torch.randint(0, 2, (1, 3, 4, 5), generator=generator).to(torch.uint8)
    weight = torch.ones(1, 3, 4, 5)
    energy, _ = weighted_cross_entropy(logits, target, weight)
    assert torch.equal(energy, weighted_cross_entropy(logits.float(), target, weight)[0])
    assert energy.dtype == torch.float32


def test_soft_dice_equals_its_formula_per_tile() -> None:
    logits, target, _ = _batch()
    target[0, :2] = 255
    e = np.exp(logits.double().numpy())
    p, y, expected = e / e.sum(axis=1, keepdims=True), target.numpy(), []
    for tile in range(2):
        known, found = y[tile] != 255, []
        for k in (1, 2):
            both, one, other = (p[tile, k] * (y[tile] == k)).sum(), p[tile, k][known].sum(), (y[tile] == k).sum()
            found.append((2 * both + 1) / (one + other + 1))
        expected.append((1 - np.mean(found)) * known.sum())
    assert float(soft_dice(logits, target)) == pytest.approx(sum(expected), rel=1e-5)
    assert float(soft_dice(logits[1:], target[1:])) == pytest.approx(expected[1], rel=1e-5)


def test_soft_dice_is_0_for_correct_and_for_unannotated_pixels() -> None:
    _, target, _ = _batch()
    sure = 50.0 * torch.nn.functional.one_hot(target.long(), 3).movedim(-1, 1)
    assert float(soft_dice(sure, target)) < 1e-3
    learned = torch.randn(2, 3, 4, 5, requires_grad=True)
    soft_dice(learned, torch.full_like(target, 255)).backward()
    assert learned.grad is not None and float(learned.grad.abs().max()) == 0.0


def test_soft_dice_is_of_the_classes_in_a_tile() -> None:
    logits, target, _ = _batch()
    target[0][target[0] == 2] = 0
    learned = logits.clone().requires_grad_()
    soft_dice(learned, target).backward()
    p = torch.softmax(logits.double(), dim=1).numpy()
    y = target.numpy()
    overlaps = [
        (2 * p[tile, k][y[tile] == k].sum() + 1) / (p[tile, k].sum() + (y[tile] == k).sum() + 1)
        for tile, k in ((0, 1), (1, 1), (1, 2))
    ]
    expected = 20 * (1 - overlaps[0]) + 20 * (1 - (overlaps[1] + overlaps[2]) / 2)
    assert float(soft_dice(logits, target)) == pytest.approx(expected, rel=1e-5)
    empty = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = soft_dice(empty, torch.zeros(1, 4, 4, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert empty.grad is not None and float(empty.grad.abs().max()) == 0.0
