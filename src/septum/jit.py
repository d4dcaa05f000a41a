"""Compile loops to machine code with numba. The import takes half a second: import only where such a loop is used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from numba import njit
from numba.core import event

from septum.compiling import tell

Function = TypeVar("Function")


def lazy_jit(function: Function) -> Function:
    """Compile a function on its first call, cache the machine code on disk, and release the GIL while it runs.

    The cache lies beside the module or in the user's cache folder. If neither can be written, as in some containers,
    or the disk is full, each run compiles again, which takes many seconds.
    """
    machine_code: Any
    try:
        machine_code = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": no folder for the cache is writable
        machine_code = njit(nogil=True)(function)
    # Numba has no public name for its cache, and an error of the files there would end the program.
    cache = getattr(machine_code, "_cache", None)  # none where NUMBA_DISABLE_JIT leaves the function as it is
    for name in ("load_overload", "save_overload") if cache is not None else ():
        setattr(cache, name, _or_none(getattr(cache, name)))
    compiled: Function = machine_code
    return compiled


def _or_none(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that returns None where the disk refuses."""

    def call(*arguments: Any) -> Any:
        with suppress(OSError):
            return method(*arguments)
        return None

    return call


class _Compiling(event.Listener):  # type: ignore[misc]
    """Tells when numba begins to compile, and when it ends; a loop may compile those that it calls."""

    def __init__(self) -> None:
        self._depth = 0  # numba compiles in one thread at a time

    def on_start(self, event: object) -> None:
        self._depth += 1
        if self._depth == 1:
            tell(True)

    def on_end(self, event: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            tell(False)


event.register("numba:compile", _Compiling())
