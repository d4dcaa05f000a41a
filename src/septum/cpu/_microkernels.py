"""Microkernels of the convolutions as LLVM IR: matrix product, Winograd transforms, vector copies, atomic operations.

Winograd's F(4x4, 3x3) (A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, arXiv 1509.09308,
section 4.3) computes a tile Y of 4x4 outputs from a tile d of 6x6 inputs and a 3x3 filter g::

    Y = A^T [ (G g G^T) * (B^T d B) ] A        (* elementwise: 36 products instead of 144)

    B^T =  4  0 -5  0  1  0      G =  1/4    0    0      A^T = 1  1  1  1  1  0
           0 -4 -4  1  1  0          -1/6 -1/6 -1/6            0  1 -1  2 -2  0
           0  4 -4 -1  1  0          -1/6  1/6 -1/6            0  1  1  4  4  0
           0 -2 -1  2  1  0          1/24 1/12  1/6            0  1 -1  8 -8  1
           0  2 -1 -2  1  0          1/24 -1/12 1/6
           0  4  0 -5  0  1             0    0    1

It evaluates the polynomials whose product is the convolution at the points 0, 1, -1, 2, -2 and infinity. With many
features, the elementwise products are summed over the input features: for each of the 36 places a product of two
matrices, (tiles, inputs) by (inputs, outputs).

`_to_products`, `_of_filter` and `_from_products` apply B^T, G and A^T to vectors of `LANES` features at a time, once
along the columns and once along the rows. `product1` and `product2` multiply `ROWS` tiles by one or two vectors of
outputs and keep all sums in registers until the last input feature: each loaded vector of weights is used `ROWS` times.
All sums run over the features in order, so that the result of a tile does not depend on the tiles that are computed
with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from septum.cpu._ir import (
    ADDRESS,
    ARM,
    F32,
    I32,
    I64,
    LANES,
    NUMBER,
    ROWS,
    STEP,
    VECTOR,
    X86,
    Builder,
    Value,
    declared,
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

_UNROLLED = 4


def _product(module: Any, vectors: int) -> Value:
    """Return the function behind `product1` and `product2`; all sums of `ROWS` rows stay in registers.

    The outer loop runs over chunks of `LANES` input features, the inner one over the features of a chunk, `_UNROLLED`
    at a time. Each step broadcasts one value of every row and adds its product with a row of the right matrix. The
    function is not inlined: one copy of this large block serves all loops.
    """
    name = f"septum_product_{vectors}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 4), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    left, right, target, chunks = function.args
    blocks = [function.append_basic_block(n) for n in ("entry", "chunk", "inside", "latch", "done")]
    entry, chunk, inside, latch, done = (ir.IRBuilder(block) for block in blocks)
    entry.branch(blocks[1])

    def phis(b: Builder) -> tuple[list[Value], list[Value]]:
        return [b.phi(I64) for _ in range(3)], [b.phi(VECTOR) for _ in range(ROWS * vectors)]

    def incoming(targets: Sequence[Value], values: Sequence[Value], block: Any) -> None:
        for phi, value in zip(targets, values, strict=True):
            phi.add_incoming(value, block)

    outer, outer_sums = phis(chunk)  # addresses of both matrices, and the number of chunks left
    inner, inner_sums = phis(inside)
    chunk.branch(blocks[2])
    sums = list(inner_sums)
    for k in range(_UNROLLED):
        columns = [load(inside, inner[1], (k * vectors + v) * STEP) for v in range(vectors)]
        for row in range(ROWS):
            one = splat(inside, load(inside, inner[0], row * STEP + 4 * k, F32))
            for v in range(vectors):
                sums[row * vectors + v] = fma(inside, one, columns[v], sums[row * vectors + v])
    following = [
        inside.add(inner[0], I64(4 * _UNROLLED)),
        inside.add(inner[1], I64(_UNROLLED * vectors * STEP)),
        inside.sub(inner[2], I64(1)),
    ]
    inside.cbranch(inside.icmp_signed(">", following[2], I64(0)), blocks[2], blocks[3])
    after = [latch.add(outer[0], I64(ROWS * STEP)), following[1], latch.sub(outer[2], I64(1))]
    latch.cbranch(latch.icmp_signed(">", after[2], I64(0)), blocks[1], blocks[4])
    incoming(outer, [left, right, chunks], blocks[0])
    incoming(outer, after, blocks[3])
    incoming(outer_sums, [filled(0.0)] * len(sums), blocks[0])
    incoming(outer_sums, sums, blocks[3])
    incoming(inner, [outer[0], outer[1], I64(LANES // _UNROLLED)], blocks[1])
    incoming(inner, following, blocks[2])
    incoming(inner_sums, outer_sums, blocks[1])
    incoming(inner_sums, sums, blocks[2])
    for i, value in enumerate(sums):
        store(done, value, target, i * STEP)
    done.ret_void()
    return function


@inline
def product1(typing: Any, left: int, right: int, target: int, chunks: int) -> Any:
    """Multiply ``(ROWS, chunks * LANES)`` by ``(chunks * LANES, LANES)`` to ``(ROWS, LANES)``.

    The left matrix is stored in chunks: ``(chunks, ROWS, LANES)``. The sum runs over the features in order.
    """
    return inline_code(lambda b, args: b.call(_product(b.module, 1), args), *[ADDRESS] * 4)


@inline
def product2(typing: Any, left: int, right: int, target: int, chunks: int) -> Any:
    """Multiply like `product1` by ``(chunks * LANES, 2 * LANES)`` to ``(ROWS, 2 * LANES)``."""
    return inline_code(lambda b, args: b.call(_product(b.module, 2), args), *[ADDRESS] * 4)


def _to_products(b: Builder, d: Sequence[Value]) -> list[Value]:
    """Return B^T d of six vectors."""
    x, y = fma(b, filled(-4.0), d[2], d[4]), fma(b, filled(-4.0), d[1], d[3])
    z, w = b.fsub(d[4], d[2]), b.fsub(d[3], d[1])
    return [
        fma(b, filled(4.0), d[0], fma(b, filled(-5.0), d[2], d[4])),
        b.fadd(x, y),
        b.fsub(x, y),
        fma(b, filled(2.0), w, z),
        fma(b, filled(-2.0), w, z),
        fma(b, filled(4.0), d[1], fma(b, filled(-5.0), d[3], d[5])),
    ]


def _from_products(b: Builder, m: Sequence[Value]) -> list[Value]:
    """Return A^T m of six vectors."""
    s, d = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
    t, e = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
    return [
        b.fadd(b.fadd(m[0], s), t),
        fma(b, filled(2.0), e, d),
        fma(b, filled(4.0), t, s),
        b.fadd(fma(b, filled(8.0), e, d), m[5]),
    ]


def _emit_transform_in(b: Builder, args: Sequence[Value]) -> None:
    source, row, pixel, target, stride = args
    rows = [offset_by(b, source, multiple(b, row, i)) for i in range(6)]
    columns = [multiple(b, pixel, j) for j in range(6)]
    half = [_to_products(b, [load(b, rows[i], columns[j]) for i in range(6)]) for j in range(6)]
    for i in range(6):
        for j, value in enumerate(_to_products(b, [half[j][i] for j in range(6)])):
            store(b, value, target, multiple(b, stride, 6 * i + j))


@inline
def transform_in(typing: Any, source: int, row: int, pixel: int, target: int, stride: int) -> Any:
    """Transform one vector of features at 6x6 pixels to 36 vectors, `stride` bytes apart."""
    return inline_code(_emit_transform_in, *[ADDRESS] * 5)


def _of_filter(b: Builder, g: Sequence[Value]) -> list[Value]:
    """Return G g of three vectors."""
    outer, four = b.fadd(g[0], g[2]), fma(b, filled(4.0), g[2], g[0])
    return [
        b.fmul(filled(1 / 4), g[0]),
        b.fmul(filled(-1 / 6), b.fadd(outer, g[1])),
        b.fmul(filled(-1 / 6), b.fsub(outer, g[1])),
        b.fmul(filled(1 / 24), fma(b, filled(2.0), g[1], four)),
        b.fmul(filled(1 / 24), fma(b, filled(-2.0), g[1], four)),
        g[2],
    ]


def _emit_transform_filter(b: Builder, args: Sequence[Value]) -> None:
    source, place, target, stride = args
    g = [load(b, source, multiple(b, place, i)) for i in range(9)]
    half = [_of_filter(b, g[j::3]) for j in range(3)]
    for i in range(6):
        for j, value in enumerate(_of_filter(b, [half[k][i] for k in range(3)])):
            store(b, value, target, multiple(b, stride, 6 * i + j))


@inline
def transform_filter(typing: Any, source: int, place: int, target: int, stride: int) -> Any:
    """Transform one vector of 3x3 filters, its places `place` bytes apart, to 36 vectors, `stride` bytes apart."""
    return inline_code(_emit_transform_filter, *[ADDRESS] * 4)


def _emit_transform_out(b: Builder, args: Sequence[Value]) -> None:
    source, stride, bias, leak, target, row, pixel = args
    half = [_from_products(b, [load(b, source, multiple(b, stride, 6 * i + j)) for i in range(6)]) for j in range(6)]
    offset, slope = load(b, bias), splat(b, leak)
    for i in range(4):
        line = offset_by(b, target, multiple(b, row, i))
        for j, value in enumerate(_from_products(b, [half[j][i] for j in range(6)])):
            store(b, leaky_relu(b, b.fadd(value, offset), slope), line, multiple(b, pixel, j))


@inline
def transform_out(
    typing: Any, source: int, stride: int, bias: int, leak: np.float32, target: int, row: int, pixel: int
) -> Any:
    """Transform 36 vectors of products, `stride` bytes apart, to 4x4 outputs; add the bias, apply leaky ReLU."""
    return inline_code(_emit_transform_out, *[ADDRESS] * 3, NUMBER, *[ADDRESS] * 3)


def _emit_finish(b: Builder, args: Sequence[Value]) -> None:
    source, bias, leak, target = args
    store(b, leaky_relu(b, b.fadd(load(b, source), load(b, bias)), splat(b, leak)), target)


@inline
def bias_relu(typing: Any, source: int, bias: int, leak: np.float32, target: int) -> Any:
    """Add the bias to a vector, apply leaky ReLU, store the result."""
    return inline_code(_emit_finish, *[ADDRESS] * 2, NUMBER, ADDRESS)


def _emit_largest(b: Builder, args: Sequence[Value]) -> None:
    def larger(x: Value, y: Value) -> Value:
        # PyTorch's pooling propagates NaN: here either operand wins if it is NaN.
        kept = b.select(b.fcmp_unordered("uno", x, x), x, y)
        return b.select(b.fcmp_ordered(">=", x, y), x, kept)

    w, x, y, z = (load(b, address) for address in args[:4])
    store(b, larger(larger(w, x), larger(y, z)), args[4])


@inline
def max_of_four(typing: Any, first: int, second: int, third: int, fourth: int, target: int) -> Any:
    """Store the elementwise maximum of four vectors; NaN wins, as in PyTorch's pooling."""
    return inline_code(_emit_largest, *[ADDRESS] * 5)


