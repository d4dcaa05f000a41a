"""Draw what tiles do: what one tile reads and writes, tiles predicted alone, and the tiles of Septum.

    python examples/tiles.py [PICTURE.png]

Writes ``docs/images/tiles.png`` unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import septum
from septum.arrays.tiles import plan_tiles, read_mirrored
from septum.demo.synthetic_cells import generate
from septum.prediction.tiled import image_probabilities
from septum.report.pictures import side_by_side, to_picture

SIDE, WRITES, PANEL = 320, 112, (352, 352)
READ_COLOR, WRITTEN_COLOR, GRID_COLOR = (0, 190, 255), (255, 176, 0), (255, 255, 255)


def gray(values: np.ndarray) -> np.ndarray:
    """Return values 0..1, ``(Y, X)``, as a gray picture."""
    return np.repeat((255 * values.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def panel(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize(PANEL, Image.Resampling.BILINEAR))


def main(path: Path) -> None:
    cells, _ = generate(11, shape=(SIDE, SIDE))
    model = septum.open_model("nuclei", "cpu")
    network = model.network
    tiles = plan_tiles((SIDE, SIDE), network.settings.geometry, (WRITES, WRITES))

    corner = tiles[0]  # reads beyond the image, where it is mirrored
    margin = -corner.read[0][0]
    around = to_picture(read_mirrored(cells, tuple((-margin, SIDE + margin) for _ in range(2))))
    picture = Image.fromarray(around)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((margin, margin, margin + SIDE, margin + SIDE), outline=GRID_COLOR)
    for color, (top, left, bottom, right) in (
        (READ_COLOR, (0, 0, *(stop + margin - 1 for _, stop in corner.read))),
        (WRITTEN_COLOR, (margin, margin, *(part.stop + margin for part in corner.write))),
    ):
        for grown in range(3):
            pen.rectangle((left + grown, top + grown, right - grown, bottom - grown), outline=color)

    whole = septum.predict(model, cells, output="probabilities", scale=1.0)
    alone = np.zeros_like(whole)
    for tile in tiles:
        alone[tile.write] = septum.predict(model, cells[:, *tile.write], output="probabilities", scale=1.0)
    together = image_probabilities(
        network, cells, device=model.device, normalization=model.header.normalization, max_output=(WRITES, WRITES)
    )[1]
    panels = {
        "a tile reads the blue part and writes the orange one": panel(np.asarray(picture)),
        "probability, whole image": panel(gray(whole)),
        f"tiles predicted alone: wrong by up to {np.abs(alone - whole).max():.2f}": panel(gray(np.abs(alone - whole))),
        f"tiles of Septum: by up to {np.abs(together - whole).max():.6f}": panel(gray(np.abs(together - whole))),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(side_by_side(list(panels.values()), list(panels))).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs/images/tiles.png")
