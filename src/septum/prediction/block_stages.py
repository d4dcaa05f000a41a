"""The stages of an image that is predicted block by block: one block of one stage, and the join between two stages.

Each block passes one stage after the other. Between two stages the results of all blocks that concern other blocks, at
their borders, are joined into one table. The blocks of a stage do not depend on each other, so that any process may
compute any of them in any order, and no block is computed twice. The result does not depend on the processes.

Stages: ``statistics`` (intensities of the whole image), ``probabilities`` (the network), and for objects, or areas
between lines, those of `septum.arrays.stitch`. If the image is predicted on another grid, the blocks of these stages
lie on that grid, and a last stage, ``resampling``, brings the result to the image's own grid in blocks of that grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.arrays import stitch
from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import outline_threshold, quantize
from septum.arrays.normalize import join_samples, sample_intensities
from septum.arrays.resample import Resampled, resample_labels
from septum.arrays.tiles import Readable
from septum.axes import spatial, walked_axes
from septum.errors import FileError
from septum.io.formats import image_stem
from septum.io.image import Image
from septum.io.scratch import ShardedArray
from septum.io.zarr_write import ZarrTarget, create_zarr
from septum.prediction.block_store import Arrays, BlockTask, Work
from septum.prediction.frames import ImageFrame, frame_spacing, split_frames, working_frame
from septum.prediction.model import Model
from septum.prediction.outputs import class_table, makes_objects, most_probable_class, smallest_integer
from septum.prediction.tile_plan import CHUNK, block_regions
from septum.prediction.tiled import Region, TiledPredictor, open_inside, region_probabilities
from septum.prediction.tta import averaged_probabilities

# Chunks of the arrays between stages are small, because stages also read the rims of neighboring blocks.
_SCRATCH_CHUNK = {2: 256, 3: 64}

STATISTICS, PROBABILITIES, RESAMPLING = "statistics", "probabilities", "resampling"


@dataclass(eq=False)
class Blocks:
    """The blocks of an image in one process.

    Parameters
    ----------
    work
        The work folder.
    model
        The model, on the device of this process.
    source
        The opened image.
    """

    work: Work
    model: Model
    source: Image
    _open: dict[str, ShardedArray] = field(default_factory=dict, repr=False)
    _target: ZarrTarget | None = None
    _opened: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Close what was opened for the blocks: all but the image."""
        self._opened.close()

    @cached_property
    def frames(self) -> list[ImageFrame]:
        """The frames of the image."""
        return split_frames(self.source, self.model)

    @cached_property
    def inputs(self) -> list[Readable]:
        """The frames on the grid on which they are predicted."""
        return [working_frame(frame, self.work.plan.scale) for frame in self.frames]

    def regions_of(self, stage: str) -> list[Region]:
        """Return the blocks of every frame in a stage."""
        return self._own_regions if stage == RESAMPLING else self._regions

    @cached_property
    def _regions(self) -> list[Region]:
        return block_regions(self.work.plan.grid, self.work.plan.block)

    @cached_property
    def _own_regions(self) -> list[Region]:
        assert self.work.plan.own_block is not None
        return block_regions(self.work.plan.frame, self.work.plan.own_block)

    @cached_property
    def tiler(self) -> TiledPredictor:
        """The network on the device of this process."""
        plan = self.work.plan
        inside = None if plan.region is None else open_inside(Path(plan.region), self.frames[0], plan.grid)
        if inside is not None:
            self._opened.callback(inside.close)
        return TiledPredictor(self.model.computed_by(plan.engine), self.model.device, plan.tile, inside=inside)

    @property
    def makes_objects(self) -> bool:
        """Return True if objects are made of the probabilities."""
        return makes_objects(self.work.plan.output, self.model.header)

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The stages in order."""
        last = () if self.work.plan.scale is None else (RESAMPLING,)
        return (STATISTICS, PROBABILITIES, *(stitch.STAGES if self.makes_objects else ()), *last)

    @cached_property
    def objects(self) -> stitch.Division:
        """The settings of the object stages."""
        plan = self.work.plan
        return stitch.Division(
            shape=plan.grid,
            block=plan.block,
            objects=self.model.header.objects,
            spacing=frame_spacing(self.source, self.model.rank, plan.scale),
            lines=plan.output == "classes" and plan.scale is None,  # lines are drawn on the image's own grid
        )

    def steps(self, task: BlockTask) -> Iterator[float]:
        """Compute one block of one stage; yield the share that is done, 1 at the end."""
        region = self.regions_of(task.stage)[task.block]
        shared: Arrays = {}
        if task.stage == STATISTICS:
            frame = self.inputs[task.frame]
            part = frame[(slice(None), *region)]
            origin = [s.start for s in region]
            values, places = sample_intensities(part, origin, frame.shape[1:], self.model.header.normalization)
            shared = {"values": values, "places": places}
        elif task.stage == PROBABILITIES:
            yield from self._probabilities(task.frame, region)
        elif task.stage == RESAMPLING:
            shared = self._resample(task.frame, region)
        else:
            shared = self._object_stage(task, region)
        self.work.finish(task, shared)
        yield 1.0

    def join(self, stage: str, frame: int) -> None:
        """Join the results of all blocks of a frame in a stage into its table."""
        shared = self.work.shared(stage, frame, len(self.regions_of(stage)))
        if stage == STATISTICS:
            parts = [(one["values"], one["places"]) for one in shared]
            table = {"statistics": join_samples(parts, self.model.header.normalization)}
        elif stage == PROBABILITIES:
            table = {}
        elif stage == RESAMPLING:
            ids = [one["ids"] for one in shared if "ids" in one]
            table = {"ids": np.unique(np.concatenate(ids))} if ids else {}
        else:
            table = stitch.join(stage, shared, self.objects, self._tables(frame))
        self.work.save_table(stage, frame, table)

    def prepare(self, stage: str) -> bool:
        """Create the arrays that a stage writes; return True if the stage is needed."""
        if stage == self.stages[-1] and not self.work.result.exists():
            self._create_result()
        if stage in (STATISTICS, PROBABILITIES, RESAMPLING):
            return True
        return any(stitch.needed(stage, self._tables(frame), self.objects) for frame in range(self.work.plan.frames))

    def _create_result(self) -> None:
        axes, sides = self.source.axes, dict(zip(self.source.axes, self.source.shape, strict=True))
        plan = self.work.plan
        block = plan.own_block or plan.block
        sides["C"] = self._maps if plan.output == "probabilities" else 1
        if sides["C"] == 1:
            axes = axes.replace("C", "")
        own = dict(zip(spatial(self.source.axes)[-self.model.rank :], range(self.model.rank), strict=True))
        dtype: DTypeLike = np.float32
        if plan.output == "labels":
            dtype = smallest_integer(0, max(self.object_counts()))
        elif plan.output == "classes":
            dtype = class_table(self.model).dtype
        try:
            create_zarr(
                self.work.result,
                shape=[sides[a] for a in axes],
                axes=axes,
                dtype=dtype,
                chunks=[min(CHUNK[self.model.rank][own[a]], block[own[a]]) if a in own else 1 for a in axes],
                shards=[block[own[a]] if a in own else 1 for a in axes],
                pixel_size_um=self.source.pixel_size_um,
                labels=plan.output != "probabilities",
                name=image_stem(Path(plan.source)),
            )
        except FileError:
            if not self.work.result.exists():  # otherwise another process created it first
                raise

    def object_counts(self) -> list[int]:
        """Return the number of objects of each frame, after the object stages."""
        tables = (self._tables(frame) for frame in range(self.work.plan.frames))
        return [stitch.count(table) for table in tables]

    def confidences(self) -> list[NDArray[np.float32]] | None:
        """Return the confidence of the objects of each frame, ``(N,)`` float32 in 0..1; None if the model has none."""
        found = [stitch.confidence(self._tables(frame)) for frame in range(self.work.plan.frames)]
        return None if any(one is None for one in found) else [one for one in found if one is not None]

    def objects_written(self) -> list[int]:
        """Return the number of objects in the result of each frame: on a coarser grid some may hold no pixel."""
        if self.work.plan.scale is None:
            return self.object_counts()
        tables = (self.work.table(RESAMPLING, frame) or {} for frame in range(self.work.plan.frames))
        return [int(np.count_nonzero(table.get("ids", 0))) for table in tables]

    @property
    def _maps(self) -> int:
        """Number of maps that are written as probabilities: one of two classes, else one for each class."""
        classes = self.model.header.network.classes
        return classes if classes > 2 else 1

    def _probabilities(self, frame: int, region: Region) -> Iterator[float]:
        """Predict a block and write its probabilities, classes, or levels for the object stages."""
        table = self.work.table(STATISTICS, frame)
        assert table is not None, "statistics are joined before the network runs"
        predict = averaged_probabilities if self.work.plan.tta else region_probabilities
        steps = predict(self.tiler, self.inputs[frame], table["statistics"], region)
        probabilities = np.empty(0, np.float32)
        for done, (filled, left) in enumerate(steps, start=1):
            probabilities = filled
            if left:
                yield done / (done + left)
        if self.makes_objects:
            self._scratch("levels").write((frame, *region), quantize(probabilities[1]))
        elif self.work.plan.scale is not None:
            self._scratch("probabilities").write((frame, slice(None), *region), probabilities)
        else:
            self._write(frame, region, self._made_of(probabilities))

    def _made_of(self, probabilities: NDArray[np.float32]) -> NDArray[Any]:
        """Return the classes or the maps to write, ``(C', *region)``."""
        if self.work.plan.output == "classes":
            classes: NDArray[Any] = class_table(self.model)[most_probable_class(probabilities, self.model.header)]
            return classes[None]
        return probabilities[1:] if len(probabilities) == 2 else probabilities

    def _resample(self, frame: int, region: Region) -> Arrays:
        """Bring a block of the result to the image's own grid; return the ids of its objects."""
        plan = self.work.plan
        if not self.makes_objects:
            maps = Resampled(_FrameMaps(self, frame), plan.frame)
            self._write(frame, region, self._made_of(maps[(slice(None), *region)]))
            return {}
        store, lines = _FrameStore(self, frame), plan.output == "classes"
        around = tuple(
            slice(max(0, s.start - lines), min(n, s.stop + lines)) for s, n in zip(region, plan.frame, strict=True)
        )
        labels = resample_labels(
            lambda part: (store.ids(stitch.STAGES[-1], part), store.levels(part)),
            plan.grid,
            plan.frame,
            around,
            threshold=outline_threshold(self.model.header.objects),
        )
        if lines:
            inner = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(region, around, strict=True))
            self._write_numbers(frame, region, draw_boundaries(labels)[inner])
        else:
            self._write_numbers(frame, region, labels)
        return {"ids": np.unique(labels)}

    def _write_numbers(self, frame: int, region: Region, numbers: NDArray[Any]) -> None:
        """Write a block of object ids, or of areas and lines between them."""
        numbers = numbers[None]
        if self.work.plan.output == "classes":
            line, area = class_table(self.model)
            numbers = np.where(numbers > 0, area, line)
        self._write(frame, region, numbers)

    def _object_stage(self, task: BlockTask, region: Region) -> Arrays:
        store = _FrameStore(self, task.frame)
        shared = stitch.run_block(task.stage, region, store, self.objects, self._tables(task.frame))
        if task.stage == stitch.STAGES[-1]:
            numbers = shared.pop("numbers")
            if self.work.plan.scale is None:
                self._write_numbers(task.frame, region, numbers)
            else:
                store.write_ids(task.stage, region, numbers)
        return shared

    def _tables(self, frame: int) -> dict[str, Arrays]:
        tables = {stage: self.work.table(stage, frame) for stage in stitch.STAGES}
        return {stage: table for stage, table in tables.items() if table is not None}

    def _scratch(self, name: str) -> ShardedArray:
        """Return an array between stages, of zeros where nothing was written.

        Levels and ids have the axes ``(frames, *grid)``, probabilities ``(frames, K, *grid)``.
        """
        if name not in self._open:
            plan = self.work.plan
            dtype = {"levels": np.uint16, "probabilities": np.float32}.get(name, np.int64)
            maps = (self.model.header.network.classes,) if name == "probabilities" else ()
            self._open[name] = ShardedArray.create(
                self.work.folder / name,
                (plan.frames, *maps, *plan.grid),
                dtype,
                chunk=(
                    1,
                    *(1 for _ in maps),
                    *(_divisor(side, _SCRATCH_CHUNK[len(plan.block)]) for side in plan.block),
                ),
                shard=(1, *maps, *plan.block),
            )
        return self._open[name]

    def _write(self, frame: int, region: Region, values: NDArray[Any]) -> None:
        """Write ``(C', *region)`` into the result."""
        if self._target is None:
            self._target = ZarrTarget(self.work.result)
        walked = dict(zip(walked_axes(self.source.axes, self.model.rank), self.frames[frame].place, strict=True))
        inside = dict(zip(spatial(self.source.axes)[-self.model.rank :], region, strict=True))
        axes = self._target.axes
        index = tuple(walked.get(a, inside.get(a, slice(None))) for a in axes)
        self._target.write(index, values if "C" in axes else values[0])


