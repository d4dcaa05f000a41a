"""Read JSON files whose content is not trusted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from septum.io.formats import DAMAGE, check_memory, damaged

_GROWTH = 12  # bytes that one byte of JSON takes as Python objects, about


def read_bytes(path: Path, kind: str, *, growth: int = 2) -> bytes:
    """Return the bytes of a file.

    Parameters
    ----------
    path
        The file.
    kind
        Name of its format, for messages.
    growth
        Bytes of memory that each of its bytes will need.

    Raises
    ------
    FileError
        If it cannot be read, or does not fit into memory.
    """
    try:
        check_memory(path, growth * path.stat().st_size)
        return path.read_bytes()
    except DAMAGE as error:
        raise damaged(path, kind, error) from error


def read_json(path: Path, kind: str) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    FileError
        If the file cannot be read, is no JSON, or nested too deeply.
    """
    data = read_bytes(path, kind, growth=_GROWTH)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (*DAMAGE, RecursionError) as error:
        raise damaged(path, kind, error) from error


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """Return a JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else ()


def exact(value: object) -> str:
    """Return a JSON string or number as it is, as for names that are compared; ``""`` for anything else."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ""
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits
        return ""


def folded(name: str) -> str:
    """Return a name without white space at its ends, and with single spaces in it."""
    return " ".join(name.split())


def by_folded(names: Iterable[str]) -> dict[str, str]:
    """Return names by their form of `folded`, without names that share it with another one."""
    names = list(names)
    counts = Counter(map(folded, names))
    return {short: name for name in names if counts[short := folded(name)] == 1}


def quoted(value: object) -> str:
    """Return an id for a message: a string in quotes, so that white space is seen; ``-`` for none."""
    return repr(value[:200]) if isinstance(value, str) and value else text(value) or "-"


def text(value: object) -> str:
    """Return a JSON string or number as printable text of at most 200 characters, for messages; see `exact`."""
    words = folded(exact(value))[:200]
    return "".join(letter for letter in words if letter.isprintable())


def whole(value: object) -> int | None:
    """Return a JSON number that is whole, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 2**53:
        return None
    return int(value) if value == int(value) else None


def size_of(height: object, width: object) -> tuple[int, int] | None:
    """Return height and width in pixels, None unless both are whole numbers above 0."""
    sides = whole(height), whole(width)
    if sides[0] is None or sides[1] is None or min(sides[0], sides[1]) <= 0:
        return None
    return sides[0], sides[1]
