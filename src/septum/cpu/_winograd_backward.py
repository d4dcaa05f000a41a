"""Loops of the backward pass of convolutions: pack weights, and compute their gradient.

The gradient of the inputs is a 3x3 convolution of the gradient of the outputs with the filters rotated by 180 degrees
and inputs and outputs exchanged: `septum.cpu._winograd` computes it from weights packed by `pack_turned`.

The gradient of the weights follows from Y = A^T ((G g G^T) * (B^T d B)) A of each tile::

    dg = G^T [ sum over tiles of (A dY A^T) * (B^T d B) ] G

For each of the 36 places this is a product of two matrices, (outputs, tiles) by (tiles, inputs): a quarter of the
direct multiplications. The inputs are transformed as in the forward pass, the gradients by A (`transform_gradient`),
and the sum, once complete, by G^T (`transform_weights`).

The order of summation over tiles must not depend on the threads. With few features, the tiles are divided into a fixed
number of ranges with a partial sum each (`weights_range`), which are added in order (`weights_sum`). With many
features, the sums are large: `weights_inputs` transforms tiles that all threads share, and in `weights_group` each
thread owns groups of features of both sides and sums over all tiles in order.
"""

from __future__ import annotations

import numpy as np

from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._microkernels import clear, copy, copy_value, fetch_add, transform_filter
from septum.cpu._microkernels_backward import SUMMED, add_vector, outer1, outer2, transform_gradient, transform_weights
from septum.cpu._winograd import (
    BLOCK,
    CHUNKS0,
    COUNT,
    FIRST,
    HEIGHT,
    INPUT0,
    OUT_CHUNKS,
    OUT_PIXEL,
    OUT_ROW,
    OUTPUT,
    PARTS,
    PIXEL0,
    PRODUCTS,
    RANGES,
    ROW0,
    SHARED,
    SINGLE,
    STRIDE_IN,
    STRIDE_OUT,
    SUMS,
    WEIGHTS,
    WIDTH,
    Description,
    gather_patches,
    input_chunks,
    next_pixel,
    transform_tiles,
)
from septum.jit import lazy_jit

