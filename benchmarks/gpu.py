"""The questions that decide how Septum uses a GPU: one command, one file of results, ten minutes.

Usage: python benchmarks/gpu.py [--device cuda] [--minutes 9.5] [--questions NAME,NAME] [--out FILE]
                                [--quick] [--no-file]
    Results are written to benchmarks/results/gpu.json, or FILE, after each row.
    --quick uses narrow networks and few rounds and compiles nothing, to see that it works: its figures mean nothing.

Each question has a share of the time, printed before it: a row that would take longer is left out, with the reason, and
a program that hangs is ended when the whole time is over. The first row of a question is the way Septum does it now;
`times` is its ratio to that row (above 1: better). Medians, after a warm-up, the device waited for.

- peak: a bfloat16 matrix product of 8192 x 8192, in TFLOP/s; other rows are also given as a share of it
- steps: steps a second of `auto` in 2D and 3D, and of the paper's network on a tile of 572, augmentation and all; the
  memory they take beside the planned one; the number of times that a step waits for the GPU, by PyTorch's own count
- compile: `auto` through `torch.compile` (as with --compile) and with CUDA graphs, and the seconds of compiling
- order: features innermost (channels last) and outermost, in 2D and 3D
- batch: tiles a second with 1, 2, 4 and 8 tiles a step
- images: training images on the GPU and on the processor
- width: steps a second of networks of width 16, 32, 64 and 128
- prediction: tiles of 572, 700 and 1212, plain, compiled and with CUDA graphs; a 512 x 512 image from array to array
- peers: a plain loop (NCHW, a DataLoader with two workers and albumentations) with the paper's network, MONAI's U-Net
  and nnU-Net's, where they are installed
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import json
import os
import platform
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
import training as plain
from septum.arrays.normalize import NormalizeSettings
from septum.nn.device import Device, find_device
from septum.nn.unet import UNet, for_prediction
from septum.prediction.memory import training_bytes
from septum.prediction.tiled import image_probabilities
from septum.training.distributed import Processes
from septum.training.fingerprint import Fingerprint
from septum.training.plan import Plan
from septum.training.prepare import Prepared
from septum.training.presets import make_plan
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer
from septum.training.validation import Validator

TILES = (572, 700, 1212)
VOLUME = (64, 192, 192)

# Each question's share of the time. Compiling takes a minute or more for each network.
SHARES = {
    "peak": 2,
    "steps": 12,
    "compile": 26,
    "order": 8,
    "batch": 8,
    "images": 5,
    "width": 8,
    "prediction": 20,
    "peers": 11,
}
ROUNDS, ROUND_S = 7, 0.3


class OutOfTimeError(Exception):
    """The time of a question is over."""


@dataclass(frozen=True)
class OrderedDevice(Device):
    """A device with a given memory format of feature maps."""

    order: Any = torch.contiguous_format

    def memory_format(self, rank: int, bfloat16: bool) -> Any:
        return self.order


@dataclass
class Run:
    """All questions of one run: the device, the time, and the figures so far."""

    device: Device
    quick: bool
    out: Path | None
    seconds: float
    names: list[str]
    result: dict[str, Any] = field(default_factory=dict)
    begin: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)
    ends: float = 0.0

    @property
    def compiles(self) -> bool:
        return not self.quick

    @contextmanager
    def question(self, name: str) -> Iterator[None]:
        """Give a question its share of the time that is left, and what earlier ones did not need."""
        names = [n for n in self.names if n not in self.result["questions"]]
        left = self.begin + self.seconds - time.monotonic()
        limit = max(0.0, left * SHARES[name] / sum(SHARES[n] for n in names))
        begin, self.ends, self.rows = time.monotonic(), time.monotonic() + limit, []
        print(f"\n{name} (at most {limit:.0f} s)", flush=True)
        self.result["questions"][name] = {"limit_s": round(limit, 1), "rows": self.rows}
        yield
        self.result["questions"][name]["took_s"] = round(time.monotonic() - begin, 1)
        self.write()

    def row(
        self, name: str, make: Callable[[], Callable[[], object]], *, against: str | None = None, **known: Any
    ) -> dict[str, Any]:
        """Measure what `make` returns, or say why that was not possible: a peer, a compiler or the memory is missing.

        `against` names the row to compare with; by default it is the first of the question.
        """
        row: dict[str, Any] = {"name": name}
        try:
            with time_limit(self.ends - time.monotonic()):
                row |= known | self.measure(make)
        except (ImportError, RuntimeError, TypeError, ValueError, OutOfTimeError) as error:
            row["left_out"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        if "median_s" in row:
            row["per_s"] = row.pop("units", 1) / row["median_s"]
            if "flop" in row:
                row["tflops"] = row.pop("flop") / row["median_s"] / 1e12
                if peak := self.result.get("peak_tflops"):
                    row["share_of_peak"] = row["tflops"] / peak
            base = next((r for r in (*self.rows, row) if against in (None, r["name"])), row)
            if "per_s" in base:
                row["times"] = row["per_s"] / base["per_s"]
        self.rows.append(row)
        figures = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
        print(f"  {name:34} {figures or row.get('left_out')}", flush=True)
        self.write()
        return row

    def measure(self, make: Callable[[], Callable[[], object]]) -> dict[str, float]:
        """Median, smallest and largest seconds of one call, of which many are given to the device at once."""
        begin = time.monotonic()
        if self.device.torch.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device.torch)
        run = make()
        run()
        wait(self.device)
        first = time.monotonic() - begin
        for _ in range(0 if self.quick else 3):
            run()
        wait(self.device)
        begin = time.monotonic()
        run()
        wait(self.device)
        inner = 1 if self.quick else max(1, round(ROUND_S / (time.monotonic() - begin)))
        found = []
        for _ in range(1 if self.quick else ROUNDS):
            begin = time.monotonic()
            for _ in range(inner):
                run()
            wait(self.device)
            found.append((time.monotonic() - begin) / inner)
        row = {"median_s": statistics.median(found), "min_s": min(found), "max_s": max(found), "first_s": first}
        if self.device.torch.type == "cuda":
            row["memory_bytes"] = int(torch.cuda.max_memory_allocated(self.device.torch))
        return row

    def write(self) -> None:
        if self.out is not None:
            self.result["took_s"] = round(time.monotonic() - self.begin, 1)
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(self.result, indent=1) + "\n")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End the body with `OutOfTimeError`."""
    if seconds <= 0:
        raise OutOfTimeError("the time of this question is over")

    def ring(*_: object) -> None:
        raise OutOfTimeError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait(device: Device) -> None:
    if device.torch.type == "cuda":
        torch.cuda.synchronize(device.torch)
    elif device.torch.type == "mps":
        torch.mps.synchronize()


