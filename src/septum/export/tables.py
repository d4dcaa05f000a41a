"""Write tables of objects: CSV always, Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import UsageError
from septum.export.measure import Columns
from septum.io.atomic import storable, whole_file

_ROWS = 10_000  # that are turned to text at a time


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """Rows of one image or plane, and what is the same in all of them.

    Attributes
    ----------
    image
        Name of the image.
    t, z
        Time point and slice; None where the image has one only, or the objects are volumes.
    columns
        The measures, ``(N,)`` each.
    """

    image: str
    t: int | None
    z: int | None
    columns: Columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def join_tables(tables: Sequence[ObjectTable]) -> Columns:
    """Join tables into one, with the columns ``image``, ``t`` and ``z`` in front.

    Parameters
    ----------
    tables
        In the order of the rows. A column that some do not have is empty there: NaN, or -1 for ``t`` and ``z``.

    Returns
    -------
    columns
        ``(N,)`` each; ``t`` and ``z`` only where a table has them.
    """
    lengths = [len(table) for table in tables]
    joined: Columns = {"image": np.repeat(np.array([table.image for table in tables], object), lengths)}
    for name in "tz":
        places = [getattr(table, name) for table in tables]
        if any(place is not None for place in places):
            joined[name] = np.repeat(np.array([-1 if p is None else p for p in places], np.int64), lengths)
    for name in _ordered([list(table.columns) for table in tables]):
        parts = [table.columns.get(name, np.full(n, np.nan)) for table, n in zip(tables, lengths, strict=True)]
        joined[name] = np.concatenate(parts) if parts else np.empty(0)
    return joined


def _ordered(lists: Sequence[Sequence[str]]) -> list[str]:
    """Merge lists of names: names that only later lists have stand after those that precede them there."""
    merged: list[str] = []
    for names in lists:
        place = 0
        for name in names:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged


def write_csv(path: Path, columns: Columns) -> None:
    """Write a table as CSV, as a whole or not at all: UTF-8, commas, points; an empty cell where there is no value.

    Parameters
    ----------
    path
        The ``.csv`` file.
    columns
        ``(N,)`` each: texts, integers, floats of any values (in the fewest digits that are exact), or bool, as 0 and 1.
    """
    with whole_file(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        count = len(next(iter(columns.values()), ()))
        for start in range(0, count, _ROWS):
            cells = [_cells(name, column[start : start + _ROWS]) for name, column in columns.items()]
            writer.writerows(zip(*cells, strict=True))


def _cells(name: str, column: NDArray[Any]) -> list[Any]:
    if column.dtype == np.bool_:
        return list(map(int, column))
    values: list[Any] = column.tolist()
    if name in ("t", "z"):
        return ["" if value < 0 else value for value in values]
    if column.dtype.kind == "f":
        return ["" if value != value else value for value in values]
    return values


def write_parquet(path: Path, columns: Columns) -> None:
    """Write a table as Parquet, as a whole or not at all.

    Parameters
    ----------
    path
        The ``.parquet`` file.
    columns
        As for `write_csv`; ``(N,)`` texts, integers, floats of any values, or bool.

    Raises
    ------
    UsageError
        If pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"{path.name}: pyarrow is not installed",
            "the library that writes Parquet",
            "pip install 'septum[tables]', or write CSV",
        ) from None
    arrays = {}
    for name, column in columns.items():
        missing = column < 0 if name in ("t", "z") else np.isnan(column) if column.dtype.kind == "f" else None
        values = [storable(text) for text in column.tolist()] if column.dtype.kind == "O" else column
        arrays[name] = pyarrow.array(values, pyarrow.string() if column.dtype.kind == "O" else None, mask=missing)
    with whole_file(path) as part:
        parquet.write_table(pyarrow.table(arrays), part)


def has_parquet() -> bool:
    """Return True if Parquet can be written."""
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None
