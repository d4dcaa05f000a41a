"""Areas between lines: one threshold for all pixels against a watershed from confident seeds.

    python benchmarks/areas.py RUN DATA

RUN is a run folder of `septum train DATA` on lines and areas, such as ISBI 2012. Its held-out images are predicted
once; masks are made of their probabilities in both ways and scored as training scores them. Figures go to
benchmarks/results/areas.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import label_objects
from septum.check.check import check
from septum.check.samples import load_samples
from septum.evaluation.candidates import object_sizes
from septum.metrics import isbi
from septum.metrics.aggregate import class_columns, finish_classes
from septum.metrics.contingency import table
from septum.prediction.model import open_model
from septum.report.gallery import predicted_sample
from septum.training.model_selection import area_candidates

RESULTS = Path(__file__).parent / "results" / "areas.json"
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def scores(truths: list[NDArray[Any]], masks: list[NDArray[Any]]) -> dict[str, float]:
    """Return V_Rand, the mean over images, and Dice and the share of wrong pixels, of all pixels."""
    rows = [
        class_columns(table(truth, mask), classes=2, areas=isbi.areas(truth, mask))
        for truth, mask in zip(truths, masks, strict=True)
    ]
    found = finish_classes((0, 1))(np.sum(rows, axis=0))
    return {name: round(float(found[name]), 4) for name in ("V_Rand", "dice", "pixel_error")}


def main(run: Path, data: Path) -> None:
    """Score both ways, keep and print the figures."""
    model = open_model(run, "cpu")
    names = json.loads((run / "plan.json").read_text())["held_out"]
    samples = [s for s in load_samples(check([data], kind="classes")) if s.name in names]
    truths = [s.mask for s in samples]
    maps = [predicted_sample(model, s)[0][0] for s in samples]
    found = []
    for level in LEVELS:
        found.append({"level": level, **scores(truths, [(m > level).astype(np.int32) for m in maps])})
        print(found[-1], flush=True)
    for choice in area_candidates(object_sizes(samples, lines=True)):
        made = [(draw_boundaries(label_objects(m, choice)) > 0).astype(np.int32) for m in maps]
        found.append({"threshold": choice.threshold, "seed_level": choice.seed_level, **scores(truths, made)})
        print(found[-1], flush=True)
    kept = {"command": "benchmarks/areas.py RUN DATA", "images": names, "steps": model.header.training["steps"]}
    RESULTS.write_text(json.dumps({**kept, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
