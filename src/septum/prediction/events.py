"""Events of a prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from septum.events import Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Opened(Event):
    """The model is open, and `images` images are found; `words` state for what a model that comes with Septum was made.

    `words` is None for any other model.
    """

    images: int
    words: str | None


@dataclass(frozen=True)
class ImageStarted(Event):
    """Image `index` (from 0) of `count` starts.

    Attributes
    ----------
    path : Path
        The image.
    index, count : int
        Number of the image, and of all images.
    tiles : int
        Number of tiles of all frames and versions.
    sides : tuple of int
        Input sides of most tiles.
    blocks : int
        Number of blocks of all frames; 0: the frames are held in memory.
    peak_bytes : int
        Largest memory that the process will hold.
    seconds : float or None
        Estimated time; None for images of only a few tiles.
    resumed : bool
        True if an unfinished result is resumed.
    level : str
        Level of a pyramid that is read, as a phrase; the result has its size. ``""``: the largest.
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
    level: str = ""


@dataclass(frozen=True)
class TileDone(Event):
    """`tile` of the `tiles` tiles of image `path` are done."""

    path: Path
    tile: int
    tiles: int


@dataclass(frozen=True)
class BlockDone(Event):
    """`done` of the `blocks` blocks of image `path` have passed a stage; parts of a block count as fractions."""

    path: Path
    stage: str
    done: float
    blocks: int


@dataclass(frozen=True, eq=False)
class ResultDetails:
    """Facts about a result that an export of its objects needs.

    Attributes
    ----------
    output : str
        ``"labels"``, ``"classes"`` or ``"probabilities"``.
    axes : str
        Letters of ``TCZYX`` of the result; without ``C`` if it holds objects or classes.
    read_axes : str or None
        Axes by which the image was read, where they are not those that the file states.
    level : int
        Level of the image that was read, 0 is the largest.
    rank : int
        2 or 3: objects lie in planes, or in volumes.
    confidence : list of ndarray or None
        For each frame ``(N,) float32`` in 0..1: the probability that object 1 .. N matches a true object with an IoU of
        one half. None if the model does not know it, or the result holds no objects.
    """

    output: str
    axes: str
    read_axes: str | None
    level: int
    rank: int
    confidence: list[NDArray[np.float32]] | None


@dataclass(frozen=True)
class ImageDone(Event):
    """The result of image `path` is complete in the file `output`.

    Attributes
    ----------
    path, output : Path
        The image and the result.
    seconds : float
        Time that it took.
    objects : int or None
        Number of objects; None unless object ids were written.
    scale : float or tuple of float or None
        Factor by which the image was resized for the network, or one for each axis; None for 1.
    details : ResultDetails or None
        More about the result; no part of the document of ``--json``.
    """

    path: Path
    output: Path
    seconds: float
    objects: int | None
    scale: float | tuple[float, ...] | None = None
    details: ResultDetails | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ShardDone(Event):
    """Part I of N of image `path` is done; the network has not computed `left` blocks yet, which other parts do."""

    path: Path
    left: int


@dataclass(frozen=True)
class ImageSkipped(Event):
    """Image `path` is not predicted, as asked: it has a result, the file or label image `output`."""

    path: Path
    output: Path


@dataclass(frozen=True)
class ImageFailed(Event):
    """Image `path` could not be predicted; `message` is the error. The other images are predicted."""

    path: Path
    message: str


@dataclass(frozen=True)
class Predicted(Event):
    """The last event of a prediction: images done, images failed, total seconds, largest memory held."""

    done: int
    failed: int
    seconds: float
    peak_bytes: int


def format_factors(factors: tuple[float, ...]) -> str:
    """Return factors for messages: one if all are equal, ``"0.5"``, else one for each axis, ``"1 x 0.5 x 0.5"``."""
    return " x ".join(f"{factor:.2g}" for factor in (factors[:1] if len(set(factors)) == 1 else factors))
