"""MONAI's U-Net for benchmarks/peers.py, run by a Python that has it: train for a wall time, predict.

    PYTHON benchmarks/peers_monai.py train CASES FOLDER SECONDS
    PYTHON benchmarks/peers_monai.py predict CASES FOLDER INPUTS OUT

As in MONAI's tutorials (2D segmentation and spleen): `UNet` with 16 to 256 features, four strides of 2 and two residual
units, batch normalization, Dice and cross-entropy, Adam; crops around the foreground and the background alike, turned
and mirrored, the intensity shifted; windows with an overlap of a quarter. The rate is 0.001 in 2D and 0.0001 in 3D, as
there. Crops are 256 x 256 pixels, or 48 x 64 x 48 voxels, not the tutorials' 96, which hold no whole cell of HeLa.

Objects: the network learns three classes, background, inside and a boundary of objects (a pixel on either side of
their outlines). Pieces of a high probability of the inside are seeds, and a watershed on the probabilities grows them
within the foreground. Both thresholds and the smallest size are tuned on 12 of the training images.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader, Dataset
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from scipy import ndimage
from skimage.segmentation import find_boundaries, watershed

CROP = {2: (256, 256), 3: (48, 64, 48)}
BATCH = {2: 4, 3: 2}
RATE = {2: 1e-3, 3: 1e-4}
SEEDS = (0.5, 0.6, 0.7, 0.8, 0.9)
FOREGROUND = (0.3, 0.4, 0.5, 0.6, 0.7)
SIZES = (0.0, 0.05, 0.1, 0.2)
"""Smallest objects, as shares of the median object of the training images."""


def read(path: Path, channels: int) -> np.ndarray:
    """Return a case as ``(C, *S) float32``."""
    return np.stack([tifffile.imread(path.with_name(f"{path.name}_{c:04d}.tif")) for c in range(channels)])


def make_network(job: dict[str, Any]) -> UNet:
    """Return the network of the tutorials."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    network = UNet(
        spatial_dims=job["axes"],
        in_channels=job["channels"],
        out_channels=3 if job["kind"] == "objects" else job["classes"],
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
        norm="batch",
    )
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


def target(labels: np.ndarray, kind: str) -> np.ndarray:
    """Return the classes that the network learns, ``(1, *S)``."""
    if kind == "objects":
        labels = np.where(find_boundaries(labels, mode="thick"), 2, labels > 0)
    return labels[None].astype(np.int64)


