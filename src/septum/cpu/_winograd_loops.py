"""Dispatch of the loops: `work` for prediction, which compiles less, and `work_in_training` for all."""

from __future__ import annotations

from typing import Any

import numpy as np

from septum.arrays.jit import lazy_jit
from septum.cpu import _pixel_loops as n
from septum.cpu import _up_convolution as u
from septum.cpu import _winograd as k
from septum.cpu import _winograd_backward as g
from septum.cpu._barrier import CLOSED, OVER, close_loop, counter_address, join_loop, leave_loop, open_loop
from septum.cpu._winograd import Description


@lazy_jit
def _run(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Run the loop that the description names; each thread takes its share."""
    if d[k.LOOP] == k.WINOGRAD:
        k.winograd(d, leak, counter, scratch)
    elif d[k.LOOP] == k.WINOGRAD_INPUTS:
        k.winograd_inputs(d, leak, counter, scratch)
    elif d[k.LOOP] == k.WINOGRAD_OUTPUTS:
        k.winograd_outputs(d, leak, counter, scratch)
    elif d[k.LOOP] == k.IMAGE:
        k.image(d, leak, counter, scratch)
    elif d[k.LOOP] == k.UP_CONVOLUTION:
        k.up_convolution(d, leak, counter, scratch)
    else:
        k.head(d, leak, counter, scratch)


@lazy_jit
def work(d: Description, leaks: Any, state: int, scratch: int, number: int) -> None:
    """Compute loops together with other threads.

    Parameters
    ----------
    d
        Description of the open loop; the same array for all threads.
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
        _run(d, leaks[0], counter_address(state), scratch)
        close_loop(state)
        return
    seen = join_loop(state, CLOSED)
    while seen != OVER:
        _run(d, leaks[0], counter_address(state), scratch)
        leave_loop(state)
        seen = join_loop(state, seen)


@lazy_jit
def _run_any(d: Description, leak: np.float32, counter: int, scratch: int) -> None:
    """Run the loop that the description names; each thread takes its share."""
    if d[k.LOOP] <= k.HEAD:
        _run(d, leak, counter, scratch)
    elif d[k.LOOP] == k.PACK:
        g.pack(d, counter, scratch)
    elif d[k.LOOP] == k.IMAGE_RANGE:
        g.image_range(d, counter, scratch)
    elif d[k.LOOP] == k.PACK_TURNED:
        g.pack_turned(d, counter)
    elif d[k.LOOP] == k.WEIGHTS_RANGE:
        g.weights_range(d, counter, scratch)
    elif d[k.LOOP] == k.WEIGHTS_SUM:
        g.weights_sum(d, counter)
    elif d[k.LOOP] == k.WEIGHTS_INPUTS:
        g.weights_inputs(d, counter, scratch)
    elif d[k.LOOP] == k.WEIGHTS_GROUP:
        g.weights_group(d, counter, scratch)
    elif d[k.LOOP] == k.UP_INPUT_GRADIENT:
        u.up_input_gradient(d, counter, scratch)
    elif d[k.LOOP] == k.UP_WEIGHTS_RANGE:
        u.up_weights_range(d, counter, scratch)
    elif d[k.LOOP] == k.MOMENTS:
        n.moments(d, counter)
    elif d[k.LOOP] == k.NORMALIZE:
        n.normalize_blocks(d, leak, counter)
    elif d[k.LOOP] == k.GRADIENT_SUMS:
        n.gradient_sums(d, leak, counter)
    elif d[k.LOOP] == k.HEAD_GRADIENT:
        n.head_gradient(d, counter)
    elif d[k.LOOP] == k.POOL:
        n.pool(d, counter)
    elif d[k.LOOP] == k.POOL_GRADIENT:
        n.pool_gradient(d, counter)
    else:
        n.input_gradient(d, leak, counter)


@lazy_jit
def work_in_training(d: Description, leaks: Any, state: int, scratch: int, number: int) -> None:
    """Compute loops together with other threads, as `work` does.

    Parameters
    ----------
    d
        Description of the open loop; the same array for all threads.
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
        _run_any(d, leaks[0], counter_address(state), scratch)
        close_loop(state)
        return
    seen = join_loop(state, CLOSED)
    while seen != OVER:
        _run_any(d, leaks[0], counter_address(state), scratch)
        leave_loop(state)
        seen = join_loop(state, seen)
