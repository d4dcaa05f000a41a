"""Make the picture of docs/weight-map.md: cells, the target with its borders, and the weights of two presets.

Usage: python examples/weight_map.py [OUT.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

from septum.arrays.targets import object_target, separate_touching
from septum.arrays.weight_map import class_balance, class_counts, fiji_weight_map, weight_map
from septum.demo.synthetic_cells import generate


def main() -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    image, labels = generate(4, shape=(160, 160), cells=30, radius_px=13)
    apart = separate_touching(labels)
    target = object_target(apart)
    balance = class_balance(class_counts(target, classes=2))
    paper = weight_map(apart, target, balance)
    fiji = fiji_weight_map(apart)

    shuffled = np.random.Generator(np.random.Philox(1)).permutation(20) / 20
    colored = plt.get_cmap("tab20")(shuffled[apart % 20])
    colored[apart == 0] = (0, 0, 0, 1)
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
    axes[0].imshow(image[0], cmap="gray")
    axes[1].imshow(colored, interpolation="nearest")
    for axis, weight in ((axes[2], paper), (axes[3], fiji)):
        figure.colorbar(axis.imshow(weight, cmap="inferno", vmin=0), ax=axis, shrink=0.75)
    titles = ("image", "objects, set apart", "weight, paper", "weight, Fiji plugin")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    default = Path(__file__).parents[1] / "docs" / "images" / "weight-map.png"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    out.parent.mkdir(exist_ok=True)
    figure.savefig(out, dpi=90, metadata={"Software": None})
    print(out)


if __name__ == "__main__":
    main()
