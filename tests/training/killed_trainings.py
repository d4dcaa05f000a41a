"""Kill a training at random moments until it ends. Run as a program by `test_kills`.

Each session is a fork of this process, which has loaded everything, and kills itself with SIGKILL at its n-th moment:
before and after each sync and rename of a file, in the middle of writing a file, in a step between the gradient and the
weights, in a validation between two images, and at each event. Some sessions are asked to stop there instead. In every
run one loss is not a finite number, so that a rollback meets a resume.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from septum.nn import deep_supervision as supervised_module
from septum.nn.optimizer import Optimizer
from septum.training import loop as train_module
from septum.training import trainer as trainer_module
from septum.training import validation as validate_module
from septum.training.checkpoint import StepLog
from septum.training.interrupt import StopRequest
from septum.training.loop import train
from septum.training.settings import TrainSettings


class Moments:
    """Counts the moments of a session, and kills the process, or asks it to stop, at the one given."""

    def __init__(self, fatal: int | None, stop: StopRequest | None) -> None:
        self.fatal = fatal
        self.stop = stop
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 != self.fatal:
            return
        if self.stop is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self.stop.request()

    def around(self, owner: Any, attribute: str, name: str) -> None:
        """Count a moment before and one after a function."""
        original: Callable[..., Any] = getattr(owner, attribute)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self(f"before {name}")
            result = original(*args, **kwargs)
            self(f"after {name}")
            return result

        setattr(owner, attribute, watched)

    def within_writing(self) -> None:
        """Count a moment when half of a file is written."""
        whole_bytes, whole_text = Path.write_bytes, Path.write_text

        def half_bytes(path: Path, data: Any) -> int:
            whole_bytes(path, bytes(data)[: len(data) // 2])
            self("half of a file")
            return whole_bytes(path, data)

        def half_text(path: Path, data: str, *args: Any, **kwargs: Any) -> int:
            whole_text(path, data[: len(data) // 2], *args, **kwargs)
            self("half of a text")
            return whole_text(path, data, *args, **kwargs)

        Path.write_bytes, Path.write_text = half_bytes, half_text  # type: ignore[method-assign, assignment]
        append = StepLog.append

        def half_line(log: StepLog, row: Any) -> None:
            before = log.path.stat().st_size
            append(log, row)
            whole = log.path.read_bytes()
            os.truncate(log.path, (before + len(whole)) // 2)
            self("half of a line")
            whole_bytes(log.path, whole)

        StepLog.append = half_line  # type: ignore[method-assign]


def lose_a_step() -> None:
    """Make the loss of the sixth step NaN until the training has rolled back once."""
    step = trainer_module.Trainer.training_step

    def sometimes(trainer: trainer_module.Trainer, rate_factor: float) -> torch.Tensor:
        if trainer.counters.step == 5 and not trainer.counters.undone:
            return torch.tensor(math.nan)
        return step(trainer, rate_factor)

    trainer_module.Trainer.training_step = sometimes  # type: ignore[method-assign]


def watch(fatal: int | None, stop: StopRequest | None) -> Moments:
    """Count the moments in this process."""
    moments = Moments(fatal, stop)
    moments.within_writing()
    for owner, attribute, name in (
        (os, "fsync", "sync"),
        (Path, "replace", "rename"),
        (Path, "unlink", "remove"),
        (supervised_module, "count_annotated", "loss"),
        (Optimizer, "step", "weights"),
        (validate_module, "candidate_columns", "scores of an image"),
    ):
        moments.around(owner, attribute, name)
    return moments


def session(settings: TrainSettings, fatal: int | None, note: Path, *, stops: bool = False) -> bool:
    """Train in a forked process; return True if it came to its end. Then it writes its moments to `note`."""
    note.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            stop = StopRequest()
            moments = watch(fatal, stop if stops else None)
            for event in train(settings, stop):
                moments(type(event).__name__)
            if "Trained" in moments.names:
                with note.open("w") as file:
                    file.write(json.dumps(moments.names))
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert status == 0, f"a session failed: {status}"
    return note.exists()


def main(data: Path, out: Path, kills: int, seed: int) -> None:
    # A checkpoint after every step; kept states after every third.
    train_module.SAVE_SECONDS = -1.0
    train_module.KEEP_STEPS = 3
    lose_a_step()
    values = {"data": (data,), "steps": 8, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}
    for _ in train(TrainSettings.model_validate({**values, "out": out / "warm"})):
        pass
    note = out / "moments.json"
    whole = TrainSettings.model_validate({**values, "out": out / "whole"})
    assert session(whole, None, note)
    names = json.loads(note.read_text())
    rng, done, stopped, runs, sessions, killed_at = random.Random(seed), 0, 0, 0, 0, []
    while done < kills:
        runs += 1
        settings = TrainSettings.model_validate({**values, "out": out / f"killed-{runs}"})
        while True:
            # A session that resumes late may end before a late moment.
            fatal = rng.randrange(len(names)) if done < kills else None
            sessions += 1
            stops = sessions % 3 == 2
            if session(settings, fatal, note, stops=stops):
                break
            done += not stops
            stopped += stops
            killed_at.append(names[fatal or 0])
    result = {"kills": done, "stops": stopped, "runs": runs, "moments": len(names), "killed_at": killed_at}
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
