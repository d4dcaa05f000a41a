"""What training computes with the loops of the engine: convolutions and normalization, forward and backward.

Tensors are ``(B, C, Y, X) float32`` with their features innermost (channels-last) and multiples of `LANES` many.
Results repeat to the last bit whatever the number and timing of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.cpu import _winograd as k
from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._layers import Workshop, pixel_memory, tile_block, tile_memory
from septum.cpu._packed_weights import aligned, image_convolution, is_wide
from septum.cpu._threads import Threads
from septum.cpu._winograd_backward import GROUP, GROUP_BYTES
from septum.cpu._winograd_loops import work

_LINEAR = np.float32(1)
# Sums of a weight gradient of few features: one for each of so many ranges of tiles, whatever the number of threads.
_RANGES = 8
# Its blocks: so many tiles at least, and more while the transformed inputs and gradients stay in the second cache.
_FEWEST_TILES, _CACHE_BYTES = 64, 1_000_000
# Most bytes of the sums or the tiles of all threads, if that is possible.
_MOST_BYTES = 8_000_000
# Products of `ROWS` pixels of an image that a block has.
_PIXEL_BLOCK = 4
# Bytes of a block of pixels that are read twice.
_BLOCK_BYTES = 32_000

_SHOP = Workshop(Threads(1, work), _LINEAR)


@contextmanager
def _threads() -> Iterator[Threads]:
    """Have as many threads as PyTorch takes; nobody else computes with them meanwhile."""
    threads = _SHOP.threads
    with threads.lock:
        if threads.count != torch.get_num_threads():
            threads.resize(torch.get_num_threads())
        yield threads


def _description(x: Tensor, outputs: int, margin: int) -> NDArray[np.int64]:
    """Describe a 3x3 convolution of `x`, with a margin of zeros, to so many features."""
    _, inputs, height, width = x.shape
    d = np.zeros(k.SIZE, np.int64)
    d[[k.ROW0, k.PIXEL0, k.CHUNKS0]] = 4 * width * inputs, 4 * inputs, inputs // LANES
    d[[k.IN_HEIGHT, k.IN_WIDTH, k.MARGIN]] = height, width, margin
    height, width = height + 2 * margin - 2, width + 2 * margin - 2
    d[[k.HEIGHT, k.WIDTH, k.END, k.BOTTOM, k.RIGHT]] = height, width, height, height, width
    d[[k.OUT_ROW, k.OUT_PIXEL, k.OUT_CHUNKS]] = 4 * width * outputs, 4 * outputs, outputs // LANES
    return d


def _tiles(d: NDArray[np.int64]) -> int:
    return -(-int(d[k.HEIGHT]) // 4) * -(-int(d[k.WIDTH]) // 4)


def convolve(
    x: Tensor, weight: Tensor, *, margin: int, backward: bool = False, bias: Tensor | None = None, leak: float = 1.0
) -> Tensor:
    """Compute a 3x3 convolution, bias and leaky ReLU.

    Parameters
    ----------
    x
        ``(B, I, Y, X)``; with `backward` ``(B, O, Y, X)``.
    weight
        ``(O, I, 3, 3) float32``.
    margin
        Pixels of zeros around `x`: 0, 1 or 2.
    backward
        Exchange inputs and outputs and turn the filters by 180 degrees: with a margin of 2 less that of the
        convolution, this is the gradient of its inputs.
    bias
        ``(O,) float32``, or None for zeros.
    leak
        Slope below zero; 1 for none.

    Returns
    -------
    Tensor
        ``(B, O, Y + 2 margin - 2, X + 2 margin - 2)``; with `backward` of I features.
    """
    filters = weight.permute(0, 2, 3, 1).contiguous()  # as they lie, if features are innermost in weights, too
    outputs, inputs = weight.shape[:2]
    loop = k.PACK_TURNED if backward else k.PACK
    if backward:
        outputs, inputs = inputs, outputs
    columns = LANES if outputs <= LANES else 2 * LANES
    panels = -(-outputs // columns)
    d = _description(x, outputs, margin)
    d[[k.PANELS, k.SINGLE]] = panels, columns == LANES
    offsets = aligned(panels * columns)
    if bias is not None:
        offsets[:outputs] = bias.numpy()
    matrices = 9 if is_wide(inputs, panels * columns) else k.PRODUCTS
    packed = 4 * matrices * inputs * panels * columns
    packing = d.copy()
    packing[[k.INPUT0, k.PARTS]] = filters.data_ptr(), matrices
    packing[[k.ROW0, k.PIXEL0]] = 36 * weight.shape[1], 4 * weight.shape[1]
    tiles = _tiles(d)
    out = torch.empty((len(x), outputs, int(d[k.HEIGHT]), int(d[k.WIDTH])), memory_format=torch.channels_last)
    with _threads() as threads:
        block, shared = _reserve_tiles(d, inputs, packed)
        packing[k.WEIGHTS] = d[k.WEIGHTS] = _SHOP.shared.ctypes.data
        d[[k.SHARED, k.BIAS]] = _SHOP.shared.ctypes.data + packed, offsets.ctypes.data
        with threads.together():
            threads.run(loop, packing, _LINEAR)
            for one, result in zip(x, out, strict=True):
                d[[k.INPUT0, k.OUTPUT]] = one.data_ptr(), result.data_ptr()
                if not shared:
                    threads.run(k.WINOGRAD, d, np.float32(leak))
                    continue
                for first in range(0, tiles, block):
                    d[[k.FIRST, k.COUNT]] = first, min(block, tiles - first)
                    threads.run(k.WINOGRAD_INPUTS, d, _LINEAR)
                    threads.run(k.WINOGRAD_OUTPUTS, d, np.float32(leak))
    return out


def _reserve_tiles(d: NDArray[np.int64], inputs: int, kept: int) -> tuple[int, bool]:
    """Choose how many tiles a block has; have memory for one, beside some that is kept, in bytes.

    Returns
    -------
    int
        How many tiles.
    bool
        Whether threads share a block.
    """
    columns, panels = LANES if d[k.SINGLE] else 2 * LANES, int(d[k.PANELS])
    most, shared = tile_block(inputs, panels * columns)
    block = min(most, -(-_tiles(d) // ROWS))
    d[[k.BLOCK, k.STRIDE_IN, k.STRIDE_OUT]] = block, *(4 * block * ROWS * n + STEP for n in (inputs, columns))
    d[k.PARTS] = min(block, -(-4 * _SHOP.threads.count // panels))
    scratch, common = tile_memory(inputs, panels * columns, block, shared)
    _SHOP.threads.reserve(max(scratch, 9 * LANES * STEP))  # filters are packed there
    _SHOP.reserve(kept + common)
    return block * ROWS, shared


def weight_gradient(x: Tensor, gradient: Tensor, *, margin: int) -> Tensor:
    """Compute the gradient of the weights of `convolve`.

    Parameters
    ----------
    x
        ``(B, I, Y, X)``.
    gradient
        ``(B, O, Y + 2 margin - 2, X + 2 margin - 2)``, of the outputs.
    margin
        As for `convolve`.

    Returns
    -------
    Tensor
        ``(O, I, 3, 3) float32``, inputs innermost.
    """
    inputs, outputs = x.shape[1], gradient.shape[1]
    d = _description(x, outputs, margin)
    tiles, sums, each = _tiles(d), 4 * k.PRODUCTS * inputs * outputs, 4 * k.PRODUCTS * (inputs + outputs)
    narrow = _RANGES * sums <= min(each * tiles, _MOST_BYTES)
    if narrow:
        size = min(max(_FEWEST_TILES, _CACHE_BYTES // each), -(-tiles // _RANGES))
    else:
        groups = -(-inputs // (GROUP * LANES)) * -(-outputs // (GROUP * LANES))
        sums = groups * GROUP_BYTES
        whole = each * tiles <= _MOST_BYTES + sums  # all tiles take no more memory than some of them and the sums
        size = tiles if whole else _MOST_BYTES // each
    block = -(-size // ROWS)
    held = each * block * ROWS + 2 * k.PRODUCTS * STEP
    d[[k.BLOCK, k.STRIDE_IN, k.STRIDE_OUT]] = block, *(4 * block * ROWS * n + STEP for n in (inputs, outputs))
    d[k.RANGES] = _RANGES
    total = torch.empty(0)
    with _threads() as threads:
        if narrow:
            _SHOP.reserve(_RANGES * sums)
            threads.reserve(held + k.PRODUCTS * STEP)
            d[k.SUMS] = _SHOP.shared.ctypes.data
        else:
            _SHOP.reserve(held + (0 if whole else sums))
            threads.reserve(GROUP_BYTES)
            d[[k.SHARED, k.SUMS]] = _SHOP.shared.ctypes.data, _SHOP.shared.ctypes.data + held
        with threads.together():
            for one, slope in zip(x, gradient, strict=True):
                result = torch.empty((outputs, 3, 3, inputs))
                d[[k.INPUT0, k.OUTPUT, k.WEIGHTS]] = one.data_ptr(), slope.data_ptr(), result.data_ptr()
                if narrow:
                    threads.run(k.WEIGHTS_RANGE, d, _LINEAR)
                    threads.run(k.WEIGHTS_SUM, d, _LINEAR)
                for first in range(0, 0 if narrow else tiles, block * ROWS):
                    d[[k.FIRST, k.COUNT]] = first, min(block * ROWS, tiles - first)
                    threads.run(k.WEIGHTS_INPUTS, d, _LINEAR)
                    threads.run(k.WEIGHTS_GROUP, d, _LINEAR)
                total = total.add_(result) if len(total) else result
    return total.permute(0, 3, 1, 2)


def _image_description(image: Tensor, outputs: int) -> NDArray[np.int64]:
    """Describe a 3x3 convolution of an image with its margin, ``(B, C, Y, X)``, features outermost."""
    _, channels, height, width = image.shape
    d = np.zeros(k.SIZE, np.int64)
    d[[k.ROW0, k.PIXEL0, k.CHUNKS0, k.CHUNKS1]] = 4 * width, 4 * height * width, -(-9 * channels // LANES), channels
    d[[k.HEIGHT, k.WIDTH, k.END, k.BLOCK]] = height - 2, width - 2, height - 2, _PIXEL_BLOCK
    d[[k.OUT_ROW, k.OUT_PIXEL, k.OUT_CHUNKS]] = 4 * (width - 2) * outputs, 4 * outputs, outputs // LANES
    return d


def convolve_image(image: Tensor, weight: Tensor, *, bias: Tensor | None, leak: float) -> Tensor:
    """Compute the first 3x3 convolution, bias and leaky ReLU.

    Parameters
    ----------
    image
        ``(B, C, Y, X) float32`` with its margin, features outermost.
    weight
        ``(O, C, 3, 3) float32``.
    bias, leak
        As for `convolve`.

    Returns
    -------
    Tensor
        ``(B, O, Y - 2, X - 2)``.
    """
    outputs = len(weight)
    packed = image_convolution(weight, torch.zeros(outputs) if bias is None else bias)
    d = _image_description(image, outputs)
    d[[k.WEIGHTS, k.BIAS]] = packed.weights.ctypes.data, packed.bias.ctypes.data
    d[[k.PANELS, k.SINGLE]] = packed.panels, packed.single
    out = torch.empty((len(image), outputs, int(d[k.HEIGHT]), int(d[k.WIDTH])), memory_format=torch.channels_last)
    with _threads() as threads:
        threads.reserve(pixel_memory(packed.features))
        with threads.together():
            for one, result in zip(image, out, strict=True):
                d[[k.INPUT0, k.OUTPUT]] = one.data_ptr(), result.data_ptr()
                threads.run(k.IMAGE, d, np.float32(leak))
    return out


def image_weight_gradient(image: Tensor, gradient: Tensor) -> Tensor:
    """Compute the gradient of the weights of `convolve_image`, ``(O, C, 3, 3) float32``.

    Parameters
    ----------
    image
        As there.
    gradient
        ``(B, O, Y - 2, X - 2)``, of the outputs.
    """
    channels, outputs = image.shape[1], gradient.shape[1]
    d = _image_description(image, outputs)
    shape = (_RANGES, int(d[k.CHUNKS0]), int(d[k.OUT_CHUNKS]), LANES, LANES)
    parts = aligned(int(np.prod(shape)))
    d[[k.SUMS, k.RANGES]] = parts.ctypes.data, _RANGES
    total = np.zeros((outputs, int(d[k.CHUNKS0]) * LANES))
    with _threads() as threads:
        threads.reserve(4 * _PIXEL_BLOCK * ROWS * (int(d[k.CHUNKS0]) * LANES + outputs))
        with threads.together():
            for one, slope in zip(image, gradient, strict=True):
                d[[k.INPUT0, k.OUTPUT]] = one.data_ptr(), slope.data_ptr()
                threads.run(k.IMAGE_RANGE, d, _LINEAR)
                summed = parts.reshape(shape).sum(0, dtype=np.float64)
                total += summed.transpose(1, 3, 0, 2).reshape(total.shape)
    found = torch.from_numpy(total[:, : 9 * channels].astype(np.float32)).view(outputs, channels, 3, 3)
    # Inputs innermost, as the weights lie: other processes expect it so.
    return found.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


def _pixels(x: Tensor) -> NDArray[np.int64]:
    """Describe a loop over the pixels of `x`."""
    chunks, pixels = x.shape[1] // LANES, x.numel() // x.shape[1]
    d = np.zeros(k.SIZE, np.int64)
    d[[k.INPUT0, k.CHUNKS0, k.END, k.BLOCK]] = x.data_ptr(), chunks, pixels, max(1, _BLOCK_BYTES // (chunks * STEP))
    return d


def _sum_blocks(loop: int, d: NDArray[np.int64], leak: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run a loop that gives two sums a block; return them, ``(2, blocks, C) float64``, and pixels of the blocks."""
    blocks, features = -(-int(d[k.END]) // int(d[k.BLOCK])), int(d[k.CHUNKS0]) * LANES
    counts = np.full((blocks, 1), d[k.BLOCK], np.float64)
    counts[-1] = d[k.END] - (blocks - 1) * d[k.BLOCK]
    with _threads() as threads:
        _SHOP.reserve(8 * blocks * features)
        d[k.SUMS] = _SHOP.shared.ctypes.data
        threads.reserve(STEP)
        with threads.together():
            threads.run(loop, d, np.float32(leak))
        sums = _SHOP.shared[: 2 * blocks * features]
        return sums.reshape(blocks, 2, features).swapaxes(0, 1).astype(np.float64), counts


def moments(x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and (biased) variance of each feature over all pixels of the batch, ``(C,) float64``."""
    (means, squares), counts = _sum_blocks(k.MOMENTS, _pixels(x), 1.0)
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    # Chan, Golub and LeVeque 1979: squares around the means of blocks, and those of the means around that of all.
    variance = (squares.sum(0) + (counts * np.square(means - mean)).sum(0)) / total
    return mean, variance


def normalize(x: Tensor, table: NDArray[np.float32], leak: float) -> Tensor:
    """Return leaky ReLU of ``table[0] x + table[1]``; `table` is ``(2 or more, C) float32``."""
    out, d = torch.empty_like(x), _pixels(x)
    d[[k.BIAS, k.OUTPUT]] = table.ctypes.data, out.data_ptr()
    _run(k.NORMALIZE, d, leak)
    return out


def gradient_sums(
    gradient: Tensor, x: Tensor, table: NDArray[np.float32], leak: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums over pixels of the gradient before the ReLU, and of its products with ``x - table[2]``.

    Parameters
    ----------
    gradient
        Of the result of `normalize`, like `x`.
    x, table, leak
        As for `normalize`.
    """
    d = _pixels(x)
    d[[k.INPUT1, k.BIAS]] = gradient.data_ptr(), table.ctypes.data
    (sums, products), _ = _sum_blocks(k.GRADIENT_SUMS, d, leak)
    return sums.sum(0), products.sum(0)


def feature_sums(x: Tensor) -> Tensor:
    """Return the sum of each feature over all pixels, ``(C,) float32``."""
    found, _ = gradient_sums(x, x, identity_table(x.shape[1]), 1.0)
    return torch.from_numpy(found.astype(np.float32))


def identity_table(features: int) -> NDArray[np.float32]:
    """Return the table, ``(5, features) float32``, with which `normalize` and `batchnorm_gradient` are ReLU and its gradient."""
    table = np.zeros((5, features), np.float32)
    table[0] = 1
    return table


def batchnorm_gradient(gradient: Tensor, x: Tensor, table: NDArray[np.float32], leak: float) -> Tensor:
    """Return ``table[0] (g - table[3] - table[4] (x - table[2]))``, g being the gradient before the ReLU."""
    out, d = torch.empty_like(x), _pixels(x)
    d[[k.INPUT1, k.BIAS, k.OUTPUT]] = gradient.data_ptr(), table.ctypes.data, out.data_ptr()
    _run(k.BATCHNORM_GRADIENT, d, leak)
    return out


def _run(loop: int, d: NDArray[np.int64], leak: float) -> None:
    with _threads() as threads:
        threads.reserve(STEP)
        with threads.together():
            threads.run(loop, d, np.float32(leak))
