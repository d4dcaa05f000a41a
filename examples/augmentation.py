"""Show what augmentation does: a grid, cells and their labels, before and after.

    python examples/augmentation.py [PICTURE.png]

Writes ``docs/images/augmentation.png`` unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from septum.demo.synthetic_cells import generate
from septum.nn.augment import AugmentSettings, draw, training_tile
from septum.seeding import generator

SIDE, TILE = 256, 208


def main(path: Path) -> None:
    cells, labels = generate(3, shape=(SIDE, SIDE))
    lines = np.ones((SIDE, SIDE), np.float32)
    lines[8::20] = lines[:, 8::20] = 0.0
    image = torch.from_numpy(np.stack([lines, cells[0] / 255]).astype(np.float32))
    target = torch.from_numpy(np.where(labels > 0, 1 + labels % 9, 0).astype(np.uint8))
    columns = {
        "none: an exact crop": (AugmentSettings.none(), 0),
        "paper": (AugmentSettings.paper(), 2),
        "fiji": (AugmentSettings.fiji(), 1),
        "auto": (AugmentSettings.auto().model_copy(update={"brightness": 0.05}), 5),
    }
    figure = Figure(figsize=(8, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(columns))
    for column, (name, (settings, index)) in enumerate(columns.items()):
        drawn = draw(settings, generator(0, "augment", 0, index), center=(SIDE // 2, SIDE // 2), tile=(TILE, TILE))
        x, y, _ = training_tile(image, target, torch.ones(SIDE, SIDE), drawn, tile=(TILE, TILE), output=(TILE, TILE))
        axes[0, column].imshow(x[0].numpy(), cmap="gray", vmin=0, vmax=1)
        axes[1, column].imshow(x[1].numpy(), cmap="gray", vmin=0, vmax=1)
        shown = np.ma.masked_equal(y.numpy(), 0)
        axes[2, column].imshow(shown, cmap="tab10", vmin=0.5, vmax=10.5, interpolation="nearest")
        axes[0, column].set_title(name, fontsize=10)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, name in zip(axes[:, 0], ("a grid", "cells", "their labels"), strict=True):
        row.set_ylabel(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs/images/augmentation.png")
