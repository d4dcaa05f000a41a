"""What a long job says while it works: small frozen records, yielded in order.

The command line, the pictures and the tests all iterate over the same records; no job calls anything back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from septum.jobs.check import Report


@dataclass(frozen=True)
class Checked:
    """The data was checked: what was found, and what is mended in memory."""

    report: Report


@dataclass(frozen=True)
class Planned:
    """The plan of the training, one plain sentence a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Warned:
    """Something a person should know; the job goes on.

    What has the same `cause` in several images is said once.
    """

    text: str
    cause: str = ""


@dataclass(frozen=True)
class Resumed:
    """An earlier run in the same folder is continued after `step` steps, from the checkpoint `path`."""

    step: int
    path: Path


@dataclass(frozen=True)
class Step:
    """One step of training is done.

    Attributes
    ----------
    step, total : int
        Steps done, and steps of the whole training (fitted to the time while a budget is measured).
    loss : float
        Weighted cross entropy of this step's tiles, >= 0.
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
class Validated:
    """The held-out images were predicted and scored after `step` of `total` steps; `best`: none earlier is better."""

    step: int
    total: int
    scores: dict[str, float]
    best: bool


@dataclass(frozen=True)
class Saved:
    """A model or checkpoint is whole on the disk."""

    path: Path


@dataclass(frozen=True)
class Stopped:
    """The last record of a training that was asked to stop: the state after `step` steps is saved in `folder`."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Trained:
    """The last record of a training: the model file, its validation scores, steps and seconds of all sessions."""

    model: Path
    scores: dict[str, float]
    steps: int
    seconds: float


@dataclass(frozen=True)
class PartStarted:
    """Training `index` (from 0) of the `count` that a run consists of is begun.

    `title` names it, ``"fold 2 of 5"``; `folder` is its folder in that of the run, ``"fold-2"``.
    """

    title: str
    index: int
    count: int
    folder: str


@dataclass(frozen=True)
class PartTrained:
    """The training `title` of a run of several came to its end."""

    title: str
    trained: Trained


@dataclass(frozen=True)
class HeldOutDone:
    """`done` of `total` held-out images of a run of several trainings are predicted and written."""

    done: int
    total: int


@dataclass(frozen=True)
class SeedsCompared:
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


@dataclass(frozen=True)
class Curve:
    """How a score grows with the number of training images, and what more of them would bring.

    Attributes
    ----------
    score : str
        Name of the score.
    images, values : tuple
        Numbers of training images, rising, and the score of the model of each on the same held-out images.
    intervals : tuple
        (low, high) of each, 95 % over held-out images.
    fit : tuple of float
        a, b and c of a - b n^-c.
    more : int
        So many more images are spoken of in `words`.
    ahead : tuple
        Numbers of images beyond those there are, the score expected with them, and its interval: (n, value, low, high).
    clear : bool
        Whether the curve says what more images would bring.
    words : str
        The result in one sentence.
    """

    score: str
    images: tuple[int, ...]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    fit: tuple[float, float, float]
    more: int
    ahead: tuple[tuple[int, float, float, float], ...]
    clear: bool
    words: str


Record = (
    Checked
    | Planned
    | Warned
    | Resumed
    | Step
    | Validated
    | Saved
    | Stopped
    | Trained
    | PartStarted
    | PartTrained
    | HeldOutDone
    | SeedsCompared
    | Curve
)


@dataclass(frozen=True)
class ImageStarted:
    """Image `index` (from 0) of `count` is begun.

    Attributes
    ----------
    path : Path
        The image.
    index, count : int
        Which of how many.
    tiles : int
        Tiles of all its frames and versions.
    sides : tuple of int
        Input sides of most tiles.
    blocks : int
        Blocks of all frames; 0: the frames are held in memory.
    peak_bytes : int
        The most memory that the process will hold.
    seconds : float or None
        About how long it will take; None where that is too short to be told.
    resumed : bool
        Whether an unfinished result is continued.
    """

    path: Path
    index: int
    count: int
    tiles: int
    sides: tuple[int, ...]
    blocks: int
    peak_bytes: int
    seconds: float | None
    resumed: bool = False


@dataclass(frozen=True)
class TileDone:
    """`tile` of the `tiles` tiles of image `path` are done."""

    path: Path
    tile: int
    tiles: int


@dataclass(frozen=True)
class BlockDone:
    """`done` of the `blocks` blocks of image `path` have passed a stage; a part of a block counts as a part."""

    path: Path
    stage: str
    done: float
    blocks: int


@dataclass(frozen=True)
class ImageDone:
    """The result of image `path` is whole in the file `output`; `objects` is None unless object ids were written."""

    path: Path
    output: Path
    seconds: float
    objects: int | None


@dataclass(frozen=True)
class ShardDone:
    """Part I of N of image `path` is done; `left` blocks of the network's work are left to other parts."""

    path: Path
    left: int


@dataclass(frozen=True)
class ImageFailed:
    """Image `path` could not be predicted and why, in one sentence; the others are done all the same."""

    path: Path
    message: str


@dataclass(frozen=True)
class Predicted:
    """The last record of a prediction: images done, images failed, seconds in all, most memory held."""

    done: int
    failed: int
    seconds: float
    peak_bytes: int


PredictRecord = ImageStarted | TileDone | BlockDone | ImageDone | ShardDone | ImageFailed | Warned | Predicted
