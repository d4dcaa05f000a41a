"""Progress events: small frozen values that a long job yields in order.

Each room defines the events of its own jobs as subclasses of `Event`. The command line, the report and the tests
iterate over the same events; jobs have no callbacks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One progress event of a job."""


@dataclass(frozen=True)
class Warned(Event):
    """A warning for the user; the job continues.

    Attributes
    ----------
    text : str
        The warning: the finding and the next step.
    cause : str
        Key of the warning; a text with the same cause is shown once, however many images it concerns.
    """

    text: str
    cause: str = ""


@dataclass(frozen=True)
class Working(Event):
    """A part of the job begins in which nothing is counted, and which may take long.

    Attributes
    ----------
    text : str
        The work, such as ``"scoring held-out images"``.
    """

    text: str
