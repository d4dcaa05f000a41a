"""Cellpose 3 for benchmarks/peers.py, run by a Python that has it: train for a wall time, predict.

    PYTHON benchmarks/peers_cellpose.py train CASES FOLDER SECONDS
    PYTHON benchmarks/peers_cellpose.py predict CASES FOLDER INPUTS OUT

Network, targets, loss, augmentation, optimizer, inference and the way from flows to objects are Cellpose's own, the
weights random at the start. Its schedule counts in epochs (a warm-up of 10, then a constant rate, a decay at the end)
and is shortened to the wall time: one step of 8 images makes an epoch, and there are as many as the time left allows,
by the time that a few steps take. Flows are computed once, and count.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from cellpose import dynamics, models, train

BATCH = 8
TRIAL = 4


def read(path: Path, channels: int) -> np.ndarray:
    """Return a case as ``(Y, X)``: Cellpose looks at images of several channels as gray, where none is named."""
    planes = [tifffile.imread(path.with_name(f"{path.name}_{c:04d}.tif")) for c in range(channels)]
    return np.mean(planes, axis=0).astype(np.float32)


def steps(net: Any, images: list[np.ndarray], labels: list[np.ndarray], count: int, folder: Path) -> float:
    """Train `count` steps and return how many seconds they took."""
    begin = time.monotonic()
    train.train_seg(
        net,
        train_data=images,
        train_labels=labels,
        channels=[0, 0],
        batch_size=BATCH,
        nimg_per_epoch=BATCH,
        n_epochs=count,
        min_train_masks=1,
        save_path=folder,
        model_name="model",
    )
    return time.monotonic() - begin


def device() -> torch.device:
    """Return what is computed on; all threads that the process may use."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learn(cases: Path, folder: Path, budget_s: float) -> None:
    """Train until the time is up."""
    begin = time.monotonic()
    job = json.loads((cases / "job.json").read_text())
    torch.manual_seed(0)
    names = sorted(p.stem for p in (cases / "labels").iterdir())
    images = [read(cases / "images" / n, job["channels"]) for n in names]
    masks = [tifffile.imread(cases / "labels" / f"{n}.tif").astype(np.int32) for n in names]
    labels = dynamics.labels_to_flows(masks, device=device())
    model = models.CellposeModel(device=device(), pretrained_model=False)
    trial = copy.deepcopy(model.net)
    fixed = steps(trial, images, labels, 1, folder)
    step_s = (steps(trial, images, labels, 1 + TRIAL, folder) - fixed) / TRIAL
    count = max(1, int((budget_s - (time.monotonic() - begin) - fixed) / step_s))
    steps(model.net, images, labels, count, folder)
    told = {"steps": count, "batch": BATCH, "patch": [224, 224], "diameter": round(float(model.net.diam_labels), 1)}
    versions = {name: version(name) for name in ("cellpose", "torch")}
    (folder / "trained.json").write_text(json.dumps({**told, "versions": versions}) + "\n")


def predict(cases: Path, folder: Path, inputs: Path, out: Path) -> None:
    """Write the objects of every input: ``NAME.npy``, ``(Y, X) uint16``."""
    job = json.loads((cases / "job.json").read_text())
    model = models.CellposeModel(device=device(), pretrained_model=str(folder / "models" / "model"))
    out.mkdir(exist_ok=True)
    diameter = float(model.net.diam_labels)
    for name in sorted({p.name[: -len("_0000.tif")] for p in inputs.glob("*.tif")}):
        found = model.eval(read(inputs / name, job["channels"]), channels=[0, 0], diameter=diameter)[0]
        np.save(out / f"{name}.npy", found.astype(np.uint16))


if __name__ == "__main__":
    what, cases, folder, *rest = sys.argv[1:]
    if what == "train":
        learn(Path(cases), Path(folder), float(rest[0]))
    else:
        predict(Path(cases), Path(folder), Path(rest[0]), Path(rest[1]))
