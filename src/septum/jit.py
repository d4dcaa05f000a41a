"""Compile loops to machine code with numba. The import takes half a second: import only where such a loop is used."""

from __future__ import annotations

from typing import TypeVar

from numba import njit

Function = TypeVar("Function")


def lazy_jit(function: Function) -> Function:
    """Compile a function on its first call, cache the machine code on disk, and release the GIL while it runs.

    The cache lies beside the module or in the user's cache folder. If neither can be written, as in some containers,
    each run compiles again, which takes many seconds.
    """
    machine_code: Function
    try:
        machine_code = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": no folder for the cache is writable
        machine_code = njit(nogil=True)(function)
    return machine_code
