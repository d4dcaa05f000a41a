"""Gain of annotating the images that `septum suggest` names, against images drawn at random.

    python benchmarks/suggest.py DATA OUT [--seeds 3] [--steps 300] [--start 8] [--more 8] [--pool 80] [--write]

DATA is the fluorescence part of DSB 2018 (docs/explanation/results.md names its source), of which the test images of
benchmarks/splits are kept for scores. For each seed a few images are drawn, a network is trained on them, and `septum
suggest` ranks others; then two networks are trained from the beginning with the same number of additional images: the
first ones of the ranking, and others drawn at random. All three get the same number of steps. Finished parts are not
computed again; figures go to benchmarks/results/suggest.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from septum import seeding
from septum.io.files import list_images

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "suggest.json"
SPLIT = HERE / "splits" / "dsb2018_fluorescence.json"


def septum(*words: object) -> str:
    """Run one command; return what it printed."""
    command = [str(Path(sys.executable).with_name("septum")), *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def linked(files: dict[str, tuple[Path, Path]], names: list[str], folder: Path) -> Path:
    """Return a folder of images and masks with these names."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in names:
        for kind, file in zip(("images", "masks"), files[name], strict=True):
            link = folder / kind / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    return folder


def scored(data: Path, test: Path, run: Path, *, seed: int, steps: int) -> dict[str, float]:
    """Train, predict the test images, and score them."""
    if not (run / "scores_test.json").exists():
        septum("train", data, "-o", run, "--seed", seed, "--steps", steps, "--quiet")
        septum("predict", run, test / "images", "-o", run / "predicted", "--quiet")
        text = septum("evaluate", run / "predicted", test / "masks", "--metrics", "instances", "--json")
        (run / "scores_test.json").write_text(text)
    scores = json.loads((run / "scores_test.json").read_text())["results"][0]["scores"]
    return {s["name"]: round(s["value"], 4) for s in scores if s["name"] in ("AP", "AP@0.50", "SEG")}


def one_seed(files: dict[str, tuple[Path, Path]], out: Path, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train on few images, then on as many more as were named, and as were drawn."""
    split = json.loads(SPLIT.read_text())
    order = seeding.generator(seed, "first images").permutation(split["train"]).tolist()
    first, pool = order[: asked.start], order[asked.start :][: asked.pool]
    test, where = out / "test", out / str(seed)
    train = {"seed": seed, "steps": asked.steps}
    found: dict[str, Any] = {"first": scored(linked(files, first, where / "data"), test, where / "first", **train)}
    named_file = where / "suggested.json"
    if not named_file.exists():
        images = linked(files, pool, where / "pool") / "images"
        model = where / "first"
        named_file.write_text(septum("suggest", model, images, "-n", asked.more, "--json", "--quiet"))
    named = [Path(one["image"]).stem for one in json.loads(named_file.read_text())["suggestions"]][: asked.more]
    drawn = pool[: asked.more]  # the pool is in random order
    for kind, more in (("named", named), ("drawn", drawn)):
        data = linked(files, first + more, where / f"data-{kind}")
        found[kind] = scored(data, test, where / kind, **train)
    return found


def main() -> None:
    """Measure, print, and keep."""
    words = argparse.ArgumentParser()
    words.add_argument("data", type=Path)
    words.add_argument("out", type=Path)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--steps", type=int, default=300)
    words.add_argument("--start", type=int, default=8)
    words.add_argument("--more", type=int, default=8)
    words.add_argument("--pool", type=int, default=80)
    words.add_argument("--write", action="store_true")
    asked = words.parse_args()
    masks = {p.stem: p for p in list_images([asked.data / "masks"])}
    files = {p.stem: (p, masks[p.stem]) for p in list_images([asked.data / "images"])}
    linked(files, json.loads(SPLIT.read_text())["test"], asked.out / "test")
    table = {}
    for seed in range(asked.seeds):
        table[str(seed)] = one_seed(files, asked.out, asked, seed)
        print(seed, table[str(seed)], flush=True)
    means = {
        kind: {name: round(float(np.mean([t[kind][name] for t in table.values()])), 4) for name in found}
        for kind, found in table["0"].items()
    }
    print(means)
    if asked.write:
        result = {
            "steps": asked.steps,
            "start": asked.start,
            "more": asked.more,
            "pool": asked.pool,
            "means": means,
            "seeds": table,
        }
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
