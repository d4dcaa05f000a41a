"""Synchronization of threads that compute one loop together, without locks.

The thread that opens a loop works on it at once. The others join when they see it open; a thread that the system wakes
late finds the loop closed and is not waited for. The opening thread takes all blocks that no other thread takes, and at
the end waits only for threads that have joined. All threads take their blocks from one atomic counter.

A joining thread announces itself first (`JOINED` + 1) and then looks again whether the loop is still open; the opening
thread closes the loop first and then waits until nobody is announced. One of the two therefore always sees the other.
"""

from __future__ import annotations

from typing import Any

from septum.cpu._microkernels import atomic_load, atomic_store, fetch_add, spin_pause, yield_core
from septum.jit import lazy_jit

# Shared state, one cache line each: the next block, the number of the open loop, and how many threads have joined it.
COUNTER, OPEN, JOINED, STATE = 0, 8, 16, 24
CLOSED, OVER = 0, -1
# Number of looks at the state before a waiting thread yields its core.
_PATIENCE = 1000


@lazy_jit
def counter_address(state: int) -> int:
    """Return the address of the block counter; `state` is the address of ``(STATE,) int64``."""
    return state + 8 * COUNTER


@lazy_jit
def open_loop(state: int, number: int) -> None:
    """Open a loop for others to join; its number is 1 or more and differs from that of the loop before."""
    atomic_store(state + 8 * OPEN, number)


@lazy_jit
def close_loop(state: int) -> None:
    """Close the loop and wait for the threads that have joined."""
    atomic_store(state + 8 * OPEN, CLOSED)
    looks = 0
    while atomic_load(state + 8 * JOINED):
        looks = _patient(looks)


@lazy_jit
def join_loop(state: int, seen: int) -> Any:
    """Wait for a loop with a number other than `seen`, join it, and return its number; `OVER` after the last loop."""
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
        # The loop may have been closed meanwhile; if not, the opening thread sees this thread and waits for it.
        now = atomic_load(state + 8 * OPEN)
        if now not in (CLOSED, OVER):
            return now
        fetch_add(state + 8 * JOINED, -1)


@lazy_jit
def leave_loop(state: int) -> None:
    """Report that this thread has finished its part of the loop."""
    fetch_add(state + 8 * JOINED, -1)


@lazy_jit
def _patient(looks: int) -> int:
    """Wait before the next look at the state of other threads; return the number of looks so far."""
    if looks < _PATIENCE:
        spin_pause()
    else:
        yield_core()
    return looks + 1
