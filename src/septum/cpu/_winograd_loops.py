"""The loops by their numbers, each compiled when it is first run, and the function in which threads compute them.

A loop is called by the address of its machine code. If one compiled function called them all, numba would compile all
loops before the first result, and each of them again inside the function that calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from septum.cpu import _pixel_loops as n
from septum.cpu import _winograd as k
from septum.cpu import _winograd_backward as g
from septum.cpu._barrier import CLOSED, OVER, close_loop, counter_address, join_loop, leave_loop, open_loop
from septum.cpu._ir import STEP
from septum.cpu._microkernels import atomic_store, call, clear, copy, fetch_add
from septum.cpu._winograd import Description
from septum.jit import lazy_jit


@lazy_jit
def move(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Copy END vectors from INPUT0 to a lower address, OUTPUT; they may overlap."""
    if fetch_add(counter, 1) == 0:
        for vector in range(d[k.END]):
            copy(d[k.INPUT0] + vector * STEP, d[k.OUTPUT] + vector * STEP)


@lazy_jit
def clear_rows(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Set the first END vectors of HEIGHT rows, OUT_ROW bytes from each other, to zero."""
    if fetch_add(counter, 1) == 0:
        for row in range(d[k.HEIGHT]):
            for vector in range(d[k.END]):
                clear(d[k.OUTPUT] + row * d[k.OUT_ROW] + vector * STEP)


_LOOPS: dict[int, Callable[..., None]] = {
    k.MOVE: move,
    k.CLEAR: clear_rows,
    k.WINOGRAD: k.winograd,
    k.WINOGRAD_INPUTS: k.winograd_inputs,
    k.WINOGRAD_OUTPUTS: k.winograd_outputs,
    k.IMAGE: k.image,
    k.UP_CONVOLUTION: k.up_convolution,
    k.HEAD: k.head,
    k.PACK: g.pack,
    k.PACK_TURNED: g.pack_turned,
    k.WEIGHTS_RANGE: g.weights_range,
    k.WEIGHTS_SUM: g.weights_sum,
    k.WEIGHTS_INPUTS: g.weights_inputs,
    k.WEIGHTS_GROUP: g.weights_group,
    k.IMAGE_RANGE: g.image_range,
    k.MOMENTS: n.moments,
    k.NORMALIZE: n.normalize_blocks,
    k.GRADIENT_SUMS: n.gradient_sums,
    k.BATCHNORM_GRADIENT: n.input_gradient,
    k.UP_INPUT_GRADIENT: n.up_input_gradient,
    k.UP_WEIGHTS_RANGE: n.up_weights_range,
    k.POOL: n.pool,
    k.POOL_GRADIENT: n.pool_gradient,
    k.HEAD_GRADIENT: n.head_gradient,
}
# Description, slope of the ReLU below zero, address of the block counter, address of the thread's own memory.
_SIGNATURE = types.void(types.CPointer(types.int64), types.float32, types.int64, types.int64)


@cache
def machine_code(loop: int) -> int:
    """Return the address of the machine code of a loop, which is compiled or loaded from the disk.

    Parameters
    ----------
    loop
        Number of the loop, from `septum.cpu._winograd`.

    Returns
    -------
    int
        Address of a C function of `_SIGNATURE`.
    """
    function: Any = _LOOPS[loop]
    compiled = function.get_compile_result(_SIGNATURE)
    address: int = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
    return address


@lazy_jit
def work(program: Any, leaks: Any, d: Description, leak: Any, state: int, scratch: int, number: int) -> None:
    """Compute loops together with other threads.

    Parameters
    ----------
    program
        ``(loops, SIZE) int64`` descriptions of the loops to open, whose entry `LOOP` is the address of machine code.
    leaks
        ``(loops,) float32`` slopes of the ReLU below zero.
    d, leak
        ``(SIZE,) int64`` and ``(1,) float32``: those of the open loop; the same arrays for all threads.
    state
        Address of ``(STATE,) int64`` of `septum.cpu._barrier`.
    scratch
        Address of the thread's own memory.
    number
        1 or more opens the loops of the program one after the other, and returns when the last is done; the first has
        this number, and none may have that of the loop before. 0 joins each loop that is opened, until the state is
        `OVER`.
    """
    if number:
        for row in range(len(program)):
            for entry in range(len(d)):
                d[entry] = program[row, entry]
            leak[0] = leaks[row]
            atomic_store(counter_address(state), 0)
            open_loop(state, number + row)
            call(d[k.LOOP], d.ctypes.data, leak[0], counter_address(state), scratch)
            close_loop(state)
        return
    seen = join_loop(state, CLOSED)
    while seen != OVER:
        call(d[k.LOOP], d.ctypes.data, leak[0], counter_address(state), scratch)
        leave_loop(state)
        seen = join_loop(state, seen)
