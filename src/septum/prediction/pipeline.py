"""Overlap of images: while one is computed, the next is opened and the previous one written, in a thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar


class Closable(Protocol):
    """An opened file."""

    def close(self) -> None:
        """Close the file."""


Opened = TypeVar("Opened", bound=Closable)
Result = TypeVar("Result")
EventT = TypeVar("EventT")


class Prefetcher(Generic[Opened]):
    """Opens images, on request one image ahead.

    Parameters
    ----------
    opens
        Opens an image. Its errors are raised where the image is taken.
    """

    def __init__(self, opens: Callable[[Path], Opened]) -> None:
        self._opens = opens
        self._thread = ThreadPoolExecutor(1, "septum-open")  # starts no thread before it has work
        self._coming: dict[Path, Future[Opened]] = {}

    def begin(self, path: Path) -> None:
        """Begin to open an image in the background."""
        self._coming[path] = self._thread.submit(self._opens, path)

    @contextmanager
    def take(self, path: Path) -> Iterator[Opened]:
        """Return an opened image; close it after the body."""
        coming = self._coming.pop(path, None)
        opened = self._opens(path) if coming is None else coming.result()
        try:
            yield opened
        finally:
            opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._thread.shutdown(wait=not stopped)  # Ctrl-C does not wait for a slow drive
        for coming in [] if stopped else self._coming.values():
            if coming.exception() is None:
                coming.result().close()


class BackgroundWriter(Generic[EventT]):
    """Makes and writes results in the background, in the order in which they were submitted."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "septum-write")
        self._last: Future[Iterable[EventT]] | None = None

    @property
    def busy(self) -> bool:
        """Return True if an image is not written yet, or its events are not yielded yet."""
        return self._last is not None

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Queue a part of the work on an image."""
        return self._thread.submit(work)

    def submit_last(self, work: Callable[[], Iterable[EventT]]) -> Iterator[EventT]:
        """Queue the last part of the work on an image, which returns its events; yield those of the previous image."""
        yield from self.wait()
        self._last = self._thread.submit(work)

    def finished(self) -> Iterator[EventT]:
        """Yield the events of the last image if it is written; do not wait for it."""
        if self._last is not None and self._last.done():
            yield from self.wait()

    def wait(self) -> Iterator[EventT]:
        """Wait until the last image is written, and yield its events."""
        last, self._last = self._last, None
        if last is not None:
            yield from last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.shutdown()
