"""Keep values that can be made again, up to a limit of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, local
from typing import Any, TypeVar

Value = TypeVar("Value")

# Arrays that are kept may take this share of the free memory, or of a given limit, and this many bytes at most: a
# container may have less memory than the machine reports.
_SHARE, _MOST_BYTES = 0.25, 1 << 30


@dataclass(frozen=True)
class Memory:
    """Memory for the arrays of a data set.

    Attributes
    ----------
    limit_bytes
        For all arrays together, of the check and of the samples; None: no limit but that of the machine.
    kept_bytes
        For arrays that the check keeps for training; None: a quarter of the limit or of the free memory, 1 GiB at most.
    """

    limit_bytes: int | None = None
    kept_bytes: int | None = None

    @property
    def kept(self) -> int:
        """Bytes that kept arrays may take."""
        import psutil

        if self.kept_bytes is not None:
            return self.kept_bytes
        free = psutil.virtual_memory().available if self.limit_bytes is None else self.limit_bytes
        return min(_MOST_BYTES, int(_SHARE * free))


class KeptValues:
    """Values by their keys, the latest used ones; a value that was given up is made again when it is needed.

    Parameters
    ----------
    limit_bytes
        Memory of all values together. The latest one is kept even if it alone takes more.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self._bytes = limit_bytes, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """Return the value of a key: the kept one, or a new one.

        Parameters
        ----------
        key
            Names the value.
        make
            Makes the value; two threads that need it at the same time may both make it.
        size
            Returns the bytes that a value takes, or will take.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                kept: Value = self._values[key][0]
                return kept
        value = make()
        with self._lock:
            self._bytes += size(value) - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size(value))
            while self._bytes > self.limit_bytes and len(self._values) > 1:
                self._bytes -= self._values.popitem(last=False)[1][1]
        return value


class KeptArrays:
    """Arrays by their role and file, the first up to a limit in bytes; of those beyond it the latest of each thread."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._bytes = limit_bytes, 0
        self._arrays: dict[Path, dict[str, tuple[Any, int]]] = {}
        self._lock, self._thread = Lock(), local()

    @property
    def _latest(self) -> dict[str, tuple[Path, Any]]:
        latest: dict[str, tuple[Path, Any]] = self._thread.__dict__.setdefault("latest", {})
        return latest

    def find(self, role: str, path: Path) -> Any:
        """Return the arrays of a file if they are kept, else None."""
        with self._lock:
            if role in (kept := self._arrays.get(path, {})):
                return kept[role][0]
        latest, value = self._latest.get(role, (None, None))
        return value if latest == path else None

    def keep(self, role: str, path: Path, value: Any, size: int) -> None:
        """Keep the arrays of a file, which take `size` bytes."""
        with self._lock:
            kept = self._arrays.get(path, {})
            self._bytes -= kept.pop(role, (None, 0))[1]
            if self._bytes + size <= self._limit:
                kept[role] = (value, size)
                self._arrays[path] = kept
                self._bytes += size
                return
            if not kept:
                self._arrays.pop(path, None)
        self._latest[role] = (path, value)

    def drop(self, paths: Iterable[Path]) -> None:
        """Release the arrays of some files, in a time that does not depend on the number of other files."""
        dropped = set(paths)
        self._drop_where(lambda _, path: path in dropped, dropped)

    def drop_where(self, stale: Callable[[str, Path], bool]) -> None:
        """Release the arrays for which ``stale(role, path)`` is true."""
        with self._lock:
            paths = list(self._arrays)
        self._drop_where(stale, paths)

    def _drop_where(self, stale: Callable[[str, Path], bool], paths: Iterable[Path]) -> None:
        """Release those of some files, and the latest ones of this thread, for which ``stale(role, path)`` is true."""
        with self._lock:
            for path in paths:
                kept = self._arrays.get(path, {})
                for role in [role for role in kept if stale(role, path)]:
                    self._bytes -= kept.pop(role)[1]
                if not kept:
                    self._arrays.pop(path, None)
        for role, (path, _) in list(self._latest.items()):
            if stale(role, path):
                del self._latest[role]
