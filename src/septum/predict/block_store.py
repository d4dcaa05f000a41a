"""The folder in which an image is predicted block by block: what is finished stays finished.

::

    cells.unfinished/
        plan.json              what is computed: model, image, blocks, tile; a later start must ask for the same
        levels/  ids-.../      arrays between the stages
        result.ome.zarr/       the result, cell by cell of the grid of blocks
        done/STAGE/F-B.npz     block B of frame F has passed the stage, and what it says to the other blocks
        tables/STAGE/F.npz     what came of all blocks of frame F together
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from pydantic import ValidationError

from septum.errors import FileError, UsageError
from septum.io.atomic import as_error, whole_file
from septum.io.scratch import load_arrays, save_arrays
from septum.settings import Settings

Arrays = dict[str, NDArray[Any]]


class BlockPlan(Settings):
    """What is computed in a work folder; the same for all who work in it.

    Parameters
    ----------
    version
        Of Septum.
    model, model_sha256
        The model file, and what is in it.
    source, source_stamp
        The image, and what tells whether it has changed.
    axes, shape, dtype
        The image's, in canonical order.
    named_axes
        What the person said the dimensions are; None where the file was believed.
    frame
        Spatial sides of a frame.
    frames
        Number of frames.
    output
        ``"labels"``, ``"classes"`` or ``"probabilities"``.
    tta
        Averaged over rotated and mirrored versions.
    tile, block
        As in `septum.predict.tile_plan.TilePlan`.
    engine
        Septum's engine computes the network, where that is a processor's work; see `septum.predict.backend`.
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
    frame: tuple[int, ...]
    frames: int
    output: str
    tta: bool
    tile: tuple[int, ...]
    block: tuple[int, ...]
    engine: bool = False


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
        """The result while it is being made."""
        return self.folder / "result.ome.zarr"

    def is_done(self, task: BlockTask) -> bool:
        """Say whether a block has passed a stage."""
        return self._done(task).exists()

    def finish(self, task: BlockTask, rest: Arrays) -> None:
        """Note that a block has passed a stage, and what it says to the others; its arrays are on the disk."""
        self._done(task).parent.mkdir(parents=True, exist_ok=True)
        save_arrays(self._done(task), rest)

    def rests(self, stage: str, frame: int, blocks: int) -> Iterator[Arrays]:
        """Return what all blocks of a frame said in a stage, in their order."""
        return (load_arrays(self._done(BlockTask(stage, frame, block))) for block in range(blocks))

    def table(self, stage: str, frame: int) -> Arrays | None:
        """Return what came of all blocks of a frame together; None if they are not joined yet."""
        path = self.folder / "tables" / stage / f"{frame}.npz"
        return _load_table(path, path.stat().st_mtime_ns) if path.exists() else None

    def save_table(self, stage: str, frame: int, table: Arrays) -> None:
        """Keep what came of all blocks of a frame together."""
        path = self.folder / "tables" / stage / f"{frame}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, table)

    def _done(self, task: BlockTask) -> Path:
        return self.folder / "done" / task.stage / f"{task.frame}-{task.block}.npz"


@lru_cache(maxsize=8)  # many blocks look into the same tables
def _load_table(path: Path, written_ns: int) -> Arrays:
    return load_arrays(path)


def work_folder(target: Path) -> Path:
    """Return the folder in which a result is made."""
    return target.with_name(f"{target.name}.unfinished")


def block_of_unfinished(target: Path) -> tuple[int, ...] | None:
    """Return the sides of the blocks in which a result was begun; None if it was not.

    Raises
    ------
    FileError
        If the plan is missing or damaged.
    """
    folder = work_folder(target)
    return open_work(folder).plan.block if folder.exists() else None


def open_work(folder: Path) -> Work:
    """Open a work folder that exists.

    Raises
    ------
    FileError
        If its plan is missing or damaged.
    """
    try:
        return Work(folder, BlockPlan.model_validate_json((folder / "plan.json").read_bytes()))
    except (OSError, ValidationError) as error:
        raise FileError(
            f"{folder}: no plan of an unfinished prediction ({type(error).__name__})",
            "a folder that septum predict has made",
            "delete it and run the command again",
        ) from error


def start_work(folder: Path, plan: BlockPlan) -> tuple[Work, bool]:
    """Make a work folder, or go on in the one that is there.

    Returns
    -------
    work, resumed
        `resumed`: it was there. Its plan is then kept, tile and all.

    Raises
    ------
    UsageError
        If something else is computed in the folder that is there.
    FileError
        If the folder cannot be written.
    """
    new = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    if not folder.exists():
        try:
            new.mkdir(parents=True)
            with whole_file(new / "plan.json") as temporary:
                temporary.write_text(plan.model_dump_json(indent=2))
            with suppress(FileExistsError):
                new.rename(folder)  # another process may have been first: then its folder stays
                return Work(folder, plan), False
        except OSError as error:
            if not folder.exists():
                raise as_error(folder, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
    work = open_work(folder)
    free = {"tile", "version", "engine"}  # any of them gives the same result
    ours, theirs = (json.loads(p.model_dump_json(exclude=free)) for p in (plan, work.plan))
    changed = [name for name in ours if ours[name] != theirs[name]]
    if changed:
        listed = "; ".join(f"{name} was {theirs[name]}, is {ours[name]}" for name in changed)
        raise UsageError(
            f"{folder} holds an unfinished result of something else: {listed}",
            "the command that began it",
            "run that command to finish it, give another -o, or delete the folder to begin anew",
        )
    return work, True


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(location: str | Path | None) -> str:
    """Return what tells whether an image has changed: size and time of the file, or of what describes the folder."""
    path = Path(location or "")
    for part in (path / "zarr.json", path / ".zattrs", path / ".zarray", path):
        if part.is_file():
            state = part.stat()
            return f"{state.st_size} bytes at {state.st_mtime_ns}"
    return "remote"


def pending(work: Work, stage: str, frames: int, blocks: int) -> list[BlockTask]:
    """Return the blocks that have not passed a stage."""
    tasks = (BlockTask(stage, frame, block) for frame in range(frames) for block in range(blocks))
    return [task for task in tasks if not work.is_done(task)]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in [*folder.rglob("*.partial"), *folder.rglob(".septum-part-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
