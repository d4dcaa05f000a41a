"""Operations of training over pixels: batch normalization with leaky ReLU, pooling, 1x1 convolutions; their gradients.

Tensors are ``(B, C, Y, X) float32``, channels last, with a multiple of `LANES` features. Sums are formed per block of
pixels and combined in order in float64, so that results repeat to the last bit for any number and timing of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.cpu import _winograd as k
from septum.cpu._ir import LANES, STEP
from septum.cpu._layers import PIXEL_BLOCK, pixel_memory
from septum.cpu._ops import RESOURCES, address, engine_threads, features_innermost, strides
from septum.cpu._packed_weights import aligned, head

# Bytes of a block of pixels; they are read twice and must stay in the first cache.
_BLOCK_BYTES = 32_000
# Partial sums of the gradient of a 1x1 convolution.
_RANGES = 8


def _pixels(x: Tensor) -> NDArray[np.int64]:
    """Describe a loop over the pixels of `x`."""
    chunks, pixels = x.shape[1] // LANES, x.numel() // x.shape[1]
    d = np.zeros(k.SIZE, np.int64)
    d[k.INPUT0], d[k.CHUNKS0], d[k.END] = x.data_ptr(), chunks, pixels
    d[k.BLOCK] = max(1, _BLOCK_BYTES // (chunks * STEP))
    return d


def _sum_blocks(loop: int, d: NDArray[np.int64], leak: float) -> NDArray[np.float64]:
    """Run a loop that gives two sums a block; return them, ``(blocks, 2, C) float64``."""
    blocks, features = -(-int(d[k.END]) // int(d[k.BLOCK])), int(d[k.CHUNKS0]) * LANES
    with engine_threads() as threads:
        RESOURCES.reserve(8 * blocks * features)
        d[k.SUMS] = RESOURCES.address
        threads.reserve(STEP)
        with threads.ready():
            threads.run(loop, d, leak)
        return RESOURCES.shared[: 2 * blocks * features].reshape(blocks, 2, features).astype(np.float64)


def moments(x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean and (biased) variance of each feature over all pixels of the batch.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32, any finite values.

    Returns
    -------
    mean, variance
        ``(C,) float64`` each, finite.
    """
    d = _pixels(x)
    sums, total, size = _sum_blocks(k.MOMENTS, d, 1.0), int(d[k.END]), int(d[k.BLOCK])
    means, squares, counts = sums[:, 0], sums[:, 1], np.full((len(sums), 1), float(size))
    counts[-1] = total - (len(sums) - 1) * size
    mean = (means * counts).sum(0) / total
    # Chan, Golub and LeVeque 1979: squares around the means of blocks, plus squares of these means around the total.
    variance = (squares.sum(0) + (counts * np.square(means - mean)).sum(0)) / total
    return mean, variance


def normalize(x: Tensor, table: NDArray[np.float32], leak: float) -> Tensor:
    """Compute leaky ReLU of ``table[0] x + table[1]``.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32, any finite values.
    table
        ``(2 or more, C) float32``, finite: scale, offset.
    leak
        Slope below zero.

    Returns
    -------
    Tensor
        ``(B, C, Y, X)`` float32, any finite values.
    """
    out, d = torch.empty_like(x), _pixels(x)
    d[k.BIAS], d[k.OUTPUT] = table.ctypes.data, out.data_ptr()
    _run(k.NORMALIZE, d, leak)
    return out


