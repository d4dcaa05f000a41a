"""Operations of training on PyTorch tensors: convolutions, forward and backward.

Tensors are ``(B, C, Y, X) float32``, channels last, with a multiple of `LANES` features. Each function fills in the
description of a layer, reserves memory, and runs the compiled loops on all threads. Results repeat to the last bit for
any number and timing of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.cpu import _winograd as k
from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._layers import INPUTS, PIXEL_BLOCK, STRIDES, Resources, pixel_memory, tile_block, tile_memory
from septum.cpu._packed_weights import aligned, image_convolution, is_wide, padded_bias
from septum.cpu._threads import ThreadPool
from septum.cpu._winograd_backward import GROUP, GROUP_BYTES

# Partial sums of a weight gradient of few features, one for each range of tiles, whatever the number of threads.
WEIGHT_SUMS = 8
# Tiles of a block of it: at least this many, and more while the transformed inputs and gradients fit the second cache.
_FEWEST_TILES, _CACHE_BYTES = 36, 350_000
# Largest memory of these sums, and, where features are many, of the transformed tiles that all threads share: a part of
# the third cache, which holds other data as well.
MOST_SUMS_BYTES, MOST_TILES_BYTES = 8_000_000, 2_000_000

RESOURCES = Resources(ThreadPool(1), 1.0)


@contextmanager
def engine_threads() -> Iterator[ThreadPool]:
    """Take the lock of the thread pool, with as many threads as PyTorch uses."""
    threads = RESOURCES.threads
    with threads.lock:
        if not threads.is_held and threads.count != torch.get_num_threads():
            threads.resize(torch.get_num_threads())
        yield threads


@contextmanager
def step_threads() -> Iterator[None]:
    """Keep the threads of the engine awake, and let PyTorch compute with one thread while the context is entered.

    What PyTorch still computes in a step is little: two sets of threads would wait for each other's cores, and sums
    would depend on the number of threads.
    """
    count = torch.get_num_threads()
    with engine_threads() as threads, threads.held():
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(count)


def features_innermost(x: Tensor) -> Tensor:
    """Return a map as it is if its features are innermost, as in a part of another one; otherwise channels last.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32, any finite values.

    Returns
    -------
    Tensor
        ``(B, C, Y, X)`` float32, the same finite values.
    """
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def strides(x: Tensor) -> tuple[int, int, int]:
    """Return the bytes of a row and of a pixel of `x`, whose features are innermost, and its vectors of a pixel.

    Parameters
    ----------
    x
        ``(B, C, Y, X)`` float32, any values.
    """
    return 4 * x.stride(2), 4 * x.stride(3), x.shape[1] // LANES


def address(x: Tensor, number: int) -> int:
    """Return the address of an image of a batch, ``(B, C, Y, X)`` float32 of any values."""
    return x.data_ptr() + 4 * number * x.stride(0)


_zeros = cache(aligned)  # the bias of a convolution without one, never written


def _description(sources: Sequence[Tensor], outputs: int, margin: int) -> NDArray[np.int64]:
    """Describe a 3x3 convolution of up to three maps of equal sides, with a margin of zeros, to `outputs` features."""
    height, width = sources[0].shape[2:]
    d = np.zeros(k.SIZE, np.int64)
    for x, (row, pixel, chunks) in zip(sources, STRIDES, strict=False):
        d[row], d[pixel], d[chunks] = strides(x)
    d[k.IN_HEIGHT], d[k.IN_WIDTH], d[k.MARGIN] = height, width, margin
    d[k.IN_DEPTH] = d[k.DEPTH] = d[k.COLUMN] = d[k.TAPS] = 1
    height, width = height + 2 * margin - 2, width + 2 * margin - 2
    d[k.HEIGHT], d[k.WIDTH], d[k.END], d[k.BOTTOM], d[k.RIGHT] = height, width, height, height, width
    d[k.OUT_ROW], d[k.OUT_PIXEL], d[k.OUT_CHUNKS] = 4 * width * outputs, 4 * outputs, outputs // LANES
    return d


def _tiles(d: NDArray[np.int64]) -> int:
    """Return the number of 4x4 tiles of the output."""
    return -(-int(d[k.HEIGHT]) // 4) * -(-int(d[k.WIDTH]) // 4)


def convolve(
    sources: Sequence[Tensor],
    weight: Tensor,
    *,
    margin: int,
    backward: bool = False,
    bias: Tensor | None = None,
    leak: float = 1.0,
) -> Tensor:
    """Compute a 3x3 convolution, bias and leaky ReLU.

    Parameters
    ----------
    sources
        Up to three maps of equal sides with `I` features together: ``(B, C, Y, X)`` float32, any finite values; with
        `backward` of `O` features.
    weight
        ``(O, I, 3, 3) float32`` weights.
    margin
        Pixels of zeros around the maps: 0, 1 or 2.
    backward
        Exchange inputs and outputs and rotate the filters by 180 degrees: with a margin of 2 minus that of the
        convolution, this is the gradient of its inputs.
    bias
        ``(O,) float32`` weights, or None for zeros.
    leak
        Slope below zero; 1 for no activation.

    Returns
    -------
    Tensor
        ``(B, O, Y + 2 margin - 2, X + 2 margin - 2)`` float32, any finite values; with `backward` of I features.
    """
    filters = weight.permute(0, 2, 3, 1).contiguous()  # no copy if the weights are channels last, too
    inputs, outputs = weight.shape[:2] if backward else weight.shape[1::-1]
    columns = LANES if outputs <= LANES else 2 * LANES
    panels = -(-outputs // columns)
    d = _description(sources, outputs, margin)
    d[k.PANELS], d[k.SINGLE] = panels, columns == LANES
    offsets = _zeros(panels * columns) if bias is None else padded_bias(bias, panels * columns)
    matrices = 9 if is_wide(inputs, panels * columns) else k.PRODUCTS
    packed = 4 * matrices * inputs * panels * columns
    packing, tiles, apart = d.copy(), _tiles(d), 4 * weight.shape[1]
    packing[k.INPUT0], packing[k.ROW0], packing[k.PIXEL0] = filters.data_ptr(), 9 * apart, apart
    packing[k.CHUNKS0], packing[k.CHUNKS1], packing[k.CHUNKS2], packing[k.PARTS] = inputs // LANES, 0, 0, matrices
    out = torch.empty((len(sources[0]), outputs, int(d[k.HEIGHT]), int(d[k.WIDTH])), memory_format=torch.channels_last)
    with engine_threads() as threads:
        block, shared = _reserve_tiles(d, inputs, packed)
        packing[k.WEIGHTS] = d[k.WEIGHTS] = RESOURCES.address
        d[k.SHARED], d[k.BIAS] = RESOURCES.address + packed, offsets.ctypes.data
        with threads.ready():
            threads.run(k.PACK_TURNED if backward else k.PACK, packing)
            for number in range(len(out)):
                _place(d, sources, number)
                d[k.OUTPUT] = address(out, number)
                if not shared:
                    threads.run(k.WINOGRAD, d, leak)
                    continue
                for first in range(0, tiles, block):
                    d[k.FIRST], d[k.COUNT] = first, min(block, tiles - first)
                    threads.run(k.WINOGRAD_INPUTS, d)
                    threads.run(k.WINOGRAD_OUTPUTS, d, leak)
    return out


def _place(d: NDArray[np.int64], sources: Sequence[Tensor], number: int) -> None:
    """Enter the addresses of an image of the batch."""
    for x, place in zip(sources, INPUTS, strict=False):
        d[place] = address(x, number)


def _reserve_tiles(d: NDArray[np.int64], inputs: int, kept: int) -> tuple[int, bool]:
    """Choose the number of tiles of a block and reserve memory for one, beside `kept` bytes of shared memory.

    Returns
    -------
    int
        Tiles of a block.
    bool
        True if threads share a block.
    """
    columns, panels = LANES if d[k.SINGLE] else 2 * LANES, int(d[k.PANELS])
    most, shared = tile_block(inputs, panels * columns)
    block = min(most, -(-_tiles(d) // ROWS))
    d[k.BLOCK], d[k.STRIDE_IN], d[k.STRIDE_OUT] = block, *(4 * block * ROWS * n + STEP for n in (inputs, columns))
    d[k.PARTS] = min(block, -(-4 * RESOURCES.threads.count // panels))
    scratch, common = tile_memory(inputs, panels * columns, block, shared)
    RESOURCES.threads.reserve(max(scratch, 9 * LANES * STEP))  # at least what packing filters needs
    RESOURCES.reserve(kept + common)
    return block * ROWS, shared


def weight_gradient(sources: Sequence[Tensor], gradient: Tensor, *, margin: int) -> Tensor:
    """Compute the gradient of the weights of `convolve`.

    Parameters
    ----------
    sources
        As for `convolve`: ``(B, C, Y, X)`` float32, any finite values.
    gradient
        ``(B, O, Y + 2 margin - 2, X + 2 margin - 2)`` float32, gradient of the outputs.
    margin
        As for `convolve`.

    Returns
    -------
    Tensor
        ``(O, I, 3, 3) float32`` gradients, inputs innermost.
    """
    inputs, outputs = sum(x.shape[1] for x in sources), gradient.shape[1]
    d = _description(sources, outputs, margin)
    tiles, sums, each = _tiles(d), 4 * k.PRODUCTS * inputs * outputs, 4 * k.PRODUCTS * (inputs + outputs)
    narrow = WEIGHT_SUMS * sums <= min(each * tiles, MOST_SUMS_BYTES)
    if narrow:
        size = min(max(_FEWEST_TILES, _CACHE_BYTES // each), -(-tiles // WEIGHT_SUMS))
    else:
        groups = -(-inputs // (GROUP * LANES)) * -(-outputs // (GROUP * LANES))
        sums = groups * GROUP_BYTES
        whole = each * tiles <= MOST_TILES_BYTES + sums  # all tiles need no more memory than some tiles and the sums
        size = tiles if whole else MOST_TILES_BYTES // each
    block = -(-size // ROWS)
    held = each * block * ROWS + 2 * k.PRODUCTS * STEP
    d[k.BLOCK], d[k.STRIDE_IN], d[k.STRIDE_OUT] = block, *(4 * block * ROWS * n + STEP for n in (inputs, outputs))
    d[k.RANGES] = WEIGHT_SUMS
    total = torch.empty(0)
    with engine_threads() as threads:
        if narrow:
            RESOURCES.reserve(WEIGHT_SUMS * sums)
            threads.reserve(held + k.PRODUCTS * STEP)
            d[k.SUMS] = RESOURCES.address
        else:
            RESOURCES.reserve(held + (0 if whole else sums))
            threads.reserve(GROUP_BYTES)
            d[k.SHARED], d[k.SUMS] = RESOURCES.address, RESOURCES.address + held
        with threads.ready():
            for number in range(len(gradient)):
                result = torch.empty((outputs, 3, 3, inputs))
                _place(d, sources, number)
                d[k.OUTPUT], d[k.WEIGHTS] = address(gradient, number), result.data_ptr()
                if narrow:
                    threads.run(k.WEIGHTS_RANGE, d)
                    threads.run(k.WEIGHTS_SUM, d)
                for first in range(0, 0 if narrow else tiles, block * ROWS):
                    d[k.FIRST], d[k.COUNT] = first, min(block * ROWS, tiles - first)
                    threads.run(k.WEIGHTS_INPUTS, d)
                    threads.run(k.WEIGHTS_GROUP, d)
                total = total.add_(result) if len(total) else result
    return total.permute(0, 3, 1, 2)


def _image_description(image: Tensor, outputs: int) -> NDArray[np.int64]:
    """Describe a 3x3 convolution of an image with its margin, ``(B, C, Y, X)``, channels first."""
    _, channels, height, width = image.shape
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0], d[k.CHUNKS1] = (
        4 * width,
        4 * height * width,
        -(-9 * channels // LANES),
        channels,
    )
    d[k.HEIGHT], d[k.WIDTH], d[k.END], d[k.BLOCK] = height - 2, width - 2, height - 2, PIXEL_BLOCK
    d[k.OUT_ROW], d[k.OUT_PIXEL], d[k.OUT_CHUNKS] = 4 * (width - 2) * outputs, 4 * outputs, outputs // LANES
    return d


def convolve_image(image: Tensor, weight: Tensor, *, bias: Tensor | None, leak: float) -> Tensor:
    """Compute the first 3x3 convolution, bias and leaky ReLU.

    Parameters
    ----------
    image
        ``(B, C, Y, X) float32`` with its margin, channels first, any finite values.
    weight
        ``(O, C, 3, 3) float32`` weights.
    bias
        ``(O,) float32`` weights, or None for zeros.
    leak
        Slope below zero; 1 for no activation.

    Returns
    -------
    Tensor
        ``(B, O, Y - 2, X - 2)`` float32, any finite values.
    """
    outputs = len(weight)
    packed = image_convolution(weight, torch.zeros(outputs) if bias is None else bias)
    d = _image_description(image, outputs)
    d[k.WEIGHTS], d[k.BIAS] = packed.weights.ctypes.data, packed.bias.ctypes.data
    d[k.PANELS], d[k.SINGLE] = packed.panels, packed.single
    out = torch.empty((len(image), outputs, int(d[k.HEIGHT]), int(d[k.WIDTH])), memory_format=torch.channels_last)
    with engine_threads() as threads:
        threads.reserve(pixel_memory(packed.features))
        with threads.ready():
            for number in range(len(out)):
                d[k.INPUT0], d[k.OUTPUT] = address(image, number), address(out, number)
                threads.run(k.IMAGE, d, leak)
    return out


def image_weight_gradient(image: Tensor, gradient: Tensor) -> Tensor:
    """Compute the gradient of the weights of `convolve_image`.

    Parameters
    ----------
    image
        ``(B, C, Y, X)`` float32 with its margin, channels first, any finite values.
    gradient
        ``(B, O, Y - 2, X - 2)`` float32, gradient of the outputs.

    Returns
    -------
    Tensor
        ``(O, C, 3, 3) float32`` gradients, inputs innermost.
    """
    channels, outputs = image.shape[1], gradient.shape[1]
    d = _image_description(image, outputs)
    shape = (WEIGHT_SUMS, int(d[k.CHUNKS0]), int(d[k.OUT_CHUNKS]), LANES, LANES)
    parts = aligned(int(np.prod(shape)))
    d[k.SUMS], d[k.RANGES] = parts.ctypes.data, WEIGHT_SUMS
    total = np.zeros((outputs, int(d[k.CHUNKS0]) * LANES))
    with engine_threads() as threads:
        threads.reserve(4 * PIXEL_BLOCK * ROWS * (int(d[k.CHUNKS0]) * LANES + outputs))
        with threads.ready():
            for number in range(len(image)):
                d[k.INPUT0], d[k.OUTPUT] = address(image, number), address(gradient, number)
                threads.run(k.IMAGE_RANGE, d)
                summed = parts.reshape(shape).sum(0, dtype=np.float64)
                total += summed.transpose(1, 3, 0, 2).reshape(total.shape)
    result = torch.from_numpy(total[:, : 9 * channels].astype(np.float32)).view(outputs, channels, 3, 3)
    # Inputs innermost, the memory format of the weights: the all-reduce of several processes needs equal formats.
    return result.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
