"""Events of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from septum.events import Event

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ImageStarted(Event):
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
class TileDone(Event):
    """`tile` of the `tiles` tiles of image `path` are done."""

    path: Path
    tile: int
    tiles: int


@dataclass(frozen=True)
class BlockDone(Event):
    """`done` of the `blocks` blocks of image `path` have passed a stage; a part of a block counts as a part."""

    path: Path
    stage: str
    done: float
    blocks: int


@dataclass(frozen=True)
class ImageDone(Event):
    """The result of image `path` is whole in the file `output`; `objects` is None unless object ids were written."""

    path: Path
    output: Path
    seconds: float
    objects: int | None


@dataclass(frozen=True)
class ShardDone(Event):
    """Part I of N of image `path` is done; `left` blocks of the network's work are left to other parts."""

    path: Path
    left: int


@dataclass(frozen=True)
class ImageFailed(Event):
    """Image `path` could not be predicted and why, in one sentence; the others are done all the same."""

    path: Path
    message: str


@dataclass(frozen=True)
class Predicted(Event):
    """The last record of a prediction: images done, images failed, seconds in all, most memory held."""

    done: int
    failed: int
    seconds: float
    peak_bytes: int
