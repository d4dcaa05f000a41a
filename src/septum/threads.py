"""Work on many items in threads, with the same results as one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# More threads wait for the interpreter, and each holds arrays of its own.
_MOST = 8


def usable_cores() -> int:
    """Return the number of processor cores that this process may use; ``OMP_NUM_THREADS`` lowers it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(asked))) if asked.isdigit() else cores


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply a function to all items, in as many threads as there are cores to use, eight at most.

    Parameters
    ----------
    function
        Called from several threads at once; numpy and compiled loops then run at the same time.
    items
        The items.

    Returns
    -------
    list
        The results in the order of the items. The first error in this order is raised, and what has not begun is left
        out.
    """
    threads = min(_MOST, usable_cores())
    if threads == 1:
        return [function(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads, "septum-work") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
