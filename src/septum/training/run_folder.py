"""A run folder: the files of one training, and how it goes on after a stop.

::

    RUN/settings.json      the settings, and hashes of the images: a second start must match
    RUN/plan.json          the plan and its reasons; a second start follows it
    RUN/log.csv            one line for each step; with scores after a validation
    RUN/checkpoints/       the last two states
    RUN/scores.json        the scores of the model
    RUN/model.safetensors  the result
    RUN/tensorboard/       events, with --tensorboard
    RUN/mlflow.json        the name of this training in MLflow, with --mlflow
    RUN/.lock              locked while a process trains here
    RUN/.trained-by.json   this process; left behind if it was killed
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

from septum.errors import FileError, ModelError, UsageError
from septum.io.atomic import as_error, remove_parts, whole_file
from septum.io.formats import format_path
from septum.io.tensors import read_model
from septum.prediction.model import ModelHeader
from septum.training.checkpoint import Checkpoint, StepLog
from septum.training.events import Trained
from septum.training.plan import Plan
from septum.training.settings import TrainSettings, changed_settings, fixed_settings, read_fixed_settings
from septum.words import list_some, pluralize

_WRITTEN = (
    *("settings.json", "plan.json", "log.csv", "scores.json", "model.safetensors", "checkpoints", ".lock"),
    *("tensorboard", "mlflow.json"),
)
# Results of a run, never there before its settings; the plan is, in the folder of each training of a series.
_RESULTS = (
    *("log.csv", "scores.json", "model.safetensors", "report.html", "metrics.json"),
    *("folds.json", "seeds.json", "curve.json"),
)
# Changed images that are named in a message.
_MAX_IMAGES = 10
# Keys of settings.json besides the settings: the kinds of a series, the data, and the model to start from.
_KINDS = ("folds", "seeds", "learning_curve")
_OTHER_KEYS = ("images", "data_fingerprint", "from", *_KINDS)


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path
        The folder; created if missing. It may be a link, but the files in it may not.
    parts
        True if it holds several trainings in folders of their own, and no checkpoints.

    Raises
    ------
    FileError
        If the folder cannot be created, is a file, or holds links where this program writes.
    UsageError
        If the folder is no run and holds files that a run would replace.
    """

    def __init__(self, path: Path, *, parts: bool = False) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model.safetensors"
        self.log = path / "log.csv"
        for name in _WRITTEN:
            if (path / name).is_symlink():
                # A run folder from elsewhere must not make this program write or remove files in other places.
                raise FileError(
                    f"{format_path(path / name)}: is a link", "a run folder without links in it", "give another -o"
                )
        foreign = [name for name in (*_RESULTS, *["plan.json"] * parts) if (path / name).exists()]
        if foreign and not (path / "settings.json").exists():
            raise UsageError(
                f"{format_path(path)} holds {list_some(foreign, 4)}, which a training would replace, and is not the "
                "folder of a run: it has no settings.json",
                "a new folder, or the folder of a run",
                "give another -o",
            )
        try:
            (path if parts else self.checkpoints).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = as_error(path, error)
            raise FileError(reason.given, "a folder that can be written", "give another -o") from None

    @contextmanager
    def lock(self) -> Iterator[str]:
        """Lock the folder, so that no second process trains in it; the lock ends with the process.

        Yields
        ------
        str
            A warning, or ``""``: the drive does not support locks, or another machine may still train in the folder.

        Raises
        ------
        UsageError
            If another process trains in this folder.
        FileError
            If the folder cannot be written.
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
                f"{format_path(self.path)}: this drive does not support locks; make sure that no other process trains "
                "in this folder"
            )
        except OSError as error:
            raise as_error(self.path / ".lock", error) from None
        try:
            if owner and owner["host"] != socket.gethostname():
                warning = (
                    f"{format_path(self.path)} was trained on {format_path(owner['host'])}, which recorded no end: "
                    "make sure that the training does not go on there; not every network drive supports locks"
                )
            self.write_json(note.name, {"host": socket.gethostname(), "process": os.getpid()})
            remove_parts(self.path)
            yield warning
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)
            lock.release()

    def check_same_settings(
        self, settings: TrainSettings, images: Mapping[str, str], more: Mapping[str, Any] | None = None
    ) -> None:
        """Write the settings, or check that an earlier start had the same.

        An earlier start may be of another version: a missing setting has its default, and a value that this version
        does not know must have changed nothing (None, False or empty).

        Parameters
        ----------
        settings
            Of the training; those with `septum.settings.Option.free` may differ.
        images
            A hash of each image and its mask, by name.
        more
            Other values that must be the same, by name, ready for JSON.

        Raises
        ------
        UsageError
            If the folder holds a run of other settings or data; the differences are listed.
        FileError
            If ``settings.json`` is damaged or cannot be written.
        """
        more = json.loads(json.dumps(dict(more or {})))
        now = fixed_settings(settings)
        stored = self._read_json("settings.json")
        if stored is None:
            data = [str(path.absolute()) for path in settings.data]  # not compared: data may be moved
            self.write_json("settings.json", {**now, **more, "data": data, "images": dict(images)})
            return
        try:
            before, others = read_fixed_settings(stored)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise FileError(
                f"{format_path(self.path / 'settings.json')}: {name} = {first['input']!r}: {first['msg']}",
                "settings that this version of Septum knows",
                "use the version that began the run, or give another -o",
            ) from None
        old_images = others.pop("images", {})
        changed = changed_settings(before, now)
        lines = [f"  {option}: {words}" for option, words in changed.items()]
        lines += _changed_values(others, more)
        if images and old_images and isinstance(old_images, dict):  # a series leaves them to its trainings
            lines += _changed_images(old_images, images)
        if not lines:
            return
        todo = "repeat the earlier command, or give a new folder with -o"
        if self.model.is_file():
            todo = (
                f"to go on from what it has learned, add --from {format_path(self.model)} and give a new folder with "
                "-o; or repeat the earlier command"
            )
        if len(lines) == len(changed) and changed.keys() <= {"--steps", "--budget"}:
            todo += (
                "; a run cannot be made longer or shorter, because its learning rate was planned for the end that was "
                "asked for"
            )
        raise UsageError(
            f"{format_path(self.path)} holds a run with other settings or data:\n" + "\n".join(lines),
            "the same command and data to go on",
            todo,
        )

    def finished(self, checkpoint: Checkpoint | None, origin: Mapping[str, Any]) -> Trained | None:
        """Return the result of a finished run; None if it is not finished, or its model is missing or damaged."""
        if checkpoint is None or checkpoint.state.get("progress") != 1.0 or checkpoint.state.get("row") is not None:
            return None
        try:
            header = ModelHeader.model_validate(read_model(self.model)[1])
        except (ModelError, ValidationError):
            return None
        stored = header.training
        if stored.get("steps") != checkpoint.step or any(stored.get(k) != v for k, v in origin.items()):
            return None
        seconds, activities = float(stored.get("seconds", 0.0)), stored.get("activities_s", {})
        return Trained(self.model, header.scores, checkpoint.step, seconds, activities)

    def read_plan(self) -> tuple[Plan, tuple[str, ...], str | None] | None:
        """Load the plan of an earlier start, its reasons and the name of its start; None if there was no earlier start.

        The name is that of a model that comes with Septum, whose weights the training begins with; None for none.

        Raises
        ------
        FileError
            If the file is damaged.
        """
        stored = self._read_json("plan.json")
        if stored is None:
            return None
        try:
            reasons, start = tuple(str(reason) for reason in stored["reasons"]), stored.get("start")
            return Plan.model_validate(stored["plan"]), reasons, None if start is None else str(start)
        except (ValidationError, KeyError, TypeError):
            raise self._damaged("plan.json") from None

    def write_plan(
        self, plan: Plan, reasons: Sequence[str], *, held_out: Sequence[str], start: str | None = None, begun: bool
    ) -> None:
        """Write the plan, its reasons, the names of the held-out images and that of the start (`read_plan`).

        Raises
        ------
        UsageError
            As `check_held_out`, if the run has `begun`.
        """
        if begun:
            self.check_held_out(held_out)
        content = {"plan": plan.model_dump(mode="json"), "reasons": list(reasons), "held_out": list(held_out)}
        self.write_json("plan.json", content | {"start": start})

    def check_held_out(self, held_out: Sequence[str]) -> None:
        """Check that the run began with these images held out; another version of Septum may divide them otherwise.

        Raises
        ------
        UsageError
            If it held out others.
        FileError
            If ``plan.json`` is damaged.
        """
        before = (self._read_json("plan.json") or {}).get("held_out", held_out)
        if sorted(before) != sorted(held_out):
            raise UsageError(
                f"{format_path(self.path)}: the run began with {list_some(before, 5) or 'no image'} held out, "
                f"this version of Septum holds out {list_some(held_out, 5) or 'none'}",
                "the same held-out images until the end",
                "finish the run with the version that began it, or give another -o",
            )

    def split_sentence(self, images: int) -> str:
        """Describe the split of a finished run of so many annotated images, perhaps of an earlier version.

        Raises
        ------
        FileError
            If ``plan.json`` is damaged.
        """
        held = [format_path(str(name)) for name in (self._read_json("plan.json") or {}).get("held_out", [])]
        if not held:
            return f"{pluralize(images, 'image')}: none was held out, so there is no score"
        return f"{len(held)} of {pluralize(images, 'image')} held out for validation: {list_some(held, 4)}"

    def read_settings(self) -> dict[str, Any]:
        """Load the settings of an earlier start as `check_same_settings` wrote them; empty if there was none.

        Raises
        ------
        FileError
            If the file is damaged.
        """
        return self._read_json("settings.json") or {}

    def write_json(self, name: str, content: object) -> None:
        """Write one JSON file, completely or not at all."""
        with whole_file(self.path / name) as part:
            part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def open_log(self, scores: Sequence[str], *, after: int) -> StepLog:
        """Open the log for appending, truncated to the first `after` steps."""
        return StepLog(self.log, scores, after=after)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            raise self._damaged(name) from None

    def _damaged(self, name: str) -> FileError:
        return FileError(f"{format_path(self.path / name)}: damaged", "the file that training wrote", "give another -o")


def is_trained(folder: Path) -> bool:
    """Return True if a training in this folder is finished: its model is written last, and a checkpoint stays."""
    return (folder / "model.safetensors").is_file() and is_begun(folder)


def is_begun(folder: Path) -> bool:
    """Return True if a training in this folder has written a checkpoint."""
    return any((folder / "checkpoints").glob("step-*.safetensors"))


def _owner(note: Path) -> dict[str, str] | None:
    """Return host and process of the last training that did not record its end."""
    try:
        stored = json.loads(note.read_text(encoding="utf-8"))
        return {"host": str(stored["host"])[:100], "process": str(int(stored["process"]))}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _changed_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that differs and is not a setting; if the kinds differ, of the kinds alone."""
    lines = []
    other_kind = any(before.get(name) != now.get(name) for name in _KINDS)
    for name in _KINDS if other_kind else sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if name in _OTHER_KEYS and old != new:
            old, new = ("not given" if value is None else value for value in (old, new))
            lines.append(f"  {name}: {old} -> {new}")
        elif name not in _OTHER_KEYS and old:
            lines.append(f"  {name}: {old} -> not a setting of this version")
    return lines


def _changed_images(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each new, missing or changed image, for the first of them by name."""
    lines = [
        f"  image {format_path(name)}: {'new' if name not in before else 'gone' if name not in now else 'changed'}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return lines if len(lines) <= _MAX_IMAGES else [*lines[:_MAX_IMAGES], f"  and {len(lines) - _MAX_IMAGES} more"]


def read_plan_file(folder: Path) -> dict[str, Any]:
    """Return the content of ``plan.json`` of a finished run: plan, reasons, names of the held-out images.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    try:
        return dict(json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise FileError(
            f"{format_path(folder / 'plan.json')}: cannot be read",
            "the plan that training wrote",
            "name the folder of a training, or train again with another -o",
        ) from None
