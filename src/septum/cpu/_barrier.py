"""How threads that run one loop together find each other.

A thread that comes late, because the system wakes it late, lets nobody wait: who opens a loop does all of it that no
other does, and waits only for those that have joined.
"""

from __future__ import annotations

from typing import Any

from septum.arrays.jit import lazy_jit
from septum.cpu._microkernels import atomic_load, atomic_store, fetch_add, spin_pause, yield_core

# What threads tell each other, in cache lines of their own: the next block, which loop is open to be joined, how many
# have joined it.
COUNTER, OPEN, JOINED, STATE = 0, 8, 16, 24
CLOSED, OVER = 0, -1
# Looks at the state of others before a thread lets others have its core.
_PATIENCE = 1000


@lazy_jit
def counter_address(state: int) -> int:
    """Return the address of what blocks are counted with; `state` is that of ``(STATE,) int64``."""
    return state + 8 * COUNTER


@lazy_jit
def open_loop(state: int, number: int) -> None:
    """Open a loop of a number, 1 or more and another than the last, for others to join."""
    atomic_store(state + 8 * OPEN, number)


@lazy_jit
def close_loop(state: int) -> None:
    """Close the loop and wait for those that have joined."""
    atomic_store(state + 8 * OPEN, CLOSED)
    looks = 0
    while atomic_load(state + 8 * JOINED):
        looks = _patient(looks)


@lazy_jit
def join_loop(state: int, seen: int) -> Any:
    """Wait for a loop of another number than `seen` and join it; return its number, or `OVER` at the end of all."""
    looks = 0
    while True:
        now = atomic_load(state + 8 * OPEN)
        if now == OVER:
            return OVER
        if now in (CLOSED, seen):
            looks = _patient(looks)
            continue
        looks = 0
        fetch_add(state + 8 * JOINED, 1)
        # It may have been closed meanwhile; if not, who opened it sees this thread and waits.
        now = atomic_load(state + 8 * OPEN)
        if now not in (CLOSED, OVER):
            return now
        fetch_add(state + 8 * JOINED, -1)


@lazy_jit
def leave_loop(state: int) -> None:
    """Say that this thread's part of the loop is done."""
    fetch_add(state + 8 * JOINED, -1)


@lazy_jit
def _patient(looks: int) -> int:
    """Wait before the next look at the state of other threads; return how many looks there were."""
    if looks < _PATIENCE:
        spin_pause()
    else:
        yield_core()
    return looks + 1
