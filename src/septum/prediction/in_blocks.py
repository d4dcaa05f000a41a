"""Predict an image block by block: in bounded memory, resumable, shared among processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from math import prod
from typing import TYPE_CHECKING

from septum.axes import walked_axes
from septum.events import Event, Warned
from septum.io.atomic import replace_folder
from septum.io.formats import format_of
from septum.io.selection import describe_level
from septum.io.tiff_write import write_tiff_from
from septum.io.zarr_labels import add_labels
from septum.io.zarr_write import ZarrTarget, add_pyramid
from septum.prediction.block_stages import PROBABILITIES, Blocks
from septum.prediction.block_store import (
    BlockPlan,
    BlockTask,
    Work,
    absolute,
    digest,
    pending,
    remove_leftovers,
    stamp,
    start_work,
)
from septum.prediction.events import BlockDone, ImageDone, ImageStarted, ResultDetails, ShardDone
from septum.prediction.frames import ImageJob
from septum.prediction.outputs import work_folder
from septum.prediction.tile_plan import own_block
from septum.prediction.tiled import halved_text
from septum.version import __version__

if TYPE_CHECKING:
    from septum.prediction.executors import DaskExecutor


def predict_in_blocks(job: ImageJob, executor: DaskExecutor | None) -> Iterator[Event]:
    """Predict one image block by block.

    Parameters
    ----------
    job
        The image; its plan has blocks.
    executor
        Workers that compute the blocks; None: this process.

    Yields
    ------
    ImageStarted, BlockDone after each step, Warned; ImageDone at the end, or ShardDone if only a part was asked for.

    Raises
    ------
    SeptumError
        If the image cannot be read or the result not written; finished blocks are kept.
    """
    begin = time.monotonic() - job.found.seconds
    work, resumed = start_work(work_folder(job.target), _block_plan(job))
    with closing(Blocks(work, job.model, job.source)) as blocks:
        yield _started(job, blocks, executor, resumed=resumed)
        yield from _compute_stages(job, blocks, executor, begin)


def _compute_stages(job: ImageJob, blocks: Blocks, executor: DaskExecutor | None, begin: float) -> Iterator[Event]:
    """Compute all stages and deliver the result; with a shard its part of the network's blocks."""
    work, frames = blocks.work, blocks.work.plan.frames
    for stage in blocks.stages:
        if not blocks.prepare(stage):
            continue
        each = len(blocks.regions_of(stage))
        count = each * frames
        tasks = pending(work, stage, frames, each)
        already = count - len(tasks)
        share = _share(tasks, stage, each, job.settings.shard)
        for done in compute(blocks, share) if executor is None else executor.compute(blocks, share):
            yield BlockDone(job.path, stage, already + done, count)
        if job.settings.shard is not None and stage == PROBABILITIES:
            yield from _halved(job, blocks)
            yield ShardDone(job.path, len(pending(work, stage, frames, each)))
            return
        for frame in range(frames):
            blocks.join(stage, frame)
    yield from _halved(job, blocks)
    objects = sum(blocks.objects_written()) if job.output == "labels" else None
    confidence = blocks.confidences() if job.output == "labels" else None
    axes = job.source.axes.replace("C", "") if job.output != "probabilities" else job.source.axes
    source = job.source
    details = ResultDetails(job.output, axes, source.named_axes, source.level, job.model.rank, confidence)
    for written in deliver(work, job):
        yield BlockDone(job.path, "writing", count * written, count)  # by blocks of the last stage
    yield ImageDone(job.path, job.target, time.monotonic() - begin, objects, job.found.shown, details)


def compute(blocks: Blocks, tasks: Sequence[BlockTask]) -> Iterator[float]:
    """Compute blocks in this process; yield the number of blocks done after each step, parts as fractions.

    Blocks that another part of a job array has done in the meantime are counted only.
    """
    for number, task in enumerate(tasks):
        for share in [1.0] if blocks.work.is_done(task) else blocks.steps(task):
            yield number + share


def deliver(work: Work, job: ImageJob) -> Iterator[float]:
    """Complete the result, move it to its place, and remove the work folder; yield the share that is done."""
    remove_leftovers(work.result)
    written = format_of(job.target.name)
    if job.settings.label_image is not None or (written is not None and written.folder):
        yield from add_pyramid(work.result)
        remove_leftovers(work.result)
        if job.settings.label_image is not None:
            add_labels(job.path, job.target.name, work.result)
        else:
            replace_folder(work.result, job.target)
    else:
        yield from write_tiff_from(ZarrTarget(work.result), job.target)
    shutil.rmtree(work.folder, ignore_errors=True)


def _block_plan(job: ImageJob) -> BlockPlan:
    assert job.plan.block is not None
    source, rank = job.source, job.model.rank
    walked = walked_axes(source.axes, rank)
    return BlockPlan(
        version=__version__,
        model=str(job.settings.model.resolve()),
        model_sha256=digest(job.settings.model),
        source=str(absolute(source.location or "")),
        source_stamp=stamp(source.location),
        axes=source.axes,
        shape=source.shape,
        dtype=str(source.dtype),
        named_axes=job.source.named_axes,
        channels=job.source.picked,
        level=job.source.level,
        region=None if job.region is None else str(job.region.resolve()),
        frame=source.shape[-rank:],
        frames=prod(n for a, n in zip(source.axes, source.shape, strict=True) if a in walked),
        output=job.output,
        tta=job.settings.tta,
        tile=job.plan.tile,
        block=job.plan.block,
        engine=job.plan.engine,
        scale=job.scale,
        own_block=None if job.scale is None else own_block(source.shape[-rank:]),
    )


def _started(job: ImageJob, blocks: Blocks, executor: DaskExecutor | None, *, resumed: bool) -> ImageStarted:
    """Return the first event, with an estimate of the time that the blocks not computed yet will take."""
    plan, frames, each = job.plan, blocks.work.plan.frames, len(blocks.regions_of(PROBABILITIES))
    count = each * frames
    left = len(pending(blocks.work, PROBABILITIES, frames, each))
    seconds = blocks.tiler.seconds(plan.sides, -(-plan.tiles * left // count))
    if seconds is not None:
        seconds /= job.settings.shard[1] if job.settings.shard is not None else executor.processes if executor else 1
    level = describe_level(job.source)
    return ImageStarted(
        job.path, job.index, job.count, plan.tiles, plan.sides, count, plan.peak_bytes, seconds, resumed, level
    )


def _share(tasks: list[BlockTask], stage: str, each: int, shard: tuple[int, int] | None) -> list[BlockTask]:
    """Return the tasks of one part of a job array.

    The blocks of the network are divided among the parts. The statistics before them are needed by all parts: each part
    begins at another place, and so leaves out blocks that others have done in the meantime.
    """
    if shard is None:
        return tasks
    part, parts = shard
    if stage == PROBABILITIES:
        return [task for task in tasks if (task.frame * each + task.block) % parts == part - 1]
    start = len(tasks) * (part - 1) // parts
    return tasks[start:] + tasks[:start]


def _halved(job: ImageJob, blocks: Blocks) -> Iterator[Warned]:
    if blocks.tiler.halved:
        yield Warned(halved_text(job.path, blocks.tiler))
