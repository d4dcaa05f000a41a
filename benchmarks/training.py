"""A training step of `septum train` beside the same network in a plain PyTorch loop, on this computer's processor.

The plain loop is the usual one: float32, features outermost (NCHW), a DataLoader with two worker processes that augment
with albumentations or MONAI (rotation, elastic deformation, brightness and contrast of image, label and weight), the
same optimizer, batch and tile, the weighted cross entropy of `torch.nn.functional`.

Usage: python benchmarks/training.py [NETWORK ...] [--steps N] [--write]
    NETWORK is auto (width 16), wide (width 32) or paper; --write stores benchmarks/results/training.json, where
    other networks and other processors stay as they were measured

Each contestant runs in a process of its own, in turns. `seconds` are those of the clock. `processor_s` are the seconds
that processors worked for the step, workers included: what counts where other programs share the computer. `memory` is
the most that the process and its workers held together, shared pages counted once (Linux). The peers live in an
environment of their own, as for benchmarks/augmentation.py; with `PYTHONPATH=src` it needs septum's requirements too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from machine import processor
from torch import Tensor

from septum.nn.device import find_device, reused_memory
from septum.nn.dropout import Dropout
from septum.nn.unet import UNet
from septum.training.distributed import Processes
from septum.training.fingerprint import Fingerprint
from septum.training.plan import Plan
from septum.training.prepare import Prepared
from septum.training.presets import make_plan
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer
from septum.training.validation import Validator

SIDE, IMAGES, WORKERS, WARM = 700, 8, 2, 2
NETWORKS: dict[str, dict[str, Any]] = {"auto": {}, "wide": {"width": 32}, "paper": {"preset": "paper"}}
CONTESTANTS = ("plain, albumentations", "plain, monai", "septum, float32", "septum")
FINGERPRINT = Fingerprint(channels=1, classes=2, sides=(SIDE, SIDE), anisotropy=(1, 1))

Step = Callable[[], None]


def images() -> tuple[Prepared, ...]:
    """Bright disks on a dark ground, ready for training."""
    rng, y, x = np.random.default_rng(0), *np.mgrid[:SIDE, :SIDE]
    made = []
    for _ in range(IMAGES):
        target = np.zeros((SIDE, SIDE), np.uint8)
        for cy, cx in rng.uniform(0, SIDE, (60, 2)):
            target |= ((y - cy) ** 2 + (x - cx) ** 2 < 20**2).astype(np.uint8)
        image = (target + rng.normal(0, 0.3, target.shape)).astype(np.float32)
        made.append(Prepared(image[None], target, 1 + 9 * rng.random(target.shape, dtype=np.float32), (), None))
    return tuple(made)


class Tiles(torch.utils.data.Dataset):
    """Tiles as the peers make them: a random crop, then the library's transforms."""

    def __init__(self, plan: Plan, peer: str) -> None:
        self.images, self.plan, self.peer = images(), plan, peer
        self.transform: Any = None

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.transform is None:  # in the worker, which it may not travel to
            self.transform = {"albumentations": albumentations, "monai": monai}[self.peer](self.plan.tile)
        rng = np.random.default_rng(index)
        chosen, side = self.images[index % IMAGES], self.plan.tile[0]
        top, left = rng.integers(0, SIDE - side + 1, 2)
        crop = (slice(top, top + side), slice(left, left + side))
        x, y, w = self.transform(chosen.image[0][crop], chosen.target[crop], chosen.weight[crop])
        inner = (slice((side - self.plan.output[0]) // 2, (side + self.plan.output[0]) // 2),) * 2
        return x[None], y[inner].long(), w[inner]


def albumentations(tile: tuple[int, ...]) -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for news otherwise
    import albumentations as peer
    import cv2

    cv2.setNumThreads(1)
    mirrored = cv2.BORDER_REFLECT_101
    transform = peer.Compose(
        [
            peer.Affine(rotate=(-180, 180), border_mode=mirrored, p=1.0),
            peer.ElasticTransform(alpha=300, sigma=50, border_mode=mirrored, p=1.0),
            peer.RandomBrightnessContrast(0.1, 0.1, p=1.0),
        ]
    )

    def run(image: Any, label: Any, weight: Any) -> tuple[Tensor, ...]:
        made = transform(image=np.ascontiguousarray(image), masks=[label.copy(), weight.copy()])
        return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in (made["image"], *made["masks"]))

    return run


def monai(tile: tuple[int, ...]) -> Any:
    from monai.transforms import Compose, Rand2DElasticd, RandAdjustContrastd, RandShiftIntensityd

    transform = Compose(
        [
            Rand2DElasticd(
                ["image", "label", "weight"],
                spacing=(tile[0] / 2,) * 2,
                magnitude_range=(10, 10),
                spatial_size=tile,
                prob=1.0,
                rotate_range=np.pi,
                mode=["bilinear", "nearest", "bilinear"],
                padding_mode="reflection",
            ),
            RandShiftIntensityd(["image"], offsets=0.1, prob=1.0),
            RandAdjustContrastd(["image"], gamma=(0.9, 1.1), prob=1.0),
        ]
    )

    def run(image: Any, label: Any, weight: Any) -> tuple[Tensor, ...]:
        parts = {"image": image, "label": label, "weight": weight}
        made = transform({name: torch.from_numpy(part.copy())[None] for name, part in parts.items()})
        return tuple(made[name][0].as_tensor() for name in parts)

    return run


def plain(plan: Plan, peer: str) -> Step:
    """The usual loop."""
    network = UNet(plan.network).train()
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, torch.nn.Dropout(child.probability))
    settings = plan.optimizer
    betas = (settings.momentum, 0.999)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, betas=betas, weight_decay=settings.decay)
    loader = torch.utils.data.DataLoader(Tiles(plan, peer), batch_size=plan.batch, num_workers=WORKERS)
    batches: Iterator[tuple[Tensor, Tensor, Tensor]] = iter(loader)

    def step() -> None:
        x, y, w = next(batches)
        loss = (torch.nn.functional.cross_entropy(network(x), y, reduction="none") * w).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        loss.item()

    return step


