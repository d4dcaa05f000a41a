"""A training step in float32 on a processor: Septum's convolutions against PyTorch's, layer by layer and whole.

    OMP_NUM_THREADS=1 python benchmarks/winograd_training.py [NETWORK ...] [--write]

NETWORK is auto (width 16), wide (width 32) or paper; without, all. Each row of `layers` has the processor seconds of a
3x3 convolution forward, of the gradient of its inputs and of that of its weights. A `step` is forward, weighted loss,
backward and AdamW of one tile of 572, without drawing it. Contestants take turns, medians are given, as processor
seconds on one thread: other programs count less. `memory_gb` is what a process of its own held at most, above what it
held with all code loaded (Linux); `loss` that of the last step, the same number of steps for all. --write stores
benchmarks/results/winograd_training.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from septum.cpu import _ops as training
from septum.cpu._ir import LANES
from septum.cpu.training import for_training
from septum.nn.device import find_device
from septum.nn.loss import weighted_cross_entropy
from septum.nn.unet import UNet, UNetSettings

SIDE, DEPTH, STEPS, WARM = 572, 4, 4, 1
NETWORKS = {
    "auto": UNetSettings(width=16, batch_norm=True),
    "wide": UNetSettings(width=32, batch_norm=True),
    "paper": UNetSettings.paper(),
}
ORDERS = {"PyTorch, NCHW": torch.contiguous_format, "PyTorch, features innermost": torch.channels_last}
CONTESTANTS = (*ORDERS, "Septum")
PARTS = ("forward", "input gradient", "weight gradient")


def shapes(width: int) -> list[tuple[int, int, int]]:
    """Return input features, output features and input side of each 3x3 convolution but the first."""
    found, side, inside = [], SIDE, 1
    for level in [*range(DEPTH + 1), *reversed(range(DEPTH))]:
        outside, up = width << level, len(found) > 2 * DEPTH
        side, inside = (2 * side, 2 * outside) if up else (side // 2 if found else side, inside)
        for features in (inside, outside):
            found.append((features, outside, side))
            side -= 2
        inside = outside
    return found[1:]


def processor_seconds(run: Callable[[], Any], repeats: int = 3) -> float:
    """Return the median of some runs after a first."""
    run()
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return statistics.median(found)


def layer(inside: int, outside: int, side: int) -> dict[str, Any]:
    """Measure one convolution."""
    weight = torch.randn(outside, inside, 3, 3) / (9 * inside) ** 0.5
    x, gradient = torch.randn(1, inside, side, side), torch.randn(1, outside, side - 2, side - 2)
    row: dict[str, Any] = {"features": [inside, outside], "side": side}

    def peer(order: torch.memory_format) -> list[Callable[[], Any]]:
        a, w, g = (tensor.contiguous(memory_format=order) for tensor in (x, weight, gradient))

        def backward(mask: list[bool]) -> tuple[Tensor, ...]:
            sides = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
            made: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(g, a, w, None, *sides, mask)
            return made

        masks = ([True, False, False], [False, True, False])
        return [lambda: torch.nn.functional.conv2d(a, w), *(lambda mask=mask: backward(mask) for mask in masks)]

    def own() -> list[Callable[[], Any]]:
        a, w, g = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight, gradient))
        return [
            lambda: training.convolve([a], w, margin=0),
            lambda: training.convolve([g], w, margin=2, backward=True),
            lambda: training.weight_gradient([a], g, margin=0),
        ]

    for name, runs in (*((name, peer(order)) for name, order in ORDERS.items()), ("Septum", own())):
        row[name] = [round(processor_seconds(run), 5) for run in runs]
    return row


def step_of(name: str, contestant: str) -> Callable[[], float]:
    """Return what does a step and returns the loss."""
    network = UNet(NETWORKS[name]).train()
    order = ORDERS.get(contestant, torch.channels_last)
    if contestant == "Septum":
        network, order = for_training(network, find_device("cpu"), bfloat16=False)
    network = network.to(memory_format=order)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, SIDE, SIDE, generator=generator).contiguous(memory_format=order)
    out = network.geometry.output((SIDE, SIDE))
    y, w = torch.randint(0, 2, (1, *out), generator=generator), torch.ones(1, *out)

    def step() -> float:
        network.seed_dropout([1], (SIDE, SIDE))
        energy, annotated = weighted_cross_entropy(network(x), y, w)
        loss = energy / annotated
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    return step


def memory(name: str, contestant: str) -> float:
    """Return the most memory that two steps hold, in GB, above what this process holds before."""
    x = torch.zeros(1, LANES, 6, 6)
    training.convolve([x], torch.zeros(LANES, LANES, 3, 3), margin=0)
    step, before = step_of(name, contestant), psutil.Process().memory_info().rss
    step()
    step()
    status = Path("/proc/self/status").read_text()  # Linux; what `resource` says begins with the most of the parent
    most = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return (1024 * most - before) / 1e9


def whole(name: str) -> dict[str, Any]:
    """Measure steps of a network."""
    steps = {contestant: step_of(name, contestant) for contestant in CONTESTANTS}
    seconds: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS}
    losses = {}
    for _ in range(WARM + STEPS):
        for contestant, step in steps.items():
            begun = time.process_time()
            losses[contestant] = step()
            seconds[contestant].append(time.process_time() - begun)
    row: dict[str, Any] = {}
    for contestant, found in seconds.items():
        command = [sys.executable, __file__, "--memory", name, contestant]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row[contestant] = {
            "processor_s": round(statistics.median(found[WARM:]), 4),
            "loss": round(losses[contestant], 5),
            "memory_gb": round(float(said.splitlines()[-1]), 3),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--memory", nargs=2)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.memory:
        print(memory(*asked.memory))
        return
    path = Path(__file__).parent / "results" / "winograd_training.json"
    result = json.loads(path.read_text()) if path.exists() else {"networks": {}}
    result |= {"machine": platform.machine(), "lanes": LANES, "torch": torch.__version__}
    for name in asked.networks:
        steps, layers = whole(name), [layer(*shape) for shape in shapes(NETWORKS[name].width)]
        sums = {c: [round(sum(row[c][part] for row in layers), 4) for part in range(3)] for c in CONTESTANTS}
        result["networks"][name] = {"step": steps, "layers_together": sums, "layers": layers}
        for contestant in CONTESTANTS:
            both = "   ".join(f"{part} {s:.3f}" for part, s in zip(PARTS, sums[contestant], strict=True))
            print(f"{name:6} {contestant:28} {steps[contestant]}   layers: {both}", flush=True)
    if asked.write:
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
