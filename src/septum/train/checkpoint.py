"""Checkpoints of a training run: the last few states, each of which is enough to go on exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from septum.errors import FileError, ModelError
from septum.io.atomic import remove_parts
from septum.io.paths import format_path
from septum.io.tensors import read_tensors, write_tensors

_NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A state of training.

    Attributes
    ----------
    step
        Steps that were done.
    tensors
        Weights, moments of the optimizer, states of generators, ... bit for bit as they were.
    state
        Everything else, as JSON: floats exact, tuples become lists.
    path
        The file it came from.
    """

    step: int
    tensors: dict[str, NDArray[Any]]
    state: dict[str, object]
    path: Path


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, NDArray[Any]], state: Mapping[str, object], *, keep: int = 2
) -> Path:
    """Write ``folder/step-00000123.safetensors``, sync it, and only then remove older ones.

    Only the last `keep` up to `step` stay. Checkpoints of later steps go as well: whoever saves an earlier step has
    resumed from before them because they were damaged.

    Parameters
    ----------
    folder
        Made if missing. One process writes to it at a time.
    step
        Steps done, 0 or more.
    tensors, state
        See `Checkpoint`.
    keep
        At least 1.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileError
        If the disk is full or may not be written; the older checkpoints are then untouched.
    """
    assert step >= 0 and keep >= 1, f"step {step}, keep {keep}"
    path = folder / f"step-{step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{format_path(folder)}: cannot be made ({error.strerror})", "a folder", "choose another"
        ) from error
    write_tensors(path, "checkpoint", tensors, {"step": step, "state": dict(state)})
    remove_parts(folder)
    steps = _steps(folder)
    kept = sorted(s for s in steps if s <= step)[-keep:]
    for old, file in steps.items():
        if old not in kept:
            file.unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole.

    Returns
    -------
    checkpoint
        None if there is none, or none is whole.
    skipped
        A sentence for each newer one that is damaged.
    """
    skipped: list[str] = []
    steps = _steps(folder) if folder.is_dir() else {}
    for step in sorted(steps, reverse=True):
        try:
            tensors, said = read_tensors(steps[step], "checkpoint")
        except ModelError as error:
            skipped.append(f"The checkpoint of step {step} cannot be used and is passed over: {error.given}")
            continue
        state = said.get("state")
        if said.get("step") != step or not isinstance(state, dict):
            skipped.append(
                f"{format_path(steps[step])} was renamed: it is of step {said.get('step')}, and is passed over."
            )
            continue
        return Checkpoint(step, tensors, state, steps[step]), skipped
    return None, skipped


def _steps(folder: Path) -> dict[int, Path]:
    hits = ((_NAME.fullmatch(p.name), p) for p in folder.iterdir())
    return {int(hit.group(1)): p for hit, p in hits if hit is not None}
