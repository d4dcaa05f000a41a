"""Loops over pixels for training: batch normalization with leaky ReLU, pooling, gradients of 1x1 and up-convolutions.

In batch normalization INPUT0 is the input of the normalization, INPUT1 the gradient of its output, OUTPUT the result:
maps of END contiguous pixels with CHUNKS0 vectors each. BIAS is the address of the table of
`septum.cpu._microkernels_backward.add_gradient_sums`. Each block of BLOCK pixels gives two vectors of sums a chunk;
blocks are combined in order afterwards, so that the order of summation does not depend on the threads.

In pooling INPUT0 is the map of HEIGHT rows and WIDTH columns, POOLED the map of its 2x2 maxima, or their gradient.

In the backward pass of up-convolutions INPUT0 is the input of the layer, INPUT1 the gradient of its output: for each
pixel of the input the gradients of its four output pixels, upper left, upper right, lower left and lower right, are
gathered to one row of CHUNKS1 vectors. Then the gradient of the inputs is one matrix product, (pixels, 4 outputs) by (4
outputs, inputs), and that of the weights is the sum over pixels of the outer products of inputs and gradients.
"""

from __future__ import annotations

import numpy as np

from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._microkernels import clear, copy, fetch_add, max_of_four
from septum.cpu._microkernels_backward import (
    SUMMED,
    add_gradient_sums,
    add_scaled,
    add_square,
    add_vector,
    batchnorm_gradient,
    normalize,
    outer2,
    pass_to_largest,
    scale_vector,
)
from septum.cpu._winograd import (
    BIAS,
    BLOCK,
    BOTTOM,
    CHUNKS0,
    CHUNKS1,
    END,
    HEIGHT,
    INPUT0,
    INPUT1,
    LEFT,
    OUT_CHUNKS,
    OUT_PIXEL,
    OUT_ROW,
    OUTPUT,
    PANELS,
    PIXEL0,
    PIXEL1,
    POOLED,
    POOLED_PIXEL,
    POOLED_ROW,
    RANGES,
    RIGHT,
    ROW0,
    ROW1,
    SINGLE,
    SUMS,
    TOP,
    WEIGHTS,
    WIDTH,
    Description,
    multiply_pixels,
    next_pixel,
    pack_pixels,
)
from septum.jit import lazy_jit


