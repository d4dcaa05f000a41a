"""Packed weights against a hand-worked filter."""

from __future__ import annotations

import torch
from torch import nn

from septum.cpu._packed_weights import convolution


def test_packed_weights_are_those_of_winograd() -> None:
    """One tile, one feature: 36 products of transformed input and filter give the convolution (worked by hand)."""
    conv = nn.Conv2d(1, 1, 3)
    with torch.no_grad():
        conv.weight[0, 0] = torch.tensor([[0.0, 0, 0], [0, 24, 0], [0, 0, 0]])
    packed = convolution(conv.weight, conv.bias, 1)
    g = [0, -4, 4, 2, -2, 0]  # G (0, 24, 0)
    matrix = packed.weights.reshape(36, packed.features, -1)[:, 0, 0].reshape(6, 6)
    expected = [[a * b / 24 for b in g] for a in g]
    torch.testing.assert_close(torch.from_numpy(matrix), torch.tensor(expected))
    assert not packed.weights.reshape(36, packed.features, -1)[:, 1:].any()
