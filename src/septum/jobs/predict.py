"""Predict files: open, tile, compute, write; one bad file never stops the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septum.arrays.normalize import statistics
from septum.errors import DataError, FileError, SeptumError, UsageError
from septum.io.images import Image, list_images, write_image
from septum.io.names import image_stem, image_suffix
from septum.io.source import Source, open_image, source_of
from septum.io.zarr_labels import labels_place, write_labels
from septum.jobs.answer import Answer, Output, answer_of, finish
from septum.jobs.block_run import Asked, predict_in_blocks
from septum.jobs.crew import Alone, Crew, gather
from septum.jobs.familiar import unfamiliar
from septum.jobs.frames import Frame, frame_spacing, join_frames, split_frames
from septum.jobs.infer import Tiler, halved_text, largest_output, region_probabilities, versions
from septum.jobs.layout import Demand, Layout, plan_layout
from septum.jobs.memory import bytes_text, resident_bytes, usual_limit
from septum.jobs.model import Model, open_model
from septum.jobs.predict_settings import PredictSettings
from septum.jobs.records import ImageDone, ImageFailed, ImageStarted, Predicted, PredictRecord, TileDone, Warned
from septum.jobs.work import block_of_unfinished
from septum.nn.device import free_bytes
from septum.nn.memory import operations

# What a result is written as, by the ending of its input: never a lossy format, labels where the input's format can
# hold them.
_ENDING = {
    ".jpg": ".png",
    ".jpeg": ".png",
    ".bmp": ".png",
    ".gif": ".png",
    ".tiff": ".tif",
    ".ome.tiff": ".ome.tif",
    ".zarr": ".ome.zarr",
}
_BY_BLOCKS = (".tif", ".ome.tif", ".ome.zarr")  # formats that are written piece by piece


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path


def predict_files(settings: PredictSettings) -> Iterator[PredictRecord]:
    """Predict images and write the results under the images' names.

    Yields
    ------
    ImageStarted, TileDone or BlockDone, ImageDone or ImageFailed for each image; Predicted at the end.

    Raises
    ------
    SeptumError
        Before anything is written, where the model, the inputs or the options are wrong; at the end, the first image's
        error if no image could be predicted.
    """
    begin = time.monotonic()
    _check_shares(settings)
    model = open_model(settings.model, settings.device)
    if settings.output == "probabilities" and settings.format == "png":
        raise UsageError("--probabilities with --format png", "tif, ome.zarr, nii.gz or npy", "PNG holds no float32")
    answer = answer_of(settings.output, model)
    tasks = _tasks(settings)
    if settings.out is not None:
        try:
            settings.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            given = f"{settings.out}: {error.strerror}"
            raise FileError(given, "a folder that can be written", "give another -o") from None
    failures: list[SeptumError] = []
    said: set[str] = set()
    with gather(settings.workers, settings.dask, settings.device) as crew:
        for record in _predict_all(tasks, model, answer, settings, crew):
            if isinstance(record, _Failure):
                failures.append(record.error)
                yield ImageFailed(record.path, str(record.error))
            elif not (isinstance(record, Warned) and record.cause in said):
                yield record
                if isinstance(record, Warned) and record.cause:
                    said.add(record.cause)
        if len(failures) == len(tasks):
            raise failures[0]
        seconds = time.monotonic() - begin
        yield Predicted(len(tasks) - len(failures), len(failures), seconds, crew.peak_bytes())


@dataclass(frozen=True)
class _Failure:
    path: Path
    error: SeptumError


def _predict_all(
    tasks: list[_Task], model: Model, answer: Answer, settings: PredictSettings, crew: Crew
) -> Iterator[PredictRecord | _Failure]:
    """Predict every image; an image that fails does not stop the others."""
    whole: list[tuple[PredictSettings, _Task]] = []
    for index, task in enumerate(tasks):
        try:
            with open_image(task.source, axes=settings.axes) as source:
                job = _plan_file(task, source, model, answer, settings, crew, several=len(tasks) >= crew.processes)
                if job.layout.block is not None or not crew.shared:  # whole images are looked at where they are read
                    for cause, text in unlike(str(task.source), job.frames, source, model):
                        yield Warned(text, cause)
                if job.layout.block is not None:
                    yield from predict_in_blocks(job.asked, source, model, job.layout, crew, (index, len(tasks)))
                elif crew.shared:
                    whole.append((settings, task))
                elif settings.shard is None or index % settings.shard[1] == settings.shard[0] - 1:
                    yield from _predict_in_memory(job, source, model, (index, len(tasks)))
        except SeptumError as error:
            yield _Failure(task.source, error)
        except (MemoryError, torch.OutOfMemoryError):
            yield _Failure(task.source, _too_large(task.source, model))
    for records in crew.map(_predict_elsewhere, whole):
        yield from records


@lru_cache(maxsize=1)
def _opened(path: Path, device: str) -> Model:
    """Open a model once a worker."""
    return open_model(path, device)


def _predict_elsewhere(work: tuple[PredictSettings, _Task]) -> list[PredictRecord | _Failure]:
    """Predict one whole image on a worker; return what it said, but the tiles."""
    settings, task = work
    alone = settings.model_copy(update={"workers": None, "dask": None})
    model = _opened(settings.model, settings.device)
    records = _predict_all([task], model, answer_of(settings.output, model), alone, Alone())
    return [r for r in records if not isinstance(r, TileDone | ImageStarted)]


def _check_shares(settings: PredictSettings) -> None:
    chosen = [name for name in ("workers", "dask", "shard") if getattr(settings, name) is not None]
    if len(chosen) > 1:
        raise UsageError(" and ".join(f"--{name}" for name in chosen), "one of them", "leave the others out")
    if settings.shard is not None and not 1 <= settings.shard[0] <= settings.shard[1]:
        raise UsageError(f"--shard {settings.shard[0]}/{settings.shard[1]}", "1/N to N/N", "count the parts from 1")


def _tasks(settings: PredictSettings) -> list[_Task]:
    """Pair inputs with result files; refuse two results of one name and the overwriting of an input."""
    tasks: dict[Path, _Task] = {}
    for source in list_images(settings.inputs):
        if settings.out is None:
            target = labels_place(source, str(settings.inside))
            tasks[target] = _Task(source, target)
            continue
        wanted = f".{settings.format}" if settings.format else _result_ending(image_suffix(source), settings)
        target = settings.out / (image_stem(source) + wanted)
        if target.resolve() == source.resolve():
            raise UsageError(f"{source}: the result would overwrite the input", "another folder", "give another -o")
        if target in tasks:
            raise UsageError(
                f"{tasks[target].source} and {source} would both be written to {target}",
                "inputs of different names",
                "predict them into different folders",
            )
        tasks[target] = _Task(source, target)
    return list(tasks.values())


def _result_ending(ending: str, settings: PredictSettings) -> str:
    ending = _ENDING.get(ending, ending)
    if settings.output == "probabilities" and ending == ".png":
        return ".tif"  # PNG holds no float32
    return ending


@dataclass(frozen=True)
class _Job:
    """One image and how it is predicted."""

    asked: Asked
    frames: list[Frame]
    layout: Layout


def _plan_file(
    task: _Task,
    source: Source,
    model: Model,
    answer: Answer,
    settings: PredictSettings,
    crew: Crew,
    *,
    several: bool,
) -> _Job:
    """Say how one image is predicted: in memory where it fits, else block by block.

    Workers that share the work get blocks of an image; of `several` images each gets a whole one.
    """
    frames = split_frames(source, model)
    demand = Demand(
        shape=frames[0].shape[1:],
        frames=len(frames),
        channels=frames[0].shape[0],
        itemsize=source.dtype.itemsize,
        held=not source.lazy,
        maps=model.header.network.classes,
        raw=answer == "probabilities",
        objects=answer == "labels",
        rounds=len(versions(model.network.geometry)) if settings.tta else 1,
        members=model.header.members,
    )
    inside = settings.inside is not None
    piecewise = inside or image_suffix(task.target) in _BY_BLOCKS
    begun = block_of_unfinished(task.target)  # kept, although another block might suit the memory of today better
    limit = _limit(settings) // crew.processes
    work = _operations(model, demand.shape) * demand.frames * demand.rounds * demand.members
    choice = model.choose(settings.engine, work=work, room=limit - resident_bytes())
    layout = plan_layout(
        demand,
        model.header.network,
        base=resident_bytes(),
        limit=limit,
        device_limit=free_bytes(model.device),
        tile=settings.tile,
        blocks=begun or (piecewise and (settings.blocks or (crew.shared and not several))),
        engine=choice.name == "septum",
    )
    if layout.block is not None and not piecewise:
        raise UsageError(
            f"{task.target.name}: the image and its result do not fit into {bytes_text(_limit(settings))}",
            "a format that is written piece by piece",
            "write --format tif or ome.zarr, or give more with --max-memory",
        )
    asked = Asked(task.source, task.target, settings.model, settings.axes, answer, settings.tta, inside, settings.shard)
    return _Job(asked, frames, layout)


def unlike(name: str, frames: Sequence[Frame], source: Source, model: Model) -> Iterator[tuple[str, str]]:
    """Say in what an image is unlike those of the training; of a series the middle frame is looked at.

    Yields
    ------
    cause, text
        As `septum.jobs.familiar.unfamiliar`; the text says that each cause is said once, which is up to the caller.
    """
    if model.header.seen is not None:
        frame = frames[len(frames) // 2]
        for cause, text in unfamiliar(frame, name, source.pixel_size_um, model.header.seen):
            yield cause, f"{text} (said once, also for other images of this kind)"


def _operations(model: Model, shape: Sequence[int]) -> int:
    """Return about how many operations an image takes, done at once."""
    return operations(model.header.network, model.network.geometry.input_for(shape))


def _limit(settings: PredictSettings) -> int:
    return settings.max_memory or usual_limit()


def _predict_in_memory(job: _Job, source: Source, model: Model, place: tuple[int, int]) -> Iterator[PredictRecord]:
    """Predict frame by frame, each held in memory, and write the result at once."""
    begin = time.monotonic()
    asked, layout = job.asked, job.layout
    tiler = Tiler(model.computed_by(layout.engine), model.device, layout.tile)
    seconds = tiler.seconds(layout.sides, layout.tiles)
    yield ImageStarted(asked.source, *place, layout.tiles, layout.sides, 0, layout.peak_bytes, seconds)
    results, done = [], 0
    for number, frame in enumerate(job.frames, start=1):
        probabilities = np.empty(0, np.float32)
        for filled, left in frame_probabilities(tiler, frame, model, tta=asked.tta):
            probabilities, done = filled, done + 1
            later = (len(job.frames) - number) * layout.tiles // len(job.frames)
            yield TileDone(asked.source, done, done + left + later)
        results.append(finish(probabilities, model, asked.answer, spacing=frame_spacing(source, model.rank)))
    if tiler.halved:
        yield Warned(halved_text(asked.source, tiler))
    joined, axes = join_frames(results, source, model.rank), source.axes
    if joined.shape[axes.index("C")] == 1:  # also in formats that do not say what their dimensions are
        joined, axes = joined.squeeze(axes.index("C")), axes.replace("C", "")
    size = source.pixel_size_um
    if asked.inside:
        write_labels(asked.source, asked.target.name, joined, axes=axes, pixel_size_um=size)
    else:
        ids = asked.answer != "probabilities"
        write_image(asked.target, joined, axes=axes, pixel_size_um=size, affine=source.affine, labels=ids)
    objects = sum(int(r.max()) for r in results) if asked.answer == "labels" else None
    yield ImageDone(asked.source, asked.target, time.monotonic() - begin, objects)


def frame_probabilities(
    tiler: Tiler, frame: Frame, model: Model, *, tta: bool = False
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predict one frame that is held in memory; see `septum.jobs.infer.region_probabilities`."""
    whole = tuple(slice(0, n) for n in frame.shape[1:])
    image = frame[(slice(None), *whole)]
    stats = statistics(image, model.header.normalization)
    return region_probabilities(tiler, image, stats, whole, tta=tta)


