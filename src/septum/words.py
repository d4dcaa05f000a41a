"""Words of messages: numbers with their nouns, and lists of names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def pluralize(number: int, noun: str) -> str:
    """Return ``"1 image"`` or ``"3 images"``; of ``"process"`` the plural is ``"processes"``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'x')) else 's'}"


def list_some(values: Iterable[object], most: int) -> str:
    """Return ``"1, 2, 3 ..."``: up to `most` values, and dots if there are more."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:most]) + (" ..." if len(listed) > most else "")


def join_words(words: Sequence[object], last: str = "and") -> str:
    """Return ``"a, b and c"``."""
    *begin, end = map(str, words)
    return f"{', '.join(begin)} {last} {end}" if begin else end


def reason_of(error: object, *, most: int = 200) -> str:
    """Return the text of an exception on one line, without places in memory, which differ from run to run.

    Parameters
    ----------
    error
        The exception, often of a library, or its text.
    most
        Characters that are kept.
    """
    text = re.sub(r"\s+at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))
    return text[:most] or type(error).__name__
