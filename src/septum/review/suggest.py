"""Rank images for annotation by the disagreement of several networks, or of rotated and mirrored versions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import statistics
from septum.arrays.resample import Resampled
from septum.axes import walked_axes
from septum.errors import DataError, SeptumError
from septum.events import Event, Warned
from septum.io.image import Image
from septum.nn.ensemble import members_of
from septum.prediction.events import ImageFailed
from septum.prediction.frames import FoundScale, ImageFrame, open_for_model, split_frames, working_frame
from septum.prediction.memory import resident_bytes, usual_limit
from septum.prediction.model import Model, open_model
from septum.prediction.outputs import input_images
from septum.prediction.tiled import TiledPredictor, largest_output
from septum.prediction.tta import transformed_probabilities, tta_transforms
from septum.review.disagreement import mutual_information, strongest_boxes
from septum.review.settings import SuggestSettings
from septum.words import format_bytes

_BOX_PX = {2: 256, 3: 64}  # default side of a suggested region, by rank
_BOXES = 3  # regions of an image


@dataclass(frozen=True)
class Box:
    """A region of an image: its first pixel and one after its last, and its mean disagreement in bits."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    disagreement: float


@dataclass(frozen=True, eq=False)
class Suggestion:
    """An image, or a frame or section of one, to annotate.

    Attributes
    ----------
    path : Path
        The file.
    place : dict
        Index along each axis of frames, ``{"T": 3}``; empty for an image of one frame.
    disagreement : float
        Rank: the mean of `information`, in bits.
    regions : tuple of Box
        The boxes with the highest disagreement, the strongest first.
    image : ndarray
        ``(C, *S)`` raw intensities.
    information : ndarray
        ``(*S) float32``, disagreement of each pixel in bits.
    """

    path: Path
    place: dict[str, int]
    disagreement: float
    regions: tuple[Box, ...]
    image: NDArray[Any]
    information: NDArray[np.float32]


@dataclass(frozen=True)
class Judged(Event):
    """Frame `done` of the `total` frames of image `path`, the `index`-th (from 0) of `count` images, is ranked."""

    path: Path
    index: int
    count: int
    done: int
    total: int


@dataclass(frozen=True)
class Suggested(Event):
    """The last event: the suggestions, the best first.

    Attributes
    ----------
    suggestions : tuple of Suggestion
        At most as many as were asked for.
    voters : str
        What disagrees, for a sentence.
    judged, failed : int
        Number of images that were ranked, and that could not be read or predicted.
    seconds : float
        Duration of the job.
    """

    suggestions: tuple[Suggestion, ...]
    voters: str
    judged: int
    failed: int
    seconds: float


def suggest(settings: SuggestSettings) -> Iterator[Event]:
    """Rank images by the disagreement of several predictions of each.

    Yields
    ------
    Warned of files that are passed over, Judged for each frame, ImageFailed for an image that could not be read or
    predicted, Suggested at the end.

    Raises
    ------
    SeptumError
        If the model, the inputs or an option are wrong; the error of the first image if all failed.
    """
    begin = time.monotonic()
    model = open_model(settings.model, settings.device)
    images, messages = input_images(settings.inputs)
    yield from map(Warned, messages)
    paths = list(images)
    suggestions: list[Suggestion] = []
    failures: list[SeptumError] = []
    frames = 0
    for index, path in enumerate(paths):
        try:
            with open_for_model(path, model, axes=settings.axes)[0] as source:
                split = split_frames(source, model)
                for number, frame in enumerate(split, start=1):
                    suggestions = _kept(
                        [*suggestions, _judge_frame(path, source, frame, model, settings)], settings.number
                    )
                    frames += 1
                    yield Judged(path, index, len(paths), number, len(split))
        except SeptumError as error:
            failures.append(error)
            yield ImageFailed(path, str(error))
    if failures and not frames:
        raise failures[0]
    yield Suggested(
        tuple(suggestions), voters(model), len(paths) - len(failures), len(failures), time.monotonic() - begin
    )


