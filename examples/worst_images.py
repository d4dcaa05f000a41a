"""Draw the images with the lowest scores as the report of a training does: image, truth, prediction, difference.

    python examples/worst_images.py [PICTURE.png]

Writes ``docs/images/worst-images.png`` unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import septum
from septum.demo.synthetic_cells import generate
from septum.metrics.contingency import table
from septum.metrics.matching import match, scores
from septum.report.cases import draw
from septum.report.gallery import Case
from septum.report.pictures import side_by_side

IMAGES, SHOWN, SIDE = 6, 2, 192


def case(seed: int) -> Case:
    """Predict one image, darker and noisier with each seed, by the model that comes with Septum."""
    image, truth = generate(seed, shape=(SIDE, SIDE), photons=240 - 35 * seed)
    predicted = septum.predict("nuclei", image, scale=1.0).astype(np.int32)
    shared = table(truth, predicted)
    found = match(shared, 0.5)
    ap50 = scores(shared, thresholds=(0.5,))[0].ap
    return Case(
        name=f"image {seed + 1}",
        rank=ap50,
        scores={"AP50": ap50},
        image=image,
        truth=truth,
        predicted=predicted,
        missed=tuple(np.setdiff1d(truth[truth > 0], found.truth).tolist()),
        false=tuple(np.setdiff1d(predicted[predicted > 0], found.predicted).tolist()),
        section=None,
    )


def main(path: Path) -> None:
    worst = sorted((case(seed) for seed in range(IMAGES)), key=lambda one: one.rank)[:SHOWN]
    rows = []
    for one in worst:
        panels = draw(one, "objects", 400)
        captions = [f"{one.name}: AP50 {one.scores['AP50']:.2f}", *list(panels)[1:]]
        rows.append(side_by_side(list(panels.values()), captions))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs/images/worst-images.png")
