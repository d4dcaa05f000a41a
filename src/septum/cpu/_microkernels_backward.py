"""Microkernels of training as LLVM IR: outer products, gradient transforms, batch normalization, pooling.

A^T, G and B^T are those of `septum.cpu._microkernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from septum.cpu._ir import (
    ADDRESS,
    F32,
    I64,
    LANES,
    NUMBER,
    ROWS,
    STEP,
    VECTOR,
    Builder,
    Value,
    filled,
    fma,
    inline,
    inline_code,
    leaky_relu,
    load,
    multiple,
    offset_by,
    splat,
    store,
)

# Rows of sums, two vectors each, that fit in registers beside the operands.
SUMMED = {16: 8, 8: 4, 4: 4}[LANES]


def _outer(module: Any, vectors: int) -> Value:
    """Return the function behind `outer1` and `outer2`; all sums stay in registers.

    The outer loop runs over blocks of `ROWS` tiles, the inner one over the tiles of a block. Each step adds the product
    of `SUMMED` values of one side, each broadcast, and one or two vectors of the other.
    """
    name = f"septum_outer_{vectors}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 6), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    left, left_block, right, right_block, target, tiles = function.args
    blocks = [function.append_basic_block(n) for n in ("entry", "block", "tile", "latch", "done")]
    entry, block, inside, latch, done = (ir.IRBuilder(one) for one in blocks)
    count = SUMMED * vectors
    begun = [load(entry, target, i * STEP) for i in range(count)]
    entry.branch(blocks[1])
    outer, outer_sums = [block.phi(I64) for _ in range(3)], [block.phi(VECTOR) for _ in range(count)]
    size = block.select(block.icmp_signed("<", outer[2], I64(ROWS)), outer[2], I64(ROWS))
    block.branch(blocks[2])
    inner, inner_sums = [inside.phi(I64) for _ in range(3)], [inside.phi(VECTOR) for _ in range(count)]
    columns = [load(inside, inner[1], v * ROWS * STEP) for v in range(vectors)]
    sums = []
    for row in range(SUMMED):
        one = splat(inside, load(inside, inner[0], 4 * row, F32))
        sums += [fma(inside, one, columns[v], inner_sums[row * vectors + v]) for v in range(vectors)]
    following = [*(inside.add(address, I64(STEP)) for address in inner[:2]), inside.sub(inner[2], I64(1))]
    inside.cbranch(inside.icmp_signed(">", following[2], I64(0)), blocks[2], blocks[3])
    after = [latch.add(outer[0], left_block), latch.add(outer[1], right_block), latch.sub(outer[2], I64(ROWS))]
    latch.cbranch(latch.icmp_signed(">", after[2], I64(0)), blocks[1], blocks[4])
    for phi, first, second in zip([*outer, *outer_sums], [left, right, tiles, *begun], [*after, *sums], strict=True):
        phi.add_incoming(first, blocks[0])
        phi.add_incoming(second, blocks[3])
    for phi, first, second in zip(
        [*inner, *inner_sums], [*outer[:2], size, *outer_sums], [*following, *sums], strict=True
    ):
        phi.add_incoming(first, blocks[1])
        phi.add_incoming(second, blocks[2])
    for i, value in enumerate(sums):
        store(done, value, target, i * STEP)
    done.ret_void()
    return function


@inline
def outer1(typing: Any, left: int, left_block: int, right: int, right_block: int, target: int, tiles: int) -> Any:
    """Add to ``(SUMMED, LANES)`` the sum over tiles of the outer products of `SUMMED` values and a vector.

    Tiles are `STEP` bytes apart; after `ROWS` of them, the next block begins `left_block` and `right_block` bytes
    further.
    """
    return inline_code(lambda b, args: b.call(_outer(b.module, 1), args), *[ADDRESS] * 6)


@inline
def outer2(typing: Any, left: int, left_block: int, right: int, right_block: int, target: int, tiles: int) -> Any:
    """Add like `outer1` to ``(SUMMED, 2 * LANES)``; the second vector of a tile is that of the next chunk."""
    return inline_code(lambda b, args: b.call(_outer(b.module, 2), args), *[ADDRESS] * 6)


def _of_outputs(b: Builder, y: Sequence[Value]) -> list[Value]:
    """Return A y of four vectors."""
    even, odd = b.fadd(y[0], y[2]), b.fadd(y[1], y[3])
    four, two = fma(b, filled(4.0), y[2], y[0]), b.fmul(filled(2.0), fma(b, filled(4.0), y[3], y[1]))
    return [y[0], b.fadd(even, odd), b.fsub(even, odd), b.fadd(four, two), b.fsub(four, two), y[3]]


def _emit_transform_gradient(b: Builder, args: Sequence[Value]) -> None:
    source, row, pixel, target, stride = args
    rows = [offset_by(b, source, multiple(b, row, i)) for i in range(4)]
    half = [_of_outputs(b, [load(b, rows[i], multiple(b, pixel, j)) for i in range(4)]) for j in range(4)]
    for i in range(6):
        for j, value in enumerate(_of_outputs(b, [half[k][i] for k in range(4)])):
            store(b, value, target, multiple(b, stride, 6 * i + j))


@inline
def transform_gradient(typing: Any, source: int, row: int, pixel: int, target: int, stride: int) -> Any:
    """Transform one vector of the gradient of 4x4 outputs to 36 vectors, `stride` bytes apart."""
    return inline_code(_emit_transform_gradient, *[ADDRESS] * 5)


def _to_filter(b: Builder, m: Sequence[Value]) -> list[Value]:
    """Return G^T m of six vectors."""
    s, d = b.fadd(m[1], m[2]), b.fsub(m[2], m[1])
    t, e = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
    return [
        fma(b, filled(1 / 4), m[0], fma(b, filled(-1 / 6), s, b.fmul(filled(1 / 24), t))),
        fma(b, filled(1 / 6), d, b.fmul(filled(1 / 12), e)),
        fma(b, filled(1 / 6), b.fsub(t, s), m[5]),
    ]


def _emit_transform_weights(b: Builder, args: Sequence[Value]) -> None:
    source, stride, target, place = args
    half = [_to_filter(b, [load(b, source, multiple(b, stride, 6 * i + j)) for i in range(6)]) for j in range(6)]
    for i in range(3):
        for j, value in enumerate(_to_filter(b, [half[k][i] for k in range(6)])):
            store(b, value, target, multiple(b, place, 3 * i + j))


@inline
def transform_weights(typing: Any, source: int, stride: int, target: int, place: int) -> Any:
    """Transform 36 vectors of products with gradients to one vector of gradients of 3x3 filters."""
    return inline_code(_emit_transform_weights, *[ADDRESS] * 4)


def _emit_add_vector(b: Builder, args: Sequence[Value]) -> None:
    store(b, b.fadd(load(b, args[0]), load(b, args[1])), args[1])


@inline
def add_vector(typing: Any, source: int, target: int) -> Any:
    """Add one vector to another in memory."""
    return inline_code(_emit_add_vector, *[ADDRESS] * 2)


def _emit_add_scaled(b: Builder, args: Sequence[Value]) -> None:
    source, factor, target = args
    store(b, fma(b, splat(b, load(b, factor, 0, F32)), load(b, source), load(b, target)), target)


@inline
def add_scaled(typing: Any, source: int, factor: int, target: int) -> Any:
    """Add to a vector in memory another one times the value at an address."""
    return inline_code(_emit_add_scaled, *[ADDRESS] * 3)


def _emit_scale_vector(b: Builder, args: Sequence[Value]) -> None:
    store(b, b.fmul(load(b, args[0]), splat(b, args[1])), args[0])


@inline
def scale_vector(typing: Any, target: int, factor: np.float32) -> Any:
    """Multiply a vector in memory by a number."""
    return inline_code(_emit_scale_vector, ADDRESS, NUMBER)


def _emit_add_square(b: Builder, args: Sequence[Value]) -> None:
    distance = b.fsub(load(b, args[0]), load(b, args[1]))
    store(b, fma(b, distance, distance, load(b, args[2])), args[2])


@inline
def add_square(typing: Any, source: int, mean: int, target: int) -> Any:
    """Add the squared distance of one vector from another to a third."""
    return inline_code(_emit_add_square, *[ADDRESS] * 3)


def _emit_normalize(b: Builder, args: Sequence[Value]) -> None:
    source, scale, offset, leak, target = args
    store(b, leaky_relu(b, fma(b, load(b, source), load(b, scale), load(b, offset)), splat(b, leak)), target)


@inline
def normalize(typing: Any, source: int, scale: int, offset: int, leak: np.float32, target: int) -> Any:
    """Multiply a vector by a scale, add an offset, apply leaky ReLU, store the result."""
    return inline_code(_emit_normalize, *[ADDRESS] * 3, NUMBER, ADDRESS)


def _before_activation(b: Builder, gradient: Value, x: Value, table: Value, row: Value, leak: Value) -> Value:
    """Return the gradient before the ReLU of `normalize`; its slope at zero is the leak, as in PyTorch."""
    given = load(b, gradient)
    inside = fma(b, x, load(b, table), load(b, table, row))
    return b.select(b.fcmp_ordered(">", inside, filled(0.0)), given, b.fmul(given, splat(b, leak)))


def _emit_add_slopes(b: Builder, args: Sequence[Value]) -> None:
    gradient, source, table, row, leak, target = args
    x = load(b, source)
    slope = _before_activation(b, gradient, x, table, row, leak)
    centered = b.fsub(x, load(b, table, multiple(b, row, 2)))
    store(b, b.fadd(load(b, target), slope), target)
    store(b, fma(b, slope, centered, load(b, target, row)), target, row)


@inline
def add_gradient_sums(
    typing: Any, gradient: int, source: int, table: int, row: int, leak: np.float32, target: int
) -> Any:
    """Add a gradient before the ReLU to one vector, and its product with the distance from the mean to the next.

    The rows of the table, `row` bytes apart like the two vectors, are scale, offset, mean, and the two terms that
    `batchnorm_gradient` subtracts.
    """
    return inline_code(_emit_add_slopes, *[ADDRESS] * 4, NUMBER, ADDRESS)


def _emit_pull(b: Builder, args: Sequence[Value]) -> None:
    gradient, source, table, row, leak, target = args
    x = load(b, source)
    slope = _before_activation(b, gradient, x, table, row, leak)
    scale, mean, constant, linear = (load(b, table, multiple(b, row, i)) for i in (0, 2, 3, 4))
    kept = b.fsub(b.fsub(slope, constant), b.fmul(b.fsub(x, mean), linear))
    store(b, b.fmul(scale, kept), target)


@inline
def batchnorm_gradient(
    typing: Any, gradient: int, source: int, table: int, row: int, leak: np.float32, target: int
) -> Any:
    """Store the gradient of the normalization's input: scale (gradient - constant - linear (x - mean)).

    Rows 3 and 4 of the table of `add_gradient_sums` are `constant` and `linear`.
    """
    return inline_code(_emit_pull, *[ADDRESS] * 4, NUMBER, ADDRESS)


def _emit_pass(b: Builder, args: Sequence[Value]) -> None:
    source, row, pixel, given, target, to_row, to_pixel = args
    values = [
        load(b, one) for one in (source, b.add(source, pixel), b.add(source, row), b.add(source, b.add(row, pixel)))
    ]
    places = [target, b.add(target, to_pixel), b.add(target, to_row), b.add(target, b.add(to_row, to_pixel))]
    largest = values[0]
    for value in values[1:]:
        largest = b.select(b.fcmp_ordered(">", value, largest), value, largest)
    gradient = load(b, given)
    for value, place in zip(values, places, strict=True):
        chosen = b.fcmp_ordered("==", value, largest)
        store(b, b.fadd(load(b, place), b.select(chosen, gradient, filled(0.0))), place)
        gradient = b.select(chosen, filled(0.0), gradient)  # the first of equal values takes it


@inline
def pass_to_largest(
    typing: Any, source: int, row: int, pixel: int, given: int, target: int, to_row: int, to_pixel: int
) -> Any:
    """Add the gradient of a maximum of 2x2 vectors to the target of the largest one, element by element."""
    return inline_code(_emit_pass, *[ADDRESS] * 7)
