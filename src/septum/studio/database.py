"""The file of the labels: an SQLite database that one process writes and several read."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from septum.errors import FileError
from septum.io.formats import format_path

_NOTES = "CREATE TABLE IF NOT EXISTS note(key TEXT PRIMARY KEY, value TEXT);"


class Database:
    """An SQLite file with values by key and tables, used by several threads.

    Parameters
    ----------
    path
        The file; made if missing.
    schema
        Statements that make the tables where they are missing.

    Raises
    ------
    FileError
        If the file cannot be read or written, here and in all methods: it is damaged, or the disk is full.
    """

    def __init__(self, path: Path, schema: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._path = path
        with self._errors():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=20)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_NOTES + schema)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of SQLite into words."""
        try:
            yield
        except sqlite3.Error as error:
            raise FileError(
                f"{format_path(self._path)}: {error}",
                "a file of labels that can be read and written",
                "free some space and check the disk; if the file is damaged, move it away: masks are read again",
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write everything that is done inside together, or nothing of it; one inside of another is part of it."""
        with self._lock, self._errors():
            if self._db.in_transaction:  # of this thread, which holds the lock
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._undone()
                if self._db.in_transaction:  # on a full disk SQLite may have ended it
                    self._db.execute("ROLLBACK")
                raise

    def note(self, key: str, value: str | None = None) -> str | None:
        """Return a value that is kept for a key; with `value`, keep it."""
        if value is not None:
            with self.transaction() as db:
                db.execute("INSERT OR REPLACE INTO note(key, value) VALUES(?, ?)", (key, value))
        found = self._all("SELECT value FROM note WHERE key=?", key)
        return str(found[0][0]) if found else None

    def _undone(self) -> None:
        """Forget what was read in a transaction whose changes are taken back."""

    def _all(self, question: str, *values: Any) -> list[Any]:
        with self._lock, self._errors():
            return self._db.execute(question, values).fetchall()
