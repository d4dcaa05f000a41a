"""The loops by their numbers, each compiled when it is first run, and the function in which threads compute them.

A loop is called by the address of its machine code. If one compiled function called them all, numba would compile all
loops before the first result, and each of them again inside the function that calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import types

from septum.arrays.jit import lazy_jit
from septum.cpu import _pixel_loops as n
from septum.cpu import _winograd as k
from septum.cpu import _winograd_backward as g
from septum.cpu._barrier import CLOSED, OVER, close_loop, counter_address, join_loop, leave_loop, open_loop
from septum.cpu._microkernels import call
from septum.cpu._winograd import Description

_LOOPS: dict[int, Callable[..., None]] = {
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
def work(d: Description, leaks: Any, state: int, scratch: int, number: int) -> None:
    """Compute loops together with other threads.

    Parameters
    ----------
    d
        Description of the open loop, whose entry `LOOP` is the address of its machine code; the same array for all
        threads.
    leaks
        ``(1,) float32`` slope of the ReLU below zero.
    state
        Address of ``(STATE,) int64`` of `septum.cpu._barrier`.
    scratch
        Address of the thread's own memory.
    number
        1 or more opens a loop of this number, which differs from the last, and returns when it is done. 0 joins each
        loop that is opened, until the state is `OVER`.
    """
    if number:
        open_loop(state, number)
        call(d[k.LOOP], d.ctypes.data, leaks[0], counter_address(state), scratch)
        close_loop(state)
        return
    seen = join_loop(state, CLOSED)
    while seen != OVER:
        call(d[k.LOOP], d.ctypes.data, leaks[0], counter_address(state), scratch)
        leave_loop(state)
        seen = join_loop(state, seen)
