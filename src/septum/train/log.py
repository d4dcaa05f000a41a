"""The log of a training: ``log.csv``, one line a step, whole lines and rising steps whatever happened before."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from septum.errors import FileError
from septum.io.atomic import as_error, whole_file

_COLUMNS = ("step", "loss", "rate", "seconds")


class Log:
    """``log.csv``: the lines 1, 2, 3 ... in this order, appended at once.

    Parameters
    ----------
    path
        The file.
    scores
        Names of the columns for scores; empty in lines without.
    after
        Steps that are done: later lines, and all after a line that is torn or missing, are removed.

    Attributes
    ----------
    missing
        How many of the first `after` lines were not there.
    """

    def __init__(self, path: Path, scores: Sequence[str], *, after: int) -> None:
        self._path = path
        self._columns = [*_COLUMNS, *scores]
        self.missing = after - self.cut(after)

    def cut(self, after: int) -> int:
        """Remove the lines after so many steps; return how many are left."""
        rows = self._whole_rows()[:after]
        with whole_file(self._path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        return len(rows)

    def _whole_rows(self) -> list[dict[str, str]]:
        """Return the lines before the first that a crash has torn, or that is not the next step."""
        rows: list[dict[str, str]] = []
        try:
            with self._path.open(newline="", errors="replace") as file:
                for number, row in enumerate(csv.reader(file)):
                    if number == 0 and row != self._columns:
                        return []
                    if number and (len(row) != len(self._columns) or row[0] != str(number)):
                        break
                    if number:
                        rows.append(dict(zip(self._columns, row, strict=True)))
        except FileNotFoundError:
            return []
        except csv.Error:
            pass  # what a crash has left at the end
        except OSError as error:
            raise as_error(self._path, error) from None
        return rows

    def append(self, row: Mapping[str, float | int]) -> None:
        """Add one line.

        Raises
        ------
        FileError
            If the disk is full or the file is gone.
        """
        values = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        try:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(values)
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def sync(self) -> None:
        """Make the lines outlast a power cut; called before a checkpoint says that their steps are done."""
        try:
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self._path, error) from None


def _unwritable(path: Path, error: OSError) -> FileError:
    said = as_error(path, error)
    return FileError(said.given, said.expected, f"{said.todo}; the same command goes on from the last checkpoint")