# Chunks of features of a group, on both sides, in `weights_group`; bytes of the sums of a group.
GROUP = 64 // LANES
GROUP_BYTES = 4 * PRODUCTS * (GROUP * LANES) ** 2
# Blocks of `ROWS` tiles whose features of a group, on both sides, stay in the first cache while they are multiplied.
SUBBLOCK = max(1, 24_000 // (4 * 2 * GROUP * LANES * ROWS))


@lazy_jit
def _pack_row(d: Description, source: int, place: int, target: int, matrix: int) -> None:
    """Transform a vector of filters whose places are `place` bytes apart, or copy it if the weights stay 3x3."""
    if d[PARTS] == PRODUCTS:
        transform_filter(source, place, target, matrix)
    else:
        for number in range(9):
            copy(source + number * place, target + number * matrix)


@lazy_jit
def pack(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Pack filters, ``(outputs, 9, inputs)`` at INPUT0, in panels of the outputs, transformed or not (PARTS: 36 or 9).

    ROW0 and PIXEL0 are the bytes to the next output and place; CHUNKS0 and OUT_CHUNKS are vectors of inputs and
    outputs.
    """
    vectors, columns = 1 if d[SINGLE] else 2, STEP if d[SINGLE] else 2 * STEP
    matrix = d[CHUNKS0] * LANES * columns
    while True:
        item = fetch_add(counter, 1)
        if item >= d[OUT_CHUNKS] * d[CHUNKS0]:
            return
        chunk, inside = item // d[CHUNKS0], item % d[CHUNKS0] * LANES
        source = d[INPUT0] + chunk * LANES * d[ROW0] + inside * 4
        for output in range(LANES):
            for place in range(9):
                for feature in range(LANES):
                    one = source + output * d[ROW0] + place * d[PIXEL0] + feature * 4
                    copy_value(one, scratch + (place * LANES + feature) * STEP + output * 4)
        target = d[WEIGHTS] + chunk // vectors * d[PARTS] * matrix + chunk % vectors * STEP
        for feature in range(LANES):
            _pack_row(d, scratch + feature * STEP, LANES * STEP, target + (inside + feature) * columns, matrix)


@lazy_jit
def pack_turned(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Pack filters like `pack`, rotated and in panels of the inputs, for the gradient of the inputs.

    CHUNKS0 and OUT_CHUNKS are those of the product, whose inputs are the outputs of the layer.
    """
    vectors, columns = 1 if d[SINGLE] else 2, STEP if d[SINGLE] else 2 * STEP
    matrix = d[CHUNKS0] * LANES * columns
    while True:
        output = fetch_add(counter, 1)
        if output >= d[CHUNKS0] * LANES:
            return
        source = d[INPUT0] + output * d[ROW0] + 8 * d[PIXEL0]
        for chunk in range(d[OUT_CHUNKS]):
            target = d[WEIGHTS] + chunk // vectors * d[PARTS] * matrix + chunk % vectors * STEP
            _pack_row(d, source + chunk * STEP, -d[PIXEL0], target + output * columns, matrix)


@lazy_jit
def _gather_gradient(d: Description, first: int, count: int, target: int, patch: int) -> None:
    """Transform the gradients of the outputs of some tiles; pixels beyond the output count as zero."""
    height, width, across = d[HEIGHT], d[WIDTH], (d[WIDTH] + 3) // 4
    row, pixel, chunks, stride = d[OUT_ROW], d[OUT_PIXEL], d[OUT_CHUNKS], d[STRIDE_OUT]
    for tile in range(count):
        y, x = (first + tile) // across * 4, (first + tile) % across * 4
        start = d[OUTPUT] + y * row + x * pixel
        to = target + tile // ROWS * chunks * ROWS * STEP + tile % ROWS * STEP
        if y + 4 <= height and x + 4 <= width:
            for chunk in range(chunks):
                transform_gradient(start + chunk * STEP, row, pixel, to + chunk * ROWS * STEP, stride)
            continue
        for chunk in range(chunks):
            for i in range(4):
                for j in range(4):
                    if y + i < height and x + j < width:
                        copy(start + i * row + j * pixel + chunk * STEP, patch + (4 * i + j) * STEP)
                    else:
                        clear(patch + (4 * i + j) * STEP)
            transform_gradient(patch, 4 * STEP, STEP, to + chunk * ROWS * STEP, stride)


@lazy_jit
def _sum_tiles(d: Description, left: int, right: int, tiles: int, target: int, rows: int, columns: int) -> None:
    """Add to the sums of 36 matrices the products over tiles, for some chunks of output features and of input features.

    Sums are stored as ``(36, rows, columns // 2, LANES, 2 * LANES)``; with an odd number of columns the last has one
    vector.
    """
    left_block, right_block = d[OUT_CHUNKS] * ROWS * STEP, input_chunks(d) * ROWS * STEP
    for p in range(PRODUCTS):
        for first in range(0, tiles, SUBBLOCK * ROWS):
            count, block = min(SUBBLOCK * ROWS, tiles - first), first // ROWS
            for row in range(rows):
                for part in range(LANES // SUMMED):
                    a = left + p * d[STRIDE_OUT] + block * left_block + row * ROWS * STEP + part * SUMMED * 4
                    for column in range(0, columns, 2):
                        b = right + p * d[STRIDE_IN] + block * right_block + column * ROWS * STEP
                        to = target + ((p * rows + row) * columns + column) * LANES * STEP
                        if column + 1 < columns:
                            outer2(a, left_block, b, right_block, to + part * SUMMED * 2 * STEP, count)
                        else:
                            outer1(a, left_block, b, right_block, to + part * SUMMED * STEP, count)


@lazy_jit
def _finish(d: Description, sums: int, matrix: int, columns: int, row: int, first: int) -> None:
    """Transform the sums of `_sum_tiles` of one chunk of output features to gradients, ``(outputs, 9, inputs)``."""
    inputs = input_chunks(d) * STEP
    for column in range(columns):
        paired = column % 2 == 1 or column + 1 < columns
        start = sums + (column - column % 2) * LANES * STEP + column % 2 * STEP
        for feature in range(LANES):
            one = start + feature * (2 * STEP if paired else STEP)
            to = d[WEIGHTS] + (row * LANES + feature) * 9 * inputs + (first + column) * STEP
            transform_weights(one, matrix, to, inputs)


@lazy_jit
def weights_range(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Few features, first part: each thread sums over ranges of tiles."""
    across = (d[WIDTH] + 3) // 4
    tiles, size = (d[HEIGHT] + 3) // 4 * across, d[BLOCK] * ROWS
    blocks = (tiles + size - 1) // size
    each = (blocks + d[RANGES] - 1) // d[RANGES] * size
    left = scratch + PRODUCTS * STEP
    right = left + PRODUCTS * d[STRIDE_IN]
    vectors = PRODUCTS * input_chunks(d) * d[OUT_CHUNKS] * LANES
    while True:
        item = fetch_add(counter, 1)
        if item >= d[RANGES]:
            return
        sums = d[SUMS] + item * vectors * STEP
        for vector in range(vectors):
            clear(sums + vector * STEP)
        for first in range(item * each, min(tiles, (item + 1) * each), size):
            count = min(size, tiles - first)
            transform_tiles(d, first, count, left, scratch)
            _gather_gradient(d, first, count, right, scratch)
            _sum_tiles(d, right, left, count, sums, d[OUT_CHUNKS], input_chunks(d))


@lazy_jit
def weights_sum(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Few features, second part: add the sums of the ranges in order and transform them."""
    rows, columns = d[OUT_CHUNKS], input_chunks(d)
    vectors = PRODUCTS * rows * columns * LANES
    while True:
        item = fetch_add(counter, 1)
        if item >= rows:
            return
        for p in range(PRODUCTS):
            start = d[SUMS] + (p * rows + item) * columns * LANES * STEP
            for number in range(1, d[RANGES]):
                for vector in range(columns * LANES):
                    add_vector(start + (number * vectors + vector) * STEP, start + vector * STEP)
        start = d[SUMS] + item * columns * LANES * STEP
        _finish(d, start, rows * columns * LANES * STEP, columns, item, 0)


@lazy_jit
def weights_inputs(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Many features, first part: transform tiles for all threads."""
    gradients = d[SHARED] + PRODUCTS * d[STRIDE_IN]
    while True:
        block = fetch_add(counter, 1)
        if block * ROWS >= d[COUNT]:
            return
        count, place = min(ROWS, d[COUNT] - block * ROWS), block * ROWS * STEP
        transform_tiles(d, d[FIRST] + block * ROWS, count, d[SHARED] + place * input_chunks(d), scratch)
        _gather_gradient(d, d[FIRST] + block * ROWS, count, gradients + place * d[OUT_CHUNKS], scratch)


@lazy_jit
def weights_group(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Many features, second part: each thread takes groups of features of both sides and sums over the tiles.

    If not all tiles fit into memory at once, the sums of each group stay at SUMS until the next tiles come.
    """
    across, down = (input_chunks(d) + GROUP - 1) // GROUP, (d[OUT_CHUNKS] + GROUP - 1) // GROUP
    tiles = (d[HEIGHT] + 3) // 4 * ((d[WIDTH] + 3) // 4)
    gradients = d[SHARED] + PRODUCTS * d[STRIDE_IN]
    while True:
        item = fetch_add(counter, 1)
        if item >= across * down:
            return
        row, column = item // across * GROUP, item % across * GROUP
        rows, columns = min(GROUP, d[OUT_CHUNKS] - row), min(GROUP, input_chunks(d) - column)
        sums = scratch if d[COUNT] == tiles else d[SUMS] + item * GROUP_BYTES
        if d[FIRST] == 0:
            for vector in range(PRODUCTS * rows * columns * LANES):
                clear(sums + vector * STEP)
        left, right = gradients + row * ROWS * STEP, d[SHARED] + column * ROWS * STEP
        _sum_tiles(d, left, right, d[COUNT], sums, rows, columns)
        if d[FIRST] + d[COUNT] == tiles:
            for one in range(rows):
                start = sums + one * columns * LANES * STEP
                _finish(d, start, rows * columns * LANES * STEP, columns, row + one, column)


@lazy_jit
def image_range(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Sum over ranges of pixels the products of their 3x3 neighborhoods and the gradient of the outputs.

    The sums of a range are ``(CHUNKS0, OUT_CHUNKS, LANES, LANES)``.
    """
    chunks, outputs, width, size = d[CHUNKS0], d[OUT_CHUNKS], d[WIDTH], d[BLOCK] * ROWS
    pixels = d[HEIGHT] * width
    each = ((pixels + d[RANGES] - 1) // d[RANGES] + size - 1) // size * size
    gradients = scratch + d[BLOCK] * chunks * ROWS * STEP
    while True:
        item = fetch_add(counter, 1)
        if item >= d[RANGES]:
            return
        sums = d[SUMS] + item * chunks * outputs * LANES * STEP
        for vector in range(chunks * outputs * LANES):
            clear(sums + vector * STEP)
        for first in range(item * each, min(pixels, (item + 1) * each), size):
            count = min(size, pixels - first)
            gather_patches(d, first, count, scratch)
            y, x = first // width, first % width
            for i in range(count):
                source = d[OUTPUT] + y * d[OUT_ROW] + x * d[OUT_PIXEL]
                y, x = next_pixel(y, x, width)
                to = gradients + i // ROWS * outputs * ROWS * STEP + i % ROWS * STEP
                for chunk in range(outputs):
                    copy(source + chunk * STEP, to + chunk * ROWS * STEP)
            for chunk in range(chunks * outputs):
                left, right = chunk // outputs * ROWS * STEP, chunk % outputs * ROWS * STEP
                for part in range(LANES // SUMMED):
                    outer1(
                        scratch + left + part * SUMMED * 4,
                        chunks * ROWS * STEP,
                        gradients + right,
                        outputs * ROWS * STEP,
                        sums + (chunk * LANES + part * SUMMED) * STEP,
                        count,
                    )
