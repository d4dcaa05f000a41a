"""Events of `septum.reproduce.reproduce.reproduce`, and its result."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.events import Event
from septum.report.summary import json_ready
from septum.reproduce.protocols import Protocol
from septum.reproduce.settings import ReproduceSettings
from septum.training.settings import command_line


@dataclass(frozen=True)
class FoldStarted(Event):
    """Part `index` (from 0) of `count` starts; with a `description`."""

    name: str
    index: int
    count: int
    description: str


@dataclass(frozen=True)
class Scoring(Event):
    """All predictions are complete; the scoring of `images` images starts."""

    images: int


@dataclass(frozen=True)
class ResultLine:
    """One score with its 95 % interval (NaN with one image), and the figures of the paper; None if it has none."""

    score: str
    value: float
    low: float
    high: float
    higher_is_better: bool
    unet_2015: float | None
    next_best: float | None


@dataclass(frozen=True)
class ResultTable:
    """The scores of one set of images, with the number of true objects; None where membranes are scored."""

    title: str
    images: int
    objects: int | None
    lines: tuple[ResultLine, ...]


@dataclass(frozen=True)
class Training:
    """Steps and seconds of the training of one part, and its scores on the validation set."""

    name: str
    description: str
    steps: int
    seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Example:
    """One scored image.

    Attributes
    ----------
    name : str
        Name of its file, and its rank among the others: ``"worst"``, ``"median"``, ``"best"``.
    score : float
        Main score of the protocol, of this image alone.
    image : ndarray
        ``(C, Y, X)`` raw intensities.
    truth : ndarray
        ``(Y, X)`` int32, objects, or classes 0 and 1.
    predicted : ndarray
        ``(Y, X)``: int32 objects, or float32 probability of class 1.
    """

    name: str
    score: float
    image: NDArray[Any]
    truth: NDArray[np.int32]
    predicted: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Reproduced(Event):
    """The last event: the content of ``reproduction.json``, and images to look at.

    `seconds` are those of the trainings, in all sessions, and of everything else in the last session.
    """

    folder: Path
    protocol: Protocol
    results: tuple[ResultTable, ...]
    trainings: tuple[Training, ...]
    notes: tuple[str, ...]
    examples: tuple[Example, ...]
    seconds: float
    created: str
    command: str
    settings: ReproduceSettings
    versions: Mapping[str, str]


def command(settings: ReproduceSettings) -> str:
    """Return the command line that repeats a reproduction, quoted for a POSIX shell."""
    return shlex.join(["septum", "reproduce", *command_line(settings)])


def as_json(reproduced: Reproduced) -> dict[str, Any]:
    """Return the content of ``reproduction.json``: all but the pictures; values that are not finite are None."""
    return {
        "format": 1,
        "created": reproduced.created,
        "command": reproduced.command,
        "settings": reproduced.settings.model_dump(mode="json", exclude={"data", "out", "truth"}),
        "results": json_ready([asdict(table) for table in reproduced.results]),
        "trainings": json_ready([vars(training) for training in reproduced.trainings]),
        "notes": list(reproduced.notes),
        "seconds": round(reproduced.seconds, 1),
        "versions": dict(reproduced.versions),
    }
