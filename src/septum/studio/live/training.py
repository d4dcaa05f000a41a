"""Learn while a person paints: a training without an end, whose newest network predicts what is on the screen.

New strokes are in the next batch. The training goes on from the model that it left in ``runs/live``; else it starts
from a model that comes with Septum, if that finds what was annotated; else from nothing.
"""

from __future__ import annotations

import queue
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np

from septum.arrays.instances import ObjectSettings
from septum.errors import DataError, ModelError, SeptumError
from septum.models.named import file_of
from septum.nn.device import find_device
from septum.prediction.backend import for_scores
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.tiled import TiledPredictor, largest_output
from septum.settings import MaskKind
from septum.studio.label_store import LabelStore, Plane
from septum.studio.live.samples import LiveSamples
from septum.studio.live.view import predict_view
from septum.studio.processes.messages import ServerLink
from septum.studio.project import Project
from septum.studio.settings import FITTING, NOTHING
from septum.studio.tile_grid import Rect
from septum.training.distributed import Processes
from septum.training.fingerprint import Fingerprint, compute_fingerprint
from septum.training.plan import Plan
from septum.training.planner import LEAST_SCORE, STARTS
from septum.training.prepare import Prepared
from septum.training.presets import make_plan, working_scale
from septum.training.pretrained import Pretrained, read_pretrained
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer
from septum.training.validation import Validator

_TILE, _BATCH = 128, 2  # small steps: new strokes count soon, and parts without annotation cost little
_WARM_UP = 20  # steps in which the rate rises
_KEEP_STEPS = 50
_SAVE_S = 30.0
_REFRESH_S, _WAIT_S = 3.0, 0.25
_PIXELS = 1 << 20  # most pixels that are predicted at once
_LEAST_PIXELS = 1 << 18  # that are predicted however long it takes, on the working grid
_PREDICT_S = 2.0  # so long a prediction may take; larger views are predicted in their middle


