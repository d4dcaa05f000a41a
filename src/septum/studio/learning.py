"""The child processes of a session: the training that goes on while a person paints, and one job at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from septum.errors import UsageError
from septum.io.files import read_mask
from septum.io.formats import image_stem
from septum.models.named import NAMES
from septum.settings import MaskKind
from septum.studio.background import UnreadMasks
from septum.studio.edits import Prediction
from septum.studio.hub import Hub
from septum.studio.label_store import LabelStore, Plane
from septum.studio.processes.child import Child
from septum.studio.project import Project
from septum.studio.settings import FITTING, LEAST_OBJECTS, NOTHING, StudioSettings
from septum.studio.tile_grid import Rect

_RESTARTS = 3
_MOST_NAMED = 8  # images that are not learned from, each with its reason
_MOST_PIXELS = 16_000_000  # of a predicted file that is shown


@dataclass
class Learning:
    """Starts, steers and follows the child processes.

    Parameters
    ----------
    settings, project, store, hub
        Of the session.
    """

    settings: StudioSettings
    project: Project
    store: LabelStore
    hub: Hub
    live_state: dict[str, Any] = field(default_factory=dict)
    job_state: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._live: Child | None = None
        self._job: Child | None = None
        self._start = None if self.settings.from_model is None else str(self.settings.from_model)
        self._paused = False
        self._paused_by_job = False  # learning goes on after the job
        self._failures = 0
        self._view: dict[str, Any] | None = None
        self._predictions: dict[int, Prediction] = {}
        self._told: dict[str, Any] = {"state": "waiting"}
        self._unread = UnreadMasks()
        self.live_state = self._describe(self._told)

    @property
    def kind(self) -> MaskKind:
        """Return whether labels are objects or classes."""
        return self.store.kind

    def set_kind(self, kind: MaskKind) -> None:
        """Say whether labels are objects or classes; learning begins anew."""
        self.store.note("kind", kind)
        self._predictions.clear()
        self._end_live()
        self._show_live({"state": "paused" if self._paused else "waiting"})
        self.follow()

    def models(self) -> list[str]:
        """Return the models that can be used: runs of this folder, the newest first, and those of Septum."""
        runs = [p.parent for p in self.project.runs.glob("*/model.safetensors")]
        runs.sort(key=lambda run: -(run / "model.safetensors").stat().st_mtime)
        return [f"runs/{run.name}" for run in runs] + list(NAMES)

    def _model(self, name: str) -> Path:
        if name not in self.models():
            raise UsageError(f"model {name}: not known here", "a model of the list", "reload the page")
        return self.project.root / name if name.startswith("runs/") else Path(name)

    # ---- learning while a person paints

    def begin(self) -> None:
        """Start the training that goes on while a person paints, if it does not run."""
        with self._lock:
            if self._live is not None and self._live.running:
                return
            task = {
                "task": "live",
                "folder": str(self.project.root),
                "axes": self.settings.axes,
                "device": self.settings.device,
                "kind": self.kind,
                "start": self._start,
                "paused": self._paused,
            }
            self._live = Child(task, self._take_live, self._live_ended)
            if self._view is not None:
                self._live.send(self._view)

    def follow(self) -> None:
        """Start the training once there is something to learn from; it waits until that is enough."""
        if self._live is not None:
            return
        counts = self.store.counts()
        if sum(counts.values()) >= LEAST_OBJECTS or (self.kind == "classes" and counts):
            self.begin()

    def show_unread(self, unread: UnreadMasks) -> None:
        """Say which masks are not read yet."""
        if unread != self._unread:
            self._unread = unread
            self._show_live(self._told)

    def learn_masks(self) -> None:
        """Learn from masks that were read: of all annotated tiles, those to learn from are chosen again."""
        self.follow()
        if self._live is not None:
            self._live.send({"command": "masks"})

    def look(self, plane: Plane, rect: Rect) -> None:
        """Predict this part of a plane from now on."""
        place = {"plane": plane.id, "image": plane.image, "t": plane.t, "z": plane.z, "sides": plane.sides}
        self._view = {"command": "view", **place, "rect": [rect.y0, rect.x0, rect.y1, rect.x1]}
        if self._live is not None:
            self._live.send(self._view)

    def command(self, command: str, start: str | None) -> None:
        """Pause, resume, or restart from a model, from nothing, or from a model that fits.

        Raises
        ------
        UsageError
            If there is no such command or model.
        """
        if command not in ("pause", "resume", "restart"):
            raise UsageError(f"command {command}: not known", "pause, resume or restart", "reload the page")
        self._paused = command == "pause"
        self._paused_by_job = False
        if command == "restart":
            self._start = start if start in (FITTING, NOTHING) else str(self._model(str(start)))
            self._predictions.clear()
        self._failures = 0
        self.follow()
        if self._live is None:
            self._show_live({"state": "paused" if self._paused else "waiting"})
        else:
            if not self._live.running:
                self.begin()
            self._live.send({"command": command, "start": self._start})
            if command == "pause":
                self._show_live({**self._told, "state": "paused"})

    def _take_live(self, message: dict[str, Any], data: bytes) -> None:
        if "failed" in message:
            self._paused = True
            self._show_live({"state": "failed", "text": message["failed"]})
        elif message.get("topic") == "prediction":
            self._take_prediction(message, data)
        elif message.get("topic") == "model":
            self.hub.send("models", models=self.models())
        elif message.get("topic") == "live":
            self._show_live(message)
        else:
            self.hub.send("failure", text=str(message.get("text", "")))

    def _take_prediction(self, message: dict[str, Any], data: bytes) -> None:
        box = Rect(*message["rect"])
        count = box.sides[0] * box.sides[1]
        labels = np.frombuffer(data, "<i4", count).reshape(box.sides).astype(np.int32)
        sure = np.frombuffer(data, np.uint8, count, 4 * count).reshape(box.sides)
        self._failures = 0
        view = self._view
        if view is None or view["plane"] != message["plane"]:
            return
        self._predictions = {message["plane"]: Prediction(box, labels, sure, self.kind == "classes")}
        image = next((e.id for e in self.project.entries.values() if e.name == view["image"]), "")
        about = {key: message[key] for key in ("objects", "seconds", "step")}
        self.hub.send("prediction", image=image, t=view["t"], z=view["z"], **about)

    def _show_live(self, message: dict[str, Any]) -> None:
        self._told = message
        self.live_state = self._describe(message)
        self.hub.send("live", **self.live_state)

    def _describe(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the state of learning for the page, with a sentence for the person."""
        return {
            "state": message["state"],
            "text": describe_learning(message, self.kind, self._unread),
            "start": message.get("start", ""),
            "step": message.get("step", 0),
            "loss": message.get("loss"),
            "kind": self.kind,
        }

    def _live_ended(self, reason: str) -> None:
        """Start the process again if it has crashed; not for ever."""
        if not reason:
            return
        self._failures += 1
        if self._failures > _RESTARTS:
            self._paused = True
            self._show_live({"state": "failed", "text": f"Learning has failed:\n{reason}"})
            return
        self.hub.send("failure", text=f"Learning has stopped and begins again:\n{reason}")
        self.begin()

    def _end_live(self) -> None:
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.close()

    def prediction(self, plane: Plane) -> Prediction | None:
        """Return the newest prediction of a plane: of the screen, or of "Predict all" before there is one."""
        return self._predictions.get(plane.id) or self._predicted_file(plane)

    def _predicted_file(self, plane: Plane) -> Prediction | None:
        entry = next((e for e in self.project.entries.values() if e.name == plane.image), None)
        if entry is None or plane.t or plane.z or plane.sides[0] * plane.sides[1] > _MOST_PIXELS:
            return None
        found = sorted(self.project.predictions.glob(f"{image_stem(entry.path)}.*"))
        file = next((p for p in found if image_stem(p) == image_stem(entry.path)), None)
        if file is None:
            return None
        labels = read_mask(file).array
        if labels.shape[-2:] != plane.sides or labels.size != plane.sides[0] * plane.sides[1]:
            return None
        labels = labels.reshape(plane.sides).astype(np.int32)
        sure = np.where(labels > 0, 255, 0).astype(np.uint8)
        return Prediction(plane.box, labels, sure, self.kind == "classes")

    # ---- jobs

    def start_job(self, kind: str, options: dict[str, Any]) -> None:
        """Start to train properly, to predict all images, or to rank them.

        Raises
        ------
        UsageError
            If a job runs already, or there is no such job or model.
        """
        with self._lock:
            if self._job is not None and self._job.running:
                raise UsageError("a job runs already", "one at a time", "wait for its end, or stop it")
            self.project.renew()
            common = {"axes": self.settings.axes, "device": self.settings.device}
            files = [str(entry.path) for entry in self.project.entries.values()]
            task: dict[str, Any]
            if kind == "train":
                task = {"data": self._training_data(), "out": str(self._new_run()), "kind": self.kind}
                task["budget_s"] = float(options.get("budget_s", 1800))
                task["written"] = any(self.store.note(f"own {name}") for name in self.project.entries)
            elif kind == "predict":
                out = self.project.predictions
                task = {"model": str(self._model(str(options.get("model")))), "inputs": files, "out": str(out)}
                task["also"] = list(options.get("also", ()))
            elif kind == "suggest":
                annotated = self.store.counts()
                files = [
                    str(e.path) for e in self.project.entries.values() if e.name not in annotated and e.mask is None
                ]
                if not files:
                    raise UsageError("every image has annotations", "images without any", "copy more images here")
                task = {"model": str(self._model(str(options.get("model")))), "inputs": files}
            else:
                raise UsageError(f"job {kind}: not known", "train, predict or suggest", "reload the page")
            if self._live is not None and not self._paused:
                self.command("pause", None)  # both would share the processor
                self._paused_by_job = True
            kept = [] if kind == "suggest" else (self.job_state or {}).get("suggested", [])
            state = {"kind": kind, "running": True, "text": "starting", "share": 0.0, "scores": {}}
            self.job_state = {**state, "suggested": kept}
            self._job = Child({"task": kind, **task, **common}, self._take_job, self._job_ended)
            self._show_job({})

    def stop_job(self) -> None:
        """Stop the job that runs: a training saves its state, results that are written stay."""
        if self._job is not None:
            self._job.send({"command": "stop"})

    def _training_data(self) -> list[str]:
        return [str(self.project.images), str(self.project.masks)]

    def _new_run(self) -> Path:
        """Return a run folder; one that was not ended goes on."""
        number = 1
        while (self.project.runs / f"studio-{number}" / "model.safetensors").exists():
            number += 1
        run = self.project.runs / f"studio-{number}"
        # Other annotations or another time: a run goes on only with the same, so a new one begins.
        while run.exists():
            number += 1
            run = self.project.runs / f"studio-{number}"
        return run

    def _take_job(self, message: dict[str, Any], _: bytes) -> None:
        if "failed" in message:
            self._show_job({"text": message["failed"], "failed": True})
            return
        if warning := message.pop("warning", None):
            self.hub.send("failure", text=warning)
        if found := message.pop("suggested", None):
            message["suggested"] = self._named(found)
        self._show_job(message)

    def _named(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        ids = {str(entry.path): entry for entry in self.project.entries.values()}
        return [
            {
                "id": ids[one["path"]].id,
                "name": ids[one["path"]].name,
                "t": one["place"].get("T", 0),
                "z": one["place"].get("Z"),
                "disagreement": one["disagreement"],
            }
            for one in found
        ]

    def _job_ended(self, reason: str) -> None:
        state = self.job_state or {}
        text = reason or state.get("text", "")
        if failures := state.get("failures"):
            text = "\n".join([f"{len(failures)} images failed:", *failures[:5]])
        elif not reason and state.get("kind") == "predict" and not state.get("failed"):
            text = f"{state.get('done', 0)} images predicted, in predictions/"
        elif not reason and state.get("share", 0.0) < 1 and not state.get("failed"):
            text = f"stopped: {text}"
        self._predictions.clear()
        self._show_job({"running": False, "text": text})
        if self._paused_by_job:
            self.command("resume", None)

    def _show_job(self, changed: dict[str, Any]) -> None:
        self.job_state = {**(self.job_state or {}), **{k: v for k, v in changed.items() if k != "topic"}}
        self.hub.send("job", **self.describe_job())

    def describe_job(self) -> dict[str, Any]:
        """Return the state of the last job for the page."""
        state = self.job_state or {}
        shown = {key: state.get(key) for key in ("kind", "running", "text", "share", "scores", "suggested")}
        return {**shown, "report": self.report() is not None}

    def report(self) -> Path | None:
        """Return the report of the last training; None if there is none."""
        report = (self.job_state or {}).get("report")
        return Path(report) if report is not None and Path(report).is_file() else None

    def close(self) -> None:
        """End all processes; a training saves its state."""
        self._paused_by_job = False
        self._end_live()
        if self._job is not None:
            self._job.close()


def describe_learning(message: dict[str, Any], kind: MaskKind, unread: UnreadMasks | None = None) -> str:
    """Return sentences for the panel of the page.

    Parameters
    ----------
    message
        Message of the training that goes on. Where it holds a `text`, this text is returned.
    kind
        Whether labels are objects or classes.
    unread
        Masks that are not read yet.
    """
    text = str(message.get("text", ""))
    if text:
        return text
    state, step, classes = message["state"], message.get("step", 0), kind == "classes"
    if not message.get("enough"):
        two = "two classes, or a class and background" if classes else "two objects"
        text = f"Paint {two}, and learning begins."
    elif state == "paused":
        text = f"Paused at step {step}."
    elif state == "waiting":
        text = "Learning begins."
    else:
        read, tiles = message["tiles"]
        some = f" ({read} of {tiles} tiles)" if read < tiles else ""
        text = f"Learning from {message[kind]} {kind}{some}: step {step}. Started {message.get('start', '')}."
        if not classes and not message.get("background"):
            text += " Paint some background too: press X."
    unread = unread or UnreadMasks()
    text += unread.text
    if passed_over := [*message.get("passed_over", ()), *unread.failed]:
        lines, more = passed_over[:_MOST_NAMED], len(passed_over) - _MOST_NAMED
        text = "\n".join([text, "Not learned from:", *lines, *([f"and {more} more images"] if more > 0 else [])])
    return text
