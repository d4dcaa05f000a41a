"""Kill a prediction at random moments, again and again, until it ends. Run as a program, by `test_in_blocks`.

Each session is a forked copy of this warm process that kills itself with SIGKILL at the n-th of its moments: before and
after each file is put in its place, and at each event.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from septum.prediction import tile_plan
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings


class Moments:
    """Counts the moments of a session, and kills the process at the one given."""

    def __init__(self, fatal: int | None) -> None:
        self.fatal = fatal
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.count - 1 == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, attribute: str) -> None:
        """Make a moment before and one after a function."""
        original = getattr(owner, attribute)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self()
            result = original(*args, **kwargs)
            self()
            return result

        setattr(owner, attribute, watched)


def session(settings: PredictSettings, fatal: int | None, note: Path) -> bool:
    """Predict in a forked process; return True if it completed, after writing its number of moments."""
    note.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            moments = Moments(fatal)
            moments.around(Path, "replace")
            moments.around(Path, "rename")
            moments.around(Path, "mkdir")
            for _ in predict_files(settings):
                moments()
            note.write_text(str(moments.count))
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert status == 0, f"a session failed: {status}"
    return True


def main(model: Path, image: Path, out: Path, kills: int, seed: int) -> None:
    """Print how many kills were survived in how many runs."""
    os.fsync = lambda descriptor: None  # a killed process needs no sync, and it takes most of the time
    tile_plan.CHUNK[2] = (16, 16)
    tile_plan.BLOCK_CHUNKS[2] = (1, 2)
    tile_plan.LARGEST_BLOCK = 16 * 32
    values = {
        "model": model,
        "inputs": (str(image),),
        "device": "cpu",
        "tile": 16,
        "format": "ome.zarr",
        "in_blocks": True,
    }
    note = out / "moments"
    assert session(PredictSettings.model_validate({**values, "out": out / "whole"}), None, note)
    moments = int(note.read_text())
    rng, done, runs = random.Random(seed), 0, 0
    while done < kills:
        runs += 1
        settings = PredictSettings.model_validate({**values, "out": out / f"killed-{runs}"})
        while not session(settings, rng.randrange(moments) if done < kills else None, note):
            done += 1
    print(json.dumps({"kills": done, "runs": runs, "moments": moments}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
