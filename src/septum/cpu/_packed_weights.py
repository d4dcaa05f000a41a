"""Weights of the engine: transformed for Winograd's convolution and stored in the order in which products read them.

A *panel* holds the weights of one or two vectors of output features, so that a product reads them from front to back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.cpu._ir import LANES
from septum.jit import lazy_jit

_ALIGNMENT = 64

# Bytes of transformed filters from which on they are stored untransformed.
WIDE_BYTES = 8_000_000


def aligned(count: int) -> NDArray[np.float32]:
    """Return ``(count,) float32`` zeros whose address is a multiple of 64."""
    raw = np.zeros(count * 4 + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    values: NDArray[np.float32] = raw[start : start + count * 4].view(np.float32)
    return values


def is_wide(features: int, outputs: int) -> bool:
    """Return True if a 3x3 convolution has too many filters to store them transformed; each block transforms them.

    Untransformed filters need a quarter of the memory, and reading less of it outweighs the additional transforms.
    """
    return 4 * 36 * features * outputs >= WIDE_BYTES


@dataclass(frozen=True)
class PackedWeights:
    """Weights of one layer.

    Parameters
    ----------
    weights
        ``(panels, matrices, features, columns) float32``, flat.
    bias
        ``(outputs,) float32``, padded with zeros to the end of the last panel.
    panels
        Number of panels.
    single
        True if a panel has the columns of one vector, not of two.
    features
        Rows of each matrix: input features, padded to whole vectors.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    panels: int
    single: bool
    features: int


def convolution(weight: Tensor, bias: Tensor | None, sources: int) -> PackedWeights:
    """Pack a 3x3 convolution whose input is the concatenation of `sources` maps of equal size.

    The filters are transformed for F(4x4, 3x3), unless this would need too much memory.

    Parameters
    ----------
    weight
        ``(O, I, 3, 3)`` float32 weights.
    bias
        ``(O,)`` float32 weights.
    sources
        Number of maps.
    """
    outputs, inputs = weight.shape[:2]
    padded, columns = _up(inputs // sources, LANES), _columns(outputs)
    panels = _up(outputs, columns) // columns
    count = 9 if is_wide(sources * padded, panels * columns) else 36
    packed = aligned(panels * count * sources * padded * columns)
    _pack_filters(weight.detach().contiguous().numpy(), packed.reshape(panels, count, sources, padded, columns))
    return PackedWeights(packed, padded_bias(bias, panels * columns), panels, columns == LANES, sources * padded)


@lazy_jit
def _six(a: float, b: float, c: float) -> tuple[float, float, float, float, float, float]:
    """Return G (a, b, c) of F(4x4, 3x3): Lavin and Gray 2016, section 4.3."""
    return a / 4, (a + b + c) / -6, (a - b + c) / -6, (a + 2 * b + 4 * c) / 24, (a - 2 * b + 4 * c) / 24, c


@lazy_jit
def _pack_filters(weight: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Set ``(panels, 36, sources, features, columns)`` to G g G^T of each filter g, or 9 to g; computed in float64."""
    sources, columns = out.shape[2], out.shape[4]
    each = weight.shape[1] // sources
    half = np.empty((6, 3, columns))
    for panel in range(out.shape[0]):
        count = min(columns, weight.shape[0] - panel * columns)
        for feature in range(weight.shape[1]):
            for place in range(9 if out.shape[1] == 9 else 0):
                for column in range(count):
                    g = weight[panel * columns + column, feature]
                    out[panel, place, feature // each, feature % each, column] = g[place // 3, place % 3]
            if out.shape[1] == 9:
                continue
            for column in range(count):
                g = weight[panel * columns + column, feature]
                for j in range(3):
                    six = _six(np.float64(g[0, j]), np.float64(g[1, j]), np.float64(g[2, j]))
                    for i in range(6):
                        half[i, j, column] = six[i]
            for i in range(6):
                for column in range(count):
                    six = _six(half[i, 0, column], half[i, 1, column], half[i, 2, column])
                    for j in range(6):
                        out[panel, 6 * i + j, feature // each, feature % each, column] = six[j]


def image_convolution(weight: Tensor, bias: Tensor | None) -> PackedWeights:
    """Pack the first convolution: the rows of its matrix are the nine places of the first plane, then of the second.

    Parameters
    ----------
    weight
        ``(O, C, 3, 3)`` float32 weights.
    bias
        ``(O,)`` float32 weights.
    """
    return _plain(weight.detach().flatten(1).T[None], bias, len(weight))


def up_convolution(weight: Tensor, bias: Tensor | None) -> PackedWeights:
    """Pack an up-convolution of side and stride 2 as four products: upper left, upper right, lower left, right.

    Parameters
    ----------
    weight
        ``(I, O, 2, 2)`` float32 weights.
    bias
        ``(O,)`` float32 weights.
    """
    return _plain(weight.detach().permute(2, 3, 0, 1).flatten(0, 1), bias, weight.shape[1])


def up_convolution_turned(weight: Tensor) -> PackedWeights:
    """Pack an up-convolution for the gradient of its inputs: one product, ``(4 O, I)``, the pixels in the same order.

    Parameters
    ----------
    weight
        ``(I, O, 2, 2)`` float32 weights.
    """
    return _plain(weight.detach().permute(2, 3, 1, 0).flatten(0, 2)[None], torch.zeros(len(weight)), len(weight))


def head(weight: Tensor, bias: Tensor | None) -> PackedWeights:
    """Pack a 1x1 convolution.

    Parameters
    ----------
    weight
        ``(O, I, 1, 1)`` float32 weights.
    bias
        ``(O,)`` float32 weights.
    """
    return _plain(weight.detach().flatten(1).T[None], bias, len(weight))


def _plain(matrices: Tensor, bias: Tensor | None, outputs: int) -> PackedWeights:
    """Pack ``(matrices, features, outputs)``: all panels of one matrix, then those of the next."""
    count, inputs, _ = matrices.shape
    features, columns = _up(inputs, LANES), _columns(outputs)
    panels = _up(outputs, columns) // columns
    packed = aligned(count * panels * features * columns)
    view = torch.from_numpy(packed).view(count, panels, features, columns)
    for panel in range(panels):
        part = matrices[:, :, panel * columns : (panel + 1) * columns]
        view[:, panel, :inputs, : part.shape[2]] = part
    return PackedWeights(packed, padded_bias(bias, panels * columns), count * panels, columns == LANES, features)


def padded_bias(bias: Tensor | None, count: int) -> NDArray[np.float32]:
    """Return a bias, float32 of any finite values, padded with zeros to ``(count,) float32``."""
    assert bias is not None
    padded = aligned(count)
    padded[: len(bias)] = bias.detach().numpy()
    return padded


def _columns(outputs: int) -> int:
    """Return the columns of a panel: one vector or two."""
    return LANES if outputs <= LANES else 2 * LANES


def _up(number: int, multiple: int) -> int:
    """Round a number up to a multiple."""
    return -(-number // multiple) * multiple
