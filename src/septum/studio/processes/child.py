"""A child process of the server: what crashes, stops or fails in it does not take the page down."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, BinaryIO, cast

from septum.studio.processes.messages import read_message, write_message

_END_S = 10.0


class Child:
    """A process that takes commands and sends messages.

    Parameters
    ----------
    task
        What it does: ``{"task": "live", ...}``, for `septum.studio.processes.worker`.
    receive
        Takes each message and its data, in a thread of its own; at the end, `ended` takes the last lines that the
        process printed, ``""`` if it ended as it should.
    """

    def __init__(
        self, task: Mapping[str, Any], receive: Callable[[dict[str, Any], bytes], None], ended: Callable[[str], None]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "septum.studio.processes.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._receive, self._ended = receive, ended
        self._printed: deque[str] = deque(maxlen=12)
        self._lock = threading.Lock()
        self._closed = False
        self.send(task)
        self._errors = threading.Thread(target=self._read_errors, daemon=True, name="septum-child-errors")
        self._reader = threading.Thread(target=self._read, daemon=True, name="septum-child")
        self._errors.start()
        self._reader.start()

    @property
    def running(self) -> bool:
        """Return True until the process has ended."""
        return self._process.poll() is None

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a command; nothing happens if the process is gone."""
        with self._lock, suppress(OSError, ValueError):
            write_message(cast(BinaryIO, self._process.stdin), message)

    def close(self) -> None:
        """End the process: it saves what it has when its input ends."""
        self._closed = True
        with suppress(OSError, ValueError):
            cast(IO[bytes], self._process.stdin).close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._errors.join()

    def _read(self) -> None:
        stream = cast(BinaryIO, self._process.stdout)
        while (found := read_message(stream)) is not None:
            if not self._closed:
                self._receive(*found)
        code = self._process.wait()
        self._errors.join()
        for pipe in (self._process.stdout, self._process.stderr):
            cast(IO[bytes], pipe).close()
        if not self._closed:
            last = "\n".join(self._printed) or f"the process ended with code {code}"
            self._ended("" if code == 0 else last)

    def _read_errors(self) -> None:
        for line in cast(IO[bytes], self._process.stderr):
            self._printed.append(line.decode("utf-8", "replace").rstrip())
