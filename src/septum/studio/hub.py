"""Messages to the open pages: each page has a queue, and one stream of server-sent events that empties it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

_QUEUED = 1000
_ALIVE_S = 15.0


class Hub:
    """Sends messages to all open pages; `send` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[str | None]] = set()
        self._closed = False

    @property
    def pages(self) -> int:
        """Return the number of open pages."""
        return len(self._queues)

    def send(self, topic: str, **values: Any) -> None:
        """Queue a message for each page; a page that does not read is told to reload."""
        text = f"event: {topic}\ndata: {json.dumps(values)}\n\n"
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, text)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, None)

    def _put(self, text: str | None) -> None:
        for queue in list(self._queues):
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait("event: reload\ndata: {}\n\n")
            queue.put_nowait(text)

    async def stream(self, first: str) -> AsyncIterator[str]:
        """Yield the text of the stream of one page, which begins with `first`."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue(_QUEUED)
        self._queues.add(queue)
        try:
            yield first
            while not self._closed:
                try:
                    text = await asyncio.wait_for(queue.get(), _ALIVE_S)
                except TimeoutError:
                    text = ": alive\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._queues.discard(queue)
