"""Operations of training over pixels: batch normalization with leaky ReLU, forward and backward.

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
from septum.cpu._ops import RESOURCES, engine_threads

# Bytes of a block of pixels; they are read twice and must stay in the first cache.
_BLOCK_BYTES = 32_000


def _pixels(x: Tensor) -> NDArray[np.int64]:
    """Describe a loop over the pixels of `x`."""
    chunks, pixels = x.shape[1] // LANES, x.numel() // x.shape[1]
    d = np.zeros(k.SIZE, np.int64)
    d[[k.INPUT0, k.CHUNKS0, k.END, k.BLOCK]] = x.data_ptr(), chunks, pixels, max(1, _BLOCK_BYTES // (chunks * STEP))
    return d


def _sum_blocks(loop: int, d: NDArray[np.int64], leak: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run a loop that gives two sums a block; return them, ``(2, blocks, C) float64``, and the pixels of the blocks."""
    blocks, features = -(-int(d[k.END]) // int(d[k.BLOCK])), int(d[k.CHUNKS0]) * LANES
    counts = np.full((blocks, 1), d[k.BLOCK], np.float64)
    counts[-1] = d[k.END] - (blocks - 1) * d[k.BLOCK]
    with engine_threads() as threads:
        RESOURCES.reserve(8 * blocks * features)
        d[k.SUMS] = RESOURCES.shared.ctypes.data
        threads.reserve(STEP)
        with threads.ready():
            threads.run(loop, d, np.float32(leak))
        sums = RESOURCES.shared[: 2 * blocks * features]
        return sums.reshape(blocks, 2, features).swapaxes(0, 1).astype(np.float64), counts


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
    (means, squares), counts = _sum_blocks(k.MOMENTS, _pixels(x), 1.0)
    total = counts.sum()
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
    d[[k.BIAS, k.OUTPUT]] = table.ctypes.data, out.data_ptr()
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
    d[[k.INPUT1, k.BIAS]] = gradient.data_ptr(), table.ctypes.data
    (sums, products), _ = _sum_blocks(k.GRADIENT_SUMS, d, leak)
    return sums.sum(0), products.sum(0)


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
    d[[k.INPUT1, k.BIAS, k.OUTPUT]] = gradient.data_ptr(), table.ctypes.data, out.data_ptr()
    _run(k.BATCHNORM_GRADIENT, d, leak)
    return out


def _run(loop: int, d: NDArray[np.int64], leak: float) -> None:
    """Run a loop over pixels on all threads."""
    with engine_threads() as threads:
        threads.reserve(STEP)
        with threads.ready():
            threads.run(loop, d, np.float32(leak))
