"""The work folder of an image that is predicted block by block; finished blocks are kept when the prediction stops.

::

    cells.unfinished/
        plan.json              model, image, blocks, tile; a resumed prediction must have the same
        levels/  ids-.../      arrays between stages
        probabilities/         where they are resampled to the image's own grid at the end
        result.ome.zarr/       the result, one shard for each block
        done/STAGE/F-B.npz     block B of frame F has passed the stage; the arrays that other blocks need of it
        tables/STAGE/F.npz     the joined arrays of all blocks of frame F
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from septum.arrays.resample import scaled_sides
from septum.errors import FileError, UsageError
from septum.io.atomic import as_error, rename, whole_file
from septum.io.formats import local_path, split_scene, url_of
from septum.io.nnunet import channel_files
from septum.io.scratch import load_arrays, save_arrays
from septum.prediction.outputs import work_folder
from septum.prediction.settings import Output, PredictSettings
from septum.settings import Settings

Arrays = dict[str, NDArray[Any]]


class BlockPlan(Settings):
    """The plan of a work folder; the same for all processes that compute in it.

    Parameters
    ----------
    version
        Version of Septum.
    model, model_sha256
        The model file, and the hash of its content.
    source, source_stamp
        The image, and a stamp that changes with it.
    axes, shape, dtype
        Those of the image, in canonical order.
    named_axes
        Axes that the user named; None: those that the file states.
    channels
        Channels that the user named; empty: all, or those of the training.
    level
        Level of a pyramid, 0 is the largest.
    region
        The mask of the part that is predicted; None: all.
    frame
        Spatial sides of a frame.
    frames
        Number of frames.
    output
        Kind of the result.
    tta
        Probabilities are averaged over rotated and mirrored versions.
    tile, block
        As in `septum.prediction.tile_plan.TilePlan`.
    engine
        Septum's engine computes the network on CPUs; see `septum.prediction.backend`.
    scale, own_block
        The frame is predicted on a grid finer by these factors, on which the blocks of all stages lie but those of the
        last one: these have the sides `own_block` on the image's own grid. None: the image's own grid is used.
    """

    version: str
    model: str
    model_sha256: str
    source: str
    source_stamp: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    named_axes: str | None
    channels: tuple[str, ...] = ()
    level: int = 0
    region: str | None = None
    frame: tuple[int, ...]
    frames: int
    output: Output
    tta: bool
    tile: tuple[int, ...]
    block: tuple[int, ...]
    engine: bool = False
    scale: tuple[float, ...] | None = None
    own_block: tuple[int, ...] | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """Sides of a frame on the grid on which it is predicted."""
        return self.frame if self.scale is None else scaled_sides(self.frame, self.scale)


class BlockTask(NamedTuple):
    """One block of one frame in one stage."""

    stage: str
    frame: int
    block: int


@dataclass(frozen=True)
class Work:
    """A work folder and its plan."""

    folder: Path
    plan: BlockPlan

    @property
    def result(self) -> Path:
        """The unfinished result."""
        return self.folder / "result.ome.zarr"

    def is_done(self, task: BlockTask) -> bool:
        """Return True if a block has passed a stage."""
        return self._done(task).exists()

    def finish(self, task: BlockTask, shared: Arrays) -> None:
        """Record that a block has passed a stage, with the arrays that other blocks need; its own are on disk."""
        self._done(task).parent.mkdir(parents=True, exist_ok=True)
        save_arrays(self._done(task), shared)

    def shared(self, stage: str, frame: int, blocks: int) -> Iterator[Arrays]:
        """Return the recorded arrays of all blocks of a frame in a stage, in the order of the blocks."""
        return (load_arrays(self._done(BlockTask(stage, frame, block))) for block in range(blocks))

    def table(self, stage: str, frame: int) -> Arrays | None:
        """Return the joined arrays of a frame; None if its blocks are not joined yet."""
        path = self.folder / "tables" / stage / f"{frame}.npz"
        return _load_table(path, path.stat().st_mtime_ns) if path.exists() else None

    def save_table(self, stage: str, frame: int, table: Arrays) -> None:
        """Store the joined arrays of a frame."""
        path = self.folder / "tables" / stage / f"{frame}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, table)

    def _done(self, task: BlockTask) -> Path:
        return self.folder / "done" / task.stage / f"{task.frame}-{task.block}.npz"


@lru_cache(maxsize=8)  # many blocks read the same tables
def _load_table(path: Path, written_ns: int) -> Arrays:
    return load_arrays(path)


def open_work(folder: Path) -> Work:
    """Open an existing work folder.

    Raises
    ------
    FileError
        If the plan is missing or damaged.
    """
    try:
        return Work(folder, BlockPlan.model_validate(json.loads((folder / "plan.json").read_bytes())))
    except (OSError, ValueError) as error:
        raise FileError(
            f"{folder}: does not hold the plan of an unfinished prediction",
            "a work folder of septum predict",
            "delete it and run the command again",
        ) from error


def start_work(folder: Path, plan: BlockPlan) -> tuple[Work, bool]:
    """Create a work folder, or resume the existing one.

    Returns
    -------
    work, resumed
        `resumed` is True if the folder existed; its own plan is kept then, with its tile.

    Raises
    ------
    UsageError
        If the existing folder holds an unfinished result of something else.
    FileError
        If the folder cannot be written.
    """
    new = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    if not folder.exists():
        try:
            new.mkdir(parents=True)
            _save_plan(new, plan)
            rename(new, folder)  # fails if another process was first: its folder is kept
            return Work(folder, plan), False
        except OSError as error:
            if not folder.exists():
                raise as_error(folder, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
    work = open_work(folder)
    free = {"tile", "version", "engine"}  # the result does not depend on them
    ours, theirs = (p.model_dump(mode="json", exclude=free) for p in (plan, work.plan))
    changed = [name for name in ours if ours[name] != theirs[name]]
    if "source" in changed and _is_same_file(Path(plan.source), Path(work.plan.source)):
        changed.remove("source")
        work = Work(folder, work.plan.model_copy(update={"source": plan.source}))
        _save_plan(folder, work.plan)  # workers open the image by this path
    if changed:
        listed = "; ".join(f"{name} was {theirs[name]}, is {ours[name]}" for name in changed)
        raise UsageError(
            f"{folder} holds an unfinished result of something else: {listed}",
            "the same command as before",
            "run that command to finish it, give another -o, or delete the folder to start over",
        )
    return work, True


def _save_plan(folder: Path, plan: BlockPlan) -> None:
    with whole_file(folder / "plan.json") as temporary:
        # Not by pydantic: a path can hold bytes that are no letters of the locale.
        temporary.write_text(json.dumps(plan.model_dump(mode="json"), indent=2), encoding="utf-8")


def _is_same_file(path: Path, earlier: Path) -> bool:
    """Return True if two paths lead to one file, or the earlier one, of 0.2.0, is relative to a folder not known now.

    That the file has not changed is told by its stamp.
    """
    relative = not earlier.is_absolute() and path.parts[-len(earlier.parts) :] == earlier.parts
    return relative or path.resolve() == earlier.resolve()


def absolute(location: Path | str) -> Path:
    """Return the path by which a process that runs in another folder finds the same file; addresses stay as they are.

    Links are not followed: the name of an image tells its format.
    """
    return Path(location) if url_of(location) is not None else local_path(location).absolute()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(location: str | Path | None) -> str:
    """Return a stamp that changes with an image: size and time of its file, or of the metadata file of a folder."""
    state = _state(Path(location or ""))
    return "remote" if state is None else f"{state.st_size} bytes at {state.st_mtime_ns}"


def _state(location: Path) -> os.stat_result | None:
    path = split_scene(location)[0]
    parts = (path / "zarr.json", path / ".zattrs", path / ".zarray", path)
    return next((part.stat() for part in parts if part.is_file()), None)


def finished_images(
    files: Sequence[tuple[Path, Path]], settings: PredictSettings, regions: Mapping[Path, Path]
) -> frozenset[Path]:
    """Return the images that have a result already, to be left out.

    Parameters
    ----------
    files
        Each image and its result.
    settings
        Settings of the prediction; see `skip_existing` there.
    regions
        The masks of parts to predict, by image.
    """
    finished = []
    for image, target in files:
        # The metadata of an image that a label image is written into change with it.
        made_from = [settings.model, regions.get(image), image if settings.label_image is None else None]
        if _has_result(target, [path for path in made_from if path is not None]):
            finished.append(image)
    return frozenset(finished)


def _has_result(target: Path, made_from: Sequence[Path]) -> bool:
    """Return True if there is a result that is not older than the files that it is made from, and none is unfinished.

    A result that exists is complete, as results are written aside and renamed. The time of a remote image is not known.
    """
    result = _state(target)
    if result is None or work_folder(target).exists():
        return False
    files = [part for path in made_from for part in ([path] if split_scene(path)[0].exists() else channel_files(path))]
    return not any(_is_newer(split_scene(path)[0], result.st_mtime_ns) for path in files)


def _is_newer(path: Path, time_ns: int) -> bool:
    """Return True if a file, or any file of a folder but its label images, is newer: chunks are written in place."""
    if not path.is_dir():
        return path.exists() and path.stat().st_mtime_ns > time_ns
    with os.scandir(path) as entries:
        return any(
            entry.name != "labels" and _is_newer(Path(entry.path), time_ns)
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_mtime_ns > time_ns
            for entry in entries
        )


def pending(work: Work, stage: str, frames: int, blocks: int) -> list[BlockTask]:
    """Return the blocks that have not passed a stage yet."""
    tasks = (BlockTask(stage, frame, block) for frame in range(frames) for block in range(blocks))
    return [task for task in tasks if not work.is_done(task)]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in [*folder.rglob("*.partial"), *folder.rglob(".septum-part-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
