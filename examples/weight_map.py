"""Draw cells, the target with its borders, and the weights of two presets, for docs/explanation/weight-map.md.

Usage: python examples/weight_map.py [OUT.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from septum.arrays.targets import object_target, separate_touching
from septum.arrays.weight_map import class_balance, class_counts, fiji_weight_map, weight_map
from septum.demo.synthetic_cells import generate
from septum.report.pictures import matched_colors, resize_nearest, side_by_side, to_picture

# From black over red and yellow to white, as hot iron glows.
HEAT = np.array([(0, 0, 0), (170, 20, 10), (240, 120, 0), (255, 210, 60), (255, 255, 240)], np.float64)
PANEL = (240, 240)


def heat(weight: np.ndarray) -> np.ndarray:
    """Return weights ``(Y, X)`` as colors: black is 0, white is the largest."""
    at = weight / weight.max() * (len(HEAT) - 1)
    return np.stack([np.interp(at, np.arange(len(HEAT)), HEAT[:, k]) for k in range(3)], axis=-1).astype(np.uint8)


def main() -> None:
    image, labels = generate(4, shape=(160, 160), cells=30, radius_px=13)
    apart = separate_touching(labels)
    target = object_target(apart)
    balance = class_balance(class_counts(target, classes=2))
    paper = weight_map(apart, target, balance)
    fiji = fiji_weight_map(apart)

    colored = np.zeros((*apart.shape, 3), np.uint8)
    for number, color in matched_colors(apart, apart).items():
        colored[apart == number] = color
    panels = {
        "image": to_picture(image),
        "objects, set apart": colored,
        f"weight, paper: 0 to {paper.max():.1f}": heat(paper),
        f"weight, Fiji plugin: 0 to {fiji.max():.1f}": heat(fiji),
    }
    default = Path(__file__).parents[1] / "docs" / "images" / "weight-map.png"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    out.parent.mkdir(exist_ok=True)
    row = side_by_side([resize_nearest(picture, PANEL) for picture in panels.values()], list(panels))
    Image.fromarray(row).save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main()