def gradient_sums(
    gradient: Tensor, x: Tensor, table: NDArray[np.float32], leak: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum over pixels the gradient before the ReLU of `normalize`, and its products with ``x - table[2]``.

    Parameters
    ----------
    gradient
        ``(B, C, Y, X)`` float32: gradient of the result of `normalize`.
    x
        ``(B, C, Y, X)`` float32, any finite values: input of `normalize`.
    table
        ``(3 or more, C)`` float32, finite: scale, offset, mean.
    leak
        As for `normalize`.

    Returns
    -------
    sums, products
        ``(C,)`` float64 each, any finite values.
    """
    d = _pixels(x)
    d[k.INPUT1], d[k.BIAS] = gradient.data_ptr(), table.ctypes.data
    sums, products = _sum_blocks(k.GRADIENT_SUMS, d, leak).sum(0)
    return sums, products


def feature_sums(x: Tensor) -> Tensor:
    """Sum each feature of ``(B, C, Y, X)`` float32, any finite values, over all pixels to ``(C,) float32``."""
    sums, _ = gradient_sums(x, x, identity_table(x.shape[1]), 1.0)
    return torch.from_numpy(sums.astype(np.float32))


def identity_table(features: int) -> NDArray[np.float32]:
    """Return the table, ``(5, features) float32`` of zeros and ones, for which `normalize` is a plain leaky ReLU."""
    table = np.zeros((5, features), np.float32)
    table[0] = 1
    return table


def batchnorm_gradient(gradient: Tensor, x: Tensor, table: NDArray[np.float32], leak: float) -> Tensor:
    """Compute ``table[0] (g - table[3] - table[4] (x - table[2]))``, with g the gradient before the ReLU.

    Parameters
    ----------
    gradient
        ``(B, C, Y, X)`` float32: gradient of the result of `normalize`.
    x
        ``(B, C, Y, X)`` float32, any finite values: input of `normalize`.
    table
        ``(5, C)`` float32, finite: scale, offset, mean, and the two terms of the gradient of the statistics.
    leak
        As for `normalize`.

    Returns
    -------
    Tensor
        ``(B, C, Y, X)`` float32, gradient of `x`.
    """
    out, d = torch.empty_like(x), _pixels(x)
    d[k.INPUT1], d[k.BIAS], d[k.OUTPUT] = gradient.data_ptr(), table.ctypes.data, out.data_ptr()
    _run(k.BATCHNORM_GRADIENT, d, leak)
    return out


def pool(x: Tensor) -> Tensor:
    """Compute the maxima of windows of 2x2 pixels.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32 of even sides, any finite values.

    Returns
    -------
    Tensor
        ``(B, C, Y / 2, X / 2)`` float32, any finite values.
    """
    sides = [side // 2 for side in x.shape[2:]]
    out = torch.empty((*x.shape[:2], *sides), memory_format=torch.channels_last)
    d = _windows(x)
    d[k.POOLED_ROW], d[k.POOLED_PIXEL] = strides(out)[:2]
    for number in range(len(x)):
        d[k.INPUT0], d[k.POOLED] = address(x, number), address(out, number)
        _run(k.POOL, d, 1.0)
    return out


def pool_gradient(x: Tensor, of_pooled: Tensor, of_center: Tensor) -> Tensor:
    """Compute the gradient of a map that is pooled, and whose center is used elsewhere.

    The first of the largest pixels of a window receives the gradient of the pooled map, as in PyTorch.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32 of even sides, any finite values.
    of_pooled
        ``(B, C, Y / 2, X / 2)`` float32, gradient of the result of `pool`.
    of_center
        ``(B, C, *S)`` float32, gradient of the central part of `x`.

    Returns
    -------
    Tensor
        ``(B, C, Y, X)`` float32, gradient of `x`.
    """
    of_pooled, of_center, out = features_innermost(of_pooled), features_innermost(of_center), torch.empty_like(x)
    margins = [(side - part) // 2 for side, part in zip(x.shape[2:], of_center.shape[2:], strict=True)]
    d = _windows(x)
    d[k.ROW1], d[k.PIXEL1], d[k.OUT_ROW], d[k.OUT_PIXEL] = *strides(of_center)[:2], *strides(out)[:2]
    d[k.POOLED_ROW], d[k.POOLED_PIXEL] = strides(of_pooled)[:2]
    d[k.TOP], d[k.LEFT] = margins
    d[k.BOTTOM], d[k.RIGHT] = [m + side for m, side in zip(margins, of_center.shape[2:], strict=True)]
    for number in range(len(x)):
        d[k.INPUT0], d[k.OUTPUT] = address(x, number), address(out, number)
        d[k.INPUT1], d[k.POOLED] = address(of_center, number), address(of_pooled, number)
        _run(k.POOL_GRADIENT, d, 1.0)
    return out


def classify(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a 1x1 convolution to planes.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32, any finite values.
    weight, bias
        ``(K, C, 1, 1)`` and ``(K,)`` float32 weights.

    Returns
    -------
    Tensor
        ``(B, K, Y, X)`` float32, features outermost, any finite values.
    """
    packed = head(weight, bias)
    out = torch.empty((len(x), len(weight), *x.shape[2:]))
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0] = strides(x)
    d[k.HEIGHT], d[k.WIDTH], d[k.END], d[k.BLOCK] = *x.shape[2:], x.shape[2], PIXEL_BLOCK
    d[k.OUT_ROW], d[k.OUT_PIXEL], d[k.OUT_CHUNKS] = 4 * out.stride(2), 4 * out.stride(1), len(weight)
    d[k.WEIGHTS], d[k.BIAS] = packed.weights.ctypes.data, packed.bias.ctypes.data
    d[k.PANELS], d[k.SINGLE] = packed.panels, packed.single
    for number in range(len(x)):
        d[k.INPUT0], d[k.OUTPUT] = address(x, number), address(out, number)
        _run(k.HEAD, d, 1.0, pixel_memory(packed.features))
    return out