def _too_large(source: Path, model: Model) -> SeptumError:
    return DataError(
        f"{source}: the image and its result do not fit into the memory of this machine ({model.device.name})",
        "an image that fits",
        "say how much memory may be taken with --max-memory, and write --format ome.zarr or tif",
    )


def predict_image(model: Model, image: Image, *, output: Output = "auto") -> NDArray[Any]:
    """Predict one image in memory.

    Parameters
    ----------
    model
        From `septum.jobs.model.open_model`.
    image
        In canonical axes.
    output
        See `PredictSettings`.

    Returns
    -------
    ndarray
        In the image's axes: object ids or class values (one channel), or float32 probabilities (one channel for two
        classes, else one a class).

    Raises
    ------
    ModelError
        If the dimensions or channels do not fit the model.
    UsageError
        If objects are asked of a model of several classes.
    """
    answer = answer_of(output, model)
    source = source_of(image)
    frames = split_frames(source, model)
    work = sum(_operations(model, frame.shape[1:]) for frame in frames)
    network = model.computed_by(model.choose(work=work).name == "septum")
    tiler = Tiler(network, model.device, largest_output(model.header.network, model.device))
    results = []
    for frame in frames:
        *_, (probabilities, _) = frame_probabilities(tiler, frame, model)
        results.append(finish(probabilities, model, answer, spacing=frame_spacing(source, model.rank)))
    return join_frames(results, source, model.rank)
