"""Predict one image on two workers of this machine, one of which is killed in the middle. Run as a program."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from septum.prediction import tile_plan
from septum.prediction.events import BlockDone
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings


def _workers() -> list[int]:
    """Return the processes of Dask's workers: children of their nannies' process, which is this one."""
    import psutil

    children = psutil.Process().children(recursive=True)
    return [c.pid for c in children if "spawn_main" in " ".join(c.cmdline())]


def main(model: Path, image: Path, out: Path) -> None:
    """Print how many workers there were and which was killed."""
    os.fsync = lambda descriptor: None  # a killed process needs no sync, and it takes most of the time
    tile_plan.CHUNK[2] = (16, 16)
    tile_plan.BLOCK_CHUNKS[2] = (1,)
    settings = PredictSettings(
        model=model, inputs=(str(image),), out=out, device="cpu", tile=16, format="tif", workers=2
    )
    before: list[int] = []
    killed = 0
    for event in predict_files(settings):
        if isinstance(event, BlockDone) and event.stage == "probabilities" and event.done >= 3 and not killed:
            before = _workers()
            killed = before[0]
            os.kill(killed, signal.SIGKILL)
    print(json.dumps({"workers": len(before), "killed": killed}))  # noqa: T201


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
