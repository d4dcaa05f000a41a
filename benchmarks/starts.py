"""Starts: train the models that come with Septum, write them with their cards, and measure what they are worth.

    python benchmarks/starts.py prepare DATA OUT       images to train each start on, and sets to try them on
    python benchmarks/starts.py commands OUT           the trainings of the starts, a command a line
    python benchmarks/starts.py release DATA OUT NAME ...    src/septum/models/NAME.safetensors and NAME.md of runs
    python benchmarks/starts.py membranes DATA         purpose and terms of the model of ISBI 2012, into its file
    python benchmarks/starts.py limit DATA OUT NAME ...      the limit of intensities of models of an earlier version
    python benchmarks/starts.py measure OUT SET IMAGES STEPS START    one training; START is none or a model
    python benchmarks/starts.py table OUT              benchmarks/results/starts.json of all measured trainings

DATA and the splits are those of benchmarks/aims.py: starts are trained on the train parts and scored on the test parts.
A set is tried with starts that have not seen it: dic-hela with models/phc-u373.safetensors, phc-u373 with
models/dic-hela.safetensors, and nuclei-520, the images of 520 x 696 pixels of fluorescence, with nuclei-without, which
was trained without these and those of 360 x 360.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from skimage.transform import downscale_local_mean

sys.path.insert(0, str(Path(__file__).parent))
from aims import FILES, septum, sources

from septum.io.files import read_image, write_image
from septum.io.tensors import read_model
from septum.models.named import FOLDER, Release
from septum.prediction.model import ModelHeader, save_model, trained_networks
from septum.training.fingerprint import brightest_structures
from septum.training.plan import Plan, describe_plan
from septum.training.presets import intensity_limit
from septum.training.pretrained import image_hash

HERE = Path(__file__).parent
TABLE = HERE / "results" / "starts.json"
LEFT_OUT = ((520, 696), (360, 360))
SEQUENCES = {"dic-hela": "hela", "phc-u373": "u373"}
TESTED = 10

NUCLEI = "--steps {} --seed 0 --depth 4 --set augmentation.scale=[0.5,2] --from none"
CELLS = r"--steps {} --seed 0 --group '^[a-z0-9]+-(\d\d)' --set augmentation.scale=[0.6,1.6] --from none"
TRAININGS = {
    "nuclei-without": NUCLEI.format(600),
    "nuclei": NUCLEI.format(2000),
    "cells": CELLS.format(1500),
}
CTC = (
    "Conditions of the Cell Tracking Challenge: cite the paper and acknowledge the challenge as the source in any "
    "publication; scientific use outside the challenge needs permission of the data providers, commercial use that of "
    "the organizers as well (https://celltrackingchallenge.net/datasets/); images by G. van Cappellen, Erasmus Medical "
    "Center, Rotterdam (HeLa), and S. Kumar, University of California at Berkeley (U373). M. Maška et al. The Cell "
    "Tracking Challenge: 10 years of objective benchmarking. Nature Methods 20, 1010-1020, 2023, "
    "doi:10.1038/s41592-023-01879-y"
)


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """Return the pixels of a file without axes of length 1."""
    return np.asarray(read_image(path).array).squeeze()


def pairs(data: Path, name: str) -> list[tuple[str, Path, Path, str]]:
    """Return name, image, mask and part (train, test or neither) of each image of a public data set."""
    files, split = sources(name, data), json.loads((HERE / "splits" / FILES[name]).read_text())
    part_of = {key: part for part in ("train", "test") for key in split[part]}
    short = {key: f"{SEQUENCES[name]}-{key[1:]}" if name in SEQUENCES else key for key in files["images"]}
    return [(short[key], path, files["masks"][key], part_of.get(key, "")) for key, path in files["images"].items()]


def write_pair(folder: Path, name: str, image: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> None:
    """Write an image and its mask into a data folder."""
    for kind, array in (("images", image), ("masks", mask.astype(np.uint16))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_image(folder / kind / f"{name}.tif", array, axes="YX")


def prepare(data: Path, out: Path) -> None:
    """Write the images to train each start on, and those of each set."""
    for set_name in ("fluorescence", *SEQUENCES):
        for name, image_file, mask_file, part in pairs(data, set_name):
            image, mask = pixels(image_file), pixels(mask_file)
            if part == "train" and set_name == "fluorescence":
                write_pair(out / "data" / "nuclei", name, image, mask)
                if image.shape not in LEFT_OUT:
                    write_pair(out / "data" / "nuclei-without", name, image, mask)
            elif part == "train":
                # Each frame at two sizes; the augmentation fills the range between and around.
                write_pair(out / "data" / "cells", f"{name}-full", image, mask)
                height, width = (n // 2 * 2 for n in image.shape)
                half = np.rint(downscale_local_mean(image[:height, :width].astype(float), (2, 2))).astype(image.dtype)
                write_pair(out / "data" / "cells", f"{name}-half", half, mask[:height:2, :width:2])
            if part == "test" or (part and set_name in SEQUENCES):
                write_pair(out / "sets" / set_name / part, name, image, mask)
            if part and image.shape == LEFT_OUT[0] and set_name == "fluorescence":
                write_pair(out / "sets" / "nuclei-520" / part, name, image, mask)


def measure(out: Path, set_name: str, images: int, steps: int, start: str) -> None:
    """Train on a few images of a set, from a start or none, and score the test images, which chose nothing."""
    cell = out / "measured" / f"{set_name}-{images}-{steps}-{Path(start).stem if start != 'none' else start}"
    if (cell / "result.json").exists():
        return
    shutil.rmtree(cell, ignore_errors=True)
    data, test = out / "sets" / set_name / "train", out / "sets" / set_name / "test"
    files = sorted((data / "images").iterdir())
    for place in np.unique(np.linspace(0, len(files) - 1, min(images, len(files))).round().astype(int)):
        for kind in ("images", "masks"):
            (cell / "data" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / kind / files[place].name, cell / "data" / kind / files[place].name)
    septum("train", cell / "data", "-o", cell / "run", "--steps", steps, "--seed", 0, "--from", start, "--quiet")
    tested = sorted((test / "images").iterdir())
    chosen = [tested[i] for i in np.unique(np.linspace(0, len(tested) - 1, TESTED).round().astype(int))]
    septum("predict", cell / "run", *chosen, "-o", cell / "predicted", "--quiet")
    for file in chosen:
        (cell / "truth").mkdir(exist_ok=True)
        shutil.copyfile(test / "masks" / file.name, cell / "truth" / file.name)
    text = septum("evaluate", cell / "predicted", cell / "truth", "--metrics", "ctc,instances", "--json")
    found = {
        s["name"]: round(s["value"], 4) for s in json.loads(text)["results"][0]["scores"] if s["value"] is not None
    }
    scores = {name: found[key] for name, key in (("SEG", "SEG"), ("AP50", "AP@0.50"), ("AP", "AP"))}
    before = json.loads((cell / "run" / "plan.json").read_text())["reasons"]
    result = {"set": set_name, "images": images, "steps": steps, "start": Path(start).stem, "scores": scores}
    result["tested"] = len(chosen)
    (cell / "result.json").write_text(json.dumps(result | {"reasons": before}, indent=1) + "\n")


def table(out: Path) -> None:
    """Write the results of all measured trainings."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("measured/*/result.json"))]
    for one in found:
        one.pop("reasons")
        print(one)
    TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def seen(data: Path, set_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hashes of the images that a start has seen; of sequences, those of all frames."""
    files = [f for name in set_names for _, f, _, part in pairs(data, name) if name in SEQUENCES or part == "train"]
    return tuple(sorted({image_hash(pixels(f).astype(np.float32)[None]) for f in files}))


def scores_of(model: Path, test: Path, out: Path, metrics: str) -> list[tuple[str, float]]:
    """Return the scores of a model on images that chose nothing."""
    septum("predict", model, test / "images", "-o", out, "--quiet")
    found = json.loads(septum("evaluate", out, test / "masks", "--metrics", metrics, "--json"))["results"][0]
    if metrics == "ctc":
        return [(s["name"], s["value"]) for s in found["scores"] if s["headline"]]
    names = {"AP@0.50": "AP50, mean over images", "AP@0.75": "AP75, mean over images", "AP": "AP, mean over images"}
    return [(words, mean(one["scores"][name] for one in found["images"])) for name, words in names.items()]


def card(name: str, header: ModelHeader, size: int, words: dict[str, Any], scored: dict[str, Any]) -> str:
    """Return the card of a start."""
    training = header.training
    domain = header.domain
    width = f"{domain.object_px:.0f}" if domain is not None and domain.object_px else "?"
    rows = [f"| {what} | {title} | {value:.3f} |" for what, found in scored.items() for title, value in found]
    lines = [
        f"# {name}",
        "",
        f"A U-Net for {words['purpose']}, made with Septum {training['septum']}.",
        "",
        "```",
        f"septum predict {name} IMAGES -o predicted",
        f"septum train DATA --from {name}",
        "```",
        "",
        f"- **It writes** an id for each {words['object']}, touching ones apart.",
        f"- **The file**: {size / 1e6:.1f} MB, weights in half precision.",
        f"- **Objects** of the training images were {words['widths']} px wide (median {width}), and were magnified "
        f"{words['scale']} in training.",
        f"- **Trained on** {words['data']}.",
        f"- **Terms of the data**: {words['terms']}.",
        f"- **Training**: `septum train DATA {TRAININGS[name]}` (benchmarks/starts.py), {training['steps']} steps in "
        f"{training['seconds']:.0f} s, PyTorch {training['torch']}.",
        *[f"- {line}" for line in describe_plan(Plan.model_validate(training["plan"]))],
        "",
        "Scores on images that chose nothing:",
        "",
        "| images | score | value |",
        "|---|---|---|",
        *rows,
        "",
        f"**Not for** {words['limits']}, or decisions about patients. It knows a few data sets: look at the results on",
        "your images, and train with a few of them if they are not good.",
    ]
    return "\n".join(lines) + "\n"


WORDS: dict[str, dict[str, Any]] = {
    "nuclei": {
        "purpose": "nuclei in fluorescence microscopy, bright on dark",
        "object": "nucleus",
        "widths": "7 to 50",
        "scale": "0.5 to 2 times",
        "data": "DSB 2018, stage 1, fluorescence: 256 images, the train part of the split of "
        "benchmarks/splits/dsb2018_fluorescence.json",
        "short": "DSB 2018 (CC0)",
        "terms": "CC0; J. C. Caicedo et al. Nucleus segmentation across imaging experiments: the 2018 Data Science "
        "Bowl. Nature Methods 16, 1247-1253, 2019, doi:10.1038/s41592-019-0612-7",
        "limits": "stained tissue, volumes",
        "sets": ("fluorescence",),
    },
    "cells": {
        "purpose": "cells in phase contrast and differential interference contrast",
        "object": "cell",
        "widths": "35 to 110",
        "scale": "0.6 to 1.6 times",
        "data": "the first 60 % of the frames of DIC-C2DH-HeLa and PhC-C2DH-U373 (Cell Tracking Challenge), each at "
        "its own size and at half of it, with the silver truth",
        "short": "Cell Tracking Challenge (cite it; commercial use needs permission: septum info cells)",
        "terms": CTC,
        "limits": "bright field, other cells than two cell lines",
        "sets": ("dic-hela", "phc-u373"),
    },
    "membranes": {
        "purpose": "membranes in sections of neural tissue, serial-section transmission electron microscopy",
        "short": "ISBI 2012 (cite two papers: septum info membranes)",
    },
}


def release(data: Path, out: Path, names: list[str]) -> None:
    """Write the starts and their cards."""
    for name in names:
        words, run, target = WORDS[name], out / name, FOLDER / f"{name}.safetensors"
        header = ModelHeader.model_validate(read_model(run / "model.safetensors")[1])
        notes = Release(purpose=words["purpose"], data=words["short"], images=seen(data, words["sets"]))
        save_model(target, trained_networks(run), header.model_copy(update={"release": notes}), half=True)
        scored = {}
        for set_name in words["sets"]:
            metrics = "ctc" if set_name in SEQUENCES else "instances"
            test, made = out / "sets" / set_name / "test", out / "scored" / name / set_name
            scored[f"{set_name}, test part"] = scores_of(target, test, made, metrics)
        text = card(name, header, target.stat().st_size, words, scored)
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")


def release_membranes(data: Path) -> None:
    """State purpose and terms in the model of the main job on ISBI 2012."""
    target, words = FOLDER / "membranes.safetensors", WORDS["membranes"]
    header = ModelHeader.model_validate(read_model(target)[1])
    files = sorted((data / "isbi2012" / "train" / "images").iterdir())
    images = tuple(sorted(image_hash(pixels(f).astype(np.float32)[None]) for f in files))
    notes = Release(purpose=words["purpose"], data=words["short"], images=images)
    save_model(target, trained_networks(target), header.model_copy(update={"release": notes}), half=True)


def limit(data: Path, out: Path, names: list[str]) -> None:
    """Give released models the limit of intensities that a training of today would choose for their images."""
    for name in names:
        folder = data / "isbi2012" / "train" if name == "membranes" else out / "data" / name
        found = [
            brightest_structures(pixels(f).astype(np.float32)[None]) for f in sorted((folder / "images").iterdir())
        ]
        target = FOLDER / f"{name}.safetensors"
        header = ModelHeader.model_validate(read_model(target)[1])
        normalization = header.normalization.model_copy(update={"limit": intensity_limit(float(np.median(found)))})
        networks = trained_networks(target)
        save_model(target, networks, header.model_copy(update={"normalization": normalization}), half=True)


def main(verb: str, words: list[str]) -> None:
    """Do one of the verbs above."""
    match verb, words:
        case "prepare", [data, out]:
            prepare(Path(data), Path(out))
        case "commands", [out]:
            for name, options in TRAININGS.items():
                print(f"septum train {out}/data/{name} -o {out}/{name} {options}")
        case "release", [data, out, *names]:
            release(Path(data), Path(out), names)
        case "membranes", [data]:
            release_membranes(Path(data))
        case "limit", [data, out, *names]:
            limit(Path(data), Path(out), names)
        case "measure", [out, set_name, images, steps, start]:
            measure(Path(out), set_name, int(images), int(steps), start)
        case "table", [out]:
            table(Path(out))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:])
