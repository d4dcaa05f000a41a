"""Predict an image whose frames are held in memory, one after the other, and write the result at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septum.arrays.normalize import statistics
from septum.errors import DataError, SeptumError
from septum.events import Event, Warned
from septum.io.image import Image
from septum.io.write import write_image
from septum.io.zarr_labels import write_labels
from septum.predict.block_run import Asked
from septum.predict.events import ImageDone, ImageStarted, TileDone
from septum.predict.frames import ImageFrame, frame_spacing, join_frames
from septum.predict.model import Model
from septum.predict.outputs import postprocess
from septum.predict.pipeline import BackgroundWriter
from septum.predict.tile_plan import TilePlan
from septum.predict.tiled import TiledPredictor, halved_text, region_probabilities


@dataclass(frozen=True)
class PredictionFailure:
    """An image that could not be predicted, and why."""

    path: Path
    error: SeptumError


@dataclass(frozen=True)
class Job:
    """One image and how it is predicted.

    Parameters
    ----------
    asked
        Where it lies, and what is written.
    frames
        What the network takes of it.
    layout
        Tiles and memory.
    modest
        There are other images or frames, and it takes so little of the memory that one of them may be there beside it.
    """

    asked: Asked
    frames: list[ImageFrame]
    layout: TilePlan
    modest: bool


def predict_whole(
    job: Job, source: Image, model: Model, place: tuple[int, int], behind: BackgroundWriter[Event | PredictionFailure]
) -> Iterator[Event | PredictionFailure]:
    """Predict an image frame by frame; a modest one is finished and written `behind`, while others are computed.

    Yields
    ------
    ImageStarted, TileDone and Warned, and ImageDone or a `PredictionFailure`; of an image that is written behind, the
    last when it is known, and on the way what is to be told of the image before.

    Raises
    ------
    SeptumError, MemoryError, torch.OutOfMemoryError
        If it cannot be read or computed.
    """
    begin = time.monotonic()
    asked, layout = job.asked, job.layout
    tiler = TiledPredictor(model.computed_by(layout.engine), model.device, layout.tile)
    seconds = tiler.seconds(layout.sides, layout.tiles)
    yield ImageStarted(asked.source, *place, layout.tiles, layout.sides, 0, layout.peak_bytes, seconds)
    results: list[Future[NDArray[Any]]] = []
    spacing, done = frame_spacing(source, model.rank), 0
    for number, frame in enumerate(job.frames, start=1):
        probabilities = np.empty(0, np.float32)
        for filled, left in frame_probabilities(tiler, frame, model, tta=asked.tta):
            probabilities, done = filled, done + 1
            later = (len(job.frames) - number) * layout.tiles // len(job.frames)
            yield TileDone(asked.source, done, done + left + later)
            yield from behind.tell()
        wait(results[-1:])  # one frame is finished while the next is computed, not more
        made = partial(postprocess, probabilities, model, asked.answer, spacing=spacing)
        results.append(behind.submit(made) if job.modest else _done(made()))
    if tiler.halved:
        yield Warned(halved_text(asked.source, tiler))
    write = partial(_write, job, source, model, results, begin)
    yield from behind.give(write) if job.modest else write()


def _done(result: NDArray[Any]) -> Future[NDArray[Any]]:
    future: Future[NDArray[Any]] = Future()
    future.set_result(result)
    return future


def _write(
    job: Job, source: Image, model: Model, results: Sequence[Future[NDArray[Any]]], begin: float
) -> list[Event | PredictionFailure]:
    """Write the results of all frames; of `source`, which may be closed by now, it takes what was known at its opening.

    Returns
    -------
    list
        What is to be told: ImageDone, or why it failed.
    """
    asked = job.asked
    try:
        made = [result.result() for result in results]
        joined, axes = join_frames(made, source, model.rank), source.axes
        if joined.shape[axes.index("C")] == 1:  # also in formats that do not say what their dimensions are
            joined, axes = joined.squeeze(axes.index("C")), axes.replace("C", "")
        size = source.pixel_size_um
        if asked.inside:
            write_labels(asked.source, asked.target.name, joined, axes=axes, pixel_size_um=size)
        else:
            ids = asked.answer != "probabilities"
            write_image(asked.target, joined, axes=axes, pixel_size_um=size, affine=source.affine, labels=ids)
    except (SeptumError, MemoryError, torch.OutOfMemoryError) as error:
        return [failure(asked.source, error, model)]
    objects = sum(int(r.max()) for r in made) if asked.answer == "labels" else None
    return [ImageDone(asked.source, asked.target, time.monotonic() - begin, objects)]


def failure(path: Path, error: Exception, model: Model) -> PredictionFailure:
    """Return why an image failed: an error of ours, or that the memory was not enough."""
    if isinstance(error, SeptumError):
        return PredictionFailure(path, error)
    return PredictionFailure(
        path,
        DataError(
            f"{path}: the image and its result do not fit into the memory of this machine ({model.device.name})",
            "an image that fits",
            "say how much memory may be taken with --max-memory, and write --format ome.zarr or tif",
        ),
    )


def frame_probabilities(
    tiler: TiledPredictor, frame: ImageFrame, model: Model, *, tta: bool = False
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predict one frame that is held in memory; see `septum.predict.tiled.region_probabilities`."""
    whole = tuple(slice(0, n) for n in frame.shape[1:])
    image = frame[(slice(None), *whole)]
    stats = statistics(image, model.header.normalization)
    return region_probabilities(tiler, image, stats, whole, tta=tta)
