"""Words of messages: numbers with their nouns, and lists of names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from septum.errors import SeptumError

# A command in a message, up to the end of its clause, or an option that stands alone.
_COMMAND_OR_OPTION = re.compile(r"`septum [^`]*`|\bseptum [a-z][^\n,;()]*|(?<![\w-])--?[a-z][a-z-]*(?![\w-])")


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


def most_similar(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a misspelled one most likely means; None if none is similar.

    Dashes at the beginning, which all options share, do not make words similar.
    """
    from difflib import get_close_matches

    bare = {name.lstrip("-") or name: name for name in known}
    return next((bare[name] for name in get_close_matches(word.lstrip("-"), bare, n=1)), None)


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


def name_fields(text: str, fields: Mapping[str, str]) -> str:
    """Return a message with the fields of a window in place of the options of the command line.

    Whole commands, such as ``septum check DATA --fix OUT``, stay. Options without a field stay as well, and the message
    ends with a line that says where they belong.

    Parameters
    ----------
    text
        The message: ``"give more with --max-memory"``.
    fields
        Name of the field for each option: ``{"--max-memory": "Memory"}``.
    """
    others: list[str] = []

    def name(found: re.Match[str]) -> str:
        if found[0] in fields:
            return f'"{fields[found[0]]}"'
        if found[0].startswith("--") and found[0] not in others:
            others.append(found[0])
        return found[0]

    named = _COMMAND_OR_OPTION.sub(name, text)
    return f"{named}\n({join_words(others)}: only on the command line)" if others else named


def format_bytes(count: float) -> str:
    """Return a size for messages, in powers of 1024: ``"1.3 GB"``, ``"640 MB"``."""
    return f"{count / (1 << 30):.1f} GB" if count >= 0.95 * (1 << 30) else f"{max(1, round(count / (1 << 20)))} MB"


def as_keywords(text: str) -> str:
    """Return a text with keywords in place of options of the command line: ``scale=2`` for ``--scale 2``."""
    option = r"(?<![\w-])--([a-z][a-z-]*)( (?=-?\d))?"
    return re.sub(option, lambda found: found[1].replace("-", "_") + ("=" if found[2] else ""), text)


@contextmanager
def keywords_in_errors() -> Iterator[None]:
    """Name keywords, not options of the command line, in the errors of the body."""
    try:
        yield
    except SeptumError as error:
        error.given, error.expected, error.todo = map(as_keywords, (error.given, error.expected, error.todo))
        error.args = (str(error),)
        raise
