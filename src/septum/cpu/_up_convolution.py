"""Loops of the backward pass of up-convolutions of side and stride 2.

INPUT0 is the input of the layer, INPUT1 the gradient of its output: for each pixel of the input the gradients of its
four output pixels, upper left, upper right, lower left and lower right, are gathered to one row of CHUNKS1 vectors.
Then the gradient of the inputs is one matrix product, (pixels, 4 outputs) by (4 outputs, inputs), and that of the
weights is the sum over pixels of the outer products of inputs and gradients.
"""

from __future__ import annotations

import numpy as np

from septum.arrays.jit import lazy_jit
from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._microkernels import clear, copy, fetch_add
from septum.cpu._microkernels_backward import SUMMED, add_vector, outer2
from septum.cpu._winograd import (
    BLOCK,
    CHUNKS0,
    CHUNKS1,
    HEIGHT,
    INPUT1,
    OUT_CHUNKS,
    OUT_PIXEL,
    OUT_ROW,
    OUTPUT,
    PANELS,
    PIXEL1,
    RANGES,
    ROW1,
    SINGLE,
    SUMS,
    WIDTH,
    Description,
    multiply_pixels,
    next_pixel,
    pack_pixels,
)


@lazy_jit
def _gather(d: Description, first: int, count: int, target: int) -> None:
    """Copy the gradients of the four output pixels of some pixels to the layout that products read."""
    width, chunks, row, pixel = d[WIDTH], d[CHUNKS1], d[ROW1], d[PIXEL1]
    each = chunks // 4
    y, x = first // width, first % width
    for i in range(count):
        start = d[INPUT1] + 2 * y * row + 2 * x * pixel
        y, x = next_pixel(y, x, width)
        to = target + i // ROWS * chunks * ROWS * STEP + i % ROWS * STEP
        for corner in range(4):
            source = start + corner // 2 * row + corner % 2 * pixel
            for chunk in range(each):
                copy(source + chunk * STEP, to + (corner * each + chunk) * ROWS * STEP)


@lazy_jit
def up_input_gradient(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute the gradient of the inputs from packed weights, ``(4 outputs, inputs)`` in panels of the inputs."""
    width, chunks, vectors = d[WIDTH], d[CHUNKS1], 1 if d[SINGLE] else 2
    pixels, size = d[HEIGHT] * width, d[BLOCK] * ROWS
    made = scratch + d[BLOCK] * chunks * ROWS * STEP
    while True:
        first = fetch_add(counter, 1) * size
        if first >= pixels:
            return
        count = min(size, pixels - first)
        _gather(d, first, count, scratch)
        for panel in range(d[PANELS]):
            multiply_pixels(d, scratch, (count + ROWS - 1) // ROWS, chunks, panel, made)
            y, x = first // width, first % width
            for i in range(count):
                to = d[OUTPUT] + y * d[OUT_ROW] + x * d[OUT_PIXEL] + panel * vectors * STEP
                y, x = next_pixel(y, x, width)
                for vector in range(min(vectors, d[OUT_CHUNKS] - panel * vectors)):
                    copy(made + (i * vectors + vector) * STEP, to + vector * STEP)


@lazy_jit
def up_weights_range(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Sum over ranges of pixels the outer products of inputs and gradients, and the gradients (those of the bias).

    The sums of a range are ``(CHUNKS0, CHUNKS1 / 2, LANES, 2 LANES)``, followed by ``(CHUNKS1, LANES)``.
    """
    inputs, chunks = d[CHUNKS0], d[CHUNKS1]
    pixels, size, pairs = d[HEIGHT] * d[WIDTH], d[BLOCK] * ROWS, chunks // 2
    each = ((pixels + d[RANGES] - 1) // d[RANGES] + size - 1) // size * size
    vectors = (inputs * LANES + 1) * chunks
    gradients = scratch + d[BLOCK] * inputs * ROWS * STEP
    while True:
        item = fetch_add(counter, 1)
        if item >= d[RANGES]:
            return
        sums = d[SUMS] + item * vectors * STEP
        bias = sums + (vectors - chunks) * STEP
        for vector in range(vectors):
            clear(sums + vector * STEP)
        for first in range(item * each, min(pixels, (item + 1) * each), size):
            count = min(size, pixels - first)
            pack_pixels(d, first, count, scratch)
            _gather(d, first, count, gradients)
            for i in range(count):
                source = gradients + i // ROWS * chunks * ROWS * STEP + i % ROWS * STEP
                for chunk in range(chunks):
                    add_vector(source + chunk * ROWS * STEP, bias + chunk * STEP)
            for row in range(inputs):
                for part in range(LANES // SUMMED):
                    left = scratch + row * ROWS * STEP + part * SUMMED * 4
                    for pair in range(pairs):
                        right = gradients + 2 * pair * ROWS * STEP
                        to = sums + ((row * pairs + pair) * LANES + part * SUMMED) * 2 * STEP
                        outer2(left, inputs * ROWS * STEP, right, chunks * ROWS * STEP, to, count)
