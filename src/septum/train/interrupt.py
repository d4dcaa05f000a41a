"""Ending a training early and in order: Ctrl-C, and the signal with which clusters and systems end programs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from septum.train.launch import LAUNCHER


@dataclass
class StopRequest:
    """A wish to stop, which a training asks for between two steps and between two held-out images.

    Attributes
    ----------
    number
        The signal that asked last; `signal.SIGINT` for Ctrl-C, 0 if none did.
    """

    number: int = 0
    _asked: bool = False
    _waits: bool = False
    _parent: int = field(default_factory=lambda: int(os.environ.get(LAUNCHER, "0")))

    @property
    def asked(self) -> bool:
        """Whether somebody wishes it, or the process that started several of a training is gone."""
        return self._asked or (self._parent > 0 and os.getppid() != self._parent)

    def ask(self) -> None:
        """Wish it."""
        self._asked = True

    @contextmanager
    def waits(self) -> Iterator[None]:
        """While the body runs a signal only sets `asked`, which the body looks at; elsewhere it interrupts at once."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; interrupt where nobody looks at `asked`, and at the second one."""
        del frame
        again, self.number, self._asked = self._asked, number, True
        if again or not self._waits:
            raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Set the yielded `StopRequest` on Ctrl-C or SIGTERM; restore the earlier handlers at the end.

    Only the main thread receives signals: in another one the `StopRequest` is never set by them.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
