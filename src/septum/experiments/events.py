"""Events of a run of several trainings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from septum.events import Event

if TYPE_CHECKING:
    from septum.train.events import Trained


@dataclass(frozen=True)
class PartStarted(Event):
    """Training `index` (from 0) of the `count` that a run consists of is begun.

    `title` names it, ``"fold 2 of 5"``; `folder` is its folder in that of the run, ``"fold-2"``.
    """

    title: str
    index: int
    count: int
    folder: str


@dataclass(frozen=True)
class PartTrained(Event):
    """The training `title` of a run of several came to its end."""

    title: str
    trained: Trained


@dataclass(frozen=True)
class HeldOutDone(Event):
    """`done` of `total` held-out images of a run of several trainings are predicted and written."""

    done: int
    total: int


@dataclass(frozen=True)
class SeedsCompared(Event):
    """The same training with several seeds.

    Attributes
    ----------
    seeds : tuple of int
        In order.
    scores : dict
        By name, the score of each seed's network alone on the same held-out images.
    """

    seeds: tuple[int, ...]
    scores: dict[str, tuple[float, ...]]

    def mean(self, name: str) -> float:
        """Return the mean of a score over the seeds; NaN where one is not defined."""
        return math.fsum(self.scores[name]) / len(self.seeds)

    def deviation(self, name: str) -> float:
        """Return the standard deviation of a score over the seeds (n - 1)."""
        mean = self.mean(name)
        return math.sqrt(math.fsum((v - mean) ** 2 for v in self.scores[name]) / (len(self.seeds) - 1))
