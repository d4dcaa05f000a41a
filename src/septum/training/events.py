"""Events of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from septum.events import Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from septum.check.check import Report


@dataclass(frozen=True)
class Checked(Event):
    """The data was checked: issues, and repairs made in memory."""

    report: Report


@dataclass(frozen=True)
class Planned(Event):
    """The plan of the training, one sentence a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Resumed(Event):
    """An earlier run in the same folder goes on after `step` steps, from the checkpoint `path`."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished(Event):
    """An earlier run in the same folder, with model `model`, was finished after `step` steps: nothing is trained."""

    step: int
    model: Path


@dataclass(frozen=True)
class Step(Event):
    """One step of training is done.

    Attributes
    ----------
    step, total : int
        Steps done, and steps of the whole training (an estimate with a time budget).
    loss : float
        Loss of the tiles of this step, >= 0.
    rate : float
        Learning rate of this step.
    seconds : float
        Seconds since the start of the run, all sessions of a resumed run together.
    """

    step: int
    total: int
    loss: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class Validated(Event):
    """The held-out images were predicted and scored after `step` of `total` steps; `best`: none before was better."""

    step: int
    total: int
    scores: dict[str, float]
    best: bool


@dataclass(frozen=True)
class Saved(Event):
    """A model or checkpoint was written completely."""

    path: Path


@dataclass(frozen=True)
class Stopped(Event):
    """The last event of a training that was stopped: the state after `step` steps is saved in `folder`."""

    step: int
    folder: Path


@dataclass(frozen=True, eq=False)
class Maps(Event):
    """Maps that objects were tuned on, for the report; before Trained.

    Attributes
    ----------
    predicted : mapping
        What `septum.training.validation.Validator.predicted` holds.
    """

    predicted: Mapping[str, tuple[NDArray[np.float16], float]] = field(repr=False)


@dataclass(frozen=True)
class Trained(Event):
    """The last event of a training: the model file, its validation scores, steps and seconds of all sessions.

    `activities_s` holds the seconds of each activity (`septum.training.schedule.Activity`), as far as they are known.
    """

    model: Path
    scores: dict[str, float]
    steps: int
    seconds: float
    activities_s: Mapping[str, float] = field(default_factory=dict, compare=False)
