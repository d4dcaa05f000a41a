"""Loops over pixels for training: batch normalization with leaky ReLU, forward and backward.

INPUT0 is the input of the normalization, INPUT1 the gradient of its output, OUTPUT the result: maps of END contiguous
pixels with CHUNKS0 vectors each. BIAS is the address of the table of
`septum.cpu._microkernels_backward.add_gradient_sums`. Each block of BLOCK pixels gives two vectors of sums a chunk;
blocks are combined in order afterwards, so that the order of summation does not depend on the threads.
"""

from __future__ import annotations

import numpy as np

from septum.arrays.jit import lazy_jit
from septum.cpu._ir import STEP
from septum.cpu._microkernels import clear, fetch_add
from septum.cpu._microkernels_backward import (
    add_gradient_sums,
    add_square,
    add_vector,
    batchnorm_gradient,
    normalize,
    scale_vector,
)
from septum.cpu._winograd import BIAS, BLOCK, CHUNKS0, END, INPUT0, INPUT1, OUTPUT, SUMS, Description


@lazy_jit
def moments(d: Description, counter: int) -> None:
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
def normalize_blocks(d: Description, leak: np.float32, counter: int) -> None:
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
def gradient_sums(d: Description, leak: np.float32, counter: int) -> None:
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
def input_gradient(d: Description, leak: np.float32, counter: int) -> None:
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
