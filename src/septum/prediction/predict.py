"""Predict files: open, plan, predict in memory or block by block; a file that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from septum.errors import FileError, SeptumError, UsageError
from septum.events import Event, Warned
from septum.io.image import Image
from septum.io.selection import Selection
from septum.io.zarr_labels import labels_place
from septum.nn.device import free_bytes
from septum.prediction.block_store import finished_images, open_work
from septum.prediction.domain_shift import image_warnings
from septum.prediction.events import ImageDone, ImageFailed, ImageSkipped, ImageStarted, Opened, Predicted, TileDone
from septum.prediction.frames import (
    FoundScale,
    ImageFrame,
    ImageJob,
    Scale,
    open_for_model,
    scale_by_pixel_size,
    split_frames,
    working_frame,
)
from septum.prediction.in_blocks import predict_in_blocks
from septum.prediction.in_memory import PredictionFailure, failure, frame_operations, predict_in_memory
from septum.prediction.memory import peak_bytes, resident_bytes, usual_limit
from septum.prediction.model import Model, model_file, open_model
from septum.prediction.outputs import (
    check_order,
    input_images,
    makes_objects,
    region_files,
    resolve_output,
    result_files,
    work_folder,
    written_by_pieces,
)
from septum.prediction.pipeline import BackgroundWriter, Prefetcher
from septum.prediction.scale import ScaleFinder, ScaleState, asked_factor, settle
from septum.prediction.settings import Output, PredictSettings
from septum.prediction.tile_plan import Request, plan_prediction
from septum.prediction.tta import tta_transforms
from septum.words import format_bytes

if TYPE_CHECKING:
    from septum.prediction.executors import DaskExecutor

# An image may be written while the next is computed if it takes at most this share of the free memory; the next image
# is opened ahead if its file is smaller than the memory limit by this factor (opening can mean reading).
_OVERLAP_SHARE, _SMALL_FILE = 0.25, 64


def predict_files(settings: PredictSettings) -> Iterator[Event]:
    """Predict images and write the results under the names of the images.

    Yields
    ------
    Opened; ImageSkipped for each image that is left out; ImageStarted, TileDone or BlockDone, Warned, ImageDone or
    ImageFailed for each other image; Predicted at the end. Of whole images that Dask's workers predict there is no
    ImageStarted and no TileDone.

    Raises
    ------
    SeptumError
        Before anything is written, if the model, the inputs or the options are wrong; at the end, if no image could be
        predicted: the error of the first image.
    """
    begin = time.monotonic()
    check_order(settings)
    settings = settings.model_copy(update={"model": model_file(settings.model)})
    images, messages = input_images(settings.inputs, settings.out)
    files = result_files(settings, images)
    regions = region_files(settings.region, list(images))
    model = open_model(settings.model, settings.device)
    output = resolve_output(settings.output, model)
    asked = asked_factor(settings.scale, settings.object_size, model.header)
    yield Opened(len(files), model.header.describe_release())
    for folder in dict.fromkeys(target.parent for _, target in files) if settings.out is not None else ():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            given = f"{folder}: {error.strerror}"
            raise FileError(given, "a folder that can be written", "give another -o") from None
    yield from map(Warned, messages)
    failures, done, warned = list[SeptumError](), 0, set[str]()
    part, parts = settings.shard or (1, 1)
    others = frozenset(image for k, (image, _) in enumerate(files) if k % parts != part - 1)
    skipped = finished_images(files, settings, regions) if settings.skip_existing else frozenset[Path]()
    yield from (ImageSkipped(image, target) for image, target in files if image in skipped and image not in others)
    with _executor(settings) as executor:
        run = _Run(settings, model, output, ScaleFinder(model), asked, executor, regions, others, skipped)
        for event in _predict_all(files, run):
            done += isinstance(event, ImageDone)
            if isinstance(event, PredictionFailure):
                failures.append(event.error)
                yield ImageFailed(event.path, str(event.error))
            elif not (isinstance(event, Warned) and event.cause in warned):
                yield event
                if isinstance(event, Warned) and event.cause:
                    warned.add(event.cause)
        if len(failures) == len(files):
            raise failures[0]
        peak = executor.peak_bytes() if executor is not None else peak_bytes()
        yield Predicted(done, len(failures), time.monotonic() - begin, peak)


def _executor(settings: PredictSettings) -> Any:
    """Return the context of the workers that share the work; of None if this process does it alone."""
    if settings.workers is None:
        return nullcontext()
    from septum.prediction.executors import open_executor

    return open_executor(settings.workers, settings.device)


@dataclass(frozen=True)
class _Run:
    """What all images of a prediction have in common.

    `finder` measures scales unless one is `asked` for; `regions`: masks of the parts to predict; `others`: images of
    other parts of a job array; `skipped`: images that have a result; `later`: about the number of images that come in
    later calls.
    """

    settings: PredictSettings
    model: Model
    output: Output
    finder: ScaleFinder
    asked: float | None
    executor: DaskExecutor | None = None
    regions: Mapping[Path, Path] = field(default_factory=dict)
    others: frozenset[Path] = frozenset()
    skipped: frozenset[Path] = frozenset()
    later: int = 0

    def is_own(self, image: Path) -> bool:
        """Return True if this process, or its workers, predict an image as a whole."""
        return image not in self.others and image not in self.skipped

    def must_open(self, image: Path, target: Path) -> bool:
        """Return True if an image is predicted, here or in shared blocks, or may give the scale of later ones."""
        by_blocks = written_by_pieces(target, label_image=self.settings.label_image is not None)
        return self.is_own(image) or self.is_searching or (by_blocks and image not in self.skipped)

    @property
    def is_searching(self) -> bool:
        """True while the scale is not decided, which each image may decide, also one that is not predicted."""
        return self.asked is None and self.finder.measures and not self.finder.decided


@dataclass(frozen=True)
class _OpenedImage:
    """An opened image, and the warnings about it; None if they are not known yet."""

    path: Path
    source: Image
    frames: list[ImageFrame]
    warnings: list[Warned] | None
    message: str = ""

    def close(self) -> None:
        """Close the file."""
        self.source.close()


@dataclass(frozen=True)
class _Place:
    """The file or label image to write for image number `index`, from 0, of `count`."""

    target: Path
    index: int
    count: int


def _predict_all(files: list[tuple[Path, Path]], run: _Run) -> Iterator[Event | PredictionFailure]:
    """Predict every image; an image that fails does not stop the others."""
    whole: list[tuple[tuple[Path, Path], ScaleState]] = []
    label = run.settings.label_image
    with Prefetcher(partial(_open, run=run)) as ahead, BackgroundWriter[Event | PredictionFailure]() as writer:
        for index, (path, target) in enumerate(files):
            own = run.is_own(path)
            if not run.must_open(path, target):
                continue
            try:
                if label is not None and own and not run.is_searching:
                    labels_place(path, label)
                with ahead.take(path) as image:
                    state = run.finder.state
                    plan = partial(_plan, image, _Place(target, index, len(files)), run)
                    found = _known_scale(image, target, run)
                    job = plan(found or FoundScale.at((run.finder.start,) * run.model.rank, run.model))
                    if writer.busy and not job.overlap:  # an unwritten image takes memory: plan again without it
                        yield from writer.wait()
                        job = plan(job.found, engine=job.plan.engine)
                    if job.overlap:
                        _open_next(ahead, next((f for f in files[index + 1 :] if run.must_open(*f)), None), run)
                    here = own and run.executor is None
                    if found is None and (here or job.plan.block is not None or not run.finder.decided):
                        job = settle(job, run.finder, plan)
                        if writer.busy and not job.overlap:
                            yield from writer.wait()
                    shared = job.plan.block is not None and path not in run.skipped
                    if not own and (not shared or (label is not None and target.exists())):
                        continue
                    if label is not None:  # an image that cannot get labels has told about the scale all the same
                        labels_place(path, label)
                    own = True
                    if job.plan.block is None and run.executor is not None:
                        whole.append(((path, target), state))
                        continue
                    yield from _said(image, job)
                    if job.plan.block is not None:
                        yield from predict_in_blocks(job, run.executor)
                    else:
                        yield from predict_in_memory(job, writer)
            except (SeptumError, MemoryError, torch.OutOfMemoryError) as error:
                yield from writer.wait()
                if own or (path in run.others and len(run.others) == len(files)):
                    yield failure(path, error, run.model)
                elif path in run.others:
                    yield Warned(f"{path} cannot be predicted; the part of the job array that has it says why")
        yield from writer.wait()
    if run.executor is not None:
        yield from run.executor.predict_images(predict_on_worker, run.settings, whole)


def _open(path: Path, run: _Run) -> _OpenedImage:
    """Open an image and compare it with the training images; who predicts an image whole compares it."""
    selection = Selection.asked(run.settings)
    source, message = open_for_model(path, run.model, axes=run.settings.axes, selection=selection)
    try:
        image = _OpenedImage(path, source, split_frames(source, run.model), None, message)
        here = run.executor is None and run.is_own(path)
        return replace(image, warnings=_warnings(image, run.model)) if here else image
    except BaseException:
        source.close()
        raise


def _warnings(image: _OpenedImage, model: Model) -> list[Warned]:
    source, header = image.source, model.header
    warnings = image_warnings(image.frames, source.name, source.pixel_size_um, header.domain, header.normalization)
    axes = [Warned(image.message, "axes")] if image.message else []
    return axes + [Warned(text, cause) for cause, text in warnings]


def _open_next(ahead: Prefetcher[_OpenedImage], following: tuple[Path, Path] | None, run: _Run) -> None:
    """Open the next image ahead, unless it may be large: opening can mean reading it."""
    if following is None or run.executor is not None:
        return
    path = following[0]
    with suppress(OSError):  # the error is raised when it is the turn of this image
        if not path.is_file() or path.stat().st_size <= _limit(run.settings) // _SMALL_FILE:
            ahead.begin(path)


@lru_cache(maxsize=1)
def _opened(path: Path, device: str) -> Model:
    """Open a model once for each worker."""
    return open_model(path, device)


def predict_on_worker(
    work: tuple[PredictSettings, tuple[Path, Path], ScaleState, int],
) -> list[Event | PredictionFailure]:
    """Predict one whole image on a worker; return its events but those of tiles.

    Parameters
    ----------
    work
        The settings; the image and its result; what earlier images tell about the scale; about the number of images
        that this worker will predict later.
    """
    settings, files, state, later = work
    alone = settings.model_copy(update={"workers": None, "skip_existing": False})
    model = _opened(settings.model, settings.device)
    asked = asked_factor(settings.scale, settings.object_size, model.header)
    run = _Run(alone, model, resolve_output(settings.output, model), ScaleFinder(model, state), asked, later=later)
    run = replace(run, regions=region_files(settings.region, [files[0]]))
    events = _predict_all([files], run)
    return [event for event in events if not isinstance(event, TileDone | ImageStarted)]


def _known_scale(image: _OpenedImage, target: Path, run: _Run) -> FoundScale | None:
    """Return the scale of an image where it need not be measured: asked for, begun, by pixel sizes, or always 1."""
    model = run.model
    if run.asked is not None:
        return FoundScale.at((run.asked,) * model.rank, model)
    unfinished = work_folder(target)
    begun = open_work(unfinished).plan.scale if unfinished.exists() else None
    if begun is not None:
        return FoundScale(tuple(factor / model.header.scale for factor in begun), begun)
    one = None if run.finder.measures and not unfinished.exists() else FoundScale.at((1.0,) * model.rank, model)
    return scale_by_pixel_size(image.source.pixel_size_um, model) or one


def _said(image: _OpenedImage, job: ImageJob) -> list[Warned]:
    """Return the warnings about an image: its scale is said instead of what it mends."""
    warnings = _warnings(image, job.model) if image.warnings is None else image.warnings
    if job.found.shown is not None:
        warnings = [warning for warning in warnings if warning.cause != "pixel size"]
    if job.found.text:
        text = f"{image.path}: {job.found.text} (reported once; each result names its scale)"
        warnings = [*warnings, Warned(text, "scale")]
    if job.settings.in_blocks and job.plan.block is None:  # the format has no pieces
        text = f"{job.target.name} is written whole, so that --in-blocks has no effect"
        warnings = [*warnings, Warned(f"{text}: give --format tif or ome.zarr (reported once)", "in blocks")]
    return warnings


def _engine(image: _OpenedImage, scale: Scale | None, run: _Run, left: int) -> bool:
    """Return True if Septum's engine computes an image, as if the `left` images after it were as large as it is."""
    model, settings = run.model, run.settings
    versions = len(tta_transforms(model.network.geometry)) if settings.tta else 1
    work = frame_operations(model, image.frames, scale) * versions
    coming = work * (left + run.later) / (settings.shard or (1, 1))[1]
    room = _limit(settings) // _processes(run) - resident_bytes()
    return model.choose(settings.engine, work=work, coming=coming, room=room).name == "septum"


