"""Events of a run of several trainings, and of the report of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from septum.events import Event
from septum.training.events import Trained


@dataclass(frozen=True)
class PartStarted(Event):
    """One of several trainings in a run starts or is resumed.

    Attributes
    ----------
    title : str
        Name of the training: ``"fold 2 of 5"``.
    index, count : int
        Its number, from 0, and the number of all trainings.
    folder : str
        Name of its folder in the run folder: ``"fold-2"``.
    """

    title: str
    index: int
    count: int
    folder: str


@dataclass(frozen=True)
class PartTrained(Event):
    """One of several trainings in a run is complete, with its result."""

    title: str
    trained: Trained


@dataclass(frozen=True)
class HeldOutDone(Event):
    """`done` of `total` held-out images are predicted."""

    done: int
    total: int


@dataclass(frozen=True)
class ReportWritten(Event):
    """The report page of a run, or of one of its trainings, is written to `path`."""

    path: Path


@dataclass(frozen=True)
class SeedsCompared(Event):
    """Scores of the same training with several seeds.

    Attributes
    ----------
    seeds : tuple of int
        The seeds, in order.
    scores : dict
        By name of the score: its value with each seed, of the single network on the same held-out images.
    """

    seeds: tuple[int, ...]
    scores: dict[str, tuple[float, ...]]

    def mean(self, name: str) -> float:
        """Return the mean of a score over the seeds; NaN if one of the values is NaN."""
        return math.fsum(self.scores[name]) / len(self.seeds)

    def deviation(self, name: str) -> float:
        """Return the standard deviation of a score over the seeds (n - 1)."""
        mean = self.mean(name)
        return math.sqrt(math.fsum((v - mean) ** 2 for v in self.scores[name]) / (len(self.seeds) - 1))