def make_plan_for(run: Run, *, rank: int = 2, preset: str = "auto", **options: Any) -> Plan:
    """Return the plan that `septum train` makes on this GPU for images of 700 x 700, or volumes."""
    sides = (plain.SIDE,) * 2 if rank == 2 else VOLUME
    figures = Fingerprint(channels=1, classes=2, sides=sides, anisotropy=(1,) * rank)
    small: dict[str, Any] = {"width": 2, "depth": 2, "tile": 60 if rank == 2 else 16} if run.quick else {}
    settings = TrainSettings(data=(), out=Path("run"), preset=preset, **(small | options))  # type: ignore[arg-type]
    return make_plan(figures, settings, gpu=True, bfloat16=run.device.bfloat16)[0]


@functools.cache
def images(rank: int) -> tuple[Prepared, ...]:
    if rank == 2:
        return plain.images()
    rng = np.random.default_rng(0)
    target = (rng.random(VOLUME) < 0.3).astype(np.uint8)
    image = (target + rng.normal(0, 0.3, VOLUME)).astype(np.float32)[None]
    return (Prepared(image, target, np.ones(VOLUME, np.float32), (), None),) * 2


def trainer(run: Run, plan: Plan, device: Device | None = None, *, compiled: bool = False) -> Trainer:
    device = device or run.device
    validator = Validator((), True, plan, device)
    made = Trainer(plan, 0, device, Processes(), images(len(plan.tile)), validator, compile=compiled)
    if made.not_compiled:
        raise RuntimeError(made.not_compiled)
    return made


