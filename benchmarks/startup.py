"""How long `septum --help`, `import septum` and the prediction of one image take: medians of nine fresh processes.

Usage: python benchmarks/startup.py [--write]      (--write stores benchmarks/results/startup.json)

For the prediction, of a 512 x 512 image with a network of width 16, the limit is on the overhead: the time without
that of the same call in a process that has made it before, and without that of `import torch`, which Septum cannot
change and which takes 0.8 s on one processor, 2.4 s on another. Both are measured in turns. Also shown: the slowest
imports.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import processor

RUNS = 9
ABOVE = "septum predict, above computing and importing PyTorch"
LIMITS_S = {"septum --help": 0.6, "import septum": 0.3, ABOVE: 1.0}
IMPORT_TORCH = [sys.executable, "-c", "import torch"]
# Makes a model whose answer is objects and an image of disks; prints the seconds of a warm call.
PREPARE = """
import sys, time, numpy as np, torch
from pathlib import Path
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.io.files import write_image
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.nn.unet import UNet, UNetSettings
folder = Path(sys.argv[1])
settings = UNetSettings(width=16)
network = UNet(settings)
network.head.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
plain = {"network": settings, "normalization": NormalizeSettings(), "kind": "objects", "class_values": (0, 1)}
save_model(folder / "model.safetensors", network, ModelHeader(**plain, objects=ObjectSettings()))
y, x = np.mgrid[:512, :512]
disks = ((y % 64 - 32) ** 2 + (x % 64 - 32) ** 2 < 400)[None]
write_image(folder / "image.png", (disks * 200 + 20).astype(np.uint8), axes="CYX")
asked = PredictSettings(model=folder / "model.safetensors", inputs=(str(folder / "image.png"),), out=folder / "out")
for _ in range(4):
    begun = time.perf_counter()
    list(predict_files(asked))
    print(time.perf_counter() - begun)
"""
COMMANDS = {
    "python, nothing imported": [sys.executable, "-c", ""],
    "import septum": [sys.executable, "-c", "import septum"],
    "septum --help": [str(Path(sys.executable).with_name("septum")), "--help"],
    "septum train --help": [str(Path(sys.executable).with_name("septum")), "train", "--help"],
}


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def prediction() -> dict[str, float]:
    """Median seconds of a first prediction, of a warm one, of importing PyTorch, and of the rest of the first one."""
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run([sys.executable, "-c", PREPARE, name], check=True, capture_output=True, text=True)
        warm = statistics.median(float(line) for line in done.stdout.split()[1:])
        septum, model = str(Path(sys.executable).with_name("septum")), str(Path(name) / "model.safetensors")
        command = [septum, "predict", model, str(Path(name) / "image.png"), "-o", str(Path(name) / "out")]
        seconds(command)
        turns = [(seconds(command), seconds(IMPORT_TORCH)) for _ in range(RUNS)]
    cold, torch = (statistics.median(times) for times in zip(*turns, strict=True))
    found = {
        "septum predict, one 512 x 512 image": cold,
        "the same call again": warm,
        "import torch": torch,
        ABOVE: cold - warm - torch,
    }
    return {key: round(value, 3) for key, value in found.items()}


def slowest_imports(count: int = 8) -> list[str]:
    """The modules whose own import costs most when the command line is loaded, as ``"12.3 ms  typer.main"``."""
    command = [sys.executable, "-X", "importtime", "-c", "import septum.cli.main"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    parts = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")][1:]
    costs = sorted(((int(own), name.strip()) for own, _, name in parts), reverse=True)
    return [f"{own / 1000:.1f} ms  {name}" for own, name in costs[:count]]


def main() -> None:
    result: dict[str, object] = {
        "processor": processor(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "runs": RUNS,
    }
    medians = {}
    for name, command in COMMANDS.items():
        seconds(command)  # once, so that the byte code and the disk cache are there
        medians[name] = round(statistics.median(seconds(command) for _ in range(RUNS)), 3)
    medians |= prediction()
    for name, value in medians.items():
        print(f"{value:.3f} s  {name}" + (f"  (limit {LIMITS_S[name]} s)" if name in LIMITS_S else ""))
    result["median_s"] = medians
    result["limits_s"] = LIMITS_S
    print("slowest imports of the command line, without what they import themselves:")
    for line in slowest_imports():
        print(f"  {line}")
    if "--write" in sys.argv[1:]:
        path = Path(__file__).parent / "results" / "startup.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written: {path}")
    if any(medians[name] > limit for name, limit in LIMITS_S.items()):
        raise SystemExit("too slow")


if __name__ == "__main__":
    main()
