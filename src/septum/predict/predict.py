"""Predict files: open, plan, predict whole or block by block; one bad file never stops the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from septum.errors import FileError, SeptumError, UsageError
from septum.events import Event, Warned
from septum.io.formats import RESULT_SUFFIXES, format_of, result_suffix
from septum.io.image import Image
from septum.io.open import list_images, open_image
from septum.io.paths import image_stem, image_suffix
from septum.io.zarr_labels import labels_place
from septum.nn.device import free_bytes
from septum.predict.block_run import Asked, predict_in_blocks
from septum.predict.block_store import block_of_unfinished
from septum.predict.domain_shift import shift_warnings
from septum.predict.events import ImageFailed, ImageStarted, Predicted, TileDone
from septum.predict.executors import Executor, SerialExecutor, open_executor
from septum.predict.frames import ImageFrame, frame_spacing, join_frames, split_frames
from septum.predict.in_memory import Job, PredictionFailure, failure, frame_probabilities, predict_whole
from septum.predict.memory import format_bytes, resident_bytes, usual_limit
from septum.predict.model import Model, open_model
from septum.predict.network_memory import operations
from septum.predict.outputs import Answer, Output, makes_objects, postprocess, resolve_output
from septum.predict.pipeline import BackgroundWriter, Prefetcher
from septum.predict.settings import PredictSettings
from septum.predict.tile_plan import Request, plan_prediction
from septum.predict.tiled import TiledPredictor, largest_output, tta_transforms

# An image that takes no more than this share of the free memory is written while others are computed; the next is
# opened meanwhile if its file is so many times smaller than the memory.
_MODEST, _SMALL_FILE = 0.25, 64


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path


def predict_files(settings: PredictSettings) -> Iterator[Event]:
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
    if settings.output == "probabilities" and settings.format is not None:
        suffix = f".{settings.format}"
        if result_suffix(suffix, floats=True) != suffix:
            floats = [s[1:] for s in RESULT_SUFFIXES if result_suffix(s, floats=True) == s]
            given = f"--probabilities with --format {settings.format}"
            raise UsageError(given, ", ".join(floats), "the format holds no float32")
    answer = resolve_output(settings.output, model)
    tasks = _tasks(settings)
    if settings.out is not None:
        try:
            settings.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            given = f"{settings.out}: {error.strerror}"
            raise FileError(given, "a folder that can be written", "give another -o") from None
    failures: list[SeptumError] = []
    said: set[str] = set()
    with open_executor(settings.workers, settings.dask, settings.device) as crew:
        for record in _predict_all(tasks, _Run(model, answer, settings, crew, len(tasks))):
            if isinstance(record, PredictionFailure):
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
class _Run:
    """What is the same for all images of a prediction: `count` are here, about `later` will come in other calls."""

    model: Model
    answer: Answer
    settings: PredictSettings
    crew: Executor
    count: int
    later: int = 0


@dataclass(frozen=True)
class _Opened:
    """An image, opened, and in what it is unlike those of the training; None where nobody looked."""

    source: Image
    frames: list[ImageFrame]
    unlike: list[Warned] | None

    def close(self) -> None:
        """Close the file."""
        self.source.close()


def _predict_all(tasks: list[_Task], run: _Run) -> Iterator[Event | PredictionFailure]:
    """Predict every image; an image that fails does not stop the others."""
    whole: list[_Task] = []
    behind = BackgroundWriter[Event | PredictionFailure]()
    with Prefetcher(partial(_open, run=run)) as ahead, behind:
        for index, task in enumerate(tasks):
            try:
                with ahead.take(task.source) as image:
                    job = _plan_file(task, image, run, index)
                    if behind.busy and not job.modest:  # what is not written yet takes memory
                        yield from behind.wait()
                        job = _plan_file(task, image, run, index)
                    if job.modest:
                        _open_next(ahead, tasks[index + 1 :], run)
                    if job.layout.block is None and run.crew.shared:
                        whole.append(task)
                        continue
                    yield from _unlike(image, run) if image.unlike is None else image.unlike
                    place = (index, len(tasks))
                    if job.layout.block is not None:
                        yield from predict_in_blocks(job.asked, image.source, run.model, job.layout, run.crew, place)
                    elif _own(index, run.settings.shard):
                        yield from predict_whole(job, image.source, run.model, place, behind)
            except (SeptumError, MemoryError, torch.OutOfMemoryError) as error:
                yield from behind.wait()
                yield failure(task.source, error, run.model)
        yield from behind.wait()
    later = max(0, len(whole) // run.crew.processes - 1)
    for records in run.crew.map(_predict_elsewhere, [(run.settings, task, later) for task in whole]):
        yield from records


def _own(index: int, shard: tuple[int, int] | None) -> bool:
    return shard is None or index % shard[1] == shard[0] - 1


def _open(path: Path, run: _Run) -> _Opened:
    """Open an image and look at it; images that others predict whole are looked at there."""
    source = open_image(path, axes=run.settings.axes)
    try:
        image = _Opened(source, split_frames(source, run.model), None)
        return image if run.crew.shared else replace(image, unlike=_unlike(image, run))
    except BaseException:
        source.close()
        raise


def _unlike(image: _Opened, run: _Run) -> list[Warned]:
    return [Warned(text, cause) for cause, text in unlike(image.source.name, image.frames, image.source, run.model)]


def _open_next(ahead: Prefetcher[_Opened], tasks: Sequence[_Task], run: _Run) -> None:
    """Open the next image ahead, unless it may be large: opening can mean reading it."""
    if not tasks or run.crew.shared:
        return
    path = tasks[0].source
    with suppress(OSError):  # what is wrong with it is said when its turn comes
        if not path.is_file() or path.stat().st_size <= _limit(run.settings) // _SMALL_FILE:
            ahead.begin(path)


@lru_cache(maxsize=1)
def _opened(path: Path, device: str) -> Model:
    """Open a model once a worker."""
    return open_model(path, device)


def _predict_elsewhere(work: tuple[PredictSettings, _Task, int]) -> list[Event | PredictionFailure]:
    """Predict one whole image on a worker, to whom about so many more will come; return what it said, but the tiles."""
    settings, task, later = work
    alone = settings.model_copy(update={"workers": None, "dask": None})
    model = _opened(settings.model, settings.device)
    records = _predict_all(
        [task], _Run(model, resolve_output(settings.output, model), alone, SerialExecutor(), 1, later)
    )
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
        floats = settings.output == "probabilities"
        wanted = f".{settings.format}" if settings.format else result_suffix(image_suffix(source), floats=floats)
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


def _plan_file(task: _Task, image: _Opened, run: _Run, index: int) -> Job:
    """Say how image number `index` is predicted: in memory where it fits, else block by block.

    Workers that share the work get blocks of an image; where there is an image for each, each gets a whole one.
    """
    model, settings, crew, source, frames = run.model, run.settings, run.crew, image.source, image.frames
    demand = Request(
        shape=frames[0].shape[1:],
        frames=len(frames),
        channels=frames[0].shape[0],
        itemsize=source.dtype.itemsize,
        held=not source.lazy,
        maps=model.header.network.classes,
        raw=run.answer == "probabilities",
        objects=makes_objects(run.answer, model.header),
        rounds=len(tta_transforms(model.network.geometry)) if settings.tta else 1,
        members=model.header.members,
    )
    inside = settings.inside is not None
    written = format_of(task.target.name)
    piecewise = inside or (written is not None and written.by_blocks)
    begun = block_of_unfinished(task.target)  # kept, although another block might suit the memory of today better
    limit, base = _limit(settings) // crew.processes, resident_bytes()
    work = _operations(model, demand.shape) * demand.frames * demand.rounds * demand.members
    # If all images are as large as this one.
    coming = work * (run.count - index - 1 + run.later) / (settings.shard or (1, 1))[1]
    choice = model.choose(settings.engine, work=work, coming=coming, room=limit - base)
    base = resident_bytes()  # with the engine
    layout = plan_prediction(
        demand,
        model.header.network,
        base=base,
        limit=limit,
        device_limit=free_bytes(model.device),
        tile=settings.tile,
        blocks=begun or (piecewise and (settings.blocks or (crew.shared and run.count < crew.processes))),
        engine=choice.name == "septum",
    )
    if layout.block is not None and not piecewise:
        raise UsageError(
            f"{task.target.name}: the image and its result do not fit into {format_bytes(_limit(settings))}",
            "a format that is written piece by piece",
            "write --format tif or ome.zarr, or give more with --max-memory",
        )
    asked = Asked(
        task.source, task.target, settings.model, settings.axes, run.answer, settings.tta, inside, settings.shard
    )
    overlaps = layout.block is None and (run.count > 1 or len(frames) > 1)
    modest = overlaps and layout.peak_bytes - base <= (limit - base) * _MODEST
    if modest:  # what is finished and opened beside it takes no more than this image does
        layout = replace(layout, peak_bytes=2 * layout.peak_bytes - base)
    return Job(asked, frames, layout, modest)


def unlike(name: str, frames: Sequence[ImageFrame], source: Image, model: Model) -> Iterator[tuple[str, str]]:
    """Say in what an image is unlike those of the training; of a series the middle frame is looked at.

    Yields
    ------
    cause, text
        As `septum.predict.domain_shift.shift_warnings`; the text says that each cause is said once, which is up to the
        caller.
    """
    if model.header.seen is not None:
        frame = frames[len(frames) // 2]
        for cause, text in shift_warnings(frame, name, source.pixel_size_um, model.header.seen):
            yield cause, f"{text} (said once, also for other images of this kind)"


def _operations(model: Model, shape: Sequence[int]) -> int:
    """Return about how many operations an image takes, done at once."""
    return operations(model.header.network, model.network.geometry.input_for(shape))


def _limit(settings: PredictSettings) -> int:
    return settings.max_memory or usual_limit()


def predict_image(model: Model, image: Image, *, output: Output = "auto") -> NDArray[Any]:
    """Predict one image in memory.

    Parameters
    ----------
    model
        From `septum.predict.model.open_model`.
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
    answer = resolve_output(output, model)
    frames = split_frames(image, model)
    work = sum(_operations(model, frame.shape[1:]) for frame in frames)
    network = model.computed_by(model.choose(work=work).name == "septum")
    tiler = TiledPredictor(network, model.device, largest_output(model.header.network, model.device))
    results = []
    for frame in frames:
        *_, (probabilities, _) = frame_probabilities(tiler, frame, model)
        results.append(postprocess(probabilities, model, answer, spacing=frame_spacing(image, model.rank)))
    return join_frames(results, image, model.rank)