def steps_of(made: Trainer) -> Callable[[], object]:
    return lambda: made.training_step(1.0)


def operations(network: nn.Module, x: torch.Tensor) -> int:
    """Floating point operations of the convolutions of one forward pass; a step takes three times as many."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops())


def step_operations(plan: Plan) -> int:
    with torch.device("meta"):
        network = UNet(plan.network.model_copy(update={"dropout": 0.0}), seed=None)
        return 3 * plan.batch * operations(network, torch.zeros(1, plan.network.channels, *plan.tile))


def ask_peak(run: Run) -> None:
    side = 256 if run.quick else 8192
    a = torch.randn(side, side, device=run.device.torch, dtype=torch.bfloat16)
    row = run.row(f"matrix product {side}, bfloat16", lambda: lambda: a @ a, flop=2 * side**3)
    run.result["peak_tflops"] = row.get("tflops")


def ask_steps(run: Run) -> None:
    plans = {"auto": make_plan_for(run), "auto, volumes": make_plan_for(run, rank=3)}
    plans["paper"] = make_plan_for(run, preset="paper")
    for name, plan in plans.items():
        planned = training_bytes(plan.network, plan.tile, plan.batch)
        about = {"network": plan.network.model_dump(mode="json"), "tile": plan.tile, "batch": plan.batch}
        about |= {"precision": plan.precision, "planned_bytes": planned, "flop": step_operations(plan)}
        made: list[Trainer] = []

        def start(plan: Plan = plan, made: list[Trainer] = made) -> Callable[[], object]:
            made.append(trainer(run, plan))
            return steps_of(made[0])

        row = run.row(name, start, against=name, **about)
        if made and run.device.torch.type == "cuda":
            row["waits_in_a_step"] = waits(steps_of(made[0]))


def waits(step: Callable[[], object]) -> int:
    """Return how often PyTorch waits for the GPU in a step: 0 is meant, as losses are read later."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
        return sum("synchroniz" in str(one.message) for one in caught)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def ask_compile(run: Run) -> None:
    plan = make_plan_for(run)
    run.row("auto", lambda: steps_of(trainer(run, plan)))
    if run.compiles:
        run.row("auto, compiled", lambda: steps_of(trainer(run, plan, compiled=True)))

        def graphs() -> Callable[[], object]:
            made = trainer(run, plan)
            made._parallel = torch.compile(made.state.supervised, mode="reduce-overhead")  # type: ignore[assignment]
            return steps_of(made)

        run.row("auto, compiled, CUDA graphs", graphs)


def ask_order(run: Run) -> None:
    orders = {2: torch.channels_last, 3: torch.channels_last_3d}
    for rank, innermost in orders.items():
        plan = make_plan_for(run, rank=rank)
        used = run.device.memory_format(rank, run.device.bfloat16)
        names = {torch.contiguous_format: f"{rank}D, features outermost", innermost: f"{rank}D, features innermost"}
        for order in sorted(names, key=lambda order: order != used):
            made = OrderedDevice(run.device.torch, run.device.name, "", run.device.bfloat16, order)
            run.row(names[order], lambda plan=plan, made=made: steps_of(trainer(run, plan, made)), against=names[used])  # type: ignore[misc]


def ask_batch(run: Run) -> None:
    for batch in (1, 2, 4, 8)[: 2 if run.quick else None]:
        plan = make_plan_for(run, batch=batch)
        run.row(f"{batch} tiles a step", lambda plan=plan: steps_of(trainer(run, plan)), units=batch)  # type: ignore[misc]


