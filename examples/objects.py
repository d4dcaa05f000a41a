"""Draw how objects are made of probabilities: the image, the probability, the pixels above levels, and the objects.

    python examples/objects.py [PICTURE.png]

Writes ``docs/images/objects.png`` unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import septum
from septum.arrays.instances import label_objects
from septum.demo.synthetic_cells import generate
from septum.report.pictures import matched_colors, painted, resize_nearest, side_by_side, to_picture

PANEL = (352, 352)
# Black, blue, white: below the threshold, between the levels, seeds.
OUTSIDE, FLOODED, SEED = (20, 24, 28), (0, 114, 178), (255, 255, 255)


def main(path: Path) -> None:
    cells, truth = generate(44, shape=(144, 144), radius_px=11)
    model = septum.open_model("nuclei", "cpu")
    settings = model.header.objects
    probability = septum.predict(model, cells, output="probabilities", scale=1.0)
    levels = np.full((*probability.shape, 3), OUTSIDE, np.uint8)
    levels[probability > settings.threshold] = FLOODED
    levels[probability > settings.seed_level] = SEED
    one_level = settings.model_copy(update={"seed_level": settings.threshold, "merge_ratio": 0.0})
    simple = label_objects(probability, one_level)
    found = label_objects(probability, settings)
    picture = to_picture(cells)
    panels = {
        "image": picture,
        "probability": np.repeat((255 * probability).astype(np.uint8)[..., None], 3, axis=2),
        f"above {settings.threshold:.2f} and {settings.seed_level:.2f}": levels,
        f"pieces above {settings.threshold:.2f}: {simple.max()}": painted(
            picture, simple, matched_colors(simple, found)
        ),
        f"objects: {found.max()} (truth: {truth.max()})": painted(picture, found, matched_colors(found, found)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    row = side_by_side([resize_nearest(shown, PANEL) for shown in panels.values()], list(panels))
    Image.fromarray(row).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs/images/objects.png")
