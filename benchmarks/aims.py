"""Ten minutes, no flag, on images that chose nothing: how well objects and classes of five public data sets are found.

    python benchmarks/aims.py DATA OUT [--sets fluorescence dic-hela] [--seeds 0 1 2] [--budget 10m | --steps 3000]
                              [--label after] [--write]

DATA holds the sets as docs/explanation/reproduction.md names them, dsb2018/fluorescence and hippocampus. The names that
are trained on and tested are fixed in benchmarks/splits. `septum train` chooses weights and settings by validation
images that it takes from the training part. Predicted and scored by `septum predict` and `septum evaluate`; scores are
means over images (AP50, AP75, AP of fluorescence), or those of the owners' programs (SEG, V_Rand, V_Info, Dice). A run
whose scores are in OUT is not repeated. `--steps` repeats exactly on a machine of any load; `--budget` is what users
type.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from septum.io.files import list_images
from septum.io.formats import image_stem

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "aims.json"
SETS = ("fluorescence", "dic-hela", "phc-u373", "isbi2012", "hippocampus")
CTC = {"dic-hela": "DIC-C2DH-HeLa", "phc-u373": "PhC-C2DH-U373"}
FILES = {
    "fluorescence": "dsb2018_fluorescence.json",
    "dic-hela": "ctc_dic_c2dh_hela.json",
    "phc-u373": "ctc_phc_c2dh_u373.json",
    "isbi2012": "isbi2012.json",
    "hippocampus": "hippocampus.json",
}


def sources(name: str, data: Path) -> dict[str, dict[str, Path]]:
    """Return the images and masks of a set by their names; gold truth of the challenge under ``gold``."""
    if name == "fluorescence":
        folders = {kind: data / "dsb2018" / "fluorescence" / kind for kind in ("images", "masks")}
    elif name == "isbi2012":
        folders = {kind: data / "isbi2012" / "train" / kind for kind in ("images", "masks")}
    elif name == "hippocampus":
        folders = {kind: data / "hippocampus" / kind for kind in ("images", "masks")}
    else:
        root = data / "ctc" / CTC[name]
        folders = {"images": root / "01", "masks": root / "01_ST" / "SEG", "gold": root / "01_GT" / "SEG"}
    files = {kind: list_images([folder]) for kind, folder in folders.items()}
    return {kind: {_key(path, name): path for path in paths} for kind, paths in files.items()}


def _key(path: Path, name: str) -> str:
    stem = image_stem(path)
    return "t" + stem.removeprefix("man_seg").removeprefix("t") if name in CTC else stem


def prepared(name: str, data: Path, out: Path) -> Path:
    """Link the images of a set into folders: ``train`` and ``test`` with ``images``, ``masks`` and ``gold``."""
    files, split = sources(name, data), json.loads((HERE / "splits" / FILES[name]).read_text())
    where = out / name
    for part in ("train", "test"):
        for key in split[part]:
            for kind in ("images", "masks") if part == "train" else tuple(files):
                if key not in files[kind]:
                    continue  # few frames have gold truth
                source = files[kind][key]
                link = where / part / kind / f"{key}{source.name.removeprefix(image_stem(source))}"
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(source.resolve())
    return where


def septum(*words: object) -> str:
    """Run one command; return what it printed."""
    command = [str(Path(sys.executable).with_name("septum")), *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def scored(name: str, where: Path, run: Path) -> dict[str, float]:
    """Predict the test images and score them."""
    classes = name in ("isbi2012", "hippocampus")
    predicted = run / "predicted"
    output = ("--output", "probabilities", "--tta") if name == "isbi2012" else ()
    shutil.rmtree(predicted, ignore_errors=True)
    septum("predict", run, where / "test" / "images", "-o", predicted, "--quiet", *output)
    metric = {"fluorescence": "instances", "isbi2012": "isbi", "hippocampus": "pixels"}.get(name, "ctc")
    found: dict[str, float] = {}
    for kind in ("masks",) if classes or name == "fluorescence" else ("gold", "masks"):
        asked = ("--metrics", metric, "--json", "--quiet")
        result = json.loads(septum("evaluate", predicted, where / "test" / kind, *asked))["results"][0]
        if name == "fluorescence":
            images = [one["scores"] for one in result["images"]]
            found |= {f"AP{t}": mean(s[f"AP@0.{t}"] for s in images) for t in (50, 75)}
            found |= {"AP": mean(s["AP"] for s in images)}
        else:
            suffix = {"gold": " (gold)", "masks": " (silver)"}[kind] if metric == "ctc" else ""
            found |= {s["name"] + suffix: s["value"] for s in result["scores"] if s["headline"]}
    return {score: round(value, 4) for score, value in found.items()}


def one(name: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Train with one seed, unless that is done, and score."""
    where = prepared(name, asked.data, asked.out)
    run = asked.out / name / f"{asked.label}-{seed}"
    if not (run / "aims.json").exists():
        time = ("--steps", asked.steps) if asked.steps else ("--budget", asked.budget)
        septum("train", where / "train", "-o", run, "--seed", seed, "--quiet", *time)
        steps = int((run / "log.csv").read_text().splitlines()[-1].partition(",")[0])
        found = {"scores": scored(name, where, run), "steps": steps}
        (run / "aims.json").write_text(json.dumps(found) + "\n")
    done: dict[str, Any] = json.loads((run / "aims.json").read_text())
    print(name, seed, done, flush=True)
    return done


def main() -> None:
    """Run the sets and seeds that were asked for; print and, on request, keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--label", default="run", help="name of the state of the program")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    asked = parser.parse_args()
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in asked.sets:
        runs = [one(name, seed, asked) for seed in asked.seeds]
        figures = {}
        for score in runs[0]["scores"]:
            values = [run["scores"][score] for run in runs]
            figures[score] = {
                "mean": round(mean(values), 4),
                "sd": round(stdev(values), 4) if len(values) > 1 else None,
            }
            print(f"{name:14} {score:18} {mean(values):.4f}  {values}")
        limit = f"--steps {asked.steps}" if asked.steps else f"--budget {asked.budget}"
        table[f"{name} {asked.label}"] = {
            "scores": figures, "runs": runs, "seeds": asked.seeds, "limit": limit, "processor": platform.processor()
        }  # fmt: skip
    if asked.write:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
