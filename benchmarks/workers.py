"""Throughput of two workers of one thread against one process of two threads, on one image, block by block.

Usage: python benchmarks/workers.py [--side 4096] [--repeats 3] [--write]

Both run `septum predict`, taking turns; seconds of the whole command, start-up and joining included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.demo.synthetic_cells import generate
from septum.io.files import read_image, write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import ModelHeader, save_model

WAYS = {"one process, two threads": ["--in-blocks"], "two workers, one thread each": ["--workers", "2"]}


def main() -> None:
    """Run it and print one JSON document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = UNetSettings(width=16)
        header = ModelHeader(
            network=network,
            normalization=NormalizeSettings(),
            kind="objects",
            class_values=(0, 1),
            objects=ObjectSettings(),
        )
        save_model(folder / "model.safetensors", UNet(network, seed=0), header)
        image, _ = generate(0, shape=(given.side, given.side))
        write_image(folder / "cells.tif", image[0].astype(np.uint8), axes="YX")
        results = []
        for turn in range(given.repeats):
            for way, options in WAYS.items():
                out = folder / f"{turn}-{len(options)}-{options[0][2:]}"
                command = ["septum", "predict", str(folder / "model.safetensors"), str(folder / "cells.tif")]
                begin = time.monotonic()
                subprocess.run([*command, "-o", str(out), "--max-memory", "4G", "-q", *options], check=True)
                seconds[way].append(round(time.monotonic() - begin, 2))
                results.append(read_image(out / "cells.tif").array)
    first, second = (statistics.median(times) for times in seconds.values())
    document = {
        "command": f"python benchmarks/workers.py --side {given.side} --repeats {given.repeats}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "network": "width 16, depth 4",
        "seconds": seconds,
        "workers_to_process": round(second / first, 2),
        "pixels_that_differ": int(max((results[0] != other).sum() for other in results[1:])),
        "objects": int(results[0].max()),
    }
    text = json.dumps(document, indent=2)
    print(text)
    if given.write:
        (Path(__file__).parent / "results/workers.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
