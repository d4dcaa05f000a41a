"""Loops of the forward pass, compiled by numba and shared by threads: convolutions, up-convolution, head.

Feature maps are stored channels last, padded to whole vectors. Each loop takes the description of a layer, ``(SIZE,)
int64``, whose indices are named below: numba compiles one signature for all layers, and a thread can read the
description of a loop that another thread opened. Addresses are in bytes; the address of a map is that of its pixel (0,
0), which need not be in memory if only later rows are.

A 3x3 convolution is Winograd's F(4x4, 3x3) (see `septum.cpu._microkernels`). The output is divided into tiles of 4x4
pixels from its upper left corner; tile t needs the 6x6 inputs at four times its position. A *block* of tiles goes
through three steps while it stays in the cache:

1. `transform_tiles`: B^T d B for each tile and feature, to 36 matrices ``(tiles, features)``, each stored as ``(tiles /
ROWS, chunks, ROWS, LANES)``, the order in which products read it. 2. `_multiply`: each of the 36 matrices times that of
one *panel* of the weights: one or two vectors of output features, stored as ``(36, features, columns)``. 3. `_scatter`:
A^T m A, bias, leaky ReLU, store; optionally the 2x2 maximum, as pooling windows never cross a tile.

In a volume, a tile and those in the next planes form a *column*. The inputs of a block of columns are stored as
``(columns / ROWS, planes, chunks, ROWS, LANES)``: those of three planes are one matrix of three times the features, so
that a 3x3x3 convolution is one product for each output plane, and planes are transformed once.

`winograd` lets each thread do all steps for its own blocks. If a layer has few tiles and many filters (the lowest
levels), filters and not tiles dominate memory traffic: there `winograd_inputs` transforms one block that all threads
share, and in `winograd_outputs` each thread takes panels of filters, transforms them from 3x3 (a quarter of the memory
of the transformed ones), and applies them to all tiles.

Why the division of the work does not change the result: threads take blocks from a shared counter in any order, but a
tile reads only its own inputs, writes only its own outputs, and sums over features in a fixed order. Bands of rows
begin at multiples of four, so that the grid of tiles is the same whether a map is computed at once or in bands. Results
therefore repeat to the last bit for any number and timing of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._microkernels import (
    add_value,
    bias_relu,
    clear,
    copy,
    copy_value,
    fetch_add,
    max_of_four,
    product1,
    product2,
    transform_filter,
    transform_in,
    transform_out,
)
from septum.jit import lazy_jit

Description = Any  # (SIZE,) int64

PRODUCTS = 36  # of a tile of F(4x4, 3x3)

# Two inputs with concatenated features (a third: below): address, bytes of a row and of a pixel, vectors of a pixel.
# For an image (`image`), which has planes: bytes of a row and of a plane, and the number of planes in CHUNKS1.
INPUT0, ROW0, PIXEL0, CHUNKS0, INPUT1, ROW1, PIXEL1, CHUNKS1 = range(8)
# Sides of the input, of the whole output, and the rows of the output to compute.
IN_HEIGHT, IN_WIDTH, HEIGHT, WIDTH, BEGIN, END = range(8, 14)
# Packed weights in panels of as many output features as a product has columns; bias; number of panels; 1 if a product
# has one vector, 0 if two.
WEIGHTS, BIAS, PANELS, SINGLE = range(14, 18)
# The output: address, bytes of a row and of a pixel (of a plane for `head`), vectors of a pixel (classes for `head`).
OUTPUT, OUT_ROW, OUT_PIXEL, OUT_CHUNKS = range(18, 22)
# Part of the output that is stored, and the pooled output (address 0: not pooled).
TOP, BOTTOM, LEFT, RIGHT, POOLED, POOLED_ROW, POOLED_PIXEL = range(22, 29)
# Size of a block in products of `ROWS` rows; bytes between the 36 matrices before and after multiplication.
BLOCK, STRIDE_IN, STRIDE_OUT = range(29, 32)
# Transformed tiles that all threads share: address, first tile, number of tiles, and parts they are divided into.
SHARED, FIRST, COUNT, PARTS = range(32, 36)
# Virtual pixels of zeros above and left of the input.
MARGIN = 36
# Sums of the gradients of weights: address, and number of partial sums.
SUMS, RANGES = 37, 38
# The loop to run, one of those below: the address of its machine code.
LOOP = 39
# The third input.
INPUT2, ROW2, PIXEL2, CHUNKS2 = range(40, 44)
# Planes of input, output and a column, and those that an output plane depends on: 1 each in images. Bytes of a plane of
# the first two inputs, of the output and of the pooled output; 1 if pooling joins two planes.
IN_DEPTH, DEPTH, COLUMN, TAPS, PLANE0, PLANE1, OUT_PLANE, POOLED_PLANE, POOLED_PAIRS = range(44, 53)
SIZE = 53
# Loops of prediction, which training runs too; the first two are in `septum.cpu._winograd_loops`.
MOVE, CLEAR, WINOGRAD, WINOGRAD_INPUTS, WINOGRAD_OUTPUTS, IMAGE, UP_CONVOLUTION, HEAD = range(8)
# Loops of training, in `septum.cpu._winograd_backward` and `septum.cpu._pixel_loops`.
PACK, PACK_TURNED, WEIGHTS_RANGE, WEIGHTS_SUM, WEIGHTS_INPUTS, WEIGHTS_GROUP, IMAGE_RANGE = range(8, 15)
MOMENTS, NORMALIZE, GRADIENT_SUMS, BATCHNORM_GRADIENT = range(15, 19)
UP_INPUT_GRADIENT, UP_WEIGHTS_RANGE, POOL, POOL_GRADIENT, HEAD_GRADIENT = range(19, 24)


@lazy_jit
def input_chunks(d: Description) -> Any:
    """Return the vectors of a pixel of all inputs."""
    return d[CHUNKS0] + d[CHUNKS1] + d[CHUNKS2]


@lazy_jit
def transform_tiles(d: Description, first: int, count: int, target: int, patch: int) -> None:
    """Transform the inputs of some columns of tiles; pixels beyond the edge of the input count as zero.

    Tiles inside the input are transformed in place; tiles at the edge are first copied to `patch`, with zeros.
    """
    begin, height, width, across = d[BEGIN], d[IN_HEIGHT], d[IN_WIDTH], (d[WIDTH] + 3) // 4
    chunks, stride, margin = input_chunks(d), d[STRIDE_IN], d[MARGIN]
    planes, per_plane = d[COLUMN] + d[TAPS] - 1, (d[END] - begin + 3) // 4 * across
    for number in range(3):
        source, row, pixel, here, plane = d[INPUT0], d[ROW0], d[PIXEL0], d[CHUNKS0], d[PLANE0]
        offset = target
        if number == 1:
            source, row, pixel, here, plane = d[INPUT1], d[ROW1], d[PIXEL1], d[CHUNKS1], d[PLANE1]
            offset += d[CHUNKS0] * ROWS * STEP
        if number == 2:
            source, row, pixel, here, plane = d[INPUT2], d[ROW2], d[PIXEL2], d[CHUNKS2], 0
            offset += (d[CHUNKS0] + d[CHUNKS1]) * ROWS * STEP
        for tile in range(count if here else 0):
            z, place = upper_plane(d, first + tile, per_plane)
            z -= d[TAPS] // 2
            y, x = place // across * 4 + begin - margin, place % across * 4 - margin
            inside = y >= 0 and x >= 0 and y + 6 <= height and x + 6 <= width
            for k in range(planes):
                start = source + (z + k) * plane + y * row + x * pixel
                to = offset + ((tile // ROWS * planes + k) * chunks * ROWS + tile % ROWS) * STEP
                if inside and 0 <= z + k < d[IN_DEPTH]:
                    for chunk in range(here):
                        transform_in(start + chunk * STEP, row, pixel, to + chunk * ROWS * STEP, stride)
                    continue
                for chunk in range(here):
                    for i in range(6):
                        for j in range(6):
                            if 0 <= z + k < d[IN_DEPTH] and 0 <= y + i < height and 0 <= x + j < width:
                                copy(start + i * row + j * pixel + chunk * STEP, patch + (6 * i + j) * STEP)
                            else:
                                clear(patch + (6 * i + j) * STEP)
                    transform_in(patch, 6 * STEP, STEP, to + chunk * ROWS * STEP, stride)


@lazy_jit
def upper_plane(d: Description, column: int, per_plane: int) -> tuple[int, int]:
    """Return the first output plane of a column, and the number of its tiles in their planes."""
    return (column // per_plane * d[COLUMN], column % per_plane) if column >= per_plane else (0, column)


@lazy_jit
def _multiply(d: Description, left: int, blocks: int, right: int, apart: int, target: int) -> None:
    """Multiply the 36 matrices of some blocks of columns with those of one panel, `apart` bytes from each other."""
    chunks, stride_in, stride_out, single = input_chunks(d), d[STRIDE_IN], d[STRIDE_OUT], d[SINGLE]
    columns, planes, taps = STEP if single else 2 * STEP, d[COLUMN], d[TAPS]
    for p in range(PRODUCTS):
        source, to = left + p * stride_in, target + p * stride_out
        for _ in range(blocks):
            for _ in range(planes):
                if single:
                    product1(source, right + p * apart, to, taps * chunks)
                else:
                    product2(source, right + p * apart, to, taps * chunks)
                source += chunks * ROWS * STEP
                to += ROWS * columns
            source += (taps - 1) * chunks * ROWS * STEP


@lazy_jit
def _matrix_bytes(d: Description) -> Any:
    """Return the bytes of one of the matrices of a panel of the weights."""
    return d[TAPS] * input_chunks(d) * LANES * (STEP if d[SINGLE] else 2 * STEP)


@lazy_jit
def _scatter(d: Description, leak: np.float32, source: int, first: int, count: int, panel: int, patch: int) -> None:
    """Transform products to the outputs of some columns; store the wanted part of them, and their maxima.

    Tiles that reach beyond the stored part, given by TOP, BOTTOM, LEFT and RIGHT, are first written to `patch`.
    """
    begin, across, vectors = d[BEGIN], (d[WIDTH] + 3) // 4, 1 if d[SINGLE] else 2
    here, per_plane = min(vectors, d[OUT_CHUNKS] - panel * vectors), (d[END] - begin + 3) // 4 * across
    for tile in range(count):
        z, place = upper_plane(d, first + tile, per_plane)
        y, x = place // across * 4 + begin, place % across * 4
        for k in range(min(d[COLUMN], d[DEPTH] - z)):
            products = source + ((tile // ROWS * d[COLUMN] + k) * ROWS + tile % ROWS) * vectors * STEP
            for vector in range(here):
                offset = (panel * vectors + vector) * STEP
                _scatter_tile(d, leak, products + vector * STEP, (z + k, y, x), offset, patch)


@lazy_jit
def _scatter_tile(d: Description, leak: np.float32, products: int, corner: Any, offset: int, patch: int) -> None:
    """Transform the products of one tile and one vector of features, `offset` bytes from the first; see `_scatter`."""
    z, y, x = corner
    height, width, top, bottom, left, right = d[HEIGHT], d[WIDTH], d[TOP], d[BOTTOM], d[LEFT], d[RIGHT]
    row, pixel, bias = d[OUT_ROW], d[OUT_PIXEL], d[BIAS] + offset
    there = d[OUTPUT] + z * d[OUT_PLANE] + y * row + x * pixel + offset
    whole = y >= top and y + 4 <= bottom and x >= left and x + 4 <= right
    if whole:
        transform_out(products, d[STRIDE_OUT], bias, leak, there, row, pixel)
    else:
        transform_out(products, d[STRIDE_OUT], bias, leak, patch, 4 * STEP, STEP)
        for i in range(max(0, top - y), min(4, bottom - y)):
            for j in range(max(0, left - x), min(4, right - x)):
                copy(patch + (4 * i + j) * STEP, there + i * row + j * pixel)
    if not d[POOLED]:
        return
    pooled = d[POOLED] + (z // 2 if d[POOLED_PAIRS] else z) * d[POOLED_PLANE] + offset
    low, right_of, below = (there, pixel, row) if whole else (patch, STEP, 4 * STEP)
    second, spare = d[POOLED_PAIRS] and z % 2, patch + 16 * STEP
    for i in range(0, min(4, height - y), 2):
        for j in range(0, min(4, width - x), 2):
            one = low + i * below + j * right_of
            to = pooled + (y + i) // 2 * d[POOLED_ROW] + (x + j) // 2 * d[POOLED_PIXEL]
            largest = spare if second else to
            max_of_four(one, one + right_of, one + below, one + below + right_of, largest)
            if second:  # a column begins at an even plane, so the maxima of the plane above are stored
                max_of_four(to, to, spare, spare, to)


@lazy_jit
def winograd(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute a 3x3 convolution; each thread processes its blocks of tiles from the inputs to the outputs."""
    tiles = (d[END] - d[BEGIN] + 3) // 4 * ((d[WIDTH] + 3) // 4) * ((d[DEPTH] + d[COLUMN] - 1) // d[COLUMN])
    left, products = scratch + PRODUCTS * STEP, scratch + PRODUCTS * (STEP + d[STRIDE_IN])
    size, apart = d[BLOCK] * ROWS, _matrix_bytes(d)
    while True:
        first = fetch_add(counter, 1) * size
        if first >= tiles:
            return
        count = min(size, tiles - first)
        transform_tiles(d, first, count, left, scratch)
        for panel in range(d[PANELS]):
            right = d[WEIGHTS] + panel * PRODUCTS * apart
            _multiply(d, left, (count + ROWS - 1) // ROWS, right, apart, products)
            _scatter(d, leak, products, first, count, panel, scratch)


@lazy_jit
def winograd_inputs(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """First half of a 3x3 convolution of few tiles with many features: transform the inputs for all threads."""
    chunks = input_chunks(d) * (d[COLUMN] + d[TAPS] - 1)
    while True:
        block = fetch_add(counter, 1)
        if block * ROWS >= d[COUNT]:
            return
        count = min(ROWS, d[COUNT] - block * ROWS)
        transform_tiles(d, d[FIRST] + block * ROWS, count, d[SHARED] + block * chunks * ROWS * STEP, scratch)


@lazy_jit
def winograd_outputs(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Second half: each thread takes panels of filters, transforms them, and computes all or part of the tiles."""
    chunks, blocks = input_chunks(d) * (d[COLUMN] + d[TAPS] - 1), (d[COUNT] + ROWS - 1) // ROWS
    part = (blocks + d[PARTS] - 1) // d[PARTS]
    products = scratch + PRODUCTS * STEP
    right = products + PRODUCTS * d[STRIDE_OUT]
    matrix = _matrix_bytes(d)
    apart = matrix + STEP  # a multiple of 4096 bytes would map all 36 matrices to the same lines of the first cache
    while True:
        item = fetch_add(counter, 1)
        if item >= d[PANELS] * d[PARTS]:
            return
        panel, begin = item // d[PARTS], item % d[PARTS] * part
        end = min(blocks, begin + part)
        if begin < end:
            for vector in range(matrix // STEP):
                transform_filter(d[WEIGHTS] + panel * 9 * matrix + vector * STEP, matrix, right + vector * STEP, apart)
            _multiply(d, d[SHARED] + begin * chunks * ROWS * STEP, end - begin, right, apart, products)
            count = min(end * ROWS, d[COUNT]) - begin * ROWS
            _scatter(d, leak, products, d[FIRST] + begin * ROWS, count, panel, scratch)


@lazy_jit
def multiply_pixels(d: Description, left: int, blocks: int, chunks: int, panel: int, target: int) -> None:
    """Multiply blocks of pixels with one panel of the weights."""
    columns = STEP if d[SINGLE] else 2 * STEP
    right = d[WEIGHTS] + panel * chunks * LANES * columns
    for block in range(blocks):
        source, to = left + block * chunks * ROWS * STEP, target + block * ROWS * columns
        if d[SINGLE]:
            product1(source, right, to, chunks)
        else:
            product2(source, right, to, chunks)


@lazy_jit
def next_pixel(y: int, x: int, width: int) -> tuple[int, int]:
    """Return row and column of the next pixel: a division for each would take longer than the rest of some loops."""
    return (y, x + 1) if x + 1 < width else (y + 1, 0)


@lazy_jit
def gather_patches(d: Description, first: int, count: int, target: int) -> None:
    """Copy the 3x3 neighborhoods of some pixels of an image, of all planes, to the layout that products read."""
    width, chunks = d[WIDTH], d[CHUNKS0]
    y, x = first // width + d[BEGIN], first % width
    for i in range(count):
        to = target + i // ROWS * chunks * ROWS * STEP + i % ROWS * STEP
        for chunk in range(chunks):
            clear(to + chunk * ROWS * STEP)
        k = 0
        for plane in range(d[CHUNKS1]):
            corner = d[INPUT0] + plane * d[PIXEL0] + y * d[ROW0] + x * 4
            for row in range(3):
                for column in range(3):
                    copy_value(corner + row * d[ROW0] + column * 4, to + k // LANES * ROWS * STEP + k % LANES * 4)
                    k += 1
        y, x = next_pixel(y, x, width)


@lazy_jit
def image(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute the 3x3 convolution of an image of planes, as a product of its 3x3 neighborhoods with the weights.

    An image has few channels: its neighborhoods fill whole vectors, which single channels would not.
    """
    width, chunks, vectors = d[WIDTH], d[CHUNKS0], 1 if d[SINGLE] else 2
    pixels, size = (d[END] - d[BEGIN]) * width, d[BLOCK] * ROWS
    products = scratch + d[BLOCK] * chunks * ROWS * STEP
    while True:
        first = fetch_add(counter, 1) * size
        if first >= pixels:
            return
        count = min(size, pixels - first)
        gather_patches(d, first, count, scratch)
        for panel in range(d[PANELS]):
            multiply_pixels(d, scratch, (count + ROWS - 1) // ROWS, chunks, panel, products)
            for vector in range(min(vectors, d[OUT_CHUNKS] - panel * vectors)):
                place = (panel * vectors + vector) * STEP
                y, x = first // width + d[BEGIN], first % width
                for i in range(count):
                    to = d[OUTPUT] + y * d[OUT_ROW] + x * d[OUT_PIXEL] + place
                    bias_relu(products + (i * vectors + vector) * STEP, d[BIAS] + place, leak, to)
                    y, x = next_pixel(y, x, width)


@lazy_jit
def pack_pixels(d: Description, first: int, count: int, target: int) -> None:
    """Copy the features of pixels to the layout that products read."""
    width, chunks, begin = d[WIDTH], d[CHUNKS0], d[BEGIN]
    source, row, pixel = d[INPUT0], d[ROW0], d[PIXEL0]
    y, x = first // width + begin, first % width
    for i in range(count):
        start = source + y * row + x * pixel
        y, x = next_pixel(y, x, width)
        to = target + i // ROWS * chunks * ROWS * STEP + i % ROWS * STEP
        for chunk in range(chunks):
            copy(start + chunk * STEP, to + chunk * ROWS * STEP)


@lazy_jit
def up_convolution(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute an up-convolution of side and stride 2. HEIGHT, WIDTH, BEGIN and END are those of the input.

    Each input pixel gives 2x2 output pixels, each by a product of its own: the panels of the weights are those of the
    upper left pixel, then the upper right, the lower left, the lower right.
    """
    width, chunks, vectors, each = d[WIDTH], d[CHUNKS0], 1 if d[SINGLE] else 2, d[PANELS] // 4
    output, row, pixel = d[OUTPUT], d[OUT_ROW], d[OUT_PIXEL]
    pixels, size = (d[END] - d[BEGIN]) * width, d[BLOCK] * ROWS
    products = scratch + d[BLOCK] * chunks * ROWS * STEP
    while True:
        first = fetch_add(counter, 1) * size
        if first >= pixels:
            return
        count = min(size, pixels - first)
        pack_pixels(d, first, count, scratch)
        for panel in range(d[PANELS]):
            multiply_pixels(d, scratch, (count + ROWS - 1) // ROWS, chunks, panel, products)
            corner, inside = panel // each, panel % each
            for vector in range(min(vectors, d[OUT_CHUNKS] - inside * vectors)):
                place = (inside * vectors + vector) * STEP
                y, x = first // width + d[BEGIN], first % width
                for i in range(count):
                    to = output + (2 * y + corner // 2) * row + (2 * x + corner % 2) * pixel + place
                    bias_relu(products + (i * vectors + vector) * STEP, d[BIAS] + place, leak, to)
                    y, x = next_pixel(y, x, width)


@lazy_jit
def head(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute a 1x1 convolution to planes, without activation."""
    width, chunks, vectors = d[WIDTH], d[CHUNKS0], 1 if d[SINGLE] else 2
    pixels, size = (d[END] - d[BEGIN]) * width, d[BLOCK] * ROWS
    products = scratch + d[BLOCK] * chunks * ROWS * STEP
    while True:
        first = fetch_add(counter, 1) * size
        if first >= pixels:
            return
        count = min(size, pixels - first)
        pack_pixels(d, first, count, scratch)
        for panel in range(d[PANELS]):
            multiply_pixels(d, scratch, (count + ROWS - 1) // ROWS, chunks, panel, products)
            begin = panel * vectors * LANES
            for k in range(begin, min(d[OUT_CHUNKS], begin + vectors * LANES)):
                y, x = first // width + d[BEGIN], first % width
                for i in range(count):
                    to = d[OUTPUT] + k * d[OUT_PIXEL] + y * d[OUT_ROW] + x * 4
                    add_value(products + i * vectors * STEP + (k - begin) * 4, d[BIAS] + 4 * k, to)
                    y, x = next_pixel(y, x, width)
