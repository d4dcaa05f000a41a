"""How many seconds of a person the studio needs: a simulated person annotates through the server of `septum studio`.

    python benchmarks/annotator.py DATA OUT [--sets demo fluorescence dic-hela] [--methods studio forest whole full]
                                   [--limit 300] [--write]

The person (benchmarks/annotator_person.py, which states what each action costs) draws two objects and some background,
then goes from image to image, mends the worst object that is shown and accepts right ones. Methods:

- ``studio``: in the studio, which starts to learn from nothing; ``busy``: on a computer that is a third as fast;
  ``warm``: from a model that has not seen such images;
- ``forest``: the same person with pixel features, a random forest and a watershed (pip install scikit-learn);
- ``whole``: every object of one image, of two, of four ..., in the same order; `septum train` at the end, with as many
  steps, tiles and pixels as the studio does in the time limit;
- ``full``: `septum train` with all true masks of the training images, unless OUT/SET/full/model.safetensors exists.

While the person works, the studio learns, `RATES` steps in a second; one core of an AMD EPYC processor with AVX2 does
3.2 to 4.3 in a second of its own (``--methods rate`` measures it). A computer that is busy takes longer and comes to
the same result, but for a step more or less. Scores are the mean over images of AP50 = TP / (TP + FP + FN) at an IoU of
0.5, on images of the test parts of benchmarks/splits, or other generated cells; none of them is in the folder of the
person. DATA is as for benchmarks/aims.py. A method whose result is in OUT is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from aims import FILES, sources
from annotator_learners import Forest, Studio
from annotator_person import Labels, Person
from annotator_picture import draw

from septum import open_model, predict, seeding
from septum.demo.synthetic_cells import generate
from septum.io.files import read_mask, write_image
from septum.metrics.contingency import table
from septum.metrics.matching import scores

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "annotator.json"
SETS = ("demo", "fluorescence", "dic-hela")
METHODS = ("studio", "busy", "warm", "forest", "whole", "full", "rate")
POOL, TESTED = 40, {"demo": 6, "fluorescence": 16, "dic-hela": 4}
MARKS_S = (60, 120, 180, 240, 300, 450, 600, 900)
WHOLE = (1, 2, 4, 8)
RATES = {"studio": 3.0, "busy": 1.0, "warm": 3.0}  # steps in a second of the person
WARM = {"demo": "a model that fits", "dic-hela": str(HERE.parent / "models" / "phc-u373.safetensors")}


@dataclass(frozen=True)
class Images:
    """The images of a set: files by name in the order of work, and those that nobody opens, with their true objects."""

    files: dict[str, Path]
    truth: dict[str, Labels]
    tests: tuple[tuple[Path, Labels], ...]


def images_of(name: str, data: Path, out: Path) -> Images:
    """Return the images of a set; those of the demo are generated."""
    if name == "demo":
        pairs = {part: [*_generated(part, out, n)] for part, n in (("cells", 16), ("test", TESTED[name]))}
        train, test = pairs["cells"], pairs["test"]
    else:
        found, split = sources(name, data), json.loads((HERE / "splits" / FILES[name]).read_text())
        order = seeding.generator(0, "annotator").permutation(split["train"]).tolist()[:POOL]
        chosen = np.unique(np.linspace(0, len(split["test"]) - 1, TESTED[name]).round().astype(int))
        train = [(found["images"][key], found["masks"][key]) for key in order]
        test = [(found["images"][split["test"][i]], found["masks"][split["test"][i]]) for i in chosen]
    return Images(
        {image.name: image for image, _ in train},
        {image.name: true_objects(mask) for image, mask in train},
        tuple((image, true_objects(mask)) for image, mask in test),
    )


def _generated(part: str, out: Path, count: int) -> Iterator[tuple[Path, Path]]:
    for index in range(count):
        image, labels = generate(seeding.number(0, f"demo {part}", index))
        files = out / "made" / f"{part}-{index + 1:02d}.png", out / "made" / f"{part}-{index + 1:02d}-mask.png"
        files[0].parent.mkdir(parents=True, exist_ok=True)
        write_image(files[0], image.astype(np.uint8), axes="CYX")
        write_image(files[1], labels.astype(np.uint16), axes="YX")
        yield files


def true_objects(mask: Path) -> Labels:
    """Return the objects of a mask file: ``(Y, X)`` int32."""
    return read_mask(mask).array.squeeze().astype(np.int32)


def score(segment: Callable[[Path], Labels], tests: tuple[tuple[Path, Labels], ...]) -> float:
    """Return the mean over images of AP50: 0 (worst) to 1."""
    tables = [table(truth, segment(file)) for file, truth in tests]
    return scores(tables, thresholds=(0.5,), by_image=True)[0].ap


def curve(learner: Studio | Forest, images: Images, limit_s: float) -> dict[str, Any]:
    """Let the person work; return the scores after some times, and what was done."""
    points: list[dict[str, Any]] = []
    marks = [mark for mark in MARKS_S if mark <= limit_s]

    def watch(seconds: float) -> None:
        if not marks or seconds < marks[0]:
            return
        while marks and seconds >= marks[0]:
            marks.pop(0)
        model = learner.model()
        reached = 0.0 if model is None else round(score(model, images.tests), 4)
        points.append({"seconds": round(seconds, 1), "steps": learner.steps, "AP50": reached})
        print(" ", points[-1], person.counts, flush=True)

    person = Person(learner, images.truth, watch=watch)
    person.work(list(images.files), limit_s)
    return {"curve": points, "actions": person.counts, "seconds": round(person.seconds, 1)}


def with_studio(images: Images, folder: Path, start: str, rate: float, limit_s: float) -> dict[str, Any]:
    """Let the person work in the studio."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, file in images.files.items():
        (folder / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / "images" / name)
    studio = Studio(folder, start, rate)
    try:
        found = curve(studio, images, limit_s)
        return {**found, "start": studio.started, "steps_per_s": rate}
    finally:
        studio.close()