def _plan(image: _OpenedImage, place: _Place, run: _Run, found: FoundScale, *, engine: bool | None = None) -> ImageJob:
    """Plan an image at a scale: in memory if it fits, else block by block.

    Workers get blocks of an image; if there is an image to predict for each worker, each gets whole images. `engine`:
    Septum's engine computes; None: by rule.
    """
    model, settings, frames = run.model, run.settings, image.frames
    target, index, count = place.target, place.index, place.count
    if engine is None:
        engine = _engine(image, found.grid, run, count - index - 1)
    pieces = written_by_pieces(target, label_image=settings.label_image is not None)
    # The blocks of an unfinished result are kept, although others might suit the memory of today better.
    unfinished = work_folder(target)
    begun = open_work(unfinished).plan.block if unfinished.exists() else None
    # Parts of a job array see other results, and must agree: they count all images.
    predicted = count - len(run.skipped) if settings.shard is None else count
    shared = run.executor is not None and predicted < run.executor.processes
    request = Request(
        network=model.header.network,
        members=model.header.members,
        shape=working_frame(frames[0], found.grid).shape[1:],
        frames=len(frames),
        channels=frames[0].shape[0],
        itemsize=image.source.dtype.itemsize,
        held=not image.source.lazy,
        probabilities=run.output == "probabilities",
        objects=makes_objects(run.output, model.header),
        versions=len(tta_transforms(model.network.geometry)) if settings.tta else 1,
        engine=engine,
        tile=settings.tile,
        blocks=begun or (pieces and (settings.in_blocks or shared)),
        own=None if found.grid is None else frames[0].shape[1:],
    )
    limit, held = _limit(settings) // _processes(run), resident_bytes()
    plan = plan_prediction(request, held=held, limit=limit, device_limit=free_bytes(model.device))
    if plan.block is not None and not pieces:
        larger = max(found.factors) > 1
        otherwise = f"; --scale 1 predicts it without enlarging it {found.factors[-1]:.2g} times" if larger else ""
        raise UsageError(
            f"{target.name}: the image and its result do not fit into {format_bytes(_limit(settings))}",
            "a format that is written piece by piece",
            f"write --format tif or ome.zarr, or give more with --max-memory{otherwise}",
        )
    several = plan.block is None and (count > 1 or len(frames) > 1)
    overlap = several and plan.peak_bytes - held <= (limit - held) * _OVERLAP_SHARE
    if overlap:  # images that are opened or written at the same time take no more than this one
        plan = replace(plan, peak_bytes=2 * plan.peak_bytes - held)
    return ImageJob(
        settings=settings,
        model=model,
        output=run.output,
        path=image.path,
        target=target,
        index=index,
        count=count,
        source=image.source,
        frames=frames,
        plan=plan,
        found=found,
        overlap=overlap,
        region=run.regions.get(image.path),
    )


def _processes(run: _Run) -> int:
    return run.executor.processes if run.executor is not None else 1


def _limit(settings: PredictSettings) -> int:
    return settings.max_memory or usual_limit()
