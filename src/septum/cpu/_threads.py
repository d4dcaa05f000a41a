"""Thread pool of the engine: threads that compute one loop together, with scratch memory for each."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from septum.cpu import _barrier as state
from septum.cpu import _winograd as k
from septum.cpu._packed_weights import aligned
from septum.cpu._winograd_loops import machine_code, work

# Loops of a program after which Python sees signals, such as Ctrl-C.
_UNINTERRUPTED = 64


class Program:
    """Loops that are always run in the same order: Python does nothing between them.

    Attributes
    ----------
    rows
        ``(loops, SIZE) int64`` descriptions, with the addresses of machine code; 0 loops at first.
    leaks
        ``(loops,) float32`` slopes of the ReLU below zero.
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._added: list[NDArray[np.int64]] = []
        self._leaks: list[float] = []
        self.rows, self.leaks = np.zeros((0, k.SIZE), np.int64), np.zeros(0, np.float32)

    def add(self, loop: int, description: NDArray[np.int64], leak: float = 1.0) -> None:
        """Add a loop at the end; for number, description and leak see `ThreadPool.run`.

        The description, ``(SIZE,)`` int64, positive integers, is copied.
        """
        self._numbers.append(loop)
        self._added.append(description.copy())
        self._leaks.append(leak)

    def end(self) -> None:
        """Put the descriptions into one array: nothing is added after this."""
        self.rows, self.leaks = np.stack(self._added), np.array(self._leaks, np.float32)
        self.rows[:, k.LOOP] = [machine_code(loop) for loop in self._numbers]
        self._added = []

    def set(self, loop: int, entry: int, value: int) -> None:
        """Change an entry, positive like all, in the descriptions of all loops of one number."""
        self.rows[[number == loop for number in self._numbers], entry] = value


class ThreadPool:
    """Threads that compute loops together, with scratch memory for each.

    Parameters
    ----------
    count
        Number of threads, including the calling one.
    loops
        Compiled function that computes loops: `septum.cpu._winograd_loops.work`.

    Attributes
    ----------
    lock
        Held by the caller that runs loops, as scratch memory is shared.
    is_held
        True inside `held`.
    """

    def __init__(self, count: int, loops: Callable[..., None] = work) -> None:
        self.count, self._loops = count, loops
        self.lock = threading.RLock()
        self.is_held = False
        self._pool: ThreadPoolExecutor | None = None
        self._others: list[Future[None]] = []
        self._state = aligned(2 * state.STATE).view(np.int64)
        self._state_address = self._state.ctypes.data  # read here: to ask numpy for it takes longer than a small loop
        self._open = np.zeros(k.SIZE, np.int64)  # the description of the loop that is open
        self._leak = np.zeros(1, np.float32)
        self._single = np.zeros((1, k.SIZE), np.int64), np.zeros(1, np.float32)
        self._number = 0
        self._scratch: list[NDArray[np.float32]] = []
        self._scratch_addresses: list[int] = []
        _ALL.add(self)

    def reserve(self, size: int) -> None:
        """Provide at least `size` bytes of scratch memory for each thread."""
        if self._scratch and self._scratch[0].nbytes >= size:
            return
        if self.is_held:
            self._let_sleep()
        self._scratch = []
        self._scratch = [aligned(size // 4) for _ in range(self.count)]
        self._scratch_addresses = [one.ctypes.data for one in self._scratch]
        if self.is_held:
            self._wake()

    def resize(self, count: int) -> None:
        """Change the number of threads."""
        if self._pool is not None:
            self._pool.shutdown()
        self.count, self._pool, self._scratch, self._scratch_addresses = count, None, [], []

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Keep all threads ready while the context is entered: they are woken once and take part in each `run`."""
        if self.is_held:
            yield
            return
        self._wake()
        try:
            yield
        finally:
            self._let_sleep()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep all threads ready over many calls of `ready`, and what the caller computes alone between them."""
        with self.lock, self.ready():
            self.is_held = True
            try:
                yield
            finally:
                self.is_held = False

    def _wake(self) -> None:
        """Let the other threads wait for loops."""
        if self.count > 1 and self._scratch:
            self._pool = self._pool or ThreadPoolExecutor(self.count - 1, "septum-engine")
            self._state[state.OPEN] = state.CLOSED
            self._others = [self._pool.submit(self._join, one) for one in self._scratch_addresses[1:]]

    def _let_sleep(self) -> None:
        """End the waiting of the other threads."""
        self._state[state.OPEN] = state.OVER
        wait([other for other in self._others if not other.cancel()])  # a thread that has not begun is not needed
        self._others = []
        self._state[state.JOINED] = 0

    def run(self, loop: int, description: NDArray[np.int64], leak: float = 1.0) -> None:
        """Run a loop to its end, inside `ready`.

        Parameters
        ----------
        loop
            Number of the loop, from `septum.cpu._winograd`.
        description
            ``(SIZE,)`` int64: the description of the layer, positive integers at indices of `septum.cpu._winograd`;
            copied.
        leak
            Slope of the ReLU below zero.
        """
        (row,), leaks = self._single
        row[:] = description
        row[k.LOOP], leaks[0] = machine_code(loop), leak
        self._open_loops(*self._single)

    def run_program(self, program: Program) -> None:
        """Run the loops of a program, whose end was set, one after the other, inside `ready`."""
        for first in range(0, len(program.rows), _UNINTERRUPTED):
            part = slice(first, first + _UNINTERRUPTED)
            self._open_loops(program.rows[part], program.leaks[part])

    def _open_loops(self, rows: NDArray[np.int64], leaks: NDArray[np.float32]) -> None:
        """Open loops one after the other, and compute each with all threads that join."""
        self._number += len(rows)
        first = self._number - len(rows) + 1
        self._loops(rows, leaks, self._open, self._leak, self._state_address, self._scratch_addresses[0], first)

    def _join(self, scratch: int) -> None:
        """Compute in one of the other threads: join loops until there is no more."""
        self._loops(*self._single, self._open, self._leak, self._state_address, scratch, 0)

    def reset_after_fork(self) -> None:
        """Reset after a fork: threads exist in the parent process only, and one of them may have held the lock."""
        self.lock = threading.RLock()
        self.is_held, self._others = False, []
        self._pool = None
        self._state[state.JOINED] = 0


_ALL: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _reset_all_after_fork() -> None:
    """Reset all pools in a forked child process."""
    for threads in list(_ALL):
        threads.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
