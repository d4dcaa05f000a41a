"""Effect of one choice of the plan: the same training with one value changed, on public data.

    python benchmarks/ablation.py DATA OUT SET [--seconds 60] [--seed 0] [--variants "the plan;classes alike"]
    python benchmarks/ablation.py --show OUT [--write]

DATA holds the sets as in benchmarks/main_job.py; every n-th image of a set is used, so that many cells can be computed.
A cell is one set, one variant and one seed. It trains on one core for `--seconds` of processor time, so that a choice
that makes steps slower gets fewer of them, and other work on the machine does not matter. The last weights are scored
and, if the plan averages weights, the averaged ones of the same training, on all held-out images, for objects with the
best of the settings that training tries. Finished cells are kept in OUT and not computed again; `--write` adds them to
the stored figures. `deep` is the weight of deep supervision; labels that are no variant here belong to earlier plans.
Residual blocks are not part of Septum; they are added to its network here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from septum.arrays.instances import ObjectSettings
from septum.arrays.targets import separate_touching
from septum.check.check import check
from septum.check.samples import load_samples
from septum.metrics.isbi import combine, section
from septum.nn.device import find_device
from septum.nn.unet import UNet, center_crop, for_prediction, initialize
from septum.pairing.sample import Sample
from septum.prediction.tiled import image_probabilities
from septum.training import prepare as prepare_module
from septum.training import schedule as schedule_module
from septum.training import trainer as trainer_module
from septum.training import validation as validate
from septum.training.distributed import Processes
from septum.training.fingerprint import compute_fingerprint
from septum.training.model_selection import candidates
from septum.training.plan import Plan
from septum.training.prepare import prepare
from septum.training.presets import make_plan
from septum.training.schedule import Schedule
from septum.training.settings import TrainSettings
from septum.training.split import hold_out
from septum.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "ablation.json"

# Folder, and every how many of its images.
SETS = {
    "hippocampus": ("hippocampus", 3),
    "fluorescence": ("dsb2018/fluorescence", 8),
    "brightfield": ("dsb2018/brightfield", 3),
    "hela": ("ctc/DIC-C2DH-HeLa", 6),
    "u373": ("ctc/PhC-C2DH-U373", 8),
    "isbi2012": ("isbi2012/train", 2),
}


@dataclass(frozen=True)
class Variant:
    """Values of the plan, and what is not in it.

    `tiles` are how many tiles of what side in a batch; `gap` is how many pixels set touching objects apart, and are
    given back to them; `residual` adds the input of each block to its output.
    """

    values: tuple[str, ...] = ()
    tiles: tuple[int, int] | None = None
    gap: int = 1
    residual: bool = False


VALID = "network.padding=valid"
TURNED = ("augmentation.rotate=true", "augmentation.mirror=true")
FIXED = ("augmentation.rotate=false", "augmentation.mirror=false")
DICE, BALANCE = ("dice=1", "weights.balance=1"), ("dice=0", "weights.balance=10")
FAST = "optimizer.rate=0.003"
UNSETTLED = "optimizer.freeze_batchnorm=0"
GRAY = tuple(
    f"augmentation.{value}" for value in ("brightness=0.5", "contrast=0.5", "gamma=[0.5,2]", "noise=0.4", "chance=0.5")
)
VARIANTS = {
    "the plan": Variant(),
    "unpadded": Variant((VALID,)),
    "Dice 1, balance 1": Variant(DICE),
    "Dice 1, balance 1, unpadded": Variant((*DICE, VALID)),
    "Dice 0, balance 10": Variant(BALANCE),
    "Dice 0, balance 10, unpadded": Variant((*BALANCE, VALID)),
    "Dice 0, balance 10, rate 0.003": Variant((*BALANCE, FAST)),
    "Dice 0, balance 10, unpadded, rate 0.003": Variant((*BALANCE, VALID, FAST)),
    "unpadded, rate 0.003": Variant((VALID, FAST)),
    "Dice 0, balance 1": Variant(("dice=0", "weights.balance=1")),
    "turned": Variant(TURNED),
    "not turned": Variant(FIXED),
    "no deep supervision": Variant(("deep=0",)),
    "deep supervision 1": Variant(("deep=1",)),
    "two smaller tiles": Variant(tiles=(2, 288)),
    "four smaller tiles": Variant(tiles=(4, 208)),
    "gap of two pixels": Variant(gap=2),
    "gap of three pixels": Variant(gap=3),
    "residual blocks": Variant(residual=True),
    "no border weight": Variant(("weights.w0=0",)),
    "border weight 5": Variant(("weights.w0=5",)),
    "rate 0.003": Variant((FAST,)),
    "rate 0.0003": Variant(("optimizer.rate=0.0003",)),
    "width 8": Variant(("network.width=8",)),
    "width 24": Variant(("network.width=24",)),
    "range normalization": Variant(("normalization.method=range",)),
    "norm does not settle": Variant((UNSETTLED,)),
    "norm settles at the half": Variant(("optimizer.freeze_batchnorm=0.5",)),
    "gray values twice as far": Variant(GRAY),
    "gray values twice as far, norm does not settle": Variant((*GRAY, UNSETTLED)),
    "no deformation": Variant(("augmentation.elastic_sigma_px=0",)),
}


def part_of(data: Path, out: Path, name: str) -> Path:
    """Link every n-th image and mask of a set into a folder of its own."""
    folder, every = SETS[name]
    source, target = data / folder, out / "data" / name
    if target.exists():
        return target
    for parent, _, files in os.walk(source):
        chosen = sorted(f for f in files if not f.startswith("."))
        if "GT" in parent or "ST" in parent:  # the masks of the frames that are taken
            chosen = [f for f in chosen if int("".join(c for c in f if c.isdigit())) % every == 0]
        else:
            chosen = chosen[::every]
        for file in chosen:
            link = target / Path(parent).relative_to(source) / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((Path(parent) / file).resolve())
    return target


class Residual(nn.Module):
    """A block to whose output its input is added, cropped to its size, through a 1x1 convolution."""

    def __init__(self, block: nn.Sequential) -> None:
        super().__init__()
        convs = [m for m in block if isinstance(m, nn.Conv2d | nn.Conv3d)]
        self.block = block
        self.through = type(convs[0])(convs[0].in_channels, convs[-1].out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        y = self.block(x)
        return y + self.through(center_crop(x, y.shape[2:]))


def with_residuals(network: UNet) -> None:
    """Make all blocks of a network residual."""
    for blocks in (network.down, network.merge):
        for i, block in enumerate(blocks):
            blocks[i] = Residual(block)
    network.bottom = Residual(network.bottom)  # type: ignore[assignment]


def with_gap(sizes: NDArray[Any], gap: int) -> tuple[ObjectSettings, ...]:
    """Return the settings of objects to choose from, which give up to `gap` pixels back."""
    known = candidates(sizes)
    more = [c.model_copy(update={"grow_px": grow}) for grow in range(2, gap + 1) for c in known if c.grow_px == 1]
    return (*known, *more)


def train(trainer: Trainer, variant: Variant, seconds: float) -> None:
    """Step until the time is up."""
    if variant.residual:
        with_residuals(trainer.network)
        initialize(trainer.network, trainer.seed)
        trainer.state.optimizer = trainer_module.make_optimizer(trainer.state.supervised, trainer.plan.optimizer)
    schedule = Schedule(None, seconds)
    while schedule.progress < 1:
        schedule.start_step()
        loss = trainer.training_step(schedule.rate_factor(trainer.counters.step, trainer.plan.optimizer.schedule))
        assert math.isfinite(loss)
        schedule.finish_step(trainer.counters.step)
        trainer.counters.progress = schedule.progress


def membranes(network: UNet, samples: tuple[Sample, ...], plan: Plan) -> dict[str, float]:
    """Score as the ISBI challenge does."""
    sections = []
    for sample in samples:
        found = image_probabilities(network, sample.image, device=find_device("cpu"), normalization=plan.normalization)
        sections.append(section(sample.mask > 0, found[1], warp=False))
    best = combine(sections)
    return {name: best[name].value for name in ("V_Rand", "V_Info")}


def scores(trainer: Trainer, network: UNet, *, membrane: bool) -> dict[str, float]:
    """Score a network, one with residual blocks as it is, on the held-out images."""
    plain = not any(isinstance(m, Residual) for m in network.modules())
    ready = for_prediction(network) if plain else network.eval()
    found = trainer.validator.finish(ready, Schedule(1, None))[1]
    if membrane:
        found |= membranes(ready, trainer.validator.samples, trainer.plan)
    return {k: round(float(v), 4) for k, v in found.items()}


def cells(data: Path, out: Path, name: str, *, variants: list[str], seed: int, seconds: float) -> None:
    """Compute the cells of one set and seed that are left."""
    left = {v: out / "cells" / f"{name}.{v}.{seed}.json" for v in variants}
    left = {v: file for v, file in left.items() if not file.exists()}
    if not left:
        return
    torch.set_num_threads(1)
    device = find_device("cpu")
    report = check((part_of(data, out, name),))
    samples = list(load_samples(report))
    chosen, held = hold_out(samples, seed=seed)
    kind, classes = report.rules.kind, len(report.rules.class_values)
    fingerprint = compute_fingerprint(samples, kind, classes=classes)
    scored = tuple(samples[i] for i in held)
    # Processor time, so that other work on the machine does not matter.
    schedule_module.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    for label, file in left.items():
        variant = VARIANTS[label]
        batch, tile = variant.tiles or (None, None)
        settings = TrainSettings(data=(), out=out, set=variant.values, batch=batch, tile=tile)
        plan, _ = make_plan(fingerprint, settings, bfloat16=device.bfloat16)
        prepare_module.separate_touching = partial(separate_touching, gap_px=variant.gap)  # type: ignore[assignment]
        validate.candidates = partial(with_gap, gap=variant.gap)  # type: ignore[assignment]
        validator = validate.Validator(scored, kind == "objects", plan, device)
        images = tuple(prepare([samples[i] for i in chosen], plan, kind=kind))
        trainer = Trainer(
            plan=plan, seed=seed, device=device, processes=Processes(), images=images, validator=validator
        )
        train(trainer, variant, seconds)
        figures: dict[str, Any] = {
            "seconds": seconds,
            "steps": trainer.counters.step,
            "batch": plan.batch,
            "tile": plan.tile,
        }
        figures |= {"images": len(scored), "deep": plan.deep}
        figures["scores"] = scores(trainer, trainer.network, membrane=name == "isbi2012")
        if plan.optimizer.average and not variant.residual:
            figures["averaged"] = scores(trainer, trainer.averaged_network(), membrane=name == "isbi2012")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures) + "\n")
        print(file.stem, trainer.counters.step, figures["scores"], flush=True)


def show(out: Path, *, write: bool) -> None:
    """Print means over seeds; keep the figures of all cells."""
    found: dict[str, Any] = {}
    for file in sorted((out / "cells").glob("*.json")):
        name, label, seed = file.stem.split(".")[0], ".".join(file.stem.split(".")[1:-1]), file.stem.split(".")[-1]
        found.setdefault(name, {}).setdefault(label, {})[seed] = json.loads(file.read_text())
    if write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept |= {name: kept.get(name, {}) | table for name, table in found.items()}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    for name, table in found.items():
        keys = {"hippocampus": ("dice",), "isbi2012": ("V_Rand", "pixel_error")}.get(name, ("SEG", "AP50"))
        for label, seeds in table.items():
            for which in ("scores", "averaged"):
                rows = [cell for cell in seeds.values() if which in cell]
                told = [f"{k} {np.mean([cell[which][k] for cell in rows]):.3f}" for k in keys if rows]
                steps = np.mean([cell["steps"] for cell in rows]) if rows else 0
                if rows:
                    print(f"| {name} | {label}, {which} | {steps:.0f} | {', '.join(told)} | {len(rows)} |")


def main() -> None:
    """Compute or show."""
    words = argparse.ArgumentParser()
    words.add_argument("paths", nargs="*", help="DATA OUT SET, or with --show OUT")
    words.add_argument("--seconds", type=float, default=60.0)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--variants", default=";".join(VARIANTS))
    words.add_argument("--show", action="store_true")
    words.add_argument("--write", action="store_true")
    asked = words.parse_args()
    if asked.show:
        show(Path(asked.paths[0]), write=asked.write)
        return
    data, out, name = asked.paths
    variants = [v.strip() for v in asked.variants.split(";")]
    cells(Path(data), Path(out), name, variants=variants, seed=asked.seed, seconds=asked.seconds)


if __name__ == "__main__":
    main()