def ask_images(run: Run) -> None:
    plan = make_plan_for(run)
    run.row("on the device", lambda: steps_of(trainer(run, plan)))

    def elsewhere() -> Callable[[], object]:
        made = trainer(run, plan)
        made._tensors = [tuple(torch.from_numpy(a) for a in (one.image, one.target, one.weight)) for one in made.images]
        return steps_of(made)

    run.row("on the processor", elsewhere)


def ask_width(run: Run) -> None:
    for width in (64, 16, 32, 128) if not run.quick else (2, 3):
        plan = make_plan_for(run, width=width)
        run.row(f"width {width}", lambda plan=plan: steps_of(trainer(run, plan)), flop=step_operations(plan))  # type: ignore[misc]


def ask_prediction(run: Run) -> None:
    settings = make_plan_for(run, preset="paper").network
    network = for_prediction(UNet(settings).to(run.device.torch))
    ways: dict[str, Callable[[], Any]] = {"plain": lambda: network}
    if run.compiles:
        ways["compiled"] = lambda: torch.compile(network)
        ways["compiled, CUDA graphs"] = lambda: torch.compile(network, mode="reduce-overhead")
    for side in (60,) if run.quick else TILES:
        x = torch.zeros(1, 1, side, side, device=run.device.torch)
        flop = operations(network, x)
        for name, way in ways.items():

            def tile(way: Callable[[], Any] = way, x: torch.Tensor = x) -> Callable[[], object]:
                chosen = way()

                def once() -> object:
                    with torch.inference_mode(), run.device.exact():
                        return chosen(x)

                return once

            run.row(f"tile {side}, {name}", tile, flop=flop, against=f"tile {side}, plain")
    image = np.random.default_rng(0).random((1, 512, 512), dtype=np.float32)

    def whole() -> object:
        return image_probabilities(network, image, device=run.device, normalization=NormalizeSettings())

    run.row("image 512 x 512", lambda: whole, against="image 512 x 512")


def ask_peers(run: Run) -> None:
    plan = make_plan_for(run, preset="paper")
    widths = [plan.network.width * 2**level for level in range(max(plan.network.depths) + 1)]
    run.row("septum, paper", lambda: steps_of(trainer(run, plan)))
    for name, make in {
        "plain loop, same network": lambda: UNet(plan.network.model_copy(update={"dropout": 0.0})),
        "plain loop, MONAI's U-Net": lambda: monai_network(widths),
        "plain loop, nnU-Net's U-Net": lambda: nnunet_network(widths),
    }.items():
        run.row(name, lambda make=make: plain_step(make(), plan, run.device))  # type: ignore[misc]


def plain_step(network: nn.Module, plan: Plan, device: Device) -> Callable[[], object]:
    """The usual loop around a network that maps a tile to logits of some inner part."""
    network = network.to(device.torch).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.99)
    loader = torch.utils.data.DataLoader(plain.Tiles(plan, "albumentations"), batch_size=plan.batch, num_workers=2)
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


QUESTIONS: dict[str, Callable[[Run], None]] = {name: globals()[f"ask_{name}"] for name in SHARES}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--questions", default=",".join(SHARES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-file", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    # A call into a driver that never returns cannot be interrupted: then the process ends, and the rows are written.
    if not asked.quick:
        faulthandler.dump_traceback_later(60 * asked.minutes + 10, exit=True)
    device = find_device(asked.device)
    names = [name for name in SHARES if name in asked.questions.split(",")]
    run = Run(device, asked.quick, None if asked.no_file else asked.out, 60 * asked.minutes, names)
    run.result = {
        "device": device.name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "quick": asked.quick,
        "minutes": asked.minutes,
        "images": plain.IMAGES,
        "questions": {},
    }
    print(f"{device.name}, torch {torch.__version__}; at most {asked.minutes:g} minutes")
    for name in names:
        with run.question(name):
            QUESTIONS[name](run)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
