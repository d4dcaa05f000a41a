"""Events of the report of a run; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from septum.events import Event


@dataclass(frozen=True)
class Reporting(Event):
    """The report of the run in `folder` begins: up to `count` held-out images are predicted for it."""

    folder: Path
    count: int
