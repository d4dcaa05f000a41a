"""Effect of freezing batch normalization near the end: one held-out block of ISBI 2012, whose sections are noisier.

    python benchmarks/settle.py DATA OUT [--budget 480] [--block 4] [--shares 0 0.25 0.5] [--write]

DATA is as for `septum reproduce isbi2012`. For each share of the training (0: never) in which batch normalization is
frozen, a network trains on the 24 other sections, and the 6 of the block are predicted twice: with one mean and
variance for all images, as users get them, and with those of each image, as in training before freezing. If the two
differ, training and prediction are different networks. A share whose run is in OUT is not trained again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from septum.arrays.normalize import normalize, statistics
from septum.io.files import read_image
from septum.metrics.isbi import Best, Section, combine, section
from septum.prediction.model import open_model, trained_networks
from septum.reproduce.protocols import PROTOCOLS, ProtocolPart, find_data, section_parts
from septum.training.events import Trained
from septum.training.loop import train
from septum.training.settings import SplitSettings, TrainSettings

RESULTS = Path(__file__).parent / "results" / "settle.json"


def train_on(part: ProtocolPart, folder: Path, **settings: Any) -> Trained:
    """Train on the sections of a part; none is held out, the last weights are kept."""
    for source, place in part.training:
        (folder / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / "data" / place)
    data, out, none = (folder / "data",), folder / "run", SplitSettings(names=())
    asked = TrainSettings(data=data, out=out, kind="classes", split=none, **settings)
    (done,) = [r for r in train(asked) if isinstance(r, Trained)]
    return done


def trained(part: ProtocolPart, folder: Path, share: float, budget_s: float) -> Path:
    """Return the model of a share, which is trained if it is not there."""
    model = folder / "run" / "model.safetensors"
    if not model.exists():
        train_on(part, folder, budget_s=budget_s, set=(f"optimizer.freeze_batchnorm={share}",))
    return model


def scored(model: Path, part: ProtocolPart, *, own: bool) -> dict[str, Best]:
    """Score a block, each image normalized by its own statistics or all by those of the training."""
    (network,) = trained_networks(model)
    header = open_model(model, "cpu").header
    for module in network.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(own)
            module.momentum = 0.0
    sections: list[Section] = []
    for image, (truth, _) in zip(part.inputs, part.truth, strict=True):
        pixels = read_image(image).array[None, 0]
        x = torch.from_numpy(normalize(pixels, statistics(pixels, header.normalization)))[None]
        with torch.inference_mode():
            inside = network(x).softmax(1)[0, 1].numpy()
        sections.append(section(read_image(truth, labels=True).array[0] > 0, inside, warp=False))
    return combine(sections)


def main() -> None:
    """Measure every share, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", type=float, default=480.0)
    parser.add_argument("--block", type=int, default=4)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    part = section_parts(find_data(PROTOCOLS["isbi2012"], asked.data), 5)[asked.block - 1]
    table: dict[str, Any] = {"block": asked.block, "budget_s": asked.budget}
    for share in asked.shares:
        model = trained(part, asked.out / f"settle-{share:g}", share, asked.budget)
        row: dict[str, Any] = {"steps": open_model(model, "cpu").header.training["steps"]}
        for name, own in (("as predicted", False), ("own statistics", True)):
            best = scored(model, part, own=own)
            row[name] = {k: [round(best[k].value, 4), round(best[k].threshold, 1)] for k in ("V_Rand", "V_Info")}
        table[f"{share:g}"] = row
        print(share, row, flush=True)
    if asked.write:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
