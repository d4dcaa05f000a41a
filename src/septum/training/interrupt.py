"""End a training early and in order: Ctrl-C, and the signal with which clusters and systems end programs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

LAUNCHER = "SEPTUM_LAUNCHER"
"""Environment variable with the process id of the command that started this process as one of several."""


@dataclass
class StopRequest:
    """A request to stop, polled between two steps and between two validation images.

    Attributes
    ----------
    number
        The last signal received, `signal.SIGINT` for Ctrl-C; 0 if none was.
    """

    number: int = 0
    _requested: bool = False
    _polled: bool = False
    _parent: int = field(default_factory=lambda: int(os.environ.get(LAUNCHER, "0")))

    @property
    def requested(self) -> bool:
        """Return True if a stop was requested, or the command that started this process is gone."""
        return self._requested or (self._parent > 0 and not _is_our_parent(self._parent))

    def request(self) -> None:
        """Request the stop."""
        self._requested = True

    @contextmanager
    def polled(self) -> Iterator[None]:
        """Let the first signal only set `requested`, which the body polls; elsewhere a signal interrupts at once."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Record a signal; raise `KeyboardInterrupt` if nothing polls `requested`, and at the second signal."""
        del frame
        again, self.number, self._requested = self._requested, number, True
        if again or not self._polled:
            raise KeyboardInterrupt


def _is_our_parent(process: int) -> bool:
    """Return True if this process still has the parent that started it."""
    if sys.platform == "win32":  # which goes on naming a parent that is gone
        import psutil

        return bool(psutil.pid_exists(process))
    return os.getppid() == process


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Request the stop of the yielded `StopRequest` on Ctrl-C or SIGTERM; restore the earlier handlers at the end.

    Only the main thread receives signals: in other threads they never set the request.
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