@dataclass(frozen=True)
class _FrameStore:
    """The arrays between the stages, of one frame, for `septum.arrays.stitch`."""

    blocks: Blocks
    frame: int

    def levels(self, region: Region) -> NDArray[np.uint16]:
        part: NDArray[np.uint16] = self.blocks._scratch("levels").read((self.frame, *region))
        return part

    def ids(self, stage: str, region: Region) -> NDArray[np.int64]:
        part: NDArray[np.int64] = self.blocks._scratch(f"ids-{stage}").read((self.frame, *region))
        return part

    def write_ids(self, stage: str, core: Region, ids: NDArray[np.int64]) -> None:
        self.blocks._scratch(f"ids-{stage}").write((self.frame, *core), ids)


@dataclass(frozen=True)
class _FrameMaps:
    """The probabilities of one frame between the stages, ``(K, *grid)``, read where they are asked for."""

    blocks: Blocks
    frame: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Classes, and sides of the grid on which the frame was predicted."""
        return (self.blocks.model.header.network.classes, *self.blocks.work.plan.grid)

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]:
        return self.blocks._scratch("probabilities").read((self.frame, *index))


def _divisor(side: int, most: int) -> int:
    """Return the largest divisor of `side` up to `most`."""
    return next(n for n in range(min(side, most), 0, -1) if side % n == 0)