def with_whole_images(images: Images, folder: Path, steps: int, most_s: float) -> dict[str, Any]:
    """Annotate every object of the first images, train, and score; for more and more images."""
    points = []
    for number in (n for n in WHOLE if n <= len(images.files)):
        labels = Forest(images.files)
        person = Person(labels, images.truth)
        for name in list(images.files)[:number]:
            person.annotate_whole(name)
            write_pair(folder / str(number), images.files[name], labels.labels(name))
        small = ("--tile", 128, "--batch", 2)
        trained(folder / str(number), folder / f"{number}-run", steps, *small)
        reached = score(_of_run(folder / f"{number}-run"), images.tests)
        points.append({"seconds": round(person.seconds, 1), "images": number, "AP50": round(reached, 4)})
        print(" ", points[-1], flush=True)
        if person.seconds > most_s:
            break
    return {"curve": points, "steps": steps}


def write_pair(folder: Path, image: Path, labels: Labels) -> None:
    """Write an image and its mask into a data folder."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, folder / "images" / image.name)
    write_image(folder / "masks" / f"{image.stem}.tif", labels.astype(np.uint16), axes="YX")


def trained(data: Path, run: Path, steps: int, *more: object) -> None:
    """Train with `septum train`, from nothing."""
    if not (run / "model.safetensors").exists():
        words = ["train", data, "-o", run, "--steps", steps, "--from", "none", "--seed", 0, "--quiet", *more]
        subprocess.run([sys.executable, "-m", "septum", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def _of_run(run: Path) -> Callable[[Path], Labels]:
    model = open_model(run / "model.safetensors", "cpu")
    return lambda file: np.asarray(predict(model, file, scale=1.0), np.int32)


def fully(images: Images, folder: Path, steps: int) -> dict[str, Any]:
    """Score the model that was trained with all true masks; its person draws every object."""
    if not (folder / "model.safetensors").exists():
        for name, file in images.files.items():
            write_pair(folder / "data", file, images.truth[name])
        trained(folder / "data", folder, steps)
    return {"curve": [{"seconds": None, "AP50": round(score(_of_run(folder), images.tests), 4)}]}


def rate_of(images: Images, folder: Path) -> dict[str, Any]:
    """Return the steps in a second of one core while predictions are shown too."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, file in list(images.files.items())[:2]:
        write_pair(folder, file, images.truth[name])
    (folder / "masks").rename(folder / "kept")
    studio = Studio(folder, "nothing", 1.0)
    try:
        person = Person(studio, images.truth)
        name = next(iter(images.files))
        person.begin(name)
        studio.show(name)
        studio.spend(20)
        before, begin, first = processor_s(studio.process), time.monotonic(), studio.steps
        studio.spend(60)
        used, took, steps = processor_s(studio.process) - before, time.monotonic() - begin, studio.steps - first
        print(f"  {steps} steps: {used:.1f} s of the processor, {took:.1f} s", flush=True)
        return {"steps_per_s": round(steps / used, 3), "wall_s": took}
    finally:
        studio.close()


def processor_s(process: int) -> float:
    """Return the seconds of the processor that a process and its children have taken."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / 100 + sum(processor_s(int(child)) for child in children)


def measure(name: str, method: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Run one method on one set, unless its result is there."""
    folder = asked.out / name
    result = folder / f"{method}.json"
    if not result.exists():
        images = images_of(name, asked.data, folder)
        print(name, method, flush=True)
        match method:
            case "studio" | "busy" | "warm":
                start = WARM[name] if method == "warm" else "nothing"
                found = with_studio(images, folder / f"{method}-folder", start, RATES[method], asked.limit)
            case "forest":
                found = curve(Forest(images.files), images, asked.limit)
            case "whole":
                found = with_whole_images(images, folder / "whole", asked.steps, asked.most)
            case "full":
                found = fully(images, folder / "full", asked.full_steps)
            case _:
                found = rate_of(images, folder / "rate-folder")
        result.write_text(json.dumps(found, indent=1) + "\n")
    loaded: dict[str, Any] = json.loads(result.read_text())
    return loaded


def main() -> None:
    """Run what was asked for; print and, on request, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=("studio", "forest", "whole", "full"))
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of the person with a learner")
    parser.add_argument("--steps", type=int, default=300, help="steps of the trainings with whole images")
    parser.add_argument("--most", type=float, default=1200.0, help="whole images: no more of them after these seconds")
    parser.add_argument("--full-steps", type=int, default=1000, help="steps of the training with all true masks")
    parser.add_argument("--write", action="store_true", help="keep the figures, and draw docs/images/annotator.svg")
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in asked.sets:
        for method in asked.methods:
            if method == "warm" and name not in WARM:
                continue
            found.setdefault(name, {})[method] = measure(name, method, asked)
            print(name, method, json.dumps(found[name][method]), flush=True)
    if asked.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        draw(found, HERE.parent / "docs" / "images" / "annotator.svg")


if __name__ == "__main__":
    main()
