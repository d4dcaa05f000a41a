"""What a run writes while it trains: the last two states, from each of which it goes on exactly, and the log."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from numpy.typing import NDArray

from septum.errors import FileError, ModelError
from septum.events import Event, Warned
from septum.io.atomic import as_error, remove_parts, whole_file
from septum.io.formats import format_path
from septum.io.tensors import read_tensors, write_tensors
from septum.training.schedule import Activity

if TYPE_CHECKING:  # files of checkpoints are read without PyTorch
    from septum.training.distributed import Processes

# Columns of the log before the scores.
_COLUMNS = ("step", "loss", "rate", "seconds")
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A stored state of a training.

    Attributes
    ----------
    step
        Number of steps done.
    tensors
        Weights, moments of the optimizer, ... of any shape and dtype, stored bit for bit.
    state
        Everything else as JSON: floats exact, tuples become lists.
    path
        The file.
    """

    step: int
    tensors: dict[str, NDArray[Any]]
    state: dict[str, object]
    path: Path

    @property
    def spent_s(self) -> float:
        """Return the seconds of the training until this state; 0 if they are not known."""
        return _positive(self.state.get("seconds"))

    @property
    def activities_s(self) -> dict[str, float]:
        """Return the seconds of each activity until this state; earlier versions stored none."""
        stored = self.state.get("activities_s")
        return {a: _positive(stored.get(a)) for a in get_args(Activity)} if isinstance(stored, dict) else {}


def _positive(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else 0.0


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, NDArray[Any]], state: Mapping[str, object], *, keep: int = 2
) -> Path:
    """Write ``folder/step-00000123.safetensors``, sync it, and only then remove older ones.

    Keep the last `keep` up to `step`. Remove checkpoints of later steps too: they were damaged, or the training would
    not have resumed from before them.

    Parameters
    ----------
    folder
        Created if missing. One process writes to it at a time.
    step
        Number of steps done, 0 or more.
    tensors
        Arrays by name, ``(*S)`` of any dtype and any values.
    state
        See `Checkpoint`.
    keep
        Number of checkpoints to keep, at least 1.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileError
        If the disk is full or cannot be written; the older checkpoints are then untouched.
    """
    assert step >= 0 and keep >= 1, f"step {step}, keep {keep}"
    path = folder / f"step-{step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{format_path(folder)}: cannot be created ({error.strerror})", "a folder", "choose another"
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
    """Load the newest intact checkpoint.

    Returns
    -------
    checkpoint
        None if there is none, or none is intact.
    skipped
        One sentence for each newer one, which is damaged.
    """
    skipped: list[str] = []
    steps = _steps(folder) if folder.is_dir() else {}
    for step in sorted(steps, reverse=True):
        try:
            tensors, header = read_tensors(steps[step], "checkpoint")
        except ModelError as error:
            skipped.append(f"The checkpoint of step {step} cannot be used and is skipped: {error.given}")
            continue
        state = header.get("state")
        if header.get("step") != step or not isinstance(state, dict):
            skipped.append(f"{format_path(steps[step])} was renamed: it is of step {header.get('step')}; skipped.")
            continue
        return Checkpoint(step, tensors, state, steps[step]), skipped
    return None, skipped


def agreed_checkpoint(folder: Path, processes: Processes) -> Generator[Event, None, Checkpoint | None]:
    """Load the newest intact checkpoint, the same in all processes; warn of damaged ones.

    Raises
    ------
    FileError
        If the processes see different checkpoints.
    """
    checkpoint, skipped = newest_checkpoint(folder)
    for sentence in skipped:
        yield Warned(sentence)
    if skipped and checkpoint is None:
        yield Warned("no checkpoint is intact: the training begins again")
    if not processes.all_equal(f"{None if checkpoint is None else checkpoint.step}"):
        raise FileError(
            f"{format_path(folder)}: the processes of this training do not see the same checkpoints",
            "a run folder on a drive that all machines share",
            "give another -o",
        )
    return checkpoint


def _steps(folder: Path) -> dict[int, Path]:
    matches = ((_NAME.fullmatch(p.name), p) for p in folder.iterdir())
    return {int(match.group(1)): p for match, p in matches if match is not None}


class StepLog:
    """``log.csv``: one line for each step, complete and in order also after a crash.

    Parameters
    ----------
    path
        The file.
    scores
        Names of the columns for scores; empty in lines without scores.
    after
        Number of steps done: later lines, and all after a torn or missing line, are removed.

    Attributes
    ----------
    missing
        How many of the first `after` lines were missing.
    """

    def __init__(self, path: Path, scores: Sequence[str], *, after: int) -> None:
        self.path = path
        self._columns = [*_COLUMNS, *scores]
        self.missing = after - self.truncate(after)

    def truncate(self, after: int) -> int:
        """Remove the lines after the first `after` steps; return the number of lines left."""
        rows = self._intact_rows()[:after]
        with whole_file(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        return len(rows)

    def _intact_rows(self) -> list[dict[str, str]]:
        """Return the lines before the first one that is torn or is not the next step."""
        rows: list[dict[str, str]] = []
        try:
            with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
                for number, row in enumerate(csv.reader(file)):
                    if number == 0 and row != self._columns:
                        return []
                    if number and (len(row) != len(self._columns) or row[0] != str(number)):
                        break
                    if number:
                        rows.append(dict(zip(self._columns, row, strict=True)))
        except FileNotFoundError:
            return []
        except csv.Error:
            pass  # torn by a crash
        except OSError as error:
            raise as_error(self.path, error) from None
        return rows

    def append(self, row: Mapping[str, float | int]) -> None:
        """Append one line.

        Raises
        ------
        FileError
            If the disk is full or the file is gone.
        """
        values = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(values)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def sync(self) -> None:
        """Write the lines to the disk; called before a checkpoint with their steps, so that a power cut loses none."""
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from None


def _unwritable(path: Path, error: OSError) -> FileError:
    reason = as_error(path, error)
    return FileError(
        reason.given, reason.expected, f"{reason.todo}; the same command continues from the last checkpoint"
    )
