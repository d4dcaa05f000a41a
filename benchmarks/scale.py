"""Another magnification: images resized by several factors, predicted by the model of the original images.

    python benchmarks/scale.py NAME MODEL IMAGES MASKS [--every N] [--factors 0.25 0.5 1 2 4 5]

IMAGES and MASKS hold files of the same stems: images that the training has not seen, and their object ids. For each
factor the images are resized into a temporary folder and predicted as a folder in three ways: at the scale that is
found (``auto``), at the matching resolution (``--scale 1/factor``, the aim), and as they are (``--scale 1``; up to a
factor of 2, where that is affordable). Scores are AP50, the mean over images, against the masks resized likewise.

A scale counts as wrong if the true objects, as the network sees them, are more than `WRONG` times wider or narrower
than those of the training; images of fewer than three objects are left out. `time` is the time of ``auto`` divided by
that of ``--scale 1``, in seconds of the processor. Figures go to benchmarks/results/scale.json, under NAME.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.resample import Resampled, scaled_sides
from septum.arrays.targets import width_by_area
from septum.io.files import read_image, write_image
from septum.metrics.contingency import table
from septum.metrics.matching import scores
from septum.prediction.events import ImageDone
from septum.prediction.model import open_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings

RESULTS = Path(__file__).parent / "results" / "scale.json"
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 5.0)
WRONG = 1.8
LARGEST_AS_IS = 2.0


def pairs(images: Path, masks: Path, every: int) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Yield the name of each image, the image ``(C, Y, X)`` and its mask ``(Y, X)``."""
    known = {path.stem: path for path in masks.iterdir()}
    for path in sorted(images.iterdir())[::every]:
        if path.stem in known:
            yield path.stem, read_image(path).array, read_image(known[path.stem]).array[0]


def resized(image: NDArray[Any], factor: float) -> NDArray[Any]:
    """Return an image resized by a factor, in its own type."""
    if factor == 1:
        return image
    sides = scaled_sides(image.shape[1:], (factor, factor))
    made = Resampled(image, sides)[:, :, :]
    return np.rint(made).astype(image.dtype) if image.dtype.kind in "iu" else made


def nearest(mask: NDArray[Any], factor: float) -> NDArray[Any]:
    """Return a mask resized by a factor: the value at the center of each pixel."""
    sides = scaled_sides(mask.shape, (factor, factor))
    places = [((np.arange(m) + 0.5) * n / m).astype(int) for m, n in zip(sides, mask.shape, strict=True)]
    return mask[np.ix_(*places)]


def predicted(model: Path, folder: Path, out: Path, scale: float | str) -> tuple[dict[str, Any], float]:
    """Predict a folder; return the event of each image by its stem, and the processor seconds."""
    settings = PredictSettings(model=model, inputs=(str(folder),), out=out, device="cpu", scale=scale)
    begin = time.process_time()
    done = {event.path.stem: event for event in predict_files(settings) if isinstance(event, ImageDone)}
    return done, time.process_time() - begin


def ap50(done: dict[str, Any], truths: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Return AP50 of each image that has objects or in which some were predicted."""
    found = {
        name: scores(table(truths[name], read_image(e.output).array[0]), thresholds=(0.5,)) for name, e in done.items()
    }
    return {name: float(one[0].ap) for name, one in found.items() if np.isfinite(one[0].ap)}


def measure(model: Path, images: Path, masks: Path, every: int, factor: float) -> dict[str, Any]:
    """Predict the images at one factor, and return the figures."""
    header = open_model(model, "cpu").header
    assert header.domain is not None
    usual = header.domain.width_by_area_px or header.domain.object_px or 1.0
    truths = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, image, mask in pairs(images, masks, every):
            (place / "in").mkdir(exist_ok=True)
            write_image(place / "in" / f"{name}.tif", resized(image, factor), axes="CYX")
            truths[name] = nearest(mask, factor)
        found, seconds = predicted(model, place / "in", place / "auto", "auto")
        aim, _ = predicted(model, place / "in", place / "aim", 1 / factor)
        result: dict[str, Any] = {"factor": factor, "images": len(truths)}
        own = ap50(found, truths)
        result["auto"] = round(float(np.mean(list(own.values()))), 3)
        result["matching"] = round(float(np.mean(list(ap50(aim, truths).values()))), 3)
        if factor <= LARGEST_AS_IS:
            plain, plain_seconds = predicted(model, place / "in", place / "plain", 1.0)
            result["as_is"] = round(float(np.mean(list(ap50(plain, truths).values()))), 3)
            result["time"] = round(seconds / plain_seconds, 2)
    widths = {name: width_by_area(truth) for name, truth in truths.items()}
    seen = {n: w * (found[n].scale or 1.0) / usual for n, (count, w) in widths.items() if count >= 3 and n in found}
    wrong = {name: round(ratio, 2) for name, ratio in seen.items() if not 1 / WRONG <= ratio <= WRONG}
    scales = [found[name].scale or 1.0 for name in found]
    result["scale"] = [round(float(q), 2) for q in np.quantile(scales, (0, 0.25, 0.5, 0.75, 1))]
    result["at_1"] = round(float(np.mean([scale == 1 for scale in scales])), 3)
    result["wrong"] = {name: [ratio, round(own.get(name, 0.0), 2)] for name, ratio in wrong.items()}
    return result


def main() -> None:
    """Measure one data set, keep and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    for name in ("model", "images", "masks"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every Nth image")
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS)
    asked = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = []
    for factor in asked.factors:
        rows.append(measure(asked.model, asked.images, asked.masks, asked.every, factor))
        print(rows[-1], flush=True)
        steps = open_model(asked.model, "cpu").header.training.get("steps")
        kept[asked.name] = {"every": asked.every, "steps": steps, "factors": rows}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