class LiveTraining:
    """The training, and what it predicts.

    Parameters
    ----------
    task
        ``folder``, ``axes``, ``device``, ``kind`` of labels, ``paused``, and ``start``: a model, one of the two words
        of the settings, or None to go on.
    server
        Where commands come from and results go.
    """

    def __init__(self, task: dict[str, Any], server: ServerLink) -> None:
        self._server = server
        self._device = find_device(task["device"])
        self._project = Project(Path(task["folder"]), task["axes"])
        self._store = LabelStore(self._project.work / "labels.sqlite")
        self._changes = sqlite3.connect(self._project.work / "labels.sqlite", timeout=20)
        self._kind: MaskKind = task["kind"]
        self._start: str | None = task["start"]
        self._paused = bool(task["paused"])
        self._samples = LiveSamples(self._project, self._store, self._kind)
        self._trainer: Trainer | None = None
        self._objects = ObjectSettings()
        self._from = ""
        self._view: tuple[Plane, Rect] | None = None
        self._seen = -1
        self._due = False  # the view or the labels have changed since the last prediction
        self._predicted_at, self._saved_at, self._told_at = 0.0, time.monotonic(), 0.0
        self._pixels_per_s, self._predict_s = 0.0, 0.0
        self._ended = False

    def run(self) -> None:
        """Learn until the server is gone."""
        while not self._ended:
            ready = self._follow_labels()
            resting = self._paused or not ready
            self._obey(_WAIT_S if resting else 0.0)
            if self._ended or not ready:
                continue
            if not self._paused:
                self._learn()
            elapsed = time.monotonic() - self._predicted_at
            again = not self._paused and elapsed > max(_REFRESH_S, 2 * self._predict_s)
            if self._trainer is not None and (self._due or again):
                self._predict()
        self._save()

    # ---- commands

    def _obey(self, wait_s: float) -> None:
        """Do what the server has asked for; wait for it so long if nothing else is to be done."""
        try:
            command = self._server.commands.get(timeout=wait_s) if wait_s else self._server.commands.get_nowait()
            while True:
                self._do(command)
                command = self._server.commands.get_nowait()
        except queue.Empty:
            return

    def _do(self, command: dict[str, Any] | None) -> None:
        match command:
            case None:
                self._ended = True
            case {"command": "view", "image": str(image), "t": int(t), "z": int(z), "rect": rect, "sides": sides}:
                plane = Plane(int(command["plane"]), image, t, z, (sides[0], sides[1]))
                self._view, self._due = (plane, Rect(*rect).clip(plane.box)), True
            case {"command": "pause"}:
                self._paused = True
                self._save()
                self._tell(now=True)
            case {"command": "resume"}:
                self._paused, self._due = False, True
                self._tell(now=True)
            case {"command": "masks"}:
                self._samples.choose_anew()
                self._seen = -1
            case {"command": "restart", "start": start}:
                self._start, self._trainer = start, None
                self._samples.forget_prepared()
                self._paused = False

    # ---- learning

    def _follow_labels(self) -> bool:
        """Take in new labels; return True if there is enough to learn from."""
        version = int(self._changes.execute("PRAGMA data_version").fetchone()[0])
        if version != self._seen:
            self._seen = version
            changed = self._samples.refresh()
            self._due = self._due or changed
            if self._trainer is not None and self._samples.enough:
                network = self._trainer.plan.network
                if (network.channels, network.classes) != (self._samples.channels, self._classes):
                    self._trainer = None
                    self._samples.forget_prepared()
                elif changed:
                    self._trainer.exchange_images(self._prepared(self._trainer.plan))
            self._tell(now=True)
        return self._samples.enough

    def _prepared(self, plan: Plan) -> tuple[Prepared, ...]:
        """Return the annotated parts ready for training.

        Raises
        ------
        DataError
            If none of the images can be read any more.
        """
        if prepared := self._samples.prepared(plan):
            return prepared
        given = "\n".join(self._samples.passed_over.values())
        raise DataError(given, "an annotated image that can be read", "look whether the images are still in the folder")

    @property
    def _classes(self) -> int:
        return 2 if self._kind == "objects" else max(2, max(self._samples.labels, default=0) + 1)

    def _learn(self) -> None:
        """Do a step; begin first if there is no training."""
        if self._trainer is None:
            self._server.send({"topic": "live", "state": "starting", "text": "choosing a network to start from"})
            self._trainer = self._begin()
            self._due = True
            self._predicted_at = 0.0
            return
        trainer = self._trainer
        loss = float(trainer.training_step(min(1.0, (trainer.counters.step + 1) / _WARM_UP)))
        if not np.isfinite(loss):
            trainer.state.roll_back(trainer.counters.step)
            return
        if trainer.counters.step % _KEEP_STEPS == 0:
            trainer.state.keep()
        self._tell(loss)
        if time.monotonic() - self._saved_at > _SAVE_S:
            self._save()

    def _begin(self) -> Trainer:
        goes_on = self._last_model()
        settings = TrainSettings(data=(self._project.root,), out=self._project.runs / "live", tile=_TILE, batch=_BATCH)
        self._samples.use_scale(1.0 if goes_on is None else goes_on.header.scale)
        fingerprint = self._fingerprint()
        scale = working_scale(fingerprint, settings)
        if goes_on is None and scale != 1:
            self._samples.use_scale(scale)
            fingerprint = self._fingerprint()
        start, words = (goes_on, "from where it ended") if goes_on is not None else self._choose_start()
        plan, _ = make_plan(
            fingerprint, settings, gpu=self._device.torch.type != "cpu", bfloat16=self._device.bfloat16, start=start
        )
        plan = _live_plan(plan, warm=start is not None)
        trainer = Trainer(
            plan=plan,
            seed=0,
            device=self._device,
            processes=Processes(),
            images=self._prepared(plan),
            validator=Validator((), self._kind == "objects", plan, self._device),
        )
        wide = fingerprint.own_px
        self._from = words
        if plan.scale != 1 and wide is not None:
            self._from += f"; objects are about {wide:.0f} pixels wide: the model sees images at scale {plan.scale:.3g}"
        if start is not None:
            start.fill(trainer.network, keep_head=start.keeps_head(tuple(range(self._classes))))
            self._objects = start.header.objects.model_copy(update={"learned": None})
        else:
            self._objects = ObjectSettings(seed_level=0.8, min_size_px=max(8, int(0.15 * self._samples.area_px)))
        trainer.state.keep()
        return trainer

    def _fingerprint(self) -> Fingerprint:
        scale = self._samples.scale
        return compute_fingerprint(self._samples.samples, self._kind, classes=self._classes, scale=scale)

    def _last_model(self) -> Pretrained | None:
        """Return the model of an earlier time to go on with; None if there is none, or another start is asked for."""
        live = self._project.runs / "live" / "model.safetensors"
        if self._start is not None or not live.is_file():
            return None
        try:
            start = read_pretrained(live)
        except ModelError as error:
            self._server.send({"topic": "failure", "text": str(error)})
            return None
        return start if self._fits(start) else None

    def _fits(self, start: Pretrained) -> bool:
        return len(start.header.network.depths) == 2 and start.keeps_head(tuple(range(self._classes)))

    def _choose_start(self) -> tuple[Pretrained | None, str]:
        """Choose the model to start from, with words for it."""
        if self._start == NOTHING:
            return None, "from nothing"
        if self._start not in (None, FITTING):
            start = read_pretrained(Path(str(self._start)))
            if not self._fits(start):
                raise DataError(
                    f"{self._start}: a model of other labels than those painted here, or of volumes",
                    "a 2D model of the same labels",
                    "choose another start",
                )
            return start, f"from {self._start}"
        if self._kind == "classes":
            return None, "from nothing"
        scores = {}
        for name in STARTS["objects"]:
            start = read_pretrained(file_of(name))
            scores[name] = start.score(self._samples.samples, lines=False, device=self._device)
        best = max(scores, key=lambda name: scores[name])
        if scores[best] >= LEAST_SCORE["objects"]:
            return read_pretrained(file_of(best)), f"from {best}, which found {scores[best]:.0%}"
        return None, "from nothing: no model that comes with Septum found these objects"

    # ---- results

    def _tell(self, loss: float | None = None, *, now: bool = False) -> None:
        """Send the state, at most twice a second unless it has changed."""
        if not now and time.monotonic() - self._told_at < 0.5:
            return
        self._told_at = time.monotonic()
        step = 0 if self._trainer is None else self._trainer.counters.step
        self._server.send(
            {
                "topic": "live",
                "state": "paused" if self._paused else "waiting" if self._trainer is None else "learning",
                "enough": self._samples.enough,
                "objects": self._samples.objects,
                "classes": len(self._samples.labels),
                "background": 0 in self._samples.labels,
                "tiles": [len(self._samples.samples), self._samples.tiles],
                "passed_over": list(self._samples.passed_over.values()),
                "start": self._from,
                "step": step,
                "loss": loss,
            }
        )

    def _predict(self) -> None:
        """Predict the view, or its middle if all of it would take too long."""
        self._due = False
        self._predicted_at = time.monotonic()
        if self._view is None or self._trainer is None:
            return
        plane, rect = self._view
        try:
            self._predict_part(plane, rect, self._trainer)
        except SeptumError as error:
            self._view = None  # the image cannot be read; the page asks again when it is opened
            self._server.send({"topic": "failure", "text": str(error)})

    def _predict_part(self, plane: Plane, rect: Rect, trainer: Trainer) -> None:
        image = self._samples.image(plane)
        network = trainer.averaged_network()
        if image is None or image.shape[0] != network.settings.channels or rect.empty:
            return
        begin = time.monotonic()
        rect = self._affordable(rect)
        tiler = TiledPredictor(
            for_scores(network, self._device), self._device, largest_output(network.settings, self._device)
        )
        prepared_s = time.monotonic() - begin
        plan = trainer.plan
        stats = self._samples.stats(plane, image, plan.normalization)
        objects = self._objects if self._kind == "objects" else None
        labels, sure = predict_view(tiler, image, stats, rect, scale=plan.scale, objects=objects)
        self._predict_s = seconds = time.monotonic() - begin
        self._pixels_per_s = rect.sides[0] * rect.sides[1] / max(seconds - prepared_s, 1e-3)
        self._predicted_at = time.monotonic()
        data = np.ascontiguousarray(labels, "<i4").tobytes() + sure.tobytes()
        self._server.send(
            {
                "topic": "prediction",
                "plane": plane.id,
                "rect": [rect.y0, rect.x0, rect.y1, rect.x1],
                "objects": len(np.unique(labels[labels > 0])),
                "seconds": seconds,
                "step": trainer.counters.step,
            },
            data,
        )

    def _affordable(self, rect: Rect) -> Rect:
        """Return the rectangle, or its middle, small enough to be predicted in time."""
        most = _PIXELS
        if self._pixels_per_s:
            least = _LEAST_PIXELS / self._samples.scale**2
            most = int(min(_PIXELS, max(least, self._pixels_per_s * _PREDICT_S)))
        height, width = rect.sides
        if height * width <= most:
            return rect
        share = (most / (height * width)) ** 0.5
        h, w = max(1, int(height * share)), max(1, int(width * share))
        y, x = (rect.y0 + rect.y1 - h) // 2, (rect.x0 + rect.x1 - w) // 2
        return Rect(y, x, y + h, x + w)

    def _save(self) -> None:
        """Write the model of the moment to ``runs/live``."""
        self._saved_at = time.monotonic()
        trainer = self._trainer
        if trainer is None or trainer.counters.step == 0:
            return
        plan = trainer.plan
        header = ModelHeader(
            network=plan.network,
            normalization=plan.normalization,
            kind=self._kind,
            class_values=tuple(range(plan.network.classes)),
            read_axes="",
            objects=self._objects,
            scale=plan.scale,
            training={"steps": trainer.counters.step, "preset": "live", "start": self._from},
        )
        folder = self._project.runs / "live"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_model(folder / "model.safetensors", trainer.averaged_network(), header)
            self._server.send({"topic": "model"})
        except (SeptumError, OSError) as error:
            self._server.send({"topic": "failure", "text": str(error)})


def _live_plan(plan: Plan, *, warm: bool) -> Plan:
    """Return the plan of `auto` for a training without an end: a constant rate, and weights averaged over few steps.

    A network that starts warm keeps the statistics of its batch normalization: those of two tiles would change what it
    knows at once.
    """
    optimizer = plan.optimizer.model_copy(
        update={"schedule": "constant", "average": 0.4, "freeze_batchnorm": 1.0 if warm else 0.0}
    )
    return plan.model_copy(update={"optimizer": optimizer, "lines": False})
