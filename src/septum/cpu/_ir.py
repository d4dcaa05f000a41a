"""Helpers to emit LLVM IR from numba intrinsics: vectors of this processor's width, loads, stores, fused multiply-add.

Numba's own translation of Python does not keep a block of sums in vector registers, and it does not vectorize the
transforms of Winograd's convolution. The microkernels (`septum.cpu._microkernels`, `septum.cpu._microkernels_backward`)
are therefore written as LLVM IR, inserted at the place of the call into loops that numba compiles. Addresses are plain
integers (bytes); nothing is checked. The interface that this module uses (`numba.extending.intrinsic`,
``context.get_dummy_value``) is not covered by numba's promise of stability, so pyproject.toml bounds the versions of
numba and llvmlite.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_FEATURES = llvm.get_host_cpu_features()
# LANES: float32 values of a vector. ROWS: rows of the matrix product whose sums, two vectors each, fit in registers.
if _FEATURES.get("avx512f"):  # 32 registers of 16
    LANES, ROWS = 16, 14
elif _FEATURES.get("avx2") and _FEATURES.get("fma"):  # 16 registers of 8
    LANES, ROWS = 8, 6
else:  # 32 registers of 4, as on ARM; correct, though not fast, on any other
    LANES, ROWS = 4, 8
STEP = 4 * LANES  # bytes of a vector
X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)

Given = ParamSpec("Given")
Value = Any  # llvmlite is not typed
Builder = Any


def offset_by(b: Builder, address: Value, offset: Value | int) -> Value:
    """Return an address plus an offset in bytes."""
    if isinstance(offset, int):
        return b.add(address, I64(offset)) if offset else address
    return b.add(address, offset)


def load(b: Builder, address: Value, offset: Value | int = 0, kind: Any = VECTOR) -> Value:
    """Load a value, by default a vector, from an address."""
    return b.load(b.inttoptr(offset_by(b, address, offset), kind.as_pointer()), align=4, typ=kind)


def store(b: Builder, value: Value, address: Value, offset: Value | int = 0) -> None:
    """Store a value at an address."""
    b.store(value, b.inttoptr(offset_by(b, address, offset), value.type.as_pointer()), align=4)


def splat(b: Builder, scalar: Value) -> Value:
    """Return a vector whose lanes all hold a scalar."""
    empty = ir.Constant(VECTOR, ir.Undefined)
    one = b.insert_element(empty, scalar, I32(0))
    return b.shuffle_vector(one, empty, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def filled(number: float) -> Value:
    """Return a constant vector whose lanes all hold a number."""
    return ir.Constant(VECTOR, [number] * LANES)


def declared(b: Builder, name: str, kind: Any) -> Value:
    """Return an external function of LLVM or the system, declared in the module on first use."""
    return b.module.globals.get(name) or ir.Function(b.module, kind, name)


def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """Return ``x y + z``, fused if the processor can."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return b.call(declared(b, f"llvm.fmuladd.v{LANES}f32", kind), [x, y, z])  # fused if the processor can


def multiple(b: Builder, value: Value, factor: int) -> Value | int:
    """Return a value times a constant; the integer 0 for the factor 0."""
    return b.mul(value, I64(factor)) if factor else 0


def inline_code(emit: Callable[[Builder, Sequence[Value]], None], *kinds: Any) -> tuple[Any, Any]:
    """Return the signature and code generator of an intrinsic without result."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
        emit(builder, args)
        return context.get_dummy_value()

    return types.void(*kinds), codegen


def inline(function: Callable[Concatenate[Any, Given], Any]) -> Callable[Given, Any]:
    """Make a function an intrinsic that compiled loops may call; they omit its first argument (the typing context)."""
    made: Callable[Given, Any] = intrinsic(function)
    return made


ADDRESS, NUMBER = types.int64, types.float32


def leaky_relu(b: Builder, x: Value, leak: Value) -> Value:
    """Return the leaky ReLU of a vector; NaN stays NaN."""
    return b.select(b.fcmp_ordered("<", x, filled(0.0)), b.fmul(x, leak), x)  # an ordered comparison is false for NaN
