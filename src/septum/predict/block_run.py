"""Run the stages of one image that is predicted block by block, from its work folder to the result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from septum.events import Event, Warned
from septum.io.atomic import replace_folder
from septum.io.formats import format_of
from septum.io.image import Image
from septum.io.tiff_write import write_tiff_from
from septum.io.zarr_labels import add_labels
from septum.io.zarr_write import ZarrTarget, add_pyramid
from septum.predict.block_store import (
    BlockPlan,
    BlockTask,
    Work,
    digest,
    pending,
    remove_leftovers,
    stamp,
    start_work,
    work_folder,
)
from septum.predict.events import BlockDone, ImageDone, ImageStarted, ShardDone
from septum.predict.executors import Executor
from septum.predict.frames import walked_axes
from septum.predict.in_blocks import PROBABILITIES, Blocks
from septum.predict.model import Model
from septum.predict.outputs import Answer
from septum.predict.tile_plan import TilePlan
from septum.predict.tiled import TiledPredictor, halved_text
from septum.version import __version__


@dataclass(frozen=True)
class Asked:
    """What a person asked for.

    Parameters
    ----------
    source, target, model
        Files.
    axes
        What the dimensions are; None where the file is believed.
    answer
        What is written.
    tta
        Average over rotated and mirrored versions.
    inside
        `target` is a label image inside the image `source`.
    shard
        ``(i, n)``: part `i` of `n` only, from 1; None for all.
    """

    source: Path
    target: Path
    model: Path
    axes: str | None
    answer: Answer
    tta: bool
    inside: bool
    shard: tuple[int, int] | None


def predict_in_blocks(
    asked: Asked, source: Image, model: Model, layout: TilePlan, crew: Executor, place: tuple[int, int]
) -> Iterator[Event]:
    """Predict one image block by block.

    Yields
    ------
    ImageStarted, BlockDone for each block of each stage, Warned, and ImageDone; or ShardDone for a part.

    Raises
    ------
    SeptumError
        If the image cannot be read, the result not written, or an unfinished result is of something else. What is
        finished stays: the same call goes on there.
    """
    begin = time.monotonic()
    plan = _plan(asked, source, model, layout)
    work, resumed = start_work(work_folder(asked.target), plan)
    blocks = Blocks(work, model, source)
    each = len(blocks.regions)
    count = each * work.plan.frames
    left = len(pending(work, PROBABILITIES, work.plan.frames, each))
    seconds = blocks.tiler.seconds(layout.sides, -(-layout.tiles * left // count))
    shares = crew.processes if asked.shard is None else asked.shard[1]
    seconds = None if seconds is None else seconds / shares
    yield ImageStarted(asked.source, *place, layout.tiles, layout.sides, count, layout.peak_bytes, seconds, resumed)
    for stage in blocks.stages:
        if not blocks.prepare(stage):
            continue
        tasks = pending(work, stage, work.plan.frames, each)
        already = count - len(tasks)
        for done in crew.run(blocks, _share(tasks, stage, each, asked.shard)):
            yield BlockDone(asked.source, stage, already + done, count)
        if asked.shard is not None and stage == PROBABILITIES:
            yield from _halved(asked.source, blocks.tiler)
            yield ShardDone(asked.source, len(pending(work, stage, work.plan.frames, each)))
            return
        for frame in range(work.plan.frames):
            blocks.join(stage, frame)
    yield from _halved(asked.source, blocks.tiler)
    found = sum(blocks.object_counts()) if asked.answer == "labels" else None
    for share in deliver(work, asked):
        yield BlockDone(asked.source, "writing", count * share, count)
    yield ImageDone(asked.source, asked.target, time.monotonic() - begin, found)


def deliver(work: Work, asked: Asked) -> Iterator[float]:
    """Complete the result, put it in its place, and remove the work folder; yield the share that is done."""
    remove_leftovers(work.result)
    kind = format_of(asked.target.name)
    if asked.inside or (kind is not None and kind.folder):
        yield from add_pyramid(work.result)
        remove_leftovers(work.result)
        if asked.inside:
            add_labels(asked.source, asked.target.name, work.result)
        else:
            replace_folder(work.result, asked.target)
    else:
        result = ZarrTarget(work.result)
        yield from write_tiff_from(result, asked.target)
    shutil.rmtree(work.folder, ignore_errors=True)


def _plan(asked: Asked, source: Image, model: Model, layout: TilePlan) -> BlockPlan:
    assert layout.block is not None
    rank = model.rank
    return BlockPlan(
        version=__version__,
        model=str(asked.model.resolve()),
        model_sha256=digest(asked.model),
        source=str(source.location),
        source_stamp=stamp(source.location),
        axes=source.axes,
        shape=source.shape,
        dtype=str(source.dtype),
        named_axes=asked.axes,
        frame=source.shape[-rank:],
        frames=prod(n for a, n in zip(source.axes, source.shape, strict=True) if a in walked_axes(source.axes, rank)),
        output=asked.answer,
        tta=asked.tta,
        tile=layout.tile,
        block=layout.block,
        engine=layout.engine,
    )


def _share(tasks: list[BlockTask], stage: str, each: int, shard: tuple[int, int] | None) -> list[BlockTask]:
    """Return the tasks of one part.

    The network's work is dealt out; of what comes before, which all parts need, each begins at another place and leaves
    out what others have done meanwhile.
    """
    if shard is None:
        return tasks
    part, parts = shard
    if stage == PROBABILITIES:
        return [task for task in tasks if (task.frame * each + task.block) % parts == part - 1]
    start = len(tasks) * (part - 1) // parts
    return tasks[start:] + tasks[:start]


def _halved(path: Path, tiler: TiledPredictor) -> Iterator[Warned]:
    if tiler.halved:
        yield Warned(halved_text(path, tiler))