@inline
def copy(typing: Any, source: int, target: int) -> Any:
    """Copy one vector."""
    return inline_code(lambda b, args: store(b, load(b, args[0]), args[1]), *[ADDRESS] * 2)


@inline
def clear(typing: Any, target: int) -> Any:
    """Set one vector to zero."""
    return inline_code(lambda b, args: store(b, filled(0.0), args[0]), ADDRESS)


@inline
def copy_value(typing: Any, source: int, target: int) -> Any:
    """Copy one value."""
    return inline_code(lambda b, args: store(b, load(b, args[0], 0, F32), args[1]), *[ADDRESS] * 2)


def _emit_add_value(b: Builder, args: Sequence[Value]) -> None:
    first, second, target = args
    store(b, b.fadd(load(b, first, 0, F32), load(b, second, 0, F32)), target)


@inline
def add_value(typing: Any, first: int, second: int, target: int) -> Any:
    """Store the sum of two values."""
    return inline_code(_emit_add_value, *[ADDRESS] * 3)


def _int64_pointer(address: Value, b: Builder) -> Value:
    """Convert an address to a pointer to a 64-bit integer."""
    return b.inttoptr(address, I64.as_pointer())


@inline
def fetch_add(typing: Any, address: int, number: int) -> Any:
    """Add atomically to the 64-bit integer at an address and return its former value: no two threads get the same."""

    def codegen(context: Any, b: Builder, signature: Any, args: Sequence[Value]) -> Value:
        return b.atomic_rmw("add", _int64_pointer(args[0], b), args[1], "seq_cst")

    return types.int64(ADDRESS, ADDRESS), codegen