def batches(cases: Path, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield batches of crops without an end."""
    crop, both = CROP[job["axes"]], ["image", "label"]
    names = sorted(p.stem for p in (cases / "labels").iterdir())
    data = [
        {
            "image": read(cases / "images" / n, job["channels"]),
            "label": target(tifffile.imread(cases / "labels" / f"{n}.tif"), job["kind"]),
        }
        for n in names
    ]
    fixed = [mt.NormalizeIntensityd("image", channel_wise=True), mt.SpatialPadd(both, crop)]
    drawn = [
        mt.RandCropByPosNegLabeld(both, label_key="label", spatial_size=crop, pos=1, neg=1, num_samples=1),
        *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(job["axes"])),
        mt.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    ]
    if job["axes"] == 2:
        drawn.insert(1, mt.RandRotate90d(both, prob=0.5))
    cached = CacheDataset(data, mt.Compose(fixed), num_workers=0, progress=False)
    crops = Dataset(cached, mt.Compose(drawn).set_random_state(0))
    loader = DataLoader(crops, batch_size=BATCH[job["axes"]], shuffle=True, num_workers=0)
    while True:
        yield from loader


def train(cases: Path, folder: Path, budget_s: float) -> None:
    """Train until the time is up, then tune how objects are made."""
    begin = time.monotonic()
    job = json.loads((cases / "job.json").read_text())
    network = make_network(job)
    device = next(network.parameters()).device
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.Adam(network.parameters(), RATE[job["axes"]])
    steps, drawing = 0, batches(cases, job)
    network.train()
    while time.monotonic() - begin < budget_s:
        batch = next(drawing)
        optimizer.zero_grad()
        loss = loss_of(network(batch["image"].to(device)), batch["label"].to(device))
        loss.backward()
        optimizer.step()
        steps += 1
    torch.save(network.state_dict(), folder / "weights.pt")
    told = {"steps": steps, "batch": BATCH[job["axes"]], "patch": list(CROP[job["axes"]])}
    told["versions"] = {name: version(name) for name in ("monai", "torch")}
    if job["kind"] == "objects":
        told["objects"] = tune(network, cases, job)
    (folder / "trained.json").write_text(json.dumps(told) + "\n")


def probabilities(network: UNet, image: np.ndarray, axes: int) -> np.ndarray:
    """Return ``(classes, *S) float32`` of an image ``(C, *S)``."""
    network.eval()
    prepared = mt.NormalizeIntensity(channel_wise=True)(torch.as_tensor(image)).as_tensor()[None]
    device = next(network.parameters()).device
    with torch.no_grad():
        found = sliding_window_inference(prepared.to(device), CROP[axes], 4, network, overlap=0.25)
    return np.asarray(torch.softmax(found, 1)[0].cpu())


def make_objects(found: np.ndarray, seed: float, foreground: float, smallest: float) -> np.ndarray:
    """Return ``(*S) int32`` objects of the probabilities of background, inside and boundary."""
    seeds, _ = ndimage.label(found[1] > seed)
    return without_small(watershed(-found[1], seeds, mask=1 - found[0] > foreground), smallest)


def without_small(objects: np.ndarray, smallest: float) -> np.ndarray:
    """Return objects without those of fewer pixels."""
    return np.where(np.bincount(objects.ravel())[objects] < smallest, 0, objects).astype(np.int32)


def tune(network: UNet, cases: Path, job: dict[str, Any]) -> dict[str, float]:
    """Choose the settings of `make_objects` with the best mean AP over IoU 0.5 to 0.95, on training images."""
    names = sorted({p.name[: -len("_0000.tif")] for p in (cases / "tuning").glob("*.tif")})
    maps = [probabilities(network, read(cases / "tuning" / n, job["channels"]), job["axes"]) for n in names]
    truths = [tifffile.imread(cases / "labels" / f"{n}.tif").astype(np.int64) for n in names]
    median = float(np.median(np.concatenate([np.unique(t[t > 0], return_counts=True)[1] for t in truths])))
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for seed, foreground in itertools.product(SEEDS, FOREGROUND):
        made = [make_objects(m, seed, foreground, 0) for m in maps]
        for smallest in (share * median for share in SIZES):
            score = np.mean([precision(t, without_small(m, smallest)) for t, m in zip(truths, made, strict=True)])
            choice = {"seed": seed, "foreground": foreground, "smallest": smallest}
            best = max(best, (float(score), choice), key=lambda pair: pair[0])
    return best[1]


def precision(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the mean of TP / (TP + FP + FN) over IoU 0.5 to 0.95."""
    shared = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(shared, (truth.ravel(), found.ravel()), 1)
    areas = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True)
    overlaps = (shared / np.maximum(areas - shared, 1))[1:, 1:]
    count = (shared.sum(1)[1:] > 0).sum() + (shared.sum(0)[1:] > 0).sum()
    hits = [(overlaps > level - 1e-9).any(0).sum() for level in np.arange(0.5, 1, 0.05)]
    return float(np.mean([hit / (count - hit) if count > hit else 1.0 for hit in hits]))


def predict(cases: Path, folder: Path, inputs: Path, out: Path) -> None:
    """Write ``NAME.npy``: objects int32; of two classes the probability of class 1, float32; of more, classes uint8."""
    job = json.loads((cases / "job.json").read_text())
    network = make_network(job)
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    told = json.loads((folder / "trained.json").read_text())
    out.mkdir(exist_ok=True)
    for name in sorted({p.name[: -len("_0000.tif")] for p in inputs.glob("*.tif")}):
        found = probabilities(network, read(inputs / name, job["channels"]), job["axes"])
        if job["kind"] == "objects":
            answer = make_objects(found, **told["objects"])
        else:
            answer = found[1] if len(found) == 2 else np.argmax(found, axis=0).astype(np.uint8)
        np.save(out / f"{name}.npy", answer)


if __name__ == "__main__":
    what, cases, folder, *rest = sys.argv[1:]
    if what == "train":
        train(Path(cases), Path(folder), float(rest[0]))
    else:
        predict(Path(cases), Path(folder), Path(rest[0]), Path(rest[1]))
