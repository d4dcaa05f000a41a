"""Predict an image whose frames are held in memory, one after the other, and write the result at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septum.arrays.normalize import statistics
from septum.arrays.tiles import Readable
from septum.axes import spatial, walked_axes
from septum.errors import DataError, SeptumError
from septum.events import Event, Warned
from septum.io.files import write_image
from septum.io.image import Image
from septum.io.selection import describe_level
from septum.io.zarr_labels import write_labels
from septum.prediction.events import ImageDone, ImageStarted, ResultDetails, TileDone
from septum.prediction.frames import (
    FoundScale,
    ImageJob,
    Scale,
    frame_spacing,
    split_frames,
    working_frame,
)
from septum.prediction.memory import operations
from septum.prediction.model import Model
from septum.prediction.outputs import find_objects, postprocess, resolve_output
from septum.prediction.pipeline import BackgroundWriter
from septum.prediction.tiled import TiledPredictor, halved_text, largest_output, open_inside, region_probabilities
from septum.prediction.tta import averaged_probabilities

Result = tuple[NDArray[Any], NDArray[np.float32] | None]
"""The result of a frame, and the confidence of its objects; from `septum.prediction.outputs.postprocess`."""


@dataclass(frozen=True)
class PredictionFailure:
    """An image that could not be predicted, and the error."""

    path: Path
    error: SeptumError


def predict_in_memory(
    job: ImageJob, writer: BackgroundWriter[Event | PredictionFailure]
) -> Iterator[Event | PredictionFailure]:
    """Predict an image frame by frame and write the result.

    If `job.overlap`, the result is made and written by `writer` while other images are computed.

    Yields
    ------
    ImageStarted, TileDone, Warned; at last ImageDone or PredictionFailure. The last event of an image that is written
    in the background is yielded as soon as it is known, between the events of the next image.

    Raises
    ------
    SeptumError, MemoryError, torch.OutOfMemoryError
        If the image cannot be read or computed.
    """
    begin = time.monotonic() - job.found.seconds
    with ExitStack() as opened:
        inside = None
        if job.region is not None:
            inside = open_inside(job.region, job.frames[0], working_frame(job.frames[0], job.scale).shape[1:])
            opened.callback(inside.close)
        network = job.model.computed_by(job.plan.engine)
        tiler = TiledPredictor(network, job.model.device, job.plan.tile, inside=inside)
        yield from _predict_frames(tiler, job, writer, begin)


def _predict_frames(
    tiler: TiledPredictor, job: ImageJob, writer: BackgroundWriter[Event | PredictionFailure], begin: float
) -> Iterator[Event | PredictionFailure]:
    """Predict the frames of an image, and make and write its result."""
    model, plan = job.model, job.plan
    seconds = tiler.seconds(plan.sides, plan.tiles)
    level = describe_level(job.source)
    yield ImageStarted(job.path, job.index, job.count, plan.tiles, plan.sides, 0, plan.peak_bytes, seconds, level=level)
    results: list[Future[Result]] = []
    done = 0
    for number, frame in enumerate(job.frames, start=1):
        probabilities = np.empty(0, np.float32)
        for filled, left in _frame_steps(tiler, frame, job):
            probabilities, done = filled, done + 1
            later = (len(job.frames) - number) * plan.tiles // len(job.frames)
            yield TileDone(job.path, done, done + left + later)
            yield from writer.finished()
        wait(results[-1:])  # at most one frame is postprocessed while the next is computed
        sides = None if job.scale is None else frame.shape[1:]
        known = job.found.objects(job.spacing)
        make = partial(postprocess, probabilities, model, job.output, spacing=job.spacing, sides=sides, objects=known)
        results.append(writer.submit(make) if job.overlap else _done(make()))
    if tiler.halved:
        yield Warned(halved_text(job.path, tiler))
    write = partial(_write, job, results, begin)
    yield from writer.submit_last(write) if job.overlap else write()


def _frame_steps(tiler: TiledPredictor, frame: Readable, job: ImageJob) -> Iterable[tuple[NDArray[np.float32], int]]:
    """Predict a frame of an image, or return what was predicted when its scale was found."""
    if job.found.seen is not None:
        return [(job.found.seen.probabilities, 0)]
    return frame_probabilities(tiler, working_frame(frame, job.scale), job.model, tta=job.settings.tta)


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def _write(job: ImageJob, results: Sequence[Future[Result]], begin: float) -> list[ImageDone | PredictionFailure]:
    """Write the results of all frames, and return the last event of the image.

    The image may be closed by now: of its source only the attributes are used.
    """
    try:
        made, confidence = zip(*(result.result() for result in results), strict=True)
        joined, axes = _join_frames(made, job.source, job.model.rank), job.source.axes
        if joined.shape[axes.index("C")] == 1:  # also in formats that do not store axes
            joined, axes = joined.squeeze(axes.index("C")), axes.replace("C", "")
        size = job.source.pixel_size_um
        if job.settings.label_image is not None:
            write_labels(job.path, job.target.name, joined, axes=axes, pixel_size_um=size)
        else:
            ids = job.output != "probabilities"
            write_image(job.target, joined, axes=axes, pixel_size_um=size, affine=job.source.affine, labels=ids)
    except (SeptumError, MemoryError, torch.OutOfMemoryError) as error:
        return [failure(job.path, error, job.model)]
    objects = sum(count_objects(r, job.scale) for r in made) if job.output == "labels" else None
    known = [one for one in confidence if one is not None] or None
    source = job.source
    details = ResultDetails(job.output, axes, source.named_axes, source.level, job.model.rank, known)
    return [ImageDone(job.path, job.target, time.monotonic() - begin, objects, job.found.shown, details)]


def count_objects(labels: NDArray[Any], scale: Scale | None) -> int:
    """Count the objects of a frame; on another grid than that of the prediction the smallest may hold no pixel.

    Parameters
    ----------
    labels
        ``(1, *S)`` integers: object ids 1 .. N, 0 background.
    scale
        That of the prediction.
    """
    return int(labels.max()) if scale is None else len(np.unique(labels[labels > 0]))


def failure(path: Path, error: Exception, model: Model) -> PredictionFailure:
    """Return the failure of an image: an error of Septum, or that memory ran out."""
    if isinstance(error, SeptumError):
        return PredictionFailure(path, error)
    return PredictionFailure(
        path,
        DataError(
            f"{path}: the image and its result do not fit into the memory of this machine ({model.device.name})",
            "an image that fits into it",
            "give a memory limit with --max-memory, and write --format ome.zarr or tif",
        ),
    )


def frame_probabilities(
    tiler: TiledPredictor,
    frame: Readable,
    model: Model,
    *,
    tta: bool = False,
    stats: NDArray[np.float32] | None = None,
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predict one frame that is held in memory; see `septum.prediction.tiled.region_probabilities`.

    Parameters
    ----------
    tiler, frame, model
        The network, ``(C, *S)`` raw intensities, and the model of the network.
    tta
        Average the results of the mirrored and turned frame.
    stats
        ``(C, 3)`` float32, any values, by which the frame is normalized; None: its own.

    Yields
    ------
    probabilities, left
        ``(K, *S) float32`` in 0..1, final after the last tile, and the number of tiles left.
    """
    whole = tuple(slice(0, n) for n in frame.shape[1:])
    image = frame[(slice(None), *whole)]
    predict = averaged_probabilities if tta else region_probabilities
    return predict(tiler, image, statistics(image, model.header.normalization) if stats is None else stats, whole)


