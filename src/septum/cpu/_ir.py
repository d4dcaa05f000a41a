"""What vector instructions for loops compiled by numba are written with: LLVM code, for vectors of this processor.

Addresses are plain integers (bytes); nothing is checked.
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
# Values of a vector, and rows of the matrix product whose sums fit into the registers (two vectors a row).
if _FEATURES.get("avx512f"):  # 32 registers of 16
    LANES, ROWS = 16, 14
elif _FEATURES.get("avx2") and _FEATURES.get("fma"):  # 16 registers of 8
    LANES, ROWS = 8, 6
else:  # 32 registers of 4, as on ARM; right, if not fast, on any other
    LANES, ROWS = 4, 8
STEP = 4 * LANES  # bytes of a vector
X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)

Given = ParamSpec("Given")
Value = Any  # llvmlite has no types
Builder = Any


def offset_by(b: Builder, address: Value, offset: Value | int) -> Value:
    if isinstance(offset, int):
        return b.add(address, I64(offset)) if offset else address
    return b.add(address, offset)


def load(b: Builder, address: Value, offset: Value | int = 0, kind: Any = VECTOR) -> Value:
    return b.load(b.inttoptr(offset_by(b, address, offset), kind.as_pointer()), align=4, typ=kind)


def store(b: Builder, value: Value, address: Value, offset: Value | int = 0) -> None:
    b.store(value, b.inttoptr(offset_by(b, address, offset), value.type.as_pointer()), align=4)


def splat(b: Builder, scalar: Value) -> Value:
    empty = ir.Constant(VECTOR, ir.Undefined)
    one = b.insert_element(empty, scalar, I32(0))
    return b.shuffle_vector(one, empty, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def filled(number: float) -> Value:
    return ir.Constant(VECTOR, [number] * LANES)


def declared(b: Builder, name: str, kind: Any) -> Value:
    """Return a function that LLVM or the system has."""
    return b.module.globals.get(name) or ir.Function(b.module, kind, name)


def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return b.call(declared(b, f"llvm.fmuladd.v{LANES}f32", kind), [x, y, z])  # fused where the processor can


def multiple(b: Builder, value: Value, factor: int) -> Value | int:
    return b.mul(value, I64(factor)) if factor else 0


def inline_code(emit: Callable[[Builder, Sequence[Value]], None], *kinds: Any) -> tuple[Any, Any]:
    """Return the types and the code of a function without result, written in place where it is called."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
        emit(builder, args)
        return context.get_dummy_value()

    return types.void(*kinds), codegen


def inline(function: Callable[Concatenate[Any, Given], Any]) -> Callable[Given, Any]:
    """Let compiled loops call a function whose code is written in their place; they do not see its first argument."""
    made: Callable[Given, Any] = intrinsic(function)
    return made


ADDRESS, NUMBER = types.int64, types.float32


def leaky_relu(b: Builder, x: Value, leak: Value) -> Value:
    return b.select(b.fcmp_ordered("<", x, filled(0.0)), b.fmul(x, leak), x)  # what is no number stays so
