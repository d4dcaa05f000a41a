"""The main job on public data: train with nothing but a budget, predict the held-out images, score them.

    python benchmarks/main_job.py DATA OUT isbi2012=20m fluorescence=5m brightfield=5m hela=5m u373=5m hippocampus=5m

DATA holds the sets under the names of `SETS` below (docs/explanation/results.md names their sources). Each set is
trained by ``septum train``, its held-out images are predicted by ``septum predict`` and scored by ``septum evaluate``,
as a person would; figures and commands go to benchmarks/results/main_job.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SETS = {
    "isbi2012": ("isbi2012/train", "isbi,pixels"),
    "fluorescence": ("dsb2018/fluorescence", "instances"),
    "brightfield": ("dsb2018/brightfield", "instances"),
    "hela": ("ctc/DIC-C2DH-HeLa", "ctc"),
    "u373": ("ctc/PhC-C2DH-U373", "ctc"),
    "hippocampus": ("hippocampus", "pixels"),
}
RESULTS = Path(__file__).parent / "results" / "main_job.json"


def held_out_files(data: Path, names: list[str], out: Path, metrics: str) -> tuple[list[Path], list[Path]]:
    """Return the held-out images, and folders with the truth of these only: for sequences gold, then silver."""
    images: list[Path] = []
    masks: dict[str, list[Path]] = {"gold": [], "silver": []} if metrics == "ctc" else {"truth": []}
    for name in names:
        if metrics == "ctc":
            sequence, frame = name.split("_t")
            images.append(data / sequence / f"t{frame}.tif")
            for kind, folder in (("gold", "GT"), ("silver", "ST")):
                masks[kind].append(data / f"{sequence}_{folder}" / "SEG" / f"man_seg{frame}.tif")
        else:
            images += (data / "images").glob(f"{name}.*")
            masks["truth"] += (data / "masks").glob(f"{name}.*")
    folders = []
    for kind, files in masks.items():
        folders.append(out / kind)
        shutil.rmtree(folders[-1], ignore_errors=True)
        folders[-1].mkdir(parents=True)
        for file in files:
            if file.exists():
                shutil.copy(file, folders[-1] / file.name)
    return images, folders


def septum(*words: str | Path) -> tuple[str, float, str]:
    """Run one command; return what it printed, its seconds and itself."""
    command = ["septum", *map(str, words)]
    begin = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout, time.monotonic() - begin, " ".join(command)


def run(data: Path, out: Path, name: str, budget: str) -> dict[str, object]:
    """Train, predict and evaluate one set."""
    folder, metrics = SETS[name]
    where, result = data / folder, out / name
    trained, train_s, train_command = septum(
        "train", where, "--budget", budget, "--seed", "0", "-o", result, "--json", "--quiet"
    )
    plan = json.loads((result / "plan.json").read_text())
    images, truths = held_out_files(where, plan["held_out"], result, metrics)
    kinds = ["--output", "probabilities"] if metrics.startswith("isbi") else []
    _, predict_s, predict_command = septum("predict", result, *images, "-o", result / "predicted", *kinds, "--quiet")
    evaluations = {
        truth.name: septum("evaluate", result / "predicted", truth, "--metrics", metrics, "--json") for truth in truths
    }
    shown = (
        predict_command
        if len(images) < 4
        else predict_command.replace(" ".join(map(str, images)), f"{len(images)} held-out images")
    )
    return {
        "set": folder,
        "budget": budget,
        "train_s": round(train_s, 1),
        "predict_s": round(predict_s, 1),
        "evaluate_s": round(sum(seconds for _, seconds, _ in evaluations.values()), 1),
        "images_scored": {truth.name: len(list(truth.iterdir())) for truth in truths},
        "training": json.loads(trained),
        "reasons": plan["reasons"],
        "evaluation": {kind: json.loads(text)["results"][0]["scores"] for kind, (text, _, _) in evaluations.items()},
        "commands": [train_command, shown, *(command for _, _, command in evaluations.values())],
    }


def show() -> None:
    """Print the table of docs/explanation/results.md from the kept figures."""
    wanted = ("AP", "AP@0.50", "SEG", "V_rand", "V_info", "pixel error", "dice", "Dice")
    for job, figures in json.loads(RESULTS.read_text()).items():
        training = figures["training"]
        for kind, scores in figures["evaluation"].items():
            told = [
                f"{s['name']} {s['value']:.3f}" + ("" if s["low"] is None else f" ({s['low']:.3f}-{s['high']:.3f})")
                for s in scores
                if s["name"].startswith(wanted) and s["value"] is not None
            ]
            number = figures["images_scored"][kind]
            print(f"| {job} | {training['steps']} | {training['seconds']:.0f} | {number} {kind} | {', '.join(told)} |")


def main(data: Path, out: Path, jobs: list[str]) -> None:
    """Run the jobs named ``set=budget`` and add their figures to the results."""
    for job in jobs:
        name, budget = job.split("=")
        figures = run(data, out, name, budget)
        table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        table[f"{name} {budget}"] = figures
        text = json.dumps(table, indent=1).replace(f"{data}{os.sep}", "DATA/").replace(f"{out}{os.sep}", "OUT/")
        RESULTS.write_text(text + "\n")
        print(name, budget, figures["training"], flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    show()
