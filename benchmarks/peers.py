"""Septum beside nnU-Net, Cellpose, StarDist and MONAI: the same images, the same scores, the same wall time for each.

    python3 -m venv nnunet && nnunet/bin/pip install nnunetv2
    python3 -m venv cellpose && cellpose/bin/pip install "cellpose<4"
    python3 -m venv stardist && stardist/bin/pip install stardist tensorflow imagecodecs
    python3 -m venv monai && monai/bin/pip install monai scikit-image imagecodecs
    taskset -c 1 env OMP_NUM_THREADS=1 python benchmarks/peers.py DATA OUT --budget 10m --nnunet nnunet/bin/python \\
        --cellpose cellpose/bin/python --stardist stardist/bin/python --monai monai/bin/python

DATA holds the sets as benchmarks/aims.py takes them, and the images that are trained on and tested are those of it, by
the names in benchmarks/splits. Each program runs by a Python of its own: one process trains, another one predicts all
test images. All start from random weights and train with their own settings, except for a schedule that is shortened to
the wall time (see peers_NAME.py); planning and preprocessing count. The time of a training is that of its process.

Probabilities of nnU-Net become objects by the same step as Septum's, after the training, tuned on 12 of its training
images; it learns from masks whose touching objects are separated by one pixel, as Septum does. The others make objects
in their own way. Cellpose and StarDist find objects only, so they have no row for classes.

A run that is finished is not repeated, and is found by set, program, budget and number of threads. The results are in
benchmarks/results/peers.json, each with the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from aims import SETS, prepared
from machine import processor
from peers_cases import tune, write_cases

from septum.arrays.instances import label_objects
from septum.evaluation.evaluate import EvaluateSettings, evaluate
from septum.evaluation.results import Metric
from septum.io.files import write_image
from septum.training.settings import parse_duration

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "peers.json"
PEERS = ("nnunet", "cellpose", "stardist", "monai")
OBJECTS = ("fluorescence", "dic-hela", "phc-u373")
SHOWN = ("AP50", "AP75", "AP", "SEG", "SEG (gold)", "V_Rand", "V_Info", "pixel error", "Dice")


def measured(*command: object) -> tuple[float, int]:
    """Run a command; return its seconds, and the most memory in MB that its process had at a time."""
    words = [str(word) for word in command]
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note.json"
        done = subprocess.run([sys.executable, str(Path(__file__).with_name("measured.py")), str(note), *words])
        if done.returncode:
            sys.exit(f"{' '.join(words)}: exit {done.returncode}")
        told = json.loads(note.read_text())
    return told["seconds"], told["peak_mb"]


def run_septum(name: str, data: Path, where: Path, budget_s: float) -> dict[str, Any]:
    """Train Septum and predict the test images, with its two commands."""
    septum = Path(sys.executable).with_name("septum")
    kind = "objects" if name in OBJECTS else "classes"
    train = ("train", data / "train", "-o", where / "run", "--kind", kind, "--budget", f"{budget_s:g}s", "--quiet")
    train_s, train_mb = measured(septum, *train)
    lines = ("--output", "probabilities", "--tta") if name == "isbi2012" else ()
    predict = ("predict", where / "run", data / "test" / "images", "-o", where / "predicted", "--quiet")
    predict_s, predict_mb = measured(septum, *predict, *lines)
    return {
        "steps": int((where / "run" / "log.csv").read_text().splitlines()[-1].partition(",")[0]),
        "train_s": train_s, "train_mb": train_mb, "predict_s": predict_s, "predict_mb": predict_mb,
    }  # fmt: skip


def peer(method: str, python: str) -> Callable[[str, Path, Path, float], dict[str, Any]]:
    """Return the function that runs a peer by another Python, which has it."""

    def run(name: str, data: Path, where: Path, budget_s: float) -> dict[str, Any]:
        cases, program = where.parent / "cases", (python, HERE / f"peers_{method}.py")
        samples = write_cases(data, cases, kind="objects" if name in OBJECTS else "classes")
        where.mkdir(parents=True, exist_ok=True)
        train_s, train_mb = measured(*program, "train", cases, where, budget_s)
        told = json.loads((where / "trained.json").read_text())
        objects = None
        if method == "nnunet" and name in OBJECTS:
            measured(*program, "predict", cases, where, cases / "tuning", where / "tuning")
            objects = tune(where / "tuning", samples)
            told["objects"] = objects.model_dump()
        predict_s, predict_mb = measured(*program, "predict", cases, where, cases / "inputs", where / "out")
        (where / "predicted").mkdir(exist_ok=True)
        begin = time.monotonic()
        for path in sorted((where / "out").glob("*.npy")):
            found = np.load(path, allow_pickle=False)
            found = label_objects(found, objects) if objects else found
            found = found.clip(0, 1) if found.dtype.kind == "f" else found.astype(np.uint16)
            write_image(where / "predicted" / f"{path.stem}.tif", found, axes="ZYX"[-found.ndim :])
        predict_s = round(predict_s + time.monotonic() - begin, 1)
        return {**told, "train_s": train_s, "train_mb": train_mb, "predict_s": predict_s, "predict_mb": predict_mb}

    return run


def scores(name: str, predicted: Path, test: Path) -> dict[str, list[float | None]]:
    """Score predictions as benchmarks/aims.py does: value, and where it is not a mean over images, its interval."""
    asked: list[tuple[str, tuple[Metric, ...]]] = []
    if name in OBJECTS:
        asked = [("masks", ("instances", "ctc")), *([("gold", ("ctc",))] if (test / "gold").is_dir() else [])]
    else:
        asked = [("masks", ("isbi",) if name == "isbi2012" else ("pixels",))]
    found: dict[str, list[float | None]] = {}
    for kind, metrics in asked:
        settings = EvaluateSettings(predicted=(predicted,), truth=test / kind, metrics=metrics)
        (result,) = evaluate(settings).results
        left = [f for f in result.failures if kind != "gold"]  # few frames have gold truth
        assert not left, left
        if "instances" in metrics:
            images = [one.scores for one in result.images]
            for short, score in (("AP50", "AP@0.50"), ("AP75", "AP@0.75"), ("AP", "AP")):
                found[short] = [round(mean(s[score] for s in images), 4), None, None]
        for s in result.scores:
            if s.headline and s.metric != "instances":
                values = (s.value, s.low, s.high)
                found[f"{s.name} (gold)" if kind == "gold" else s.name] = [
                    None if math.isnan(v) else round(v, 4) for v in values
                ]
    return found


def run_set(
    name: str, method: str, runs: Callable[..., dict[str, Any]], data: Path, where: Path, budget_s: float
) -> dict[str, Any]:
    """Run one method on one set, unless that is done, and score it."""
    note = where / "done.json"
    if not note.exists():
        if where.exists():
            shutil.rmtree(where)  # a run that was stopped would have had a longer wall time
        note.parent.mkdir(parents=True)
        note.write_text(json.dumps(runs(name, data, where, budget_s)) + "\n")
    told = json.loads(note.read_text())
    return {**told, "scores": scores(name, where / "predicted", data / "test")}


def rows() -> Iterator[str]:
    """Yield the table of what is kept."""
    yield "| data | program | budget | steps | scores | training, prediction | memory of them |"
    yield "|---|---|---|---|---|---|---|"
    for key, found in json.loads(RESULTS.read_text())["runs"].items():
        name, method, budget = key.split(" ", 2)
        scores = ", ".join(f"{score} {found['scores'][score][0]:.3f}" for score in SHOWN if score in found["scores"])
        times = f"{found['train_s']:.0f} s, {found['predict_s']:.0f} s"
        peak = f"{found['train_mb'] / 1024:.1f}, {found['predict_mb'] / 1024:.1f} GB"
        yield f"| {name} | {method} | {budget} | {found['steps']} | {scores} | {times} | {peak} |"


def main() -> None:
    """Run what is asked for, add it to the results and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    for name in PEERS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help="the Python that has it")
    parser.add_argument("--budget", type=parse_duration, default=600.0)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS, help="these sets only")
    parser.add_argument("--methods", nargs="+", choices=("septum", *PEERS), help="these programs only")
    asked = parser.parse_args()
    runs: dict[str, Callable[..., dict[str, Any]]] = {"septum": run_septum}
    runs |= {m: peer(m, str(Path(python).absolute())) for m in PEERS if (python := getattr(asked, m))}
    if lacking := [m for m in asked.methods or () if m not in runs]:
        parser.error(f"--{lacking[0]} is needed for it: the Python that has it")
    threads = len(os.sched_getaffinity(0))
    for name in asked.only:
        data = prepared(name, asked.data.absolute(), asked.out.absolute())
        for method in asked.methods or runs:
            if method in ("cellpose", "stardist") and name not in OBJECTS:
                continue
            where = data / f"{method}-{asked.budget:g}s-{threads}"
            found = {**run_set(name, method, runs[method], data, where, asked.budget), "processor": processor()}
            kept = json.loads(RESULTS.read_text())
            kept["runs"][f"{name} {method} {asked.budget / 60:g}m {threads} thread{'s' * (threads > 1)}"] = found
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
            print(name, method, found, flush=True)
    print("\n".join(rows()))


if __name__ == "__main__":
    main()