def septum(plan: Plan, spent: list[float]) -> Step:
    """What `septum train` does; `spent` collects the processor seconds of the augmentation."""
    device = find_device("cpu")
    trainer = Trainer(plan, 0, device, Processes(), images(), Validator((), True, plan, device))
    draw_batch = trainer.draw_batch

    def timed(step: int) -> tuple[Tensor, Tensor, Tensor]:
        begun = time.process_time()
        batch = draw_batch(step)
        spent.append(time.process_time() - begun)
        return batch

    trainer.draw_batch = timed  # type: ignore[method-assign]
    return lambda: None if trainer.training_step(1.0) < np.inf else sys.exit("the loss is not a number")


def family() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def worked() -> float:
    """Processor seconds of this process and its workers."""
    return sum(sum(p.cpu_times()[:2]) for p in family())


class Peak(threading.Thread):
    """Watches how much memory the process and its workers hold together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        while True:
            with suppress(psutil.Error, AttributeError):  # a worker that has just begun or ended; or not Linux
                self.most = max(self.most, sum(p.memory_full_info().pss for p in family()))
            time.sleep(0.1)


def contest(name: str, network: str, steps: int) -> dict[str, Any]:
    """Run one contestant in this process."""
    warnings.simplefilter("ignore")
    precise = None if name == "septum" else "float32"
    settings = TrainSettings(data=(), out=Path(), precision=precise, **NETWORKS[network])
    plan, _ = make_plan(FINGERPRINT, settings, bfloat16=find_device("cpu").bfloat16)
    spent: list[float] = []
    step = septum(plan, spent) if name.startswith("septum") else plain(plan, name.split(", ")[1])
    peak = Peak()
    peak.start()
    seconds, processor = [], []
    with reused_memory() if name.startswith("septum") else nullcontext():  # as `septum train` does
        for _ in range(WARM + steps):
            begun, work = time.perf_counter(), worked()
            step()
            seconds.append(time.perf_counter() - begun)
            processor.append(worked() - work)
    time.sleep(0.2)
    said = {"seconds": seconds[WARM:], "processor_s": processor[WARM:], "memory": peak.most, "batch": plan.batch}
    return {**said, "precision": plan.precision, "tile": plan.tile, "augmentation_s": spent[WARM:]}


def median_of(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def race(network: str, steps: int, turns: int) -> list[dict[str, Any]]:
    """Let all run in turns and sum up."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for _ in range(turns):
        for name in CONTESTANTS:
            command = [sys.executable, __file__, "--contest", name, network, "--steps", str(steps)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: left out ({(done.stderr.strip().splitlines() or ['failed'])[-1]})")
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for name, parts in found.items():
        if not parts:
            continue
        row: dict[str, Any] = {"network": network, "name": name, "precision": parts[0]["precision"]}
        row |= {"tile": parts[0]["tile"], "batch": parts[0]["batch"]}
        for key in ("seconds", "processor_s"):
            row[key] = median_of([value for part in parts for value in part[key]])
        row["memory_gb"] = round(max(part["memory"] for part in parts) / 1e9, 3)
        drawing = [s for part in parts for s in part["augmentation_s"]]
        if drawing:
            row["augmentation_share"] = round(statistics.median(drawing) / row["processor_s"]["median"], 4)
        rows.append(row)
    best = {k: min(r[k]["median"] for r in rows if r["name"].startswith("plain")) for k in ("seconds", "processor_s")}
    for row in rows:
        row["times_plain"] = {key: round(value / row[key]["median"], 2) for key, value in best.items()}
        print(
            f"{network:6} {row['name']:22} {row['precision']:9} {row['seconds']['median']:7.3f} s a step, "
            f"{row['processor_s']['median']:7.3f} s of processors, {row['memory_gb']:.2f} GB, images per second "
            f"{row['times_plain']['seconds']:.2f} (of processors {row['times_plain']['processor_s']:.2f}) times plain"
            + (f", augmentation {row['augmentation_share']:.1%}" if "augmentation_share" in row else ""),
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=["auto", "wide", "paper"], metavar="NETWORK")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--contest")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    if asked.contest:
        print(json.dumps(contest(asked.contest, asked.networks[0], asked.steps)))
        return
    rows = [row for network in asked.networks for row in race(network, asked.steps, asked.turns)]
    if asked.write:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "albumentations", "monai")}
        here = {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()} | versions
        path = Path(__file__).parent / "results" / "training.json"
        before = json.loads(path.read_text())["rows"] if path.exists() else []
        new = {(row["network"], here["processor"]) for row in rows}
        kept = [row for row in before if (row["network"], row["processor"]) not in new]
        path.write_text(json.dumps({"rows": kept + [here | row for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