def voters(model: Model) -> str:
    """Return the name of the predictions that disagree: the networks of the model, or versions of an image."""
    if model.header.members > 1:
        return f"the {model.header.members} networks of the model"
    return f"the predictions of {len(tta_transforms(model.network.geometry))} rotated and mirrored versions of an image"


def votes(model: Model, image: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Predict an image several times: by each network of the model, or by its only network in each of `tta_transforms`.

    Parameters
    ----------
    model
        A model of any number of networks.
    image
        ``(C, *S)``, raw intensities of any dtype.

    Yields
    ------
    ndarray
        ``(K, *S) float32`` probabilities, 0..1.
    """
    stats = statistics(image, model.header.normalization)
    whole = tuple(slice(0, n) for n in image.shape[1:])
    limit = largest_output(model.header.network, model.device)
    members = members_of(model.network)
    turns = tta_transforms(model.network.geometry) if len(members) == 1 else [(0, False)]
    for member in members:
        tiler = TiledPredictor(member, model.device, limit)
        for version in turns:
            *_, (probabilities, _) = transformed_probabilities(tiler, image, stats, whole, version)
            yield probabilities


def _judge_frame(path: Path, source: Image, frame: ImageFrame, model: Model, settings: SuggestSettings) -> Suggestion:
    _refuse_too_large(path, frame, model)
    whole = tuple(slice(0, n) for n in frame.shape[1:])
    image = frame[(slice(None), *whole)]
    # At the scale of the training: an image of another scale is worth annotating because the network does not know it.
    scale = FoundScale.at((1.0,) * model.rank, model).grid
    seen = working_frame(image, scale)
    information, _ = mutual_information(votes(model, seen[(slice(None), *(slice(0, n) for n in seen.shape[1:]))]))
    if scale is not None:
        information = Resampled(information[None], frame.shape[1:])[(slice(None), *whole)][0]
    sides = (settings.region or _BOX_PX[model.rank],) * model.rank
    boxes = [
        Box(tuple(s.start for s in region), tuple(s.stop for s in region), mean)
        for region, mean in strongest_boxes(information, sides, _BOXES)
    ]
    names, lengths = walked_axes(source.axes, model.rank), dict(zip(source.axes, source.shape, strict=True))
    place = {a: p for a, p in zip(names, frame.place, strict=True) if lengths[a] > 1}
    return Suggestion(path, place, float(information.mean(dtype=np.float64)), tuple(boxes), image, information)


def _refuse_too_large(path: Path, frame: ImageFrame, model: Model) -> None:
    """Raise `DataError` if a frame and its predictions do not fit into memory."""
    channels, *sides = frame.shape
    # The image, one prediction, and sums over predictions in double precision with their temporary arrays.
    needed = int(np.prod(sides)) * (4 * channels + model.header.network.classes * (4 + 3 * 8) + 3 * 8)
    limit = usual_limit() - resident_bytes()
    if needed > limit:
        raise DataError(
            f"{path}: ranking it takes {format_bytes(needed)} of memory",
            f"at most {format_bytes(limit)}, the free memory",
            "cut the image into parts and rank those",
        )


def _kept(suggestions: Sequence[Suggestion], number: int) -> list[Suggestion]:
    """Return the best suggestions, the best first; of adjacent frames only one."""
    kept: list[Suggestion] = []
    for one in sorted(suggestions, key=lambda s: -s.disagreement):
        if not any(_next_to(one, other) for other in kept):
            kept.append(one)
    return kept[:number]


def _next_to(one: Suggestion, other: Suggestion) -> bool:
    """Return True if two frames of a time series or stack are adjacent: near-duplicates, of which one is enough."""
    if one.path != other.path or not one.place:
        return False
    return sum(abs(one.place[a] - other.place[a]) for a in one.place) <= 1
