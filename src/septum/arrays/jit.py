"""Compile a loop to machine code. Importing this takes half a second (numba): do it where such a loop is used."""

from __future__ import annotations

from typing import TypeVar

from numba import njit

Function = TypeVar("Function")


def lazy_jit(function: Function) -> Function:
    """Compile `function` at its first call and keep the machine code for later runs; other threads run meanwhile.

    The code is kept beside the module or in the user's cache folder. Where neither can be written, as in some
    containers, each run compiles anew (one to two seconds).
    """
    machine_code: Function
    try:
        machine_code = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": numba has no place for the cache
        machine_code = njit(nogil=True)(function)
    return machine_code
