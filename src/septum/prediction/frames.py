"""An image as the frames that the network takes, and results of frames as an image again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.resample import Resampled, scaled_sides
from septum.arrays.tiles import Readable
from septum.axes import relative_spacing, spatial
from septum.errors import DataError, ModelError
from septum.io.image import Image
from septum.prediction.model import Model
from septum.prediction.settings import Output, PredictSettings
from septum.prediction.tile_plan import TilePlan


@dataclass(frozen=True)
class ImageFrame:
    """The part of an image that the network takes at once, read piece by piece.

    Parameters
    ----------
    source
        The opened image.
    place
        Index along each axis that is walked (T, and Z for a model of images), in the order of the axes of the image.
    rank
        2 or 3 spatial axes.
    repeat
        Number of channels that the only channel is repeated to: gray images for a model of color images.
    """

    source: Image
    place: tuple[int, ...]
    rank: int
    repeat: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, *S)``."""
        sides = dict(zip(self.source.axes, self.source.shape, strict=True))
        return (sides["C"] * self.repeat, *(sides[a] for a in spatial(self.source.axes)[-self.rank :]))

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]:
        walked = dict(zip(walked_axes(self.source.axes, self.rank), self.place, strict=True))
        inside = dict(zip(spatial(self.source.axes)[-self.rank :], index[1:], strict=True))
        part = self.source[tuple(walked.get(a, inside.get(a, slice(None))) for a in self.source.axes)]
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            where = self.source.name or "the image"
            raise DataError(
                f"{where}: some pixels are NaN or infinite", "finite intensities", "replace them by numbers"
            )
        return np.repeat(part, self.repeat, axis=0)[index[0]] if self.repeat > 1 else part[index[0]]


Scale = tuple[float, ...]
"""Pixels of the working grid for each pixel of the image, along each axis of a frame."""


@dataclass(frozen=True)
class ImageJob:
    """One image of a prediction, opened and planned.

    Parameters
    ----------
    settings
        Settings of the prediction; `model` is the model file.
    model
        The opened model.
    output
        Kind of the result.
    path, target
        The image, and the file or label image to write.
    index, count
        Number of the image, from 0, and of all images.
    source
        The opened image.
    frames
        Its frames.
    plan
        Tiles, blocks and memory.
    overlap
        The image takes so little memory that another one may be opened or written at the same time.
    scale
        The image is predicted on a grid finer by these factors; None: on its own grid.
    """

    settings: PredictSettings
    model: Model
    output: Output
    path: Path
    target: Path
    index: int
    count: int
    source: Image
    frames: list[ImageFrame]
    plan: TilePlan
    overlap: bool = False
    scale: Scale | None = None

    @cached_property
    def spacing(self) -> tuple[float, ...] | None:
        """Relative pixel sizes on the grid on which the frames are predicted."""
        return frame_spacing(self.source, self.model.rank, self.scale)


def walked_axes(axes: str, rank: int) -> str:
    """Return the axes along which an image is walked frame by frame: T, and Z for a model of images."""
    return "".join(a for a in axes if a == "T" or (a == "Z" and rank == 2))


def split_frames(source: Image, model: Model) -> list[ImageFrame]:
    """Split an image into frames: ``(C, Y, X)`` along T and Z, or ``(C, Z, Y, X)`` along T.

    Raises
    ------
    ModelError
        If the channels or the axes do not fit the model.
    """
    axes, sides = source.axes, dict(zip(source.axes, source.shape, strict=True))
    where, wanted = source.name or "the image", model.header.network.channels
    if model.rank == 3 and "Z" not in axes:
        raise ModelError(
            f"{where}: axes {source.file_axes}, no Z",
            "a volume, as the model was trained on volumes",
            "name the axes of the file, for example --axes ZYX",
        )
    repeat = wanted if sides["C"] == 1 and wanted == 3 and model.header.gray_as_color else 1
    if sides["C"] * repeat != wanted:
        raise ModelError(
            f"{where}: {sides['C']} channel{'s' * (sides['C'] != 1)}",
            f"{wanted} channel{'s' * (wanted != 1)}, as in training",
            "convert the image, or name its axes with --axes",
        )
    lengths = (range(sides[a]) for a in walked_axes(axes, model.rank))
    return [ImageFrame(source, place, model.rank, repeat) for place in product(*lengths)]


def join_frames(results: Sequence[NDArray[Any]], source: Image, rank: int) -> NDArray[Any]:
    """Join the results of frames in the axes of the image.

    Parameters
    ----------
    results
        For each frame, in order, ``(C', *S)`` of any dtype, any values.
    source
        The image.
    rank
        Number of spatial axes of a frame, 2 or 3.

    Returns
    -------
    ndarray
        ``([T,] C', [Z,] Y, X)``, the axes of `source`: any values, the dtype of the results.
    """
    lengths = dict(zip(source.axes, source.shape, strict=True))
    walked = walked_axes(source.axes, rank)
    stack = np.stack(results)
    stack = stack.reshape(*(lengths[a] for a in walked), *stack.shape[1:])
    now = [*walked, "C", *spatial(source.axes)[-rank:]]
    joined: NDArray[Any] = stack.transpose([now.index(a) for a in source.axes])
    return joined


def working_frame(frame: Readable, scale: Scale | None) -> Readable:
    """Return a frame on its working grid, resampled where it is read; without a scale the frame itself."""
    return frame if scale is None else Resampled(frame, scaled_sides(frame.shape[1:], scale))


def frame_spacing(source: Image, rank: int, scale: Scale | None = None) -> tuple[float, ...] | None:
    """Return the relative pixel sizes of the axes of a frame on its working grid; None unless all are known."""
    sizes = [source.pixel_size_um.get(a) for a in "ZYX"[-rank:]]
    known = [s for s in sizes if s is not None]
    if len(known) < rank:
        return None
    return relative_spacing([s / f for s, f in zip(known, scale or (1.0,) * rank, strict=True)], rank)
