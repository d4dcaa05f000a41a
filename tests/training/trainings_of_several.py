"""Train with several processes, forked from this one. Run as a program by `test_parallel`.

Read lists of trainings from the standard input, one a line, and answer each with a line of results: for each training,
the losses, the last event and the error by rank, and the seconds from the end of the first process to the last.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from septum.check import samples as load_module
from septum.check.check import check
from septum.check.samples import load_samples
from septum.errors import SeptumError
from septum.nn.device import find_device
from septum.nn.unet import UNet, for_prediction
from septum.training import distributed as parallel
from septum.training import loop as train_module
from septum.training.events import Step
from septum.training.fingerprint import compute_fingerprint
from septum.training.interrupt import StopRequest
from septum.training.loop import train
from septum.training.presets import make_plan
from septum.training.schedule import Schedule
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer
from septum.training.validation import Validator


def _accident(kind: str, stop: StopRequest) -> None:
    match kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "freeze":
            time.sleep(4)
        case "raise":
            raise SeptumError("an error of one process")
        case "stop":
            stop.request()


def train_one(spec: dict[str, Any], rank: int) -> dict[str, Any]:
    """Train in this process; return its losses, last event and error."""
    answer: dict[str, Any] = {"losses": [], "last": None, "error": None}
    stop, step = StopRequest(), Trainer.training_step
    accident = spec.get("accident")

    def step_with_accident(trainer: Trainer, rate_factor: float) -> Any:
        loss = step(trainer, rate_factor)
        if accident is not None and rank == accident["rank"] and trainer.counters.step == accident["step"]:
            _accident(accident["kind"], stop)
        return loss

    Trainer.training_step = step_with_accident  # type: ignore[method-assign]
    if "rank_in_data" in spec:
        old = load_module.fingerprints
        load_module.fingerprints = lambda samples: {**old(samples), "rank": str(rank)}
    try:
        for event in train(TrainSettings.model_validate(spec["settings"]), stop):
            if isinstance(event, Step):
                answer["losses"].append(event.loss)
            answer["last"] = type(event).__name__
    except SeptumError as error:
        answer["error"] = str(error)
    return answer


def score_one(spec: dict[str, Any], rank: int) -> dict[str, Any]:
    """Score a network that was not trained; return the scores on the way and at the end."""
    report = check([Path(spec["settings"]["data"][0])], kind=spec.get("kind"))
    samples = list(load_samples(report))
    found = compute_fingerprint(samples, report.rules.kind, classes=len(report.rules.class_values))
    plan, _ = make_plan(found, TrainSettings.model_validate(spec["settings"]))
    with parallel.processes_of_this_training() as processes:
        held = Validator(tuple(samples), report.rules.kind == "objects", plan, find_device("cpu"), processes)
        network = for_prediction(UNet(plan.network, seed=3))
        way = held.score(network, StopRequest())
        settings, end, number = held.finish(network, Schedule(1, None))
        stopped = StopRequest()
        if rank == 0:
            stopped.request()  # one is asked, and none returns scores
        nothing = held.score(network, stopped)
    return {"way": way, "settings": settings.model_dump(), "end": end, "number": number, "stopped": nothing}


def run(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fork the processes of one training and wait for all."""
    world = spec["world"]
    parallel.processes_of_this_training.__wrapped__.__defaults__ = (spec.get("timeout_s", 60.0),)  # type: ignore[attr-defined]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            if world > 1:
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ |= {"WORLD_SIZE": str(world), "RANK": str(rank)}
            work = score_one if spec.get("score") else train_one
            (folder / f"{rank}.json").write_text(json.dumps(work(spec, rank)))
            os._exit(0)
        children.append(child)
    ends = []
    for _ in children:
        os.wait()
        ends.append(time.monotonic())
    answers = [folder / f"{rank}.json" for rank in range(world)]
    results = [json.loads(file.read_text()) if file.exists() else None for file in answers]
    for file in answers:
        file.unlink(missing_ok=True)
    return {"ranks": results, "seconds": ends[-1] - ends[0]}


def main() -> None:
    data, folder = sys.argv[1], Path(sys.argv[2])
    train_module.KEEP_STEPS = 5
    train_module.SAVE_SECONDS = -1.0
    for kind in ("objects", "classes"):  # import everything here, not in each process
        warm = {"data": [data], "out": folder / f"warm-{kind}", "steps": 1, "kind": kind, "device": "cpu"}
        warm |= {"width": 2, "depth": 1, "tile": 36, "batch": 2}
        for _ in train(TrainSettings.model_validate(warm)):
            pass
    for line in sys.stdin:
        print(json.dumps([run(spec, folder) for spec in json.loads(line)]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
