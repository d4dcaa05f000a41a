"""Outlines of objects before and after: holes, teeth at contacts, perimeter, contact length, AP at high IoU.

    python benchmarks/outlines.py hela=RUN,DATA,IMAGES,TRUTH ... [--maps FOLDER] [--write]

RUN is a run folder of ``septum train DATA``, IMAGES and TRUTH are images and masks that chose nothing. Each image is
predicted once (and its probabilities kept in FOLDER). Every variant is tuned on the images that RUN held out, then
scored on the others. ``before``: objects as models of earlier versions make them. ``after``: with an outline level,
gaps divided along the valley, no teeth, and holes filled.

Teeth are pixels with one face neighbor of their own object at most and two or more of one other object. Perimeters
(Crofton, four directions) are medians over matched objects of predicted divided by true length. Contact is the number
of pixel faces between two objects, divided by that of the truth.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import perimeter_crofton, regionprops

from septum.arrays.instances import ObjectSettings, label_objects
from septum.arrays.watershed import fill_holes
from septum.check.check import check
from septum.check.samples import load_samples
from septum.evaluation.candidates import candidate_columns
from septum.metrics import ctc, matching
from septum.metrics.contingency import table
from septum.pairing.sample import Sample, evenly_chosen
from septum.prediction.model import Model, open_model
from septum.prediction.tiled import image_probabilities
from septum.training.model_selection import CandidateColumns, tune_objects
from septum.training.validation import MOST_SCORED

RESULTS = Path(__file__).parent / "results" / "outlines.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "before": {"outline_level": 1.0, "contacts": "steps", "fill_holes": False},
    "after": {},
}
Maps = list[NDArray[np.float16]]


def predict(model: Model, samples: Sequence[Sample], folder: Path | None) -> Maps:
    """Predict the probability of the foreground, or read it from an earlier call."""
    network = model.computed_by(model.choose().name == "septum")
    maps = []
    for sample in samples:
        file = None if folder is None else folder / f"{sample.name}.npy"
        if file is not None and file.exists():
            maps.append(np.load(file))
            continue
        found = image_probabilities(
            network, sample.image, device=model.device, normalization=model.header.normalization
        )[1].astype(np.float16)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, found)
        maps.append(found)
    return maps


def tune(variant: dict[str, Any], samples: Sequence[Sample], maps: Maps) -> ObjectSettings:
    """Tune a variant as a training does."""
    chosen = evenly_chosen(len(samples), MOST_SCORED)

    def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> CandidateColumns:
        settings = [choice.model_copy(update=variant) for choice in choices]
        return {i: candidate_columns(samples[i], maps[i], settings) for i in chosen}

    return tune_objects(measure, samples, fill_holes=True).model_copy(update=variant)


def face_neighbors(labels: NDArray[Any]) -> NDArray[Any]:
    """Return ``(4, Y, X)``: the labels of the face neighbors, -1 beyond the border."""
    padded = np.pad(labels, 1, constant_values=-1)
    return np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])


def count_faults(labels: NDArray[np.int32]) -> dict[str, int]:
    """Count objects, objects with holes, pixels of holes, teeth, and faces between two objects."""
    around = face_neighbors(labels)
    own = ((around == labels) | (around < 0)).sum(axis=0)
    others = [((around == one) & (one > 0) & (one != labels)).sum(axis=0) for one in around]
    pierced = fill_holes(labels)[labels == 0]
    return {
        "objects": len(np.unique(labels[labels > 0])),
        "objects with holes": int(np.count_nonzero(np.unique(pierced))),
        "pixels of holes": int(np.count_nonzero(pierced)),
        "teeth": int(np.count_nonzero((labels > 0) & (own <= 1) & (np.max(others, axis=0) > 1))),
        "contact": int(np.count_nonzero((around > 0) & (labels > 0) & (around != labels))) // 2,
    }


def perimeters(labels: NDArray[np.int32]) -> dict[int, float]:
    """Return the perimeter of each object in pixels."""
    return {one.label: float(perimeter_crofton(np.pad(one.image, 1), 4)) for one in regionprops(labels)}


def score(make: Callable[[int], NDArray[np.int32]], samples: Sequence[Sample]) -> dict[str, Any]:
    """Score the labels that `make` returns for the index of each sample."""
    faults: dict[str, int] = {}
    truths, seg, columns, ratios = 0, np.zeros(2), np.zeros(()), []
    for i, sample in enumerate(samples):
        labels, truth = make(i), np.maximum(sample.mask, 0)
        for name, value in count_faults(labels).items():
            faults[name] = faults.get(name, 0) + value
        truths += count_faults(truth)["contact"]
        full = table(truth, labels)
        columns, seg = columns + matching.columns(full), seg + ctc.columns(full)[:2]
        matched, own, true = matching.match(full), perimeters(labels), perimeters(truth)
        ratios += [own[b] / true[a] for a, b in zip(matched.truth.tolist(), matched.predicted.tolist(), strict=True)]
    ap = matching.shares(columns)["ap"]
    scores = {"SEG": seg[0] / seg[1], "AP50": ap[0], "AP75": ap[5], "AP75 to 95": ap[5:].mean(), "AP": ap.mean()}
    scores |= {"perimeter": np.median(ratios), "contact length": faults.pop("contact") / max(1, truths)}
    return faults | {name: round(float(value), 4) for name, value in scores.items()}


def measure_set(run: Path, data: Path, images: Path, truth: Path, maps: Path | None) -> dict[str, Any]:
    """Tune and score all variants of one run."""
    model = open_model(run)
    names = set(json.loads((run / "plan.json").read_text())["held_out"])
    held_out = [s for s in load_samples(check((data,))) if s.name in names]
    unseen = list(load_samples(check((images, truth), kind="objects")))
    inside = predict(model, held_out, maps and maps / "held-out"), predict(model, unseen, maps and maps / "unseen")
    found: dict[str, Any] = {"truth": score(lambda i: np.maximum(unseen[i].mask, 0), unseen)}
    for name, variant in VARIANTS.items():
        settings = tune(variant, held_out, inside[0])

        def make(i: int, settings: ObjectSettings = settings) -> NDArray[np.int32]:
            return label_objects(inside[1][i].astype(np.float32), settings, spacing=unseen[i].spacing_um)

        found[name] = {"settings": settings.model_dump(), **score(make, unseen)}
    return found


def main() -> None:
    """Measure, print, and keep."""
    words = sys.argv[1:]
    folder = Path(words[words.index("--maps") + 1]) if "--maps" in words else None
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for job in (word for word in words if "=" in word):
        name, places = job.split("=")
        run, data, images, truth = (Path(place) for place in places.split(","))
        results[name] = measure_set(run, data, images, truth, folder and folder / name)
        for variant, row in results[name].items():
            print(name, variant, row, flush=True)
        if "--write" in words:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
