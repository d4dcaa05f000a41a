"""Show what augmentation does: a grid, cells and their labels, before and after.

    python examples/augmentation.py [PICTURE.png]

Writes ``docs/images/augmentation.png`` unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from septum.demo.synthetic_cells import generate
from septum.nn.augment import AugmentSettings, draw, training_tile
from septum.report.pictures import color, side_by_side
from septum.seeding import generator

SIDE, TILE = 256, 208


def gray(values: torch.Tensor) -> np.ndarray:
    """Return values 0..1, ``(Y, X)``, as a gray picture."""
    return np.repeat((255 * values.numpy().clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


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
    colors = np.array([(255, 255, 255), *(color(k) for k in range(9))], np.uint8)
    rows: list[list[np.ndarray]] = [[], [], []]
    for settings, index in columns.values():
        drawn = draw(settings, generator(0, "augment", 0, index), center=(SIDE // 2, SIDE // 2), tile=(TILE, TILE))
        x, y, _ = training_tile(image, target, torch.ones(SIDE, SIDE), drawn, tile=(TILE, TILE), output=(TILE, TILE))
        for row, picture in zip(rows, (gray(x[0]), gray(x[1]), colors[y.numpy()]), strict=True):
            row.append(picture)
    captions = [list(columns), [""] * 4, [""] * 4]
    pictures = [side_by_side(row, names) for row, names in zip(rows, captions, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs/images/augmentation.png")
