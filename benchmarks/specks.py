"""Gain of tuning the minimum size of objects: tuned on one half of the held-out images, scored on the other.

    python benchmarks/specks.py hela=RUN,DATA fluorescence=RUN,DATA ... [--write]

RUN is a run of benchmarks/main_job.py, DATA its training data. For both halves: the selection score (mean of SEG and
AP50) and AP50 on the other half, with the lowest minimum size and with the tuned one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from septum.arrays.instances import ObjectSettings
from septum.check.check import check
from septum.check.samples import load_samples
from septum.evaluation.candidates import candidate_columns, object_sizes
from septum.pairing.sample import evenly_chosen
from septum.prediction.model import open_model
from septum.prediction.tiled import image_probabilities
from septum.training.model_selection import CandidateColumns, candidates, choose, selection_score, tune_objects
from septum.training.validation import MOST_SCORED

RESULTS = Path(__file__).parent / "results" / "specks.json"


def halves(run: Path, data: Path) -> list[dict[str, float]]:
    """Tune on each half of the held-out images, and score on the other."""
    model = open_model(run)
    network = model.computed_by(model.choose().name == "septum")
    names = set(json.loads((run / "plan.json").read_text())["held_out"])
    samples = [s for s in load_samples(check((data,))) if s.name in names]
    samples = [samples[i] for i in evenly_chosen(len(samples), MOST_SCORED)]
    settings = model.header.normalization
    maps = [
        image_probabilities(network, s.image, device=model.device, normalization=settings)[1].astype(np.float16)
        for s in samples
    ]
    found = []
    for half in (0, 1):
        some = range(half, len(samples), 2)

        def measure(choices: Sequence[ObjectSettings], again: Collection[int], some: range = some) -> CandidateColumns:
            return {i: candidate_columns(samples[i], maps[i], choices) for i in some}

        sizes = object_sizes(samples)
        low = candidates(sizes)[choose(measure(candidates(sizes), ()))[0]]
        best = tune_objects(measure, samples)
        others = [i for i in range(len(samples)) if i not in some]
        row: dict[str, float] = {"specks_px": best.min_size_px, "lowest_px": low.min_size_px}
        for name, choice in (("lowest", low), ("tuned", best)):
            scores = choose({i: candidate_columns(samples[i], maps[i], [choice]) for i in others})[1]
            row |= {f"merit {name}": round(selection_score(scores), 4), f"AP50 {name}": round(scores["AP50"], 4)}
        found.append(row)
    return found


def main() -> None:
    """Measure, print, and keep."""
    table = {}
    for job in (word for word in sys.argv[1:] if "=" in word):
        name, places = job.split("=")
        run, data = places.split(",")
        table[name] = halves(Path(run), Path(data))
        for row in table[name]:
            print(name, row, flush=True)
    if "--write" in sys.argv:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
