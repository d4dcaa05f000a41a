"""Many small images: the gain of reading the next image and writing the last one while the network computes.

    python benchmarks/many_images.py IMAGES [--count 200] [--rounds 7] [--write]

IMAGES is a folder, such as the nuclei of DSB 2018. A network as `auto` makes it, with random weights, predicts the
first `--count` images in one process: once as `septum predict` does it, once one image after the other, in turns. The
first image of all is not counted: it loads and compiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.io.files import list_images, read_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import predict
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.settings import PredictSettings

RESULTS = Path(__file__).parent / "results" / "many_images.json"


def seconds(model: Path, images: list[Path], out: Path, *, modest: float) -> float:
    """Predict all images; where images may take no share of the memory, one after the other."""
    predict._MODEST = modest
    settings = PredictSettings(model=model, inputs=tuple(map(str, images)), out=out)
    begin = time.perf_counter()
    for _ in predict.predict_files(settings):
        pass
    return time.perf_counter() - begin


def main() -> None:
    """Measure, print, and keep."""
    words = argparse.ArgumentParser()
    words.add_argument("images", type=Path)
    words.add_argument("--count", type=int, default=200)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--write", action="store_true")
    asked = words.parse_args()
    images = list_images([asked.images])[: asked.count]
    channels = read_image(images[0]).array.shape[0]
    network = UNetSettings(channels=channels, classes=2, depths=(4, 4), width=16, padding="same", batch_norm=True)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(),
    )
    times: dict[str, list[float]] = {"overlapping": [], "one after the other": []}
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model.safetensors", Path(folder) / "out"
        save_model(model, UNet(network, seed=0), header)
        seconds(model, images, out, modest=0.25)
        for _ in range(asked.rounds):
            times["overlapping"].append(seconds(model, images, out, modest=0.25))
            times["one after the other"].append(seconds(model, images, out, modest=0))
    found = {name: {"median_s": statistics.median(t), "min_s": min(t), "max_s": max(t)} for name, t in times.items()}
    ratio = found["one after the other"]["median_s"] / found["overlapping"]["median_s"]
    for name, row in found.items():
        print(f"{name:20} {row['median_s']:.2f} s ({row['min_s']:.2f} to {row['max_s']:.2f})")
    print(f"{len(images)} images, {torch.get_num_threads()} threads: overlapping is {ratio:.2f} times faster")
    if asked.write:
        result = {"images": len(images), "threads": torch.get_num_threads(), "ratio": ratio, **found}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
