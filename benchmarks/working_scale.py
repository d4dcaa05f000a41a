"""Wide objects, learned as they are and on the working grid that training chooses: DIC-C2DH-HeLa, enlarged.

    python benchmarks/working_scale.py DATA OUT [--enlarged 3] [--budget 6m | --steps 300] [--seeds 0] [--write]

DATA holds the set as docs/explanation/reproduction.md names it. The frames of benchmarks/splits (every second one of
the training) are enlarged, images linearly and masks without interpolation, so that objects are `--enlarged` times 112
pixels wide. Both trainings have the same data, seed and time; the test frames, which chose nothing, are scored by SEG
against gold and silver truth on their own grid. Seconds are those of the prediction of all test frames.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from aims import prepared, septum

from septum.arrays.resample import Resampled
from septum.io.files import list_images, read_image, write_image

RESULTS = Path(__file__).parent / "results" / "working_scale.json"
WAYS = {"as it is": ("--set", "scale=1"), "working grid": ()}


def enlarge(source: Path, target: Path, factor: int) -> None:
    """Write the training and test frames of a prepared set, enlarged."""
    for folder in (source / part / kind for part in ("train", "test") for kind in ("images", "masks", "gold")):
        files = list_images([folder]) if folder.exists() else []
        for path in files[:: 2 if folder.parent.name == "train" else 1]:
            out = target / folder.relative_to(source) / f"{path.stem}.tif"
            if out.exists():
                continue
            out.parent.mkdir(parents=True, exist_ok=True)
            pixels = read_image(path).array
            if folder.name == "images":
                sides = tuple(side * factor for side in pixels.shape[1:])
                large = np.rint(Resampled(pixels, sides)[:, :, :]).astype(pixels.dtype)
            else:
                large = pixels.repeat(factor, 1).repeat(factor, 2)
            write_image(out, large[0], axes="YX")


def measured(data: Path, run: Path, words: tuple[object, ...]) -> dict[str, Any]:
    """Train, predict and score one way."""
    if not (run / "model.safetensors").exists():
        septum("train", data / "train", "-o", run, "--quiet", *words)
    shutil.rmtree(run / "predicted", ignore_errors=True)
    begin = time.monotonic()
    septum("predict", run, data / "test" / "images", "-o", run / "predicted", "--quiet")
    found: dict[str, Any] = {"predict_s": round(time.monotonic() - begin, 1)}
    found["scale"] = json.loads((run / "plan.json").read_text())["plan"].get("scale", 1.0)
    found["steps"] = int((run / "log.csv").read_text().splitlines()[-1].partition(",")[0])
    for kind, name in (("gold", "SEG (gold)"), ("masks", "SEG (silver)")):
        asked = ("--metrics", "ctc", "--json", "--quiet")
        scores = json.loads(septum("evaluate", run / "predicted", data / "test" / kind, *asked))["results"][0]["scores"]
        found[name] = next(round(s["value"], 4) for s in scores if s["name"] == "SEG")
    return found


def main() -> None:
    """Run both ways for each seed, print and, on request, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--enlarged", type=int, default=3)
    parser.add_argument("--budget", default="6m")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    data = asked.out / f"enlarged-{asked.enlarged}"
    enlarge(prepared("dic-hela", asked.data, asked.out), data, asked.enlarged)
    limit = ("--steps", asked.steps) if asked.steps else ("--budget", asked.budget)
    table = []
    for seed in asked.seeds:
        for way, words in WAYS.items():
            run = data / f"{way.replace(' ', '-')}-{seed}"
            table.append({"way": way, "seed": seed, **measured(data, run, (*limit, "--seed", seed, *words))})
            print(table[-1], flush=True)
    if asked.write:
        RESULTS.write_text(json.dumps({"limit": " ".join(map(str, limit)), "runs": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
