"""Up-convolutions of side and stride 2 in training, forward and backward, on PyTorch tensors.

Tensors are ``(B, C, Y, X) float32`` with features innermost and a multiple of `LANES` features. Results repeat to the
last bit for any number and timing of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.cpu import _winograd as k
from septum.cpu._ir import LANES, ROWS
from septum.cpu._layers import PIXEL_BLOCK, pixel_memory
from septum.cpu._ops import address, engine_threads, features_innermost, strides
from septum.cpu._packed_weights import aligned, up_convolution, up_convolution_turned

# Bytes of a block of the gradient of the weights, and the fewest pixels of one: sums are loaded and stored for each.
_BLOCK_BYTES, _FEWEST_PIXELS = 24_000, 48
# Partial sums of the gradient of the weights: one for each `_RANGE_PIXELS` pixels, from 2 to `_RANGES` sums.
_RANGES, _RANGE_PIXELS = 8, 512


def _description(x: Tensor, gradient: Tensor | None = None) -> NDArray[np.int64]:
    """Describe loops over the pixels of `x`, the input of the layer."""
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0] = strides(x)
    d[k.HEIGHT], d[k.WIDTH], d[k.END], d[k.BLOCK] = *x.shape[2:], x.shape[2], PIXEL_BLOCK
    if gradient is not None:
        row, pixel, chunks = strides(gradient)
        d[k.ROW1], d[k.PIXEL1], d[k.CHUNKS1] = row, pixel, 4 * chunks
    return d


def up_convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute an up-convolution with bias.

    Parameters
    ----------
    x
        ``(B, I, Y, X)`` float32, any finite values.
    weight
        ``(I, O, 2, 2)`` float32 weights.
    bias
        ``(O,)`` float32 weights.

    Returns
    -------
    Tensor
        ``(B, O, 2 Y, 2 X)`` float32, any finite values, channels last.
    """
    x = features_innermost(x)
    packed, outputs = up_convolution(weight, bias), weight.shape[1]
    sides = [2 * side for side in x.shape[2:]]
    out = torch.empty((len(x), outputs, *sides), memory_format=torch.channels_last)
    d = _description(x)
    d[k.OUT_ROW], d[k.OUT_PIXEL], d[k.OUT_CHUNKS] = strides(out)
    d[k.WEIGHTS], d[k.BIAS] = packed.weights.ctypes.data, packed.bias.ctypes.data
    d[k.PANELS], d[k.SINGLE] = packed.panels, packed.single
    with engine_threads() as threads:
        threads.reserve(pixel_memory(packed.features))
        with threads.ready():
            for number in range(len(x)):
                d[k.INPUT0], d[k.OUTPUT] = address(x, number), address(out, number)
                threads.run(k.UP_CONVOLUTION, d)
    return out


def up_input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of the inputs of `up_convolve`.

    Parameters
    ----------
    gradient
        ``(B, O, 2 Y, 2 X)`` float32, gradient of the outputs.
    weight
        ``(I, O, 2, 2)`` float32 weights.

    Returns
    -------
    Tensor
        ``(B, I, Y, X)`` float32, channels last, gradient of the inputs.
    """
    gradient, packed = features_innermost(gradient), up_convolution_turned(weight)
    sides = [side // 2 for side in gradient.shape[2:]]
    out = torch.empty((len(gradient), len(weight), *sides), memory_format=torch.channels_last)
    d = _description(out, gradient)
    d[k.OUT_ROW], d[k.OUT_PIXEL], d[k.OUT_CHUNKS] = strides(out)
    d[k.WEIGHTS], d[k.PANELS], d[k.SINGLE] = packed.weights.ctypes.data, packed.panels, packed.single
    with engine_threads() as threads:
        threads.reserve(pixel_memory(packed.features))
        with threads.ready():
            for number in range(len(out)):
                d[k.INPUT1], d[k.OUTPUT] = address(gradient, number), address(out, number)
                threads.run(k.UP_INPUT_GRADIENT, d)
    return out


def up_weight_gradient(x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of weights and bias of `up_convolve`.

    Parameters
    ----------
    x
        ``(B, I, Y, X)`` float32, any finite values.
    gradient
        ``(B, O, 2 Y, 2 X)`` float32, gradient of the outputs.

    Returns
    -------
    weight, bias
        ``(I, O, 2, 2) float32``, outputs innermost, and ``(O,) float32``.
    """
    x, gradient = features_innermost(x), features_innermost(gradient)
    inputs, outputs = x.shape[1], gradient.shape[1]
    d, pixels = _description(x, gradient), x.shape[2] * x.shape[3]
    block = max(_FEWEST_PIXELS, _BLOCK_BYTES // (4 * (inputs + 4 * outputs)))
    ranges = min(_RANGES, max(2, pixels // _RANGE_PIXELS))
    d[k.BLOCK], d[k.RANGES] = -(-min(block, -(-pixels // ranges)) // ROWS), ranges
    parts = aligned(ranges * 4 * outputs * (inputs + 1)).reshape(ranges, -1)
    d[k.SUMS] = parts.ctypes.data
    total = np.zeros(parts.shape[1])
    with engine_threads() as threads:
        threads.reserve(4 * int(d[k.BLOCK]) * ROWS * (inputs + 4 * outputs))
        with threads.ready():
            for number in range(len(x)):
                d[k.INPUT0], d[k.INPUT1] = address(x, number), address(gradient, number)
                threads.run(k.UP_WEIGHTS_RANGE, d)
                total += parts.sum(0, dtype=np.float64)
    split = 4 * outputs * inputs
    shape = (inputs // LANES, 2 * outputs // LANES, LANES, 2 * LANES)
    summed = total[:split].astype(np.float32).reshape(shape).transpose(0, 2, 1, 3)
    weight = torch.from_numpy(summed.reshape(inputs, 2, 2, outputs)).permute(0, 3, 1, 2)
    return weight, torch.from_numpy(total[split:].reshape(4, outputs).sum(0).astype(np.float32))
