"""Times of Septum on a GPU: one command, on a machine that has one.

Usage: python benchmarks/gpu.py [--device cuda] [--steps 30] [--quick] [--write]
    --quick uses a narrow network and few rounds and compiles nothing, to see that it works: its figures mean nothing
    --write stores benchmarks/results/gpu.json, or the file given with --out

Measured, each after a warm-up, medians, the device waited for:

- the card's own peak: a bfloat16 matrix product of 8192 x 8192, TFLOP/s
- training: steps a second of the paper's network on one 572 tile, augmentation and all, as `septum train` does them;
  the same compiled by `torch.compile`, as with --compile, and compiled with CUDA graphs; a plain loop (float32 as
  PyTorch does it by default, NCHW, a DataLoader with two workers and albumentations); MONAI's U-Net of the same widths
  in such a loop, and nnU-Net's, where they are installed
- prediction: tiles of 572, 700 and 1212 a second, alone, through `torch.compile` and with CUDA graphs; a 512 x 512
  image from array to array
- the share of the peak that each reaches, from the floating point operations of its convolutions
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from septum.arrays.normalize import NormalizeSettings
from septum.nn.device import Device, find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.tiled import image_probabilities
from septum.training.distributed import Processes
from septum.training.fingerprint import Fingerprint
from septum.training.plan import Plan
from septum.training.presets import make_plan
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer
from septum.training.validation import Validator
from training import IMAGES, Tiles, images

FINGERPRINT = Fingerprint(channels=1, classes=2, sides=(700, 700), anisotropy=(1, 1))
TILES = (572, 700, 1212)


def wait(device: Device) -> None:
    if device.torch.type == "cuda":
        torch.cuda.synchronize(device.torch)


def seconds(run: Callable[[], object], device: Device, *, rounds: int, inner: int = 1) -> dict[str, float]:
    """Median, smallest and largest seconds of one `run`, of which `inner` are given to the device at once."""
    for _ in range(3):
        run()
    found = []
    for _ in range(rounds):
        wait(device)
        begun = time.perf_counter()
        for _ in range(inner):
            run()
        wait(device)
        found.append((time.perf_counter() - begun) / inner)
    return {"median_s": statistics.median(found), "min_s": min(found), "max_s": max(found)}


def peak_tflops(device: Device, side: int) -> float:
    """TFLOP/s of a bfloat16 matrix product: what the card can do at best."""
    a = torch.randn(side, side, device=device.torch, dtype=torch.bfloat16)
    return 2 * side**3 / seconds(lambda: a @ a, device, rounds=7, inner=5)["median_s"] / 1e12


def operations(network: nn.Module, x: torch.Tensor) -> int:
    """Floating point operations of the convolutions of one forward pass; a step takes three times as many."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops())


def trainer_step(plan: Plan, device: Device, *, compiled: bool, graphs: bool = False) -> Callable[[], object]:
    trainer = Trainer(plan, 0, device, Processes(), images(), Validator((), True, plan, device), compile=compiled)
    if trainer.not_compiled:
        raise RuntimeError(trainer.not_compiled)
    if graphs:
        trainer._parallel = torch.compile(trainer._parallel, mode="reduce-overhead")
    return lambda: trainer.training_step(1.0)


