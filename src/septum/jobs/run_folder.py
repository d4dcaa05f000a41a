"""A run folder: what one training keeps on disk, and how it goes on after a stop.

::

    RUN/settings.json      what was asked for, and the fingerprint of the data: a second start must match
    RUN/plan.json          the plan and its reasons
    RUN/log.csv            one line a step; scores where the held-out images were scored
    RUN/checkpoints/       the last two states
    RUN/model.safetensors  the result
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from septum.errors import FileError, UsageError
from septum.io.atomic import whole_file

_COLUMNS = ("step", "loss", "rate", "seconds")


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path
        The folder; made if missing.

    Raises
    ------
    FileError
        If it cannot be made or is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model.safetensors"
        self.log = path / "log.csv"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{path}: {error.strerror}", "a folder that can be written", "give another -o") from None

    def claim(self, asked: Mapping[str, Any]) -> None:
        """Write what is asked for, or check that an earlier start asked for the same.

        Raises
        ------
        UsageError
            If the folder holds a run of other settings or data; the difference is shown.
        """
        file = self.path / "settings.json"
        now = json.loads(json.dumps(asked))
        if file.exists():
            try:
                before = dict(json.loads(file.read_text()))
            except (OSError, ValueError, TypeError):
                raise FileError(f"{file}: damaged", "the settings of this run", "give another -o") from None
            changed = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
            if changed:
                lines = "\n".join(f"  {k}: {before.get(k)} -> {now.get(k)}" for k in changed)
                raise UsageError(
                    f"{self.path} holds a run with other settings or data:\n{lines}",
                    "the same command to go on",
                    "repeat the earlier command, or give a new folder with -o",
                )
        else:
            self.write_json("settings.json", now)

    def write_json(self, name: str, content: object) -> None:
        """Write one JSON file, whole or not at all."""
        with whole_file(self.path / name) as part:
            part.write_text(json.dumps(content, indent=2) + "\n")

    def open_log(self, scores: Sequence[str], *, after: int) -> Log:
        """Open the log for appending, cut back to the first `after` steps."""
        return Log(self.log, scores, after=after)


class Log:
    """`log.csv`: one line a step, appended at once."""

    def __init__(self, path: Path, scores: Sequence[str], *, after: int) -> None:
        self._path = path
        self._columns = [*_COLUMNS, *scores]
        rows: list[dict[str, str]] = []
        if after and path.exists():
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if _step(r) <= after]
        with whole_file(path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: Mapping[str, float | int]) -> None:
        """Add one line.

        Raises
        ------
        FileError
            If the disk is full or the file is gone.
        """
        values = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        try:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(values)
        except OSError as error:
            raise FileError(
                f"{self._path}: {error.strerror}", "a folder that can be written", "make room and repeat the command"
            ) from None


def _step(row: Mapping[str, str]) -> float:
    """Return the step of a line of the log; infinity where a crash has left something else there."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return math.inf
