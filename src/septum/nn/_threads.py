"""Threads that run the loops of the engine together."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from septum.nn._packed import aligned

Kernel = Callable[[NDArray[np.int64], np.float32, int, int], None]


class Threads:
    """Threads that run one loop together, with scratch memory each.

    Parameters
    ----------
    count
        How many, the calling one among them.

    Attributes
    ----------
    lock
        Held by who runs loops, as they share memory.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._counter = np.zeros(1, np.int64)
        self._scratch: list[NDArray[np.float32]] = []
        _ALL.add(self)

    def reserve(self, size: int) -> None:
        """Have at least so many bytes of scratch memory for each thread."""
        if not self._scratch or self._scratch[0].nbytes < size:
            self._scratch = []
            self._scratch = [aligned(size // 4) for _ in range(self.count)]

    def resize(self, count: int) -> None:
        """Be so many from now on."""
        if self._pool is not None:
            self._pool.shutdown()
        self.count, self._pool, self._scratch = count, None, []

    def run(self, kernel: Kernel, description: NDArray[np.int64], leak: np.float32) -> None:
        """Run a loop to its end."""
        self._counter[0] = 0
        counter = self._counter.ctypes.data
        if self.count > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(self.count - 1, "septum-engine")
        others = [
            self._pool.submit(kernel, description, leak, counter, scratch.ctypes.data)
            for scratch in self._scratch[1:]
            if self._pool is not None
        ]
        try:
            kernel(description, leak, counter, self._scratch[0].ctypes.data)
        finally:
            for other in others:
                other.result()

    def forget(self) -> None:
        """Give up threads that exist in the parent process only, and a lock that one of them may have held."""
        self.lock = threading.Lock()
        self._pool = None


_ALL: weakref.WeakSet[Threads] = weakref.WeakSet()


def _forked() -> None:
    for threads in list(_ALL):
        threads.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
