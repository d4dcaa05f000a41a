"""Progress events: small frozen values that a long job yields in order.

Every room defines the events of its own jobs as subclasses of `Event`. The command line, the report and the tests
iterate over the same events; no job calls back.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One thing that a job reports while it works."""


@dataclass(frozen=True)
class Warned(Event):
    """Something a person should know; the job goes on.

    Attributes
    ----------
    text : str
        The warning: what was found and what to do.
    cause : str
        Key of the warning; a text with the same cause is shown once, however many images it concerns.
    """

    text: str
    cause: str = ""
