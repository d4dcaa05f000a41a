"""Vector and atomic instructions for loops compiled by numba: the few that `septum.nn._kernels` is made of.

Each function here stands for machine code that numba's own translation of Python would not reach: a small matrix
product that keeps its sums in registers, and the transforms of Winograd's convolution. They are written as LLVM code
for vectors of the width that this processor has. Addresses are plain integers (bytes); nothing is checked.

Winograd's F(4x4, 3x3): A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016 (arXiv 1509.09308),
section 4.3: from 6x6 inputs and a transformed 3x3 filter, 36 products give 4x4 outputs that 144 would give directly.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_FEATURES = llvm.get_host_cpu_features()
# Values of a vector, and rows of the matrix product whose sums fit into the registers (two vectors a row).
if _FEATURES.get("avx512f"):  # 32 registers of 16
    LANES, ROWS = 16, 14
elif _FEATURES.get("avx2") and _FEATURES.get("fma"):  # 16 registers of 8
    LANES, ROWS = 8, 6
else:  # 32 registers of 4, as on ARM; right, if not fast, on any other
    LANES, ROWS = 4, 8
STEP = 4 * LANES  # bytes of a vector
_X86 = platform.machine().lower() in ("x86_64", "amd64")
_ARM = platform.machine().lower() in ("aarch64", "arm64")

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_F32, LANES)
_UNROLLED = 4

Given = ParamSpec("Given")
Value = Any  # llvmlite has no types
Builder = Any


def _shifted(b: Builder, address: Value, offset: Value | int) -> Value:
    if isinstance(offset, int):
        return b.add(address, _I64(offset)) if offset else address
    return b.add(address, offset)


def _load(b: Builder, address: Value, offset: Value | int = 0, kind: Any = _VECTOR) -> Value:
    return b.load(b.inttoptr(_shifted(b, address, offset), kind.as_pointer()), align=4, typ=kind)


def _store(b: Builder, value: Value, address: Value, offset: Value | int = 0) -> None:
    b.store(value, b.inttoptr(_shifted(b, address, offset), value.type.as_pointer()), align=4)


def _splat(b: Builder, scalar: Value) -> Value:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    one = b.insert_element(empty, scalar, _I32(0))
    return b.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _all(number: float) -> Value:
    return ir.Constant(_VECTOR, [number] * LANES)


def _outside(b: Builder, name: str, kind: Any) -> Value:
    """Return a function that LLVM or the system has."""
    return b.module.globals.get(name) or ir.Function(b.module, kind, name)


def _fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return b.call(_outside(b, f"llvm.fmuladd.v{LANES}f32", kind), [x, y, z])  # fused where the processor can


def _times(b: Builder, value: Value, factor: int) -> Value | int:
    return b.mul(value, _I64(factor)) if factor else 0


def _code(emit: Callable[[Builder, Sequence[Value]], None], *kinds: Any) -> tuple[Any, Any]:
    """Return the types and the code of a function without result, written in place where it is called."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
        emit(builder, args)
        return context.get_dummy_value()

    return types.void(*kinds), codegen


def _in_place(function: Callable[Concatenate[Any, Given], Any]) -> Callable[Given, Any]:
    """Let compiled loops call a function whose code is written in their place; they do not see its first argument."""
    made: Callable[Given, Any] = intrinsic(function)
    return made


_ADDRESS, _NUMBER = types.int64, types.float32