def classify_gradients(x: Tensor, gradient: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `classify`.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32, any finite values.
    gradient
        ``(B, K, Y, X)`` float32, gradient of the result.
    weight
        ``(K, C, 1, 1)`` float32 weights.

    Returns
    -------
    of_input, of_weight, of_bias
        float32, of the shapes of `x`, of `weight`, and ``(K,)``.
    """
    gradient, filters, out = gradient.contiguous(), weight.flatten(1).contiguous(), torch.empty_like(x)
    parts, total = aligned(_RANGES * filters.numel()).reshape(_RANGES, -1), np.zeros(filters.numel())
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0] = strides(x)
    d[k.ROW1], d[k.PIXEL1], d[k.CHUNKS1] = 4 * gradient.stride(2), 4 * gradient.stride(1), len(weight)
    d[k.OUT_ROW], d[k.OUT_PIXEL] = strides(out)[:2]
    d[k.HEIGHT], d[k.WIDTH], d[k.RANGES] = *x.shape[2:], _RANGES
    d[k.WEIGHTS], d[k.SUMS] = filters.data_ptr(), parts.ctypes.data
    for number in range(len(x)):
        d[k.INPUT0], d[k.INPUT1] = address(x, number), address(gradient, number)
        d[k.OUTPUT] = address(out, number)
        _run(k.HEAD_GRADIENT, d, 1.0)
        total += parts.sum(0, dtype=np.float64)
    # Inputs innermost, the memory format of the weights.
    of_weight = torch.from_numpy(total.astype(np.float32)).view(len(weight), 1, 1, -1).permute(0, 3, 1, 2)
    of_bias = gradient.numpy().sum((0, 2, 3), dtype=np.float64).astype(np.float32)
    return out, of_weight, torch.from_numpy(of_bias)


def _windows(x: Tensor) -> NDArray[np.int64]:
    """Describe a loop over the windows of 2x2 pixels of `x`."""
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0] = strides(x)
    d[k.HEIGHT], d[k.WIDTH] = x.shape[2:]
    return d


def _run(loop: int, d: NDArray[np.int64], leak: float, scratch: int = STEP) -> None:
    """Run a loop over pixels on all threads, each with some bytes of memory of its own."""
    with engine_threads() as threads:
        threads.reserve(scratch)
        with threads.ready():
            threads.run(loop, d, leak)
