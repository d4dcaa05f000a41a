"""Kill real trainings at random times, and compare the bits of their results with those of an undisturbed one.

    python benchmarks/kills.py OUT 20 0

trains on generated cells with all threads, once undisturbed and then killed with SIGKILL after random times until 20
kills are done (the third word is the seed of the times). Checkpoints come every second instead of every minute, so that
the run goes on between kills; nothing else differs from ``septum train``. Figures go to benchmarks/results/kills.json.
"""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from septum.demo.synthetic_cells import generate
from septum.io.files import write_image
from septum.io.tensors import read_model

RESULTS = Path(__file__).parent / "results" / "kills.json"
PROGRAM = (
    "from septum.training import loop as train; train.SAVE_SECONDS, train.KEEP_STEPS = 1.0, 5\n"
    "from septum.cli.main import main; main()"
)
OPTIONS = ["--steps", "200", "--width", "8", "--depth", "2", "--tile", "140", "--batch", "2", "--device", "cpu"]


def start(data: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, "train", str(data), "-o", str(run), *OPTIONS, "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def result(run: Path) -> tuple[dict[str, bytes], list[list[str]], str]:
    """Weights, the log without its seconds, and the scores."""
    tensors, _ = read_model(run / "model.safetensors")
    rows = [[*line.split(",")[:3], *line.split(",")[4:]] for line in (run / "log.csv").read_text().splitlines()]
    return {n: t.tobytes() for n, t in tensors.items()}, rows, (run / "scores.json").read_text()


def moment(run: Path) -> str:
    """What the killed process was at, as the run folder shows it."""
    log = run / "log.csv"
    if not log.exists():
        return "before the first step"
    if list((run / "checkpoints").glob(".septum-part-*")):
        return "writing a checkpoint"
    return f"after step {max(0, log.read_text().count(chr(10)) - 1)}"


def main() -> None:
    out, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    data = out / "data"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for number in range(6):
        image, labels = generate(number)
        write_image(data / "images" / f"{number}.png", image.astype(np.uint8), axes="CYX")
        write_image(data / "masks" / f"{number}.png", labels.astype(np.uint16), axes="YX")
    begin = time.monotonic()
    assert start(data, out / "whole").wait() == 0
    alone = time.monotonic() - begin
    print(f"left alone: {alone:.1f} s")
    rng, moments, equal, sessions, runs = random.Random(seed), [], [], 0, 0
    while len(moments) < kills:
        runs += 1
        run = out / f"killed-{runs}"
        while True:
            sessions += 1
            process = start(data, run)
            try:
                code = process.wait(rng.uniform(0.5, 0.8 * alone) if len(moments) < kills else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                moments.append(moment(run))
                print(f"kill {len(moments)}: {moments[-1]}")
                continue
            assert code == 0, f"a session ended with {code}"
            equal.append(result(run) == result(out / "whole"))
            print(f"run {runs}: {'the same bits' if equal[-1] else 'DIFFERENT'}")
            break
    figures = {
        "command": f"python benchmarks/kills.py OUT {kills} {seed}",
        "septum train": " ".join(OPTIONS),
        "kills": len(moments),
        "runs": runs,
        "sessions": sessions,
        "runs with the same bits": sum(equal),
        "moments": moments,
        "seconds left alone": round(alone, 1),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
