"""Results as text: numbers, aligned tables, reports, and the one JSON document of ``--json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def seconds_text(seconds: float) -> str:
    """Return a duration as a person says it: ``"0.8 s"``, ``"41 s"``, ``"3 min 20 s"``, ``"1 h 05 min"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number_text(value: object) -> str:
    """Return a cell of a table: floats with three digits, a missing value as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def scores_text(scores: Mapping[str, float]) -> str:
    """Return scores in one line: ``"SEG 0.812, AP50 0.790"``."""
    return ", ".join(f"{name} {number_text(value)}" for name, value in scores.items())


def aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a table as lines; the first row is the heading, the first column is text, the others are numbers.

    Nothing is cut, however wide: a table in a file must hold all that it holds on a terminal.
    """
    cells = [[number_text(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        texts = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *texts]).rstrip())
    return lines


def plain(value: object) -> Json:
    """Return `value` as JSON knows it: dataclasses as objects, paths as strings, NaN and infinity as null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def json_text(document: Mapping[str, object]) -> str:
    """Return the document of ``--json``."""
    return json.dumps(plain(document), indent=2)
