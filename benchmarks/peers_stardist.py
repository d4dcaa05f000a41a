"""StarDist for benchmarks/peers.py, run by a Python that has it: train for a wall time, predict.

    PYTHON benchmarks/peers_stardist.py train CASES FOLDER SECONDS
    PYTHON benchmarks/peers_stardist.py predict CASES FOLDER INPUTS OUT

As in StarDist's example: 32 rays on a grid of every second pixel, its U-Net, batches of 4 crops of 256 x 256 pixels,
images normalized by percentiles, turned, mirrored, and their intensity changed; 15 % of the images are held out, which
choose the weights after every 100 steps; 12 of these choose the thresholds after the training. It stops when the time
is up instead of after 400 times 100 steps. The weights are random at the start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(len(os.sched_getaffinity(0)))

import numpy as np
import tensorflow
import tifffile
from csbdeep.utils import normalize
from csbdeep.utils.tf import keras_import
from stardist import fill_label_holes
from stardist.models import Config2D, StarDist2D

Callback = keras_import("callbacks", "Callback")
TUNED_ON = 12
DRAWN = np.random.default_rng(42)


class Until(Callback):  # type: ignore[misc]
    """Stop a training when its time is up, and count its steps."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end, self.steps = end, 0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Look at the clock."""
        self.steps += 1
        if time.monotonic() > self.end:
            self.model.stop_training = True


def read(path: Path, channels: int) -> np.ndarray:
    """Return a case as ``(Y, X)`` or, with several channels, ``(Y, X, C)``, normalized."""
    planes = [tifffile.imread(path.with_name(f"{path.name}_{c:04d}.tif")) for c in range(channels)]
    return normalize(np.squeeze(np.stack(planes, axis=-1), -1) if channels == 1 else np.stack(planes, -1), axis=(0, 1))


def augment(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Change a crop as StarDist's example does."""
    turns = int(DRAWN.integers(4))
    image, label = np.rot90(image, turns), np.rot90(label, turns)
    for axis in (0, 1):
        if DRAWN.random() > 0.5:
            image, label = np.flip(image, axis), np.flip(label, axis)
    image = image * DRAWN.uniform(0.6, 2) + DRAWN.uniform(-0.2, 0.2)
    return image + 0.02 * DRAWN.random() * DRAWN.normal(0, 1, image.shape), label


def train(cases: Path, folder: Path, budget_s: float) -> None:
    """Train until the time is up."""
    begin = time.monotonic()
    job = json.loads((cases / "job.json").read_text())
    names = sorted(p.stem for p in (cases / "labels").iterdir())
    images = [read(cases / "images" / n, job["channels"]) for n in names]
    labels = [fill_label_holes(tifffile.imread(cases / "labels" / f"{n}.tif").astype(np.int32)) for n in names]
    order = DRAWN.permutation(len(names)).tolist()
    held = max(1, round(0.15 * len(names)))
    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=job["channels"], train_tensorboard=False)
    model = StarDist2D(config, "model", str(folder))
    until = Until(begin + budget_s)
    model.prepare_for_training()
    model.callbacks.append(until)

    def pick(places: list[int]) -> tuple[list[Any], list[Any]]:
        return [images[i] for i in places], [labels[i] for i in places]

    judged = pick(order[:held])
    model.train(*pick(order[held:]), validation_data=judged, augmenter=augment, seed=42, epochs=10_000)
    model.optimize_thresholds(*(part[:TUNED_ON] for part in judged))
    told = {"steps": until.steps, "batch": model.config.train_batch_size, "patch": list(model.config.train_patch_size)}
    versions = {"stardist": version("stardist"), "tensorflow": tensorflow.__version__}
    (folder / "trained.json").write_text(json.dumps({**told, "versions": versions}) + "\n")


def predict(cases: Path, folder: Path, inputs: Path, out: Path) -> None:
    """Write the objects of every input: ``NAME.npy``, ``(Y, X) int32``."""
    job = json.loads((cases / "job.json").read_text())
    model = StarDist2D(None, "model", str(folder))
    out.mkdir(exist_ok=True)
    for name in sorted({p.name[: -len("_0000.tif")] for p in inputs.glob("*.tif")}):
        found, _ = model.predict_instances(read(inputs / name, job["channels"]))
        np.save(out / f"{name}.npy", found.astype(np.int32))


if __name__ == "__main__":
    what, cases, folder, *rest = sys.argv[1:]
    if what == "train":
        train(Path(cases), Path(folder), float(rest[0]))
    else:
        predict(Path(cases), Path(folder), Path(rest[0]), Path(rest[1]))
