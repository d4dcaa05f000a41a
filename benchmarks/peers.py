"""Septum beside nnU-Net 2D and Cellpose: the same splits, the same scores, the same wall time for each.

    python3 -m venv nnunet && nnunet/bin/pip install nnunetv2
    python3 -m venv cellpose && cellpose/bin/pip install "cellpose<4"
    python benchmarks/peers.py DATA OUT --nnunet nnunet/bin/python --cellpose cellpose/bin/python [--budget 60m]

DATA holds the sets as docs/explanation/reproduction.md names them, and dsb2018/fluorescence/{images,masks}. The parts
of each set are those of `septum reproduce`; DSB 2018 is split by the names in benchmarks/splits. The budget of a set is
shared out among its parts, for all alike, planning and preprocessing included. Each peer runs by a Python of its own,
and trains with its own settings, except for a schedule that is shortened to the wall time (peers_nnunet.py,
peers_cellpose.py). nnU-Net's probabilities become objects by the same step as Septum's, tuned on 12 of its training
images, and it learns from masks whose touching objects are separated by one pixel, as Septum does. Cellpose starts from
random weights, as the others, and makes objects by its own step; ISBI 2012 has no objects, so it is left out there.
Finished trainings are not repeated. Figures go to benchmarks/results/peers.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.arrays.instances import ObjectSettings, label_objects
from septum.arrays.targets import class_target, object_target, separate_touching
from septum.check.check import Report, check
from septum.check.images import fill_holes, match_channels
from septum.check.samples import Sample, load_samples
from septum.evaluation.evaluate import EvaluateSettings, evaluate
from septum.io.files import list_images, read_image, write_image
from septum.prediction.events import ImageFailed
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.reproduce.protocols import PROTOCOLS, ProtocolPart, find_data, section_parts, sequence_parts
from septum.training.events import Trained
from septum.training.loop import train
from septum.training.model_selection import CandidateColumns
from septum.training.settings import SplitSettings, TrainSettings, parse_duration
from septum.training.validation import candidate_columns, evenly_chosen, tune_objects

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "peers.json"
SPLIT = HERE / "splits" / "dsb2018_fluorescence.json"
SETS = ("isbi2012", "dic-hela", "phc-u373", "dsb2018")
METRICS = {"isbi2012": "isbi", "dic-hela": "ctc", "phc-u373": "ctc", "dsb2018": "instances"}
TEST_SHARE = 0.2
TUNED_ON = 12


def parts_of(name: str, data: Path) -> list[ProtocolPart]:
    """Return the parts of a set: what is trained on, what is predicted, and its truth."""
    if name == "dsb2018":
        return [dsb_part(data / "dsb2018" / "fluorescence")]
    folder = find_data(PROTOCOLS[name], data if name != "dic-hela" and name != "phc-u373" else _ctc(data))
    if name == "isbi2012":
        return [part for part in section_parts(folder, 5) if not part.test]
    return sequence_parts(folder, "silver")


def _ctc(data: Path) -> Path:
    return data / "ctc" if (data / "ctc").is_dir() else data


def dsb_part(data: Path) -> ProtocolPart:
    """Return the one part of DSB 2018 fluorescence; its split is made once, by seed, and kept by names."""
    images = {p.stem: p for p in list_images([data / "images"])}
    masks = {p.stem: p for p in list_images([data / "masks"])}
    if not SPLIT.exists():
        order = seeding.generator(0, "dsb2018 split").permutation(sorted(images)).tolist()
        count = round(TEST_SHARE * len(order))
        SPLIT.parent.mkdir(exist_ok=True)
        split = {"seed": 0, "test": sorted(order[:count]), "train": sorted(order[count:])}
        SPLIT.write_text(json.dumps(split, indent=0) + "\n")
    split = json.loads(SPLIT.read_text())
    files = [(images[n], f"images/{images[n].name}") for n in split["train"]]
    files += [(masks[n], f"masks/{masks[n].name}") for n in split["train"]]
    return ProtocolPart(
        name="train",
        description="trains on 80 %, predicts 20 %",
        training=tuple(files),
        held_out=None,
        inputs=tuple(images[n] for n in split["test"]),
        truth=tuple((masks[n], masks[n].name) for n in split["test"]),
    )


def copy(files: tuple[tuple[Path, str], ...], folder: Path) -> Path:
    """Copy files to their places; what is there is left."""
    for source, place in files:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / place).exists():
            shutil.copyfile(source, folder / place)
    return folder


def run_septum(name: str, part: ProtocolPart, where: Path, predicted: Path, budget_s: float) -> dict[str, Any]:
    """Train Septum on a part and predict its inputs."""
    kind = "classes" if name == "isbi2012" else "objects"
    settings = TrainSettings(
        data=(where / "data",),
        out=where / "run",
        budget_s=budget_s,
        kind=kind,
        split=SplitSettings(names=part.held_out),
    )
    (trained,) = [r for r in train(settings) if isinstance(r, Trained)]
    asked = PredictSettings(
        model=trained.model,
        inputs=tuple(map(str, part.inputs)),
        out=predicted,
        output="probabilities" if kind == "classes" else "labels",
        tta=kind == "classes",
        format="tif",
    )
    failed = [r for r in predict_files(asked) if isinstance(r, ImageFailed)]
    assert not failed, failed
    return {"steps": trained.steps, "train_s": round(trained.seconds, 1)}


def peer(method: str, python: str) -> Callable[..., dict[str, Any]]:
    """Return the function that runs a peer by another Python, which has it."""

    def run(name: str, part: ProtocolPart, where: Path, predicted: Path, budget_s: float) -> dict[str, Any]:
        report = check([where / "data"], kind="classes" if name == "isbi2012" else "objects")
        raw = where / "cases"
        tuning = write_cases(report, part, raw, inside=method == "nnunet")
        subprocess.run([python, str(HERE / f"peers_{method}.py"), str(raw), str(budget_s)], check=True)
        told = dict(json.loads((raw / "done.json").read_text()))
        found = {path: np.load(raw / "out" / f"{path.stem}.npy", allow_pickle=False) for path in part.inputs}
        if tuning:
            settings = tune(raw, tuning)
            found = {p: label_objects(inside, settings) for p, inside in found.items()}
            told["objects"] = settings.model_dump()
        predicted.mkdir(parents=True, exist_ok=True)
        for path, answer in found.items():
            shown = answer.clip(0, 1) if answer.dtype.kind == "f" else answer.astype(np.uint16)
            write_image(predicted / f"{path.stem}.tif", shown, axes="YX")
        return told

    return run


def tune(raw: Path, samples: dict[str, Sample]) -> ObjectSettings:
    """Tune how a peer's probabilities become objects as Septum does, on training images: it holds none out."""
    maps = {n: np.load(raw / "out" / f"{n}.npy", allow_pickle=False).astype(np.float16) for n in samples}

    def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> CandidateColumns:
        return {i: candidate_columns(samples[n], maps[n], choices) for i, n in enumerate(samples)}

    return tune_objects(measure, list(samples.values()))


