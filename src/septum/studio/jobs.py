"""Work that is done once, in a child process: train properly, predict all images, rank the images to annotate next.

The same generators as those of the command line; their events become messages with a text and a share that is done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from septum.events import Event, Warned, Working
from septum.experiments.events import ReportWritten
from septum.prediction.events import ImageDone, ImageFailed, ImageStarted, TileDone
from septum.report.numbers import format_scores, format_seconds
from septum.review.suggest import Judged, Suggested
from septum.studio.processes.messages import ServerLink
from septum.training.events import Checked, Resumed, Step, Trained, Validated
from septum.training.interrupt import StopRequest


def run_job(task: dict[str, Any], server: ServerLink) -> None:
    """Do a task and tell the server of each event.

    Parameters
    ----------
    task
        ``task`` is ``"train"``, ``"predict"`` or ``"suggest"``; the other values are those of the settings.
    server
        Where commands come from and results go; a stop, or the end of the server, ends a training in order.

    Raises
    ------
    SeptumError
        As the jobs.
    """
    stop = StopRequest()
    threading.Thread(target=_wait_for_stop, args=(server, stop), daemon=True).start()
    state: dict[str, Any] = {"share": 0.0, "text": "", "scores": {}}
    for event in _events(task, stop):
        if stop.requested and task["task"] != "train":
            return
        changed = _describe(event, state)
        if changed:
            state |= changed
            server.send({"topic": "job", **state})


def _wait_for_stop(server: ServerLink, stop: StopRequest) -> None:
    server.commands.get()  # the only command is to stop; None: the server is gone
    stop.request()


def _events(task: dict[str, Any], stop: StopRequest) -> Iterator[Event]:
    match task["task"]:
        case "train":
            from septum.experiments.run import run_training
            from septum.training.settings import TrainSettings

            data = tuple(Path(folder) for folder in task["data"])
            settings = TrainSettings(
                data=data,
                out=Path(task["out"]),
                budget_s=task["budget_s"],
                kind=task["kind"],
                # In masks that the studio wrote, -1 is not annotated; those of other programs tell their background.
                background=0 if task["kind"] == "objects" and task["written"] else None,
                axes=task["axes"],
                device=task["device"],
            )
            yield from run_training(settings, stop=stop)
        case "predict":
            from septum.export.jobs import predict_and_export
            from septum.export.settings import PredictAndExportSettings
            from septum.prediction.settings import PredictSettings

            asked = {key: task[key] for key in ("model", "out", "axes", "device")}
            prediction = PredictSettings(inputs=tuple(task["inputs"]), **asked)
            yield from predict_and_export(PredictAndExportSettings(prediction=prediction, also=tuple(task["also"])))
        case _:
            from septum.review.settings import SuggestSettings
            from septum.review.suggest import suggest

            asked = {key: task[key] for key in ("model", "axes", "device")}
            yield from suggest(SuggestSettings(inputs=tuple(task["inputs"]), number=5, **asked))


def _describe(event: Event, state: dict[str, Any]) -> dict[str, Any]:
    """Return what an event changes in the message to the page."""
    match event:
        case Working(text):
            return {"text": text}
        case Warned(text):
            return {"warning": text}
        case Checked(report):
            lines = [line for line in report.lines() if line.startswith("warning: ")]
            return {"text": "\n".join(["the data was checked", *lines[:3]])}
        case Resumed(step):
            return {"text": f"going on after step {step}"}
        case Step(step, total, loss):
            if step % 5 and step < total:
                return {}
            return {"text": f"step {step} of {total}, loss {loss:.3f}", "share": min(1.0, step / max(1, total))}
        case Validated(step, _, scores):
            return {"text": f"step {step}: held-out images {format_scores(scores)}", "scores": scores}
        case ReportWritten(path):
            return {"report": str(path)}
        case Trained(model, scores, steps, seconds):
            words = format_scores(scores) or "no image was held out: annotate more for scores"
            text = f"trained: {words}; {steps} steps, {format_seconds(seconds)}"
            return {"text": text, "scores": scores, "share": 1.0, "model": str(model)}
        case ImageStarted(path, index, count):
            return {
                "text": f"{path.name}: image {index + 1} of {count}",
                "share": index / count,
                "part": (index, count),
            }
        case TileDone(_, tile, tiles):
            index, count = state.get("part", (0, 1))
            return {"share": (index + tile / tiles) / count}
        case ImageDone(path, _, seconds, objects):
            done = state.get("done", 0) + 1
            found = "" if objects is None else f", {objects} objects"
            return {"text": f"{path.name}: done in {format_seconds(seconds)}{found}", "done": done}
        case ImageFailed(path, message):
            return {"failures": [*state.get("failures", []), f"{path.name}: {message}"]}
        case Judged(path, index, count, done, total):
            return {"text": f"{path.name}: image {index + 1} of {count}", "share": (index + done / total) / count}
        case Suggested(suggestions):
            ranked = [
                {"path": str(one.path), "place": one.place, "disagreement": one.disagreement} for one in suggestions
            ]
            return {"text": "the model is least sure of these images", "share": 1.0, "suggested": ranked}
    return {}
