"""How long `septum train` takes from the start of the command to the first step, and the memory that it takes for that.

Usage: python benchmarks/beginning.py [CASE ...] [--data FOLDER] [--max-memory SIZE] [--write]
    CASE is images-300, side-5000 or side-20000; the first two where none is named
    --max-memory limits the training as `septum train --max-memory SIZE` does
    --data measures a folder with images/ and masks/ of your own, besides
    --write stores benchmarks/results/beginning.json

Images are made: disks of 16 to 40 pixels on noise, 8-bit TIFF in compressed tiles. Each case is a process of its own,
with a budget of 3 minutes, ended after its first step. Seconds are wall time and processor seconds since the
process was started, imports included; on a busy machine only the latter mean something. The machine's first training
compiles loops, so that a small training comes before the cases. Memory is the most that the process ever held (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CASES = {"images-300": (300, 256), "side-5000": (1, 5000), "side-20000": (1, 20_000)}
SPACING_PX, RADIUS_PX, TILE_PX = 44, (8, 20), 512


def make(folder: Path, count: int, side: int) -> Path:
    """Make a data set and return its folder."""
    import tifffile

    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        labels = np.zeros((side, side), np.uint32)
        middles = np.arange(SPACING_PX // 2, side - SPACING_PX // 2, SPACING_PX)
        for place, (y, x) in enumerate((y, x) for y in middles for x in middles):
            radius = int(rng.integers(*RADIUS_PX))
            y, x = y + int(rng.integers(-3, 4)), x + int(rng.integers(-3, 4))
            rows, columns = np.ogrid[max(0, y - radius) : y + radius, max(0, x - radius) : x + radius]
            part = labels[max(0, y - radius) : y + radius, max(0, x - radius) : x + radius]
            part[((rows - y) ** 2 + (columns - x) ** 2 < radius**2)[: part.shape[0], : part.shape[1]]] = place + 1
        image = rng.integers(20, 60, (side, side), np.uint8)
        image += np.uint8(90) * (labels > 0)
        tiled = {"compression": "zlib", "tile": (TILE_PX, TILE_PX)} if side > TILE_PX else {}
        tifffile.imwrite(folder / "images" / f"{number:03d}.tif", image, **tiled)
        tifffile.imwrite(folder / "masks" / f"{number:03d}.tif", labels, **tiled)
    return folder


def begin(data: Path, out: Path, started: float, memory: str) -> dict[str, float]:
    """Train until the first step; return the seconds since the start of the process."""
    from septum.prediction.memory import parse_bytes
    from septum.training.events import Step
    from septum.training.loop import train
    from septum.training.settings import TrainSettings

    found = {}
    limit = parse_bytes(memory) if memory else None
    for event in train(TrainSettings(data=(data,), out=out, budget_s=180.0, max_memory=limit)):
        name = type(event).__name__
        if name in ("Checked", "Planned", "Step"):
            found[f"{name} s"] = round(time.time() - started, 1)
            found[f"{name} processor s"] = round(time.process_time(), 1)
        if isinstance(event, Step):
            break
    found["peak MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    return found


def measure(data: Path, memory: str) -> dict[str, float]:
    """Return the figures of a data set, from a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--one", str(data), str(Path(name) / "run"), str(time.time()), memory]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(begin(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5])), flush=True)
        os._exit(0)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *CASES])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--max-memory", default="", metavar="SIZE")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    result: dict[str, object] = {"processor": processor(), "cores": os.cpu_count(), "threads": threads}
    result["max memory"] = asked.max_memory or "most of the free memory"
    with tempfile.TemporaryDirectory() as name:
        measure(make(Path(name) / "first", 3, 256), asked.max_memory)
        cases = {case: make(Path(name) / case, *CASES[case]) for case in asked.cases or list(CASES)[:2]}
        if asked.data is not None:
            cases[asked.data.name] = asked.data
        for case, data in cases.items():
            result[case] = measure(data, asked.max_memory)
            print(case, json.dumps(result[case]), flush=True)
    if asked.write:
        path = Path(__file__).parent / "results" / "beginning.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
