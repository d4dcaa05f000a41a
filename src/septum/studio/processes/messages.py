"""Messages between the server and its child processes: a line of JSON, which names the number of bytes after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, BinaryIO, Protocol


class ServerLink(Protocol):
    """What a child process knows of the server: commands that come, None once it is gone, and a way to answer."""

    commands: SimpleQueue[dict[str, Any] | None]

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        """Send a message; nothing happens if the server is gone."""


def write_message(stream: BinaryIO, message: Mapping[str, Any], data: bytes = b"") -> None:
    """Write a message with its data.

    Raises
    ------
    OSError
        If the other process is gone.
    """
    stream.write(json.dumps({**message, "bytes": len(data)}).encode() + b"\n" + data)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read the next message with its data; None if the other process is gone."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message: dict[str, Any] = json.loads(line)
    data = stream.read(message.pop("bytes"))
    return message, data
