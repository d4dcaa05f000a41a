"""Errors that a user can cause.

Every one says three things: what was given, what was expected, what to do next. The command line prints them without a
traceback and leaves with code 2.

::

    SeptumError
    ├── DataError       images or masks that do not fit: unpaired, different sizes, no objects, NaN
    ├── FileError       a file or folder that cannot be read or written: missing, damaged, full disk
    ├── ModelError      a model file or checkpoint that is damaged, foreign, or does not fit the image
    └── UsageError      an option that contradicts another or lies outside its range

A warning, which stops nothing: `UnfamiliarImageWarning`.
"""

from __future__ import annotations


class SeptumError(Exception):
    """Something a user can cause and mend.

    Parameters
    ----------
    given
        What was found, with the name of the file or option: ``"cells.png: 3 channels"``.
    expected
        What would have been right: ``"1 channel, as in training"``.
    todo
        What to do next: ``"convert the image to grey, or train with color images"``.
    """

    def __init__(self, given: str, expected: str = "", todo: str = "") -> None:
        self.given = given
        self.expected = expected
        self.todo = todo
        super().__init__(str(self))

    def __reduce__(self) -> tuple[type[SeptumError], tuple[str, str, str]]:
        return type(self), (self.given, self.expected, self.todo)  # it travels between processes

    def __str__(self) -> str:
        lines = [self.given]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.todo:
            lines.append(f"to do: {self.todo}")
        return "\n".join(lines)


class DataError(SeptumError):
    """Images or masks that do not fit together or cannot be learned from."""


class FileError(SeptumError):
    """A file or folder that cannot be read or written."""


class ModelError(SeptumError):
    """A model file or checkpoint that is damaged, foreign, or does not fit the image."""


class UsageError(SeptumError):
    """An option that contradicts another or lies outside its range."""


class UnfamiliarImageWarning(UserWarning):
    """An image to predict is unlike those of the training: what to expect of the result, and what to do."""