def predict_image(
    model: Model,
    image: Image,
    *,
    output: str | None = None,
    found: FoundScale | None = None,
    stats: NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """Predict one image in memory.

    Parameters
    ----------
    model
        From `septum.prediction.model.open_model`.
    image
        In canonical axes.
    output
        As in `septum.prediction.settings.PredictSettings`.
    found
        The scale, from `septum.prediction.scale.find_scale`; None: that of the training images.
    stats
        ``(C, 3)`` float32, any values: the statistics by which a part of a larger image is normalized; None: those of
        each frame.

    Returns
    -------
    ndarray
        ``([T,] C', [Z,] Y, X)``, the axes of the image: object ids or class values in the smallest integer type (one
        channel), or float32 probabilities in 0..1 (one channel for two classes, else one for each class).

    Raises
    ------
    ModelError
        If the dimensions or channels do not fit the model.
    UsageError
        If `output` is unknown, or objects are asked of a model of several classes.
    """
    resolved = resolve_output(output, model)
    found = found or FoundScale.at((1.0,) * model.rank, model)
    results = [
        postprocess(probabilities, model, resolved, spacing=spacing, sides=sides, objects=found.objects(spacing))[0]
        for probabilities, spacing, sides in _predicted_frames(model, image, found, stats)
    ]
    return _join_frames(results, image, model.rank)


def predict_objects(
    model: Model, image: Image, *, found: FoundScale | None = None
) -> tuple[NDArray[Any], list[NDArray[np.float32]] | None]:
    """Predict the objects of one image in memory, and how sure each is.

    Parameters
    ----------
    model, image, found
        As for `predict_image`; the model must be one of objects or of two classes.

    Returns
    -------
    labels
        ``([T,] 1, [Z,] Y, X)``, the axes of the image: object ids in the smallest integer type.
    confidence
        For each frame ``(N,) float32`` in 0..1: the probability that object 1 .. N matches a true object with an IoU of
        one half. None if the model does not know it: an older version trained it, or there were too few examples.

    Raises
    ------
    ModelError, UsageError
        As `predict_image`.
    """
    resolve_output("labels", model)
    made = [
        find_objects(probabilities[1], model.header, spacing=spacing, sides=sides)
        for probabilities, spacing, sides in _predicted_frames(model, image, found)
    ]
    confidence = [one for _, one in made if one is not None]
    return _join_frames([labels[None] for labels, _ in made], image, model.rank), confidence or None


def _predicted_frames(
    model: Model, image: Image, found: FoundScale | None, stats: NDArray[np.float32] | None = None
) -> Iterator[tuple[NDArray[np.float32], tuple[float, ...] | None, tuple[int, ...] | None]]:
    """Predict each frame; yield its probabilities, and `spacing` and `sides` as for `postprocess`."""
    frames = split_frames(image, model)
    found = found or FoundScale.at((1.0,) * model.rank, model)
    tiler = image_tiler(model, frames, found.grid)
    for frame in frames:
        if found.seen is not None:
            probabilities = found.seen.probabilities
        else:
            *_, (probabilities, _) = frame_probabilities(tiler, working_frame(frame, found.grid), model, stats=stats)
        sides, spacing = None if found.grid is None else frame.shape[1:], frame_spacing(image, model.rank, found.grid)
        yield probabilities, spacing, sides


def image_tiler(model: Model, frames: Sequence[Readable], scale: Scale | None) -> TiledPredictor:
    """Return the network for an image that is predicted in memory, by Septum's engine or PyTorch as the rule says."""
    network = model.computed_by(model.choose(work=frame_operations(model, frames, scale)).name == "septum")
    sides = working_frame(frames[0], scale).shape[1:]
    return TiledPredictor(network, model.device, largest_output(model.header.network, model.device, sides))


def frame_operations(model: Model, frames: Sequence[Readable], scale: Scale | None) -> int:
    """Return the number of operations of an image whose frames are computed in one tile each."""
    sides = model.network.geometry.input_for(working_frame(frames[0], scale).shape[1:])
    return operations(model.header.network, sides) * len(frames) * model.header.members


def _join_frames(results: Sequence[NDArray[Any]], source: Image, rank: int) -> NDArray[Any]:
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