def write_cases(report: Report, part: ProtocolPart, raw: Path, inside: bool) -> dict[str, Sample]:
    """Write training cases and inputs, one TIFF a channel; labels as classes from 0 (`inside`) or as objects.

    Returns
    -------
    dict
        Where a peer gives probabilities of objects: some of the training images by their names among the inputs.
    """
    for folder in ("cases", "labels", "inputs"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    samples = list(load_samples(report))
    objects = report.rules.kind == "objects"
    tuning = (
        {f"tuning_{i:04d}": samples[i] for i in evenly_chosen(len(samples), TUNED_ON)} if inside and objects else {}
    )
    for path in part.inputs:
        frame = match_channels(fill_holes(read_image(path).array), report.rules.channels)
        write_channels(raw / "inputs" / path.stem, frame)
    for name, sample in tuning.items():
        write_channels(raw / "inputs" / name, sample.image)
    if not (raw / "job.json").exists():
        for count, sample in enumerate(samples, start=1):
            label = sample.mask.clip(0)
            if inside:
                label = (object_target(separate_touching(sample.mask)) if objects else class_target(sample.mask)) == 1
            write_image(raw / "labels" / f"case_{count:04d}.tif", label.astype(np.uint16), axes="YX")
            write_channels(raw / "cases" / f"case_{count:04d}", sample.image)
        job = {"training": len(samples), "channels": report.rules.channels}
        (raw / "job.json").write_text(json.dumps(job) + "\n")
    return tuning


def write_channels(path: Path, image: NDArray[Any]) -> None:
    """Write ``(C, Y, X)`` as one float TIFF a channel."""
    for number, channel in enumerate(image):
        write_image(path.with_name(f"{path.name}_{number:04d}.tif"), channel.astype(np.float32), axes="YX")


def run_set(
    name: str, method: str, runs: Callable[..., dict[str, Any]], data: Path, out: Path, budget_s: float
) -> dict[str, Any]:
    """Run one method on one set and score it."""
    parts, where = parts_of(name, data), out / name / method
    told = []
    for part in parts:
        note = where / part.name / "done.json"
        if not note.exists():
            copy(part.training, where / part.name / "data")
            begin = time.monotonic()
            said = runs(name, part, where / part.name, where / "predicted" / part.results, budget_s / len(parts))
            said["wall_s"] = round(time.monotonic() - begin, 1)
            note.write_text(json.dumps(said) + "\n")
        told.append({"part": part.name, **json.loads(note.read_text())})
        print(name, method, told[-1], flush=True)
    truth = copy(tuple(pair for part in parts for pair in part.truth), where / "truth")
    found = evaluate(EvaluateSettings(predicted=(where / "predicted",), truth=truth, metrics=(METRICS[name],)))
    assert not found.failed, found.results[0].failures
    scores = {s.name: [s.value, s.low, s.high] for s in found.results[0].scores if s.headline}
    return {"parts": told, "images": len(found.results[0].images), "scores": scores}


def rows() -> Iterator[str]:
    """Yield the table of what is kept."""
    yield "| set | method | budget | steps | score | value (95 %) |"
    yield "|---|---|---|---|---|---|"
    for key, found in json.loads(RESULTS.read_text()).items():
        for score, (value, low, high) in found["scores"].items():
            interval = "" if low is None or low != low else f" ({low:.3f}-{high:.3f})"
            steps = sum(p["steps"] for p in found["parts"])
            name, method = key.split()
            yield f"| {name} | {method} | {found['budget_s'] / 60:g} min | {steps} | {score} | {value:.4f}{interval} |"


def main() -> None:
    """Run what is asked for, add it to the results and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nnunet", help="the Python that has nnunetv2")
    parser.add_argument("--cellpose", help="the Python that has cellpose 3")
    parser.add_argument("--budget", type=parse_duration, default=3600.0)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=("septum", "nnunet", "cellpose"), help="those of them only")
    asked = parser.parse_args()
    runs: dict[str, Callable[..., dict[str, Any]]] = {"septum": run_septum}
    runs |= {m: peer(m, python) for m in ("nnunet", "cellpose") if (python := getattr(asked, m))}
    if lacking := [m for m in asked.methods or () if m not in runs]:
        parser.error(f"--{lacking[0]} is needed for it: the Python that has it")
    for name in asked.only:
        for method in asked.methods or runs:
            if (name, method) == ("isbi2012", "cellpose"):
                continue
            found = run_set(name, method, runs[method], asked.data, asked.out, asked.budget)
            found |= {"budget_s": asked.budget, "command": f"benchmarks/peers.py DATA OUT --budget {asked.budget:g}s"}
            table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            table[f"{name} {method}"] = found
            RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    print("\n".join(rows()))


if __name__ == "__main__":
    main()
