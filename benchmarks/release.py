"""Make the models under models/ from runs of the main job, with a card each.

    python benchmarks/release.py DATA OUT dic-hela="hela 10m" phc-u373="u373 10m" isbi2012="isbi2012 10m"

DATA and OUT are the folders of benchmarks/main_job.py, the words after `=` are entries of its results. A model is
stored in half precision, and predicts the held-out images again; its card states training data, scores
and limits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from main_job import SETS as JOBS
from main_job import held_out_files, septum

from septum.io.formats import format_path
from septum.prediction.model import ModelHeader, open_model, save_model, trained_networks
from septum.reproduce.datasets import SETS
from septum.training.plan import Plan, describe_plan

HERE = Path(__file__).parent
MODELS = HERE.parent / "models"
FIGURES = HERE / "results" / "main_job.json"
INPUTS = {
    "isbi2012": "sections of neural tissue in serial-section transmission electron microscopy, 8 bit",
    "dic-hela": "HeLa cells on glass in differential interference contrast",
    "phc-u373": "glioblastoma-astrocytoma U373 cells on polyacrylamide in phase contrast",
}
ANSWERS = {
    "isbi2012": "0 on membranes, 255 inside of cells; with `--output probabilities` the probability of the inside",
    "dic-hela": "an id for each cell, touching cells apart",
    "phc-u373": "an id for each cell",
}


def card(name: str, header: ModelHeader, figures: dict[str, Any], size: int, held_out: list[str]) -> str:
    """Return the model card; `figures` are those of the main job, with the scores of the released file."""
    public, training = SETS[name], header.training
    plan = Plan.model_validate(training["plan"])
    sizes = ", ".join(f"{axis} {um:.3g}" for axis, um in header.pixel_size_um.items())
    scores = [
        f"| {score['name']}, {kind} | {figures['images_scored'][kind]} | {score['value']:.3f} | "
        + ("" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}")
        + " |"
        for kind, found in figures["evaluation"].items()
        for score in found
        if score["value"] is not None and (score["metric"] != "isbi" or score["headline"])
    ]
    own = header.scores
    inside = (
        f" A line is drawn where two areas meet: V_Rand {own['V_Rand']:.3f}, Dice {own['dice']:.3f}. The scores below "
        "are those of the probabilities: pixel scores at 0.5, others at their best level."
        if header.lines and own
        else ""
    )
    lines = [
        f"# {name}",
        "",
        f"A U-Net for {INPUTS[name]}, made with Septum {training['septum']}.",
        "",
        "```",
        f"septum predict models/{name}.safetensors IMAGES -o predicted",
        "```",
        "",
        f"- **It writes** {ANSWERS[name]}.{inside}",
        f"- **The file**: models/{name}.safetensors, {size / 1e6:.1f} MB, weights in half precision.",
        f"- **Pixel size** of the training images in micrometers: {sizes or 'not stated in the files'}."
        + (
            f" Objects were {header.domain.object_px:.0f} pixels across."
            if header.domain and header.domain.object_px
            else ""
        ),
        f"- **Trained on** [{public.title}]({public.page}).",
        f"- **Terms of the data**: {public.terms}. {public.citation}.",
        f"- **Training**: `{figures['commands'][0].replace('DATA', 'data').replace('OUT', 'runs')}`, "
        f"{training['steps']} steps in {training['seconds']:.0f} s on one processor core, PyTorch {training['torch']}.",
        *[f"- {line}" for line in describe_plan(plan)],
        "",
        "Scores of this file on images that were held out of the training; they chose the weights and the settings of",
        "objects, so they are a little too good.",
        "",
        "| score | images | value | 95 % |",
        "|---|---|---|---|",
        *scores,
        "",
        f"Held out: {', '.join(held_out)}.",
        "",
        "**Not for** other kinds of images, other magnifications, or decisions about patients. One data set, one seed",
        "and ten minutes of training: it shows what Septum makes of these data, and is a start for",
        "`septum train --from MODEL`.",
    ]
    return "\n".join(lines) + "\n"


def scored(model: Path, data: Path, out: Path, held_out: list[str], metrics: str) -> dict[str, Any]:
    """Predict the held-out images with the released file, and score them as the main job does."""
    images, truths = held_out_files(data, held_out, out, metrics)
    kinds = ["--output", "probabilities"] if metrics.startswith("isbi") else []
    septum("predict", model, *images, "-o", out / "released", *kinds, "--quiet")
    texts = {t.name: septum("evaluate", out / "released", t, "--metrics", metrics, "--json")[0] for t in truths}
    return {kind: json.loads(text)["results"][0]["scores"] for kind, text in texts.items()}


def main(data: Path, out: Path, jobs: list[str]) -> None:
    """Write models and cards."""
    MODELS.mkdir(exist_ok=True)
    table = json.loads(FIGURES.read_text())
    for job in jobs:
        name, entry = job.split("=")
        figures = table[entry]
        run = out / Path(figures["training"]["model"]).parent.name
        header, target = open_model(run, "cpu").header, MODELS / f"{name}.safetensors"
        save_model(target, trained_networks(run), header, half=True)
        held_out = json.loads((run / "plan.json").read_text())["held_out"]
        folder, metrics = JOBS[entry.split()[0]]
        figures["evaluation"] = scored(target, data / folder, run, held_out, metrics)
        text = card(name, header, figures, target.stat().st_size, held_out)
        (MODELS / f"{name}.md").write_text(text, encoding="utf-8")
        print(format_path(target), target.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
