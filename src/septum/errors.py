"""Errors that a user can cause.

Each one states three things: the given value, the expected one, and the next step. The command line prints them without
a traceback and exits with code 2.

::

    SeptumError
    ├── DataError       images or masks that do not fit: unpaired, different sizes, no objects, NaN
    ├── FileError       a file or folder that cannot be read or written: missing, damaged, full disk
    ├── ModelError      a model file or checkpoint that is damaged, foreign, or does not fit the image
    └── UsageError      an option that contradicts another or is out of range

`SeptumWarning` and its kind `UnfamiliarImageWarning` are warnings: the job continues.
"""

from __future__ import annotations


class SeptumError(Exception):
    """An error that a user can cause and fix.

    Parameters
    ----------
    given
        The value given, with the name of the file or option: ``"cells.png: 3 channels"``.
    expected
        What would have been right: ``"1 channel, as in training"``.
    todo
        The next step: ``"convert the image to gray, or train with color images"``.
    """

    def __init__(self, given: str, expected: str = "", todo: str = "") -> None:
        self.given = given
        self.expected = expected
        self.todo = todo
        super().__init__(str(self))

    def __reduce__(self) -> tuple[type[SeptumError], tuple[str, str, str]]:
        return type(self), (self.given, self.expected, self.todo)  # pickled between processes

    def __str__(self) -> str:
        lines = [self.given]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.todo:
            lines.append(f"to do: {self.todo}")
        return "\n".join(lines)


class DataError(SeptumError):
    """Images or masks that do not fit together or cannot be used for training."""


class FileError(SeptumError):
    """A file or folder that cannot be read or written."""


class ModelError(SeptumError):
    """A model file or checkpoint that is damaged, foreign, or does not fit the image."""


class UsageError(SeptumError):
    """An option that contradicts another or is out of range."""


class SeptumWarning(UserWarning):
    """A finding to look at, with the next step; from Python, where nothing is printed."""


class UnfamiliarImageWarning(SeptumWarning):
    """An image to predict differs from the training images; the message names the likely effect and a remedy."""