@lazy_jit
def moments(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute the mean of each block, and the sum of squared distances from it.

    Means of blocks first: the difference of two large sums would lose precision.
    """
    chunks, size = d[CHUNKS0], d[BLOCK]
    while True:
        block = fetch_add(counter, 1)
        if block * size >= d[END]:
            return
        count, start = min(size, d[END] - block * size), d[INPUT0] + block * size * chunks * STEP
        for chunk in range(chunks):
            mean = d[SUMS] + (2 * block * chunks + chunk) * STEP
            squares, source = mean + chunks * STEP, start + chunk * STEP
            clear(mean)
            clear(squares)
            for pixel in range(count):
                add_vector(source + pixel * chunks * STEP, mean)
            scale_vector(mean, np.float32(1.0 / count))
            for pixel in range(count):
                add_square(source + pixel * chunks * STEP, mean, squares)


@lazy_jit
def normalize_blocks(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Scale, add offsets, apply leaky ReLU."""
    chunks, size, table = d[CHUNKS0], d[BLOCK], d[BIAS]
    while True:
        first = fetch_add(counter, 1) * size
        if first >= d[END]:
            return
        for pixel in range(first, min(first + size, d[END])):
            for chunk in range(chunks):
                place = (pixel * chunks + chunk) * STEP
                one = table + chunk * STEP
                normalize(d[INPUT0] + place, one, one + chunks * STEP, leak, d[OUTPUT] + place)


@lazy_jit
def gradient_sums(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Sum the gradients of each block before the ReLU, and their products with the distances from the mean."""
    chunks, size = d[CHUNKS0], d[BLOCK]
    row = chunks * STEP
    while True:
        block = fetch_add(counter, 1)
        if block * size >= d[END]:
            return
        for chunk in range(chunks):
            sums = d[SUMS] + (2 * block * chunks + chunk) * STEP
            clear(sums)
            clear(sums + row)
            for pixel in range(block * size, min((block + 1) * size, d[END])):
                place = (pixel * chunks + chunk) * STEP
                add_gradient_sums(d[INPUT1] + place, d[INPUT0] + place, d[BIAS] + chunk * STEP, row, leak, sums)


@lazy_jit
def input_gradient(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute the gradient of the input of the normalization."""
    chunks, size = d[CHUNKS0], d[BLOCK]
    while True:
        first = fetch_add(counter, 1) * size
        if first >= d[END]:
            return
        for pixel in range(first, min(first + size, d[END])):
            for chunk in range(chunks):
                place, one = (pixel * chunks + chunk) * STEP, d[BIAS] + chunk * STEP
                batchnorm_gradient(d[INPUT1] + place, d[INPUT0] + place, one, chunks * STEP, leak, d[OUTPUT] + place)


@lazy_jit
def pool(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute the maxima of windows of 2x2 pixels."""
    chunks, row, pixel = d[CHUNKS0], d[ROW0], d[PIXEL0]
    while True:
        y = fetch_add(counter, 1)
        if 2 * y >= d[HEIGHT]:
            return
        for x in range(d[WIDTH] // 2):
            corner, to = d[INPUT0] + 2 * y * row + 2 * x * pixel, d[POOLED] + y * d[POOLED_ROW] + x * d[POOLED_PIXEL]
            for chunk in range(chunks):
                one = corner + chunk * STEP
                max_of_four(one, one + pixel, one + row, one + row + pixel, to + chunk * STEP)


@lazy_jit
def pool_gradient(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute the gradient of a map that is pooled, and of which a part is used elsewhere: the sum of both gradients.

    The largest of each window, the first of several, receives the gradient of the pooled map. INPUT1 is the gradient of
    the part, which is given by TOP, BOTTOM, LEFT and RIGHT.
    """
    chunks, row, pixel = d[CHUNKS0], d[ROW0], d[PIXEL0]
    top, bottom, left, right = d[TOP], d[BOTTOM], d[LEFT], d[RIGHT]
    while True:
        window = fetch_add(counter, 1)
        if 2 * window >= d[HEIGHT]:
            return
        for column in range(d[WIDTH] // 2):
            corner = d[INPUT0] + 2 * window * row + 2 * column * pixel
            given = d[POOLED] + window * d[POOLED_ROW] + column * d[POOLED_PIXEL]
            for number in range(4):
                y, x = 2 * window + number // 2, 2 * column + number % 2
                to = d[OUTPUT] + y * d[OUT_ROW] + x * d[OUT_PIXEL]
                part = d[INPUT1] + (y - top) * d[ROW1] + (x - left) * d[PIXEL1]
                inside = top <= y < bottom and left <= x < right
                for chunk in range(chunks):
                    if inside:
                        copy(part + chunk * STEP, to + chunk * STEP)
                    else:
                        clear(to + chunk * STEP)
            to = d[OUTPUT] + 2 * window * d[OUT_ROW] + 2 * column * d[OUT_PIXEL]
            for chunk in range(chunks):
                place = chunk * STEP
                pass_to_largest(corner + place, row, pixel, given + place, to + place, d[OUT_ROW], d[OUT_PIXEL])


@lazy_jit
def head_gradient(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Compute the gradients of a 1x1 convolution to CHUNKS1 planes: of its inputs, and of its weights in RANGES sums.

    INPUT1 is the gradient of the planes: ROW1 and PIXEL1 are the bytes of a row and of a plane. WEIGHTS and each of the
    sums are ``(CHUNKS1, CHUNKS0, LANES)``.
    """
    chunks, planes, height = d[CHUNKS0], d[CHUNKS1], d[HEIGHT]
    while True:
        item = fetch_add(counter, 1)
        if item >= d[RANGES]:
            return
        sums = d[SUMS] + item * planes * chunks * STEP
        for vector in range(planes * chunks):
            clear(sums + vector * STEP)
        for y in range(height * item // d[RANGES], height * (item + 1) // d[RANGES]):
            for x in range(d[WIDTH]):
                source = d[INPUT0] + y * d[ROW0] + x * d[PIXEL0]
                slope = d[INPUT1] + y * d[ROW1] + x * 4
                to = d[OUTPUT] + y * d[OUT_ROW] + x * d[OUT_PIXEL]
                for chunk in range(chunks):
                    clear(to + chunk * STEP)
                    for plane in range(planes):
                        place = (plane * chunks + chunk) * STEP
                        add_scaled(d[WEIGHTS] + place, slope + plane * d[PIXEL1], to + chunk * STEP)
                        add_scaled(source + chunk * STEP, slope + plane * d[PIXEL1], sums + place)


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
