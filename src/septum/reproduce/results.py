"""What `septum.reproduce.reproduce.reproduce` is asked, what it says on the way, and what comes of it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from septum.events import Event
from septum.reproduce.protocols import PROTOCOLS, Protocol, Variant
from septum.settings import Settings


class ReproduceSettings(Settings):
    """Which result, and for how long.

    Parameters
    ----------
    name
        The data set.
    data
        Its folder, or one that holds it under the challenge's name.
    out
        Folder for everything; the same settings on the same folder go on where they stopped.
    preset
        See `septum.train.settings.TrainSettings`.
    budget_s, steps
        Exactly one: seconds for all trainings together, shared out evenly, or the steps of each. Prediction and scores
        come on top.
    folds
        ISBI 2012 only: blocks of neighboring sections; 5 where not given.
    variant
        Cell Tracking Challenge only: which truth is trained on; silver where not given.
    truth
        ISBI 2012 only: the truth of the test sections, a folder or a stack.
    seed
        Of everything random.
    device
        See `septum.nn.device.find_device`.
    width
        Features of the first level; planned where not given.
    """

    name: Literal["isbi2012", "dic-hela", "phc-u373"]
    data: Path
    out: Path
    preset: Literal["auto", "paper"] = "auto"
    budget_s: float | None = Field(default=3600.0, gt=0)
    steps: int | None = Field(default=None, ge=1)
    folds: int | None = Field(default=None, ge=2)
    variant: Variant | None = None
    truth: Path | None = None
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    width: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is not None:
            return {"budget_s": None, **values}
        return values

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> Self:
        if (self.steps is None) == (self.budget_s is None):
            raise ValueError("give steps or budget_s, not both and not neither")
        sections = PROTOCOLS[self.name].metric == "isbi"
        if sections and self.variant is not None:
            raise ValueError("a variant of the truth exists for dic-hela and phc-u373 only")
        if not sections and (self.folds is not None or self.truth is not None):
            raise ValueError("folds and a truth of test sections exist for isbi2012 only")
        return self


@dataclass(frozen=True)
class FoldStarted:
    """Part `index` (from 0) of `count` is begun; `says` is what it does."""

    name: str
    index: int
    count: int
    says: str


@dataclass(frozen=True)
class Scoring:
    """All predictions are there; `images` of them are scored now."""

    images: int


@dataclass(frozen=True)
class Line:
    """One score: ours with its 95 % interval (NaN with one image), and what the paper has; None where it has none."""

    score: str
    value: float
    low: float
    high: float
    higher_is_better: bool
    unet_2015: float | None
    next_best: float | None


@dataclass(frozen=True)
class Scores:
    """The scores of one set of images; `objects` are the true ones in them, None where membranes are scored."""

    title: str
    images: int
    objects: int | None
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Training:
    """What one part's training took, and its scores on the images that chose its weights."""

    name: str
    says: str
    steps: int
    seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Example:
    """One scored image.

    Attributes
    ----------
    name : str
        Its file's, and where it stands among the others: ``"worst"``, ``"median"``, ``"best"``.
    score : float
        The protocol's main score of this image alone.
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
class Reproduced:
    """The last record: what came of it, as ``reproduction.json`` has it; and images to look at."""

    folder: Path
    protocol: Protocol
    results: tuple[Scores, ...]
    trainings: tuple[Training, ...]
    notes: tuple[str, ...]
    examples: tuple[Example, ...]
    seconds: float
    created: str
    command: str
    settings: ReproduceSettings
    versions: Mapping[str, str]


ReproduceRecord = Event | FoldStarted | Scoring | Reproduced


def command(settings: ReproduceSettings) -> str:
    """Return the command line that repeats it, quoted for a POSIX shell."""
    words = ["septum", "reproduce", settings.name, "--data", str(settings.data), "--out", str(settings.out)]
    words += ["--preset", settings.preset]
    words += ["--budget", f"{settings.budget_s:g}s"] if settings.steps is None else ["--steps", str(settings.steps)]
    for name in ("folds", "variant", "truth", "width"):
        if (value := getattr(settings, name)) is not None:
            words += [f"--{name}", str(value)]
    words += ["--seed", str(settings.seed)]
    return shlex.join([*words, *(["--device", settings.device] if settings.device != "auto" else [])])


def as_json(found: Reproduced) -> dict[str, Any]:
    """Return what ``reproduction.json`` holds: everything but the pictures; undefined values are None."""
    return {
        "format": 1,
        "created": found.created,
        "command": found.command,
        "settings": found.settings.model_dump(mode="json", exclude={"data", "out", "truth"}),
        "results": [_plain(asdict(scores)) for scores in found.results],
        "trainings": [_plain(asdict(replace(t, scores=dict(t.scores)))) for t in found.trainings],
        "notes": list(found.notes),
        "seconds": round(found.seconds, 1),
        "versions": dict(found.versions),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
