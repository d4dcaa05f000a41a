"""While the network computes one image, the next is opened and the last is finished and written, a thread for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar


class Closes(Protocol):
    """What holds a file open."""

    def close(self) -> None:
        """Close it."""


Opened = TypeVar("Opened", bound=Closes)
Result = TypeVar("Result")
Record = TypeVar("Record")


class Prefetcher(Generic[Opened]):
    """Opens images, one of them ahead where it was told to.

    Parameters
    ----------
    opens
        Opens an image; what it raises is raised where the image is taken.
    """

    def __init__(self, opens: Callable[[Path], Opened]) -> None:
        self._opens = opens
        self._thread = ThreadPoolExecutor(1, "septum-open")  # begins no thread before it is given something
        self._coming: dict[Path, Future[Opened]] = {}

    def begin(self, path: Path) -> None:
        """Open an image now, to be taken next."""
        self._coming[path] = self._thread.submit(self._opens, path)

    @contextmanager
    def take(self, path: Path) -> Iterator[Opened]:
        """Give an open image, and close it after the body."""
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
        self._thread.shutdown(wait=not stopped)  # a person does not wait for a slow drive
        for coming in [] if stopped else self._coming.values():
            if coming.exception() is None:
                coming.result().close()


class BackgroundWriter(Generic[Record]):
    """Finishes and writes results, one after the other in the order in which they came."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "septum-write")
        self._last: Future[Iterable[Record]] | None = None

    @property
    def busy(self) -> bool:
        """Whether an image is not written yet, or what came of it not told."""
        return self._last is not None

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Do a part of the work on an image, after all that was given before."""
        return self._thread.submit(work)

    def give(self, work: Callable[[], Iterable[Record]]) -> Iterator[Record]:
        """Do the last work on an image, which returns what to tell; yield what the image before had to tell."""
        yield from self.wait()
        self._last = self._thread.submit(work)

    def tell(self) -> Iterator[Record]:
        """Yield what the last image had to tell, if it is written; does not wait."""
        if self._last is not None and self._last.done():
            yield from self.wait()

    def wait(self) -> Iterator[Record]:
        """Wait until the last image is written; yield what it had to tell."""
        last, self._last = self._last, None
        if last is not None:
            yield from last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.shutdown()