def _product(module: Any, vectors: int) -> Value:
    """Return the function that `product1` and `product2` call, with all sums of `ROWS` rows in registers."""
    name = f"septum_product_{vectors}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 4), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    left, right, target, chunks = function.args
    blocks = [function.append_basic_block(n) for n in ("entry", "chunk", "inside", "latch", "done")]
    entry, chunk, inside, latch, done = (ir.IRBuilder(block) for block in blocks)
    entry.branch(blocks[1])

    def phis(b: Builder) -> tuple[list[Value], list[Value]]:
        return [b.phi(_I64) for _ in range(3)], [b.phi(_VECTOR) for _ in range(ROWS * vectors)]

    def incoming(targets: Sequence[Value], values: Sequence[Value], block: Any) -> None:
        for phi, value in zip(targets, values, strict=True):
            phi.add_incoming(value, block)

    outer, outer_sums = phis(chunk)  # addresses of both sides and the chunks left
    inner, inner_sums = phis(inside)
    chunk.branch(blocks[2])
    sums = list(inner_sums)
    for k in range(_UNROLLED):
        columns = [_load(inside, inner[1], (k * vectors + v) * STEP) for v in range(vectors)]
        for row in range(ROWS):
            one = _splat(inside, _load(inside, inner[0], row * STEP + 4 * k, _F32))
            for v in range(vectors):
                sums[row * vectors + v] = _fma(inside, one, columns[v], sums[row * vectors + v])
    following = [
        inside.add(inner[0], _I64(4 * _UNROLLED)),
        inside.add(inner[1], _I64(_UNROLLED * vectors * STEP)),
        inside.sub(inner[2], _I64(1)),
    ]
    inside.cbranch(inside.icmp_signed(">", following[2], _I64(0)), blocks[2], blocks[3])
    after = [latch.add(outer[0], _I64(ROWS * STEP)), following[1], latch.sub(outer[2], _I64(1))]
    latch.cbranch(latch.icmp_signed(">", after[2], _I64(0)), blocks[1], blocks[4])
    incoming(outer, [left, right, chunks], blocks[0])
    incoming(outer, after, blocks[3])
    incoming(outer_sums, [_all(0.0)] * len(sums), blocks[0])
    incoming(outer_sums, sums, blocks[3])
    incoming(inner, [outer[0], outer[1], _I64(LANES // _UNROLLED)], blocks[1])
    incoming(inner, following, blocks[2])
    incoming(inner_sums, outer_sums, blocks[1])
    incoming(inner_sums, sums, blocks[2])
    for i, value in enumerate(sums):
        _store(done, value, target, i * STEP)
    done.ret_void()
    return function


@_in_place
def product1(typing: Any, left: int, right: int, target: int, chunks: int) -> Any:
    """Multiply ``(ROWS, chunks * LANES)`` by ``(chunks * LANES, LANES)`` into ``(ROWS, LANES)``.

    The left side lies in chunks: ``(chunks, ROWS, LANES)``. The sum runs over its features in order.
    """
    return _code(lambda b, args: b.call(_product(b.module, 1), args), *[_ADDRESS] * 4)


@_in_place
def product2(typing: Any, left: int, right: int, target: int, chunks: int) -> Any:
    """Multiply as `product1` by ``(chunks * LANES, 2 * LANES)`` into ``(ROWS, 2 * LANES)``."""
    return _code(lambda b, args: b.call(_product(b.module, 2), args), *[_ADDRESS] * 4)


def _to_products(b: Builder, d: Sequence[Value]) -> list[Value]:
    """Return B^T d."""
    x, y = _fma(b, _all(-4.0), d[2], d[4]), _fma(b, _all(-4.0), d[1], d[3])
    z, w = b.fsub(d[4], d[2]), b.fsub(d[3], d[1])
    return [
        _fma(b, _all(4.0), d[0], _fma(b, _all(-5.0), d[2], d[4])),
        b.fadd(x, y),
        b.fsub(x, y),
        _fma(b, _all(2.0), w, z),
        _fma(b, _all(-2.0), w, z),
        _fma(b, _all(4.0), d[1], _fma(b, _all(-5.0), d[3], d[5])),
    ]


def _from_products(b: Builder, m: Sequence[Value]) -> list[Value]:
    """Return A^T m."""
    s, d = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
    t, e = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
    return [
        b.fadd(b.fadd(m[0], s), t),
        _fma(b, _all(2.0), e, d),
        _fma(b, _all(4.0), t, s),
        b.fadd(_fma(b, _all(8.0), e, d), m[5]),
    ]


def _emit_transform_in(b: Builder, args: Sequence[Value]) -> None:
    source, row, pixel, target, stride = args
    rows = [_shifted(b, source, _times(b, row, i)) for i in range(6)]
    columns = [_times(b, pixel, j) for j in range(6)]
    half = [_to_products(b, [_load(b, rows[i], columns[j]) for i in range(6)]) for j in range(6)]
    for i in range(6):
        for j, value in enumerate(_to_products(b, [half[j][i] for j in range(6)])):
            _store(b, value, target, _times(b, stride, 6 * i + j))


@_in_place
def transform_in(typing: Any, source: int, row: int, pixel: int, target: int, stride: int) -> Any:
    """Transform one vector of features at 6x6 pixels into 36 vectors, `stride` bytes apart."""
    return _code(_emit_transform_in, *[_ADDRESS] * 5)


def _of_filter(b: Builder, g: Sequence[Value]) -> list[Value]:
    """Return G g."""
    outer, four = b.fadd(g[0], g[2]), _fma(b, _all(4.0), g[2], g[0])
    return [
        b.fmul(_all(1 / 4), g[0]),
        b.fmul(_all(-1 / 6), b.fadd(outer, g[1])),
        b.fmul(_all(-1 / 6), b.fsub(outer, g[1])),
        b.fmul(_all(1 / 24), _fma(b, _all(2.0), g[1], four)),
        b.fmul(_all(1 / 24), _fma(b, _all(-2.0), g[1], four)),
        g[2],
    ]


def _emit_transform_filter(b: Builder, args: Sequence[Value]) -> None:
    source, place, target, stride = args
    g = [_load(b, source, _times(b, place, i)) for i in range(9)]
    half = [_of_filter(b, g[j::3]) for j in range(3)]
    for i in range(6):
        for j, value in enumerate(_of_filter(b, [half[k][i] for k in range(3)])):
            _store(b, value, target, _times(b, stride, 6 * i + j))


@_in_place
def transform_filter(typing: Any, source: int, place: int, target: int, stride: int) -> Any:
    """Transform one vector of 3x3 filters, its places `place` bytes apart, into 36 vectors, `stride` bytes apart."""
    return _code(_emit_transform_filter, *[_ADDRESS] * 4)


def _activated(b: Builder, x: Value, leak: Value) -> Value:
    return b.select(b.fcmp_ordered("<", x, _all(0.0)), b.fmul(x, leak), x)  # what is no number stays so


def _emit_transform_out(b: Builder, args: Sequence[Value]) -> None:
    source, stride, bias, leak, target, row, pixel = args
    half = [_from_products(b, [_load(b, source, _times(b, stride, 6 * i + j)) for i in range(6)]) for j in range(6)]
    offset, slope = _load(b, bias), _splat(b, leak)
    for i in range(4):
        line = _shifted(b, target, _times(b, row, i))
        for j, value in enumerate(_from_products(b, [half[j][i] for j in range(6)])):
            _store(b, _activated(b, b.fadd(value, offset), slope), line, _times(b, pixel, j))


@_in_place
def transform_out(
    typing: Any, source: int, stride: int, bias: int, leak: np.float32, target: int, row: int, pixel: int
) -> Any:
    """Transform 36 vectors of products, `stride` bytes apart, into 4x4 outputs; add bias, apply leaky ReLU."""
    return _code(_emit_transform_out, *[_ADDRESS] * 3, _NUMBER, *[_ADDRESS] * 3)


def _emit_finish(b: Builder, args: Sequence[Value]) -> None:
    source, bias, leak, target = args
    _store(b, _activated(b, b.fadd(_load(b, source), _load(b, bias)), _splat(b, leak)), target)


@_in_place
def finish(typing: Any, source: int, bias: int, leak: np.float32, target: int) -> Any:
    """Add the bias to a vector, apply leaky ReLU, store."""
    return _code(_emit_finish, *[_ADDRESS] * 2, _NUMBER, _ADDRESS)


def _emit_largest(b: Builder, args: Sequence[Value]) -> None:
    def larger(x: Value, y: Value) -> Value:
        # PyTorch's pooling keeps what is no number; comparing so that either side wins if it is none does as well.
        kept = b.select(b.fcmp_unordered("uno", x, x), x, y)
        return b.select(b.fcmp_ordered(">=", x, y), x, kept)

    w, x, y, z = (_load(b, address) for address in args[:4])
    _store(b, larger(larger(w, x), larger(y, z)), args[4])


@_in_place
def largest(typing: Any, first: int, second: int, third: int, fourth: int, target: int) -> Any:
    """Store the largest of four vectors, value by value."""
    return _code(_emit_largest, *[_ADDRESS] * 5)


@_in_place
def copy(typing: Any, source: int, target: int) -> Any:
    """Copy one vector."""
    return _code(lambda b, args: _store(b, _load(b, args[0]), args[1]), *[_ADDRESS] * 2)


@_in_place
def clear(typing: Any, target: int) -> Any:
    """Set one vector to zeros."""
    return _code(lambda b, args: _store(b, _all(0.0), args[0]), _ADDRESS)


@_in_place
def copy_value(typing: Any, source: int, target: int) -> Any:
    """Copy one value."""
    return _code(lambda b, args: _store(b, _load(b, args[0], 0, _F32), args[1]), *[_ADDRESS] * 2)


def _emit_add_value(b: Builder, args: Sequence[Value]) -> None:
    first, second, target = args
    _store(b, b.fadd(_load(b, first, 0, _F32), _load(b, second, 0, _F32)), target)


@_in_place
def add_value(typing: Any, first: int, second: int, target: int) -> Any:
    """Store the sum of two values."""
    return _code(_emit_add_value, *[_ADDRESS] * 3)


def _counted(address: Value, b: Builder) -> Value:
    return b.inttoptr(address, _I64.as_pointer())


@_in_place
def add(typing: Any, address: int, number: int) -> Any:
    """Add to the 64-bit number at an address and return what it was, so that no two threads get the same."""

    def codegen(context: Any, b: Builder, signature: Any, args: Sequence[Value]) -> Value:
        return b.atomic_rmw("add", _counted(args[0], b), args[1], "seq_cst")

    return types.int64(_ADDRESS, _ADDRESS), codegen


@_in_place
def look(typing: Any, address: int) -> Any:
    """Return the 64-bit number at an address and see all that was written before it."""

    def codegen(context: Any, b: Builder, signature: Any, args: Sequence[Value]) -> Value:
        return b.load_atomic(_counted(args[0], b), "seq_cst", 8, typ=_I64)

    return types.int64(_ADDRESS), codegen


@_in_place
def tell(typing: Any, address: int, number: int) -> Any:
    """Set the 64-bit number at an address, after all that was written before."""
    return _code(lambda b, args: b.store_atomic(args[1], _counted(args[0], b), "seq_cst", 8), _ADDRESS, _ADDRESS)


@_in_place
def pause(typing: Any) -> Any:
    """Wait a few cycles, for what another core will write."""
    name, given = ("llvm.x86.sse2.pause", []) if _X86 else ("llvm.aarch64.hint", [_I32(1)])
    kind = ir.FunctionType(ir.VoidType(), [_I32] * len(given))
    return _code(lambda b, args: b.call(_outside(b, name, kind), given) if _X86 or _ARM else None)


@_in_place
def give_way(typing: Any) -> Any:
    """Let another thread have this core; where the system has no such call, `pause` has to do."""

    def emit(b: Builder, args: Sequence[Value]) -> None:
        if os.name == "posix":
            b.call(_outside(b, "sched_yield", ir.FunctionType(_I32, [])), [])

    return _code(emit)