def plain_step(network: nn.Module, plan: Plan, device: Device) -> Callable[[], object]:
    """The usual loop around a network that maps a tile to logits of some inner part."""
    network = network.to(device.torch).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.99)
    loader = torch.utils.data.DataLoader(Tiles(plan, "albumentations"), batch_size=plan.batch, num_workers=2)
    batches = iter(loader)

    def step() -> float:
        x, y, w = (part.to(device.torch) for part in next(batches))
        logits = network(x)
        cut = [(n - m) // 2 for n, m in zip(logits.shape[2:], y.shape[1:], strict=True)]
        logits = logits[:, :, cut[0] : cut[0] + y.shape[1], cut[1] : cut[1] + y.shape[2]]
        loss = (nn.functional.cross_entropy(logits, y, reduction="none") * w).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.item()

    return step


class Padded(nn.Module):
    """A peer's network, whose sides must be multiples of 16: the tile is padded to the next."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        more = [-n % 16 for n in x.shape[:1:-1]]
        padded: torch.Tensor = self.network(nn.functional.pad(x, (0, more[0], 0, more[1])))
        return padded[..., : x.shape[-2], : x.shape[-1]]


def monai_network(widths: list[int]) -> nn.Module:
    from monai.networks.nets import UNet as Peer

    return Padded(Peer(2, 1, 2, channels=widths, strides=[2] * (len(widths) - 1)))


def nnunet_network(widths: list[int]) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    count = len(widths)
    return Padded(
        PlainConvUNet(
            1, count, widths, nn.Conv2d, 3, [1, *[2] * (count - 1)], 2, 2, [2] * (count - 1), True, nn.InstanceNorm2d,
            nonlin=nn.LeakyReLU,
        )
    )  # fmt: skip


def plain_network(plan: Plan) -> nn.Module:
    return UNet(plan.network.model_copy(update={"dropout": 0.0}))


def training(plan: Plan, device: Device, rounds: int, steps: int, *, compiles: bool) -> list[dict[str, Any]]:
    widths = [plan.network.width * 2**level for level in range(max(plan.network.depths) + 1)]
    tile = torch.zeros(1, 1, *plan.tile, device=device.torch)
    contestants: dict[str, Callable[[], Callable[[], object]]] = {
        "septum": lambda: trainer_step(plan, device, compiled=False),
        "septum, compiled": lambda: trainer_step(plan, device, compiled=True),
        "septum, graphs, compiled": lambda: trainer_step(plan, device, compiled=False, graphs=True),
        "plain loop, same network": lambda: plain_step(plain_network(plan), plan, device),
        "plain loop, MONAI's U-Net": lambda: plain_step(monai_network(widths), plan, device),
        "plain loop, nnU-Net's U-Net": lambda: plain_step(nnunet_network(widths), plan, device),
    }
    flop = 3 * plan.batch * operations(UNet(plan.network).to(device.torch).eval(), tile)
    rows = []
    for name, make in contestants.items():
        if name.endswith("compiled") and not compiles:
            continue
        row = attempt(name, lambda make=make: seconds(make(), device, rounds=rounds, inner=steps))  # type: ignore[misc]
        if "median_s" in row:
            row["steps_per_s"] = 1 / row["median_s"]
            if "Net" not in name:
                row["tflops"] = flop / row["median_s"] / 1e12
        rows.append(row)
    return rows


def prediction(
    settings: UNetSettings, device: Device, rounds: int, sides: tuple[int, ...], *, compiles: bool
) -> list[dict[str, Any]]:
    network = for_prediction(UNet(settings).to(device.torch))
    rows = []
    for side in sides:
        x = torch.zeros(1, 1, side, side, device=device.torch)
        flop = operations(network, x)
        ways: dict[str, Any] = {"alone": network}
        if compiles:
            ways |= {"compiled": torch.compile(network), "graphs": torch.compile(network, mode="reduce-overhead")}
        for name, run in ways.items():

            def tile(run: Any = run, x: torch.Tensor = x) -> object:
                with torch.inference_mode(), device.exact():
                    return run(x)

            row = attempt(f"tile {side}, {name}", lambda tile=tile: seconds(tile, device, rounds=rounds, inner=3))  # type: ignore[misc]
            if "median_s" in row:
                row |= {"tiles_per_s": 1 / row["median_s"], "tflops": flop / row["median_s"] / 1e12}
            rows.append(row)
    image = np.random.default_rng(0).random((1, 512, 512), dtype=np.float32)

    def whole() -> object:
        return image_probabilities(network, image, device=device, normalization=NormalizeSettings())

    rows.append(attempt("image 512 x 512", lambda: seconds(whole, device, rounds=rounds)))
    return rows


def attempt(name: str, measure: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Measure, or say why that was not possible: a peer that is missing, a compiler, the memory."""
    try:
        row: dict[str, Any] = {"name": name, **measure()}
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        row = {"name": name, "left_out": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"}
    figures = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
    print(f"{name:28} {figures or row.get('left_out')}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    device = find_device(asked.device)
    quick: dict[str, Any] = {"width": 2, "depth": 2, "tile": 60} if asked.quick else {}
    precise = "bfloat16" if device.bfloat16 else "float32"
    settings = TrainSettings(data=(), out=asked.out, preset="paper", precision=precise, **quick)
    plan, _ = make_plan(FINGERPRINT, settings, gpu=True)
    rounds, steps = (1, 1) if asked.quick else (7, asked.steps)
    peak = peak_tflops(device, 256 if asked.quick else 8192)
    print(f"{device.name}: bfloat16 matrix product {peak:.3g} TFLOP/s")
    result: dict[str, Any] = {
        "device": device.name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "quick": asked.quick,
        "precision": plan.precision,
        "network": plan.network.model_dump(mode="json"),
        "tile": plan.tile,
        "images": IMAGES,
        "peak_tflops": peak,
        "training": training(plan, device, rounds, steps, compiles=not asked.quick),
        "prediction": prediction(
            plan.network, device, rounds, (60,) if asked.quick else TILES, compiles=not asked.quick
        ),
    }
    for row in [*result["training"], *result["prediction"]]:
        if "tflops" in row:
            row["share_of_peak"] = row["tflops"] / peak
    print(json.dumps({r["name"]: round(r["share_of_peak"], 3) for r in result["training"] if "share_of_peak" in r}))
    if asked.write:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
