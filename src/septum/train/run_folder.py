"""A run folder: what one training keeps on disk, and how it goes on after a stop.

::

    RUN/settings.json      what was asked for, and fingerprints of the images: a second start must match
    RUN/plan.json          the plan and its reasons; a second start follows it
    RUN/log.csv            one line a step; scores where the held-out images were scored
    RUN/checkpoints/       the last two states
    RUN/scores.json        the scores of the model
    RUN/model.safetensors  the result
    RUN/tensorboard/       events, where TensorBoard was asked for
    RUN/mlflow.json        what this training is called in MLflow, where that was asked for
    RUN/.lock              held while a process trains here
    RUN/.trained-by.json   which process that is; left behind where it was killed
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from septum.errors import FileError, UsageError
from septum.io.atomic import as_error, remove_parts, whole_file
from septum.io.paths import format_path
from septum.train.log import Log
from septum.train.plan import Plan

_WRITTEN = (
    *("settings.json", "plan.json", "log.csv", "scores.json", "model.safetensors", "checkpoints", ".lock"),
    *("tensorboard", "mlflow.json"),
)
_MOST_LINES = 10


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path
        The folder; made if missing. It may be a link, but nothing in it may.
    parts
        It holds trainings in folders of their own, and no states.

    Raises
    ------
    FileError
        If it cannot be made, is a file, or holds links where this program writes.
    """

    def __init__(self, path: Path, *, parts: bool = False) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model.safetensors"
        self.log = path / "log.csv"
        for name in _WRITTEN:
            if (path / name).is_symlink():
                # A run folder that came from elsewhere must not make us write, or remove, files anywhere else.
                raise FileError(
                    f"{format_path(path / name)}: is a link", "a run folder without links in it", "give another -o"
                )
        try:
            (path if parts else self.checkpoints).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = as_error(path, error)
            raise FileError(reason.given, "a folder that can be written", "give another -o") from None

    @contextmanager
    def held(self) -> Iterator[str]:
        """Hold the folder, so that no second process trains in it. A process that dies lets go of it.

        Yields
        ------
        str
            What a person should know, or ``""``: the drive knows no locks, or a machine elsewhere may still train here.

        Raises
        ------
        UsageError
            If another process trains in this folder.
        FileError
            If nothing can be written there.
        """
        from filelock import FileLock, Timeout

        note, owner = self.path / ".trained-by.json", _owner(self.path / ".trained-by.json")
        lock, warning = FileLock(self.path / ".lock", timeout=0, thread_local=False), ""
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"{format_path(self.path)}: is being trained by another process"
                + (f" (process {owner['process']} on {owner['host']})" if owner else ""),
                "one training in a folder",
                "wait until it is done, stop it, or give another -o",
            ) from None
        except NotImplementedError:
            warning = (
                f"{format_path(self.path)}: this drive knows no locks; see yourself that no other process trains here"
            )
        except OSError as error:
            raise as_error(self.path / ".lock", error) from None
        try:
            if owner and owner["host"] != socket.gethostname():
                warning = (
                    f"{format_path(self.path)} was trained on {format_path(owner['host'])} and no end was noted: "
                    "make sure that it "
                    "does not go on there, because not every network drive tells us"
                )
            with whole_file(note) as part:
                part.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid()}) + "\n")
            remove_parts(self.path)
            yield warning
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)
            lock.release()

    def claim(self, asked: Mapping[str, Any], images: Mapping[str, str]) -> None:
        """Write what is asked for, or check that an earlier start asked for the same.

        Parameters
        ----------
        asked
            Settings, by the name of their option.
        images
            A fingerprint of each image and its mask, by name.

        Raises
        ------
        UsageError
            If the folder holds a run of other settings or data; the difference is shown.
        FileError
            If what it holds is damaged or cannot be written.
        """
        now = json.loads(json.dumps({**asked, "images": dict(images)}))
        before = self._read_json("settings.json")
        if before is None:
            self.write_json("settings.json", now)
            return
        if before == now:
            return
        changed = [k for k in sorted({*before, *now} - {"images"}) if before.get(k) != now.get(k)]
        lines = [f"  {k}: {before.get(k)} -> {now.get(k)}" for k in changed]
        lines += _changed_images(before.get("images"), now["images"])
        todo = "repeat the earlier command, or give a new folder with -o"
        if set(changed) <= {"steps", "budget_s"} and before.get("images") == now["images"]:
            todo = (
                "repeat the earlier command, or give a new folder with -o; a run cannot be made longer or shorter, "
                "because its learning rate was planned for the end that was asked for"
            )
        if not lines:
            raise self._damaged("settings.json")
        raise UsageError(
            f"{format_path(self.path)} holds a run with other settings or data:\n" + "\n".join(lines),
            "the same command and data to go on",
            todo,
        )

    def read_plan(self) -> tuple[Plan, tuple[str, ...]] | None:
        """Return the plan of an earlier start and its reasons; None at the first.

        Raises
        ------
        FileError
            If the file is damaged.
        """
        said = self._read_json("plan.json")
        if said is None:
            return None
        try:
            return Plan.model_validate(said["plan"]), tuple(str(reason) for reason in said["reasons"])
        except (ValidationError, KeyError, TypeError):
            raise self._damaged("plan.json") from None

    def read_asked(self) -> dict[str, Any]:
        """Return what an earlier start asked for, as `claim` wrote it; empty at the first.

        Raises
        ------
        FileError
            If the file is damaged.
        """
        return self._read_json("settings.json") or {}

    def write_json(self, name: str, content: object) -> None:
        """Write one JSON file, whole or not at all."""
        with whole_file(self.path / name) as part:
            part.write_text(json.dumps(content, indent=2) + "\n")

    def open_log(self, scores: Sequence[str], *, after: int) -> Log:
        """Open the log for appending, cut back to the first `after` steps."""
        return Log(self.log, scores, after=after)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.path / name).read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            raise self._damaged(name) from None

    def _damaged(self, name: str) -> FileError:
        return FileError(f"{format_path(self.path / name)}: damaged", "the file that training wrote", "give another -o")


def _owner(note: Path) -> dict[str, str] | None:
    """Return host and process of the last training that did not note its end."""
    try:
        said = json.loads(note.read_text())
        return {"host": str(said["host"])[:100], "process": str(int(said["process"]))}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _changed_images(before: object, now: Mapping[str, str]) -> list[str]:
    """Return a line for each image that is new, gone or changed, the first of them by name."""
    old = before if isinstance(before, dict) else {}
    lines = [
        f"  image {format_path(name)}: {'new' if name not in old else 'gone' if name not in now else 'changed'}"
        for name in sorted({*old, *now})
        if old.get(name) != now.get(name)
    ]
    return lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], f"  and {len(lines) - _MOST_LINES} more"]


def read_plan_file(folder: Path) -> dict[str, Any]:
    """Return the content of ``plan.json`` of a finished run: plan, reasons, names of the held-out images.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    try:
        return dict(json.loads((folder / "plan.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise FileError(
            f"{format_path(folder / 'plan.json')}: cannot be read", "the plan that training wrote"
        ) from None
