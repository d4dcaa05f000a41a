"""The program of the child processes: learns while a person paints, or trains, predicts or ranks images once."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO

from septum.errors import SeptumError
from septum.studio.processes.messages import read_message, write_message
from septum.studio.settings import FIELDS
from septum.words import name_fields

_SENTENCES = (
    "text",
    "warning",
    "failed",
    "failures",
    "passed_over",
)  # parts of a message that the page shows as they are


class Channel:
    """The commands of the server, and the way back to it.

    Attributes
    ----------
    commands
        What the server has sent; None once it is gone.
    """

    def __init__(self, into: BinaryIO, out: BinaryIO) -> None:
        self._into, self._out = into, out
        self.commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def first(self) -> dict[str, Any]:
        """Return the task."""
        found = read_message(self._into)
        return {} if found is None else found[0]

    def listen(self) -> None:
        """Read commands in the background."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while (found := read_message(self._into)) is not None:
            self.commands.put(found[0])
        self.commands.put(None)

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        """Send a message in the words of the page; nothing happens if the server is gone."""
        named = {key: _in_page_words(message[key]) for key in _SENTENCES if key in message}
        with suppress(OSError):
            write_message(self._out, {**message, **named}, data)


def _in_page_words(said: Any) -> Any:
    """Name the fields of the page in a sentence or in each of a list."""
    return [name_fields(one, FIELDS) for one in said] if isinstance(said, list) else name_fields(said, FIELDS)


def main() -> int:
    """Do the task that the server sends first; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, which ends this process by closing its input
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not mix with messages
    with suppress(OSError, AttributeError):
        os.nice(5)  # the page answers first
    channel = Channel(sys.stdin.buffer, out)
    task = channel.first()
    channel.listen()
    try:
        if task.get("task") == "live":
            from septum.studio.live.training import LiveTraining

            LiveTraining(task, channel).run()
        else:
            from septum.studio.jobs import run_job

            run_job(task, channel)
    except SeptumError as error:
        channel.send({"failed": str(error)})
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a thread still waits for commands
