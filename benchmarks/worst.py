"""The images of the lowest AP50, with the outlines of true and predicted objects, as one picture.

    python benchmarks/worst.py IMAGES TRUTH OUT.png PREDICTED [PREDICTED ...] [--count 10] [--side 240]

Each PREDICTED folder of `septum predict` gets a column, so that two models can be compared; the images are the worst of
the first one. A part around the largest mistakes is shown, up to `--side` pixels; gray values from the 1 % to the
99.5 % quantile. True objects that no predicted one matches (IoU 0.5) are yellow, the others green; predicted objects
without a match are red, the others blue.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from septum.io.files import list_images, read_image
from septum.io.formats import image_stem
from septum.metrics.contingency import table
from septum.metrics.matching import match, scores

MATCHED, MISSED, FOUND, FALSE = (0, 160, 80), (255, 220, 0), (60, 140, 255), (255, 40, 40)
ENLARGED = 2


def files(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their stems."""
    return {image_stem(path): path for path in list_images([folder])}


def pixels(path: Path) -> NDArray[Any]:
    """Return the first channel of an image file, ``(Y, X)``."""
    return np.asarray(read_image(path).array)[0]


def unmatched(truth: NDArray[Any], predicted: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels of true and of predicted objects without a match, ``(Y, X)`` each."""
    found = match(table(truth, predicted), 0.5)
    missed = (truth > 0) & ~np.isin(truth, found.truth)
    return missed, (predicted > 0) & ~np.isin(predicted, found.predicted)


def busiest(wrong: NDArray[np.bool_], side: int) -> tuple[slice, slice]:
    """Return the window of at most `side` pixels that holds the most wrong ones, on a grid of a quarter of it."""
    height, width = wrong.shape
    tops, lefts = (range(0, max(1, n - side + 1), max(1, side // 4)) for n in (height, width))
    windows = [(slice(y, y + side), slice(x, x + side)) for y in tops for x in lefts]
    return max(windows, key=lambda window: int(wrong[window].sum()))


def drawn(image: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any], part: tuple[slice, slice]) -> Image.Image:
    """Return a part of an image with outlines, enlarged."""
    low, high = np.quantile(image, (0.01, 0.995))
    gray = np.clip((image[part] - low) / max(1e-9, high - low) * 255, 0, 255).astype(np.uint8)
    color = np.repeat(np.repeat(np.stack([gray] * 3, axis=-1), ENLARGED, 0), ENLARGED, 1)
    missed, false = unmatched(truth, predicted)
    layers = ((truth, missed, MATCHED, MISSED), (predicted, false, FOUND, FALSE))
    for labels, wrong, right_color, wrong_color in layers:
        large = np.repeat(np.repeat(labels[part], ENLARGED, 0), ENLARGED, 1)
        bad = np.repeat(np.repeat(wrong[part], ENLARGED, 0), ENLARGED, 1)
        edge = find_boundaries(large, mode="inner")
        color[edge & ~bad], color[edge & bad] = right_color, wrong_color
    return Image.fromarray(color)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "truth", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("predicted", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--side", type=int, default=240)
    asked = parser.parse_args()
    images, truths, results = files(asked.images), files(asked.truth), [files(one) for one in asked.predicted]
    names = [name for name in truths if all(name in one for one in results)]
    ap50 = {
        n: [scores(table(pixels(truths[n]), pixels(one[n])), thresholds=(0.5,))[0].ap for one in results] for n in names
    }
    worst = sorted((n for n in names if np.isfinite(ap50[n][0])), key=lambda n: ap50[n][0])[: asked.count]
    cell, bar = asked.side * ENLARGED, 22
    columns = 2 if len(results) == 1 else len(results)
    rows = -(-len(worst) * len(results) // columns)
    sheet = Image.new("RGB", (columns * (cell + 6), rows * (cell + bar)), "white")
    for number, (name, which) in enumerate((n, k) for n in worst for k in range(len(results))):
        image, truth, predicted = (pixels(one[name]) for one in (images, truths, results[which]))
        part = busiest(np.logical_or(*unmatched(truth, pixels(results[0][name]))), asked.side)
        corner = (number % columns * (cell + 6), number // columns * (cell + bar))
        ImageDraw.Draw(sheet).text((corner[0] + 4, corner[1] + 5), f"{name}  AP50 {ap50[name][which]:.2f}", "black")
        sheet.paste(drawn(image, truth, predicted, part), (corner[0], corner[1] + bar))
        print(name, [round(one, 3) for one in ap50[name]])
    sheet.save(asked.out, optimize=True)


if __name__ == "__main__":
    main()
