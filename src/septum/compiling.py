"""Who is told that loops are compiled to machine code, which takes seconds, once on a computer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[bool], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with True when this process begins to compile loops, and with False when it goes on."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(compiling: bool) -> None:
    """Tell all listeners whether loops are compiled from now on; in the thread that compiles."""
    for listener in tuple(_listeners):
        listener(compiling)