@inline
def atomic_load(typing: Any, address: int) -> Any:
    """Load the 64-bit integer at an address; all writes before its store are visible afterwards."""

    def codegen(context: Any, b: Builder, signature: Any, args: Sequence[Value]) -> Value:
        return b.load_atomic(_int64_pointer(args[0], b), "seq_cst", 8, typ=I64)

    return types.int64(ADDRESS), codegen


@inline
def atomic_store(typing: Any, address: int, number: int) -> Any:
    """Store a 64-bit integer at an address after all writes before."""
    return inline_code(
        lambda b, args: b.store_atomic(args[1], _int64_pointer(args[0], b), "seq_cst", 8), ADDRESS, ADDRESS
    )


@inline
def call(typing: Any, address: int, description: int, leak: float, counter: int, scratch: int) -> Any:
    """Call the machine code of a loop at an address."""

    def emit(b: Builder, args: Sequence[Value]) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer(), F32, I64, I64])
        given = [b.inttoptr(args[1], I64.as_pointer()), *args[2:]]
        b.call(b.inttoptr(args[0], kind.as_pointer()), given)

    return inline_code(emit, ADDRESS, ADDRESS, NUMBER, ADDRESS, ADDRESS)


@inline
def spin_pause(typing: Any) -> Any:
    """Pause for a few cycles inside a loop that waits for another core."""
    name, given = ("llvm.x86.sse2.pause", []) if X86 else ("llvm.aarch64.hint", [I32(1)])
    kind = ir.FunctionType(ir.VoidType(), [I32] * len(given))
    return inline_code(lambda b, args: b.call(declared(b, name, kind), given) if X86 or ARM else None)


@inline
def yield_core(typing: Any) -> Any:
    """Let the system run another thread on this core; no operation on systems without such a call."""

    def emit(b: Builder, args: Sequence[Value]) -> None:
        if os.name == "posix":
            b.call(declared(b, "sched_yield", ir.FunctionType(I32, [])), [])

    return inline_code(emit)
