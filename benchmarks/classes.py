"""Mean Dice of many classes, common and rare ones, on made images whose gray values or textures tell the class.

    python benchmarks/classes.py OUT [--kind gray|texture|few|single|absent] [--budget 3m | --steps N]
                                     [--seeds 0 1 2] [--set NAME=VALUE ...] [--write]

    gray     twelve classes of 5 % to 0.02 % of the pixels; each has its gray value
    texture  twelve classes of 5 % to 0.5 % of the pixels; each has a texture, all have the same mean
    few      as gray, with four classes
    single   as gray; the rarest class and a frequent one are in one training image only
    absent   as gray; no more than every fifth image holds the rarest classes, so that held-out images may lack them

Each training has 24 images of 192 x 192 pixels, of which Septum holds some out; 12 others are for the scores: the Dice
coefficient of each class over the pixels of all 12 images, and their mean without the background. The look-up is the
most probable class of each gray value, counted in the training images: it knows nothing of the neighborhood.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import septum
from septum.io.files import write_image
from septum.training.settings import parse_duration

KINDS = ("gray", "texture", "few", "single", "absent")
TRAIN, TEST, SIDE = 24, 12, 192
RESULTS = Path(__file__).parent / "results" / "classes.json"

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def shares(kind: str) -> NDArray[np.float64]:
    """Return the shares of the classes but the background: ``(K,)``, falling by a constant factor."""
    return np.geomspace(0.05, 0.005 if kind == "texture" else 0.0002, 4 if kind == "few" else 12)


def gray_values(classes: int) -> NDArray[np.float64]:
    """Return the gray values of the background and the classes, evenly spaced; frequent and rare ones mixed."""
    order = np.random.default_rng(5).permutation(classes)
    return np.concatenate([[20.0], 38.0 + 18 * order * 11 / max(1, classes - 1)])


def is_present(kind: str, number: int, value: int, rng: np.random.Generator) -> bool:
    """Return True if an image holds a class: mostly, so that the composition varies."""
    if kind == "single" and value in (2, 12):
        return number in (0, TRAIN, TRAIN + 1)
    if kind == "absent" and value >= 10:
        return number % 5 == value % 5
    return bool(rng.random() < 0.8)


def make(kind: str, number: int) -> Pair:
    """Make one image and its mask, ``(192, 192)`` uint8 each: ellipses on background, the rarer ones on top."""
    rng = np.random.default_rng((17, number))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for value, share in enumerate(shares(kind), 1):
        if not is_present(kind, number, value, rng):
            continue
        area = share * SIDE**2 * rng.uniform(0.7, 1.6)
        pieces = 1 if area < 60 else int(rng.integers(1, 4))
        for _ in range(pieces):
            axes = np.sqrt(area / pieces / np.pi) * np.array([1, 1]) * rng.uniform(0.75, 1.3) ** np.array([1, -1])
            cy, cx = rng.uniform(axes.max(), SIDE - axes.max(), 2)
            angle = rng.uniform(0, np.pi)
            u, v = (
                np.cos(angle) * (y - cy) + np.sin(angle) * (x - cx),
                np.cos(angle) * (x - cx) - np.sin(angle) * (y - cy),
            )
            mask[(u / axes[0]) ** 2 + (v / axes[1]) ** 2 <= 1] = value
    image = textured(mask, rng) if kind == "texture" else gray_values(len(shares(kind)))[mask]
    noise = rng.normal(0, 3.6, mask.shape)
    return np.rint(image + noise).clip(0, 255).astype(np.uint8), mask


def textured(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return an image in which each class has grains: of four sizes; bright, dark or both; without a direction."""
    from scipy.ndimage import gaussian_filter

    image = np.full(mask.shape, 100.0)
    for value in range(1, 13):
        grains = gaussian_filter(rng.normal(size=mask.shape), (0.6, 1.0, 1.6, 2.6)[(value - 1) % 4], mode="wrap")
        grains /= grains.std()
        shape = (np.maximum(grains - 1, 0), -np.maximum(grains - 1, 0), grains)[(value - 1) // 4]
        image[mask == value] += (30 / shape.std() * (shape - shape.mean()))[mask == value]
    return image


def dice(pairs: list[tuple[NDArray[Any], NDArray[Any]]], classes: int) -> list[float]:
    """Return the Dice coefficient of each class but the background over all pixels of (prediction, truth) pairs."""
    table = sum(np.bincount(t.ravel().astype(int) * 256 + p.ravel(), minlength=65536) for p, t in pairs)
    table = np.asarray(table).reshape(256, 256)
    both, either = np.diag(table), table.sum(0) + table.sum(1)
    return [float(2 * both[k] / max(1, either[k])) for k in range(1, classes + 1)]


def look_up(training: list[Pair]) -> NDArray[np.int64]:
    """Return the most frequent class of each gray value, ``(256,)``."""
    counts = np.zeros((256, 256))
    for image, mask in training:
        np.add.at(counts, (image.ravel(), mask.ravel()), 1)
    return counts.argmax(1)


def main() -> None:
    """Train with each seed, score, print, and keep where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="gray")
    parser.add_argument("--budget")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    kind, classes = asked.kind, len(shares(asked.kind))
    training, test = ([make(kind, n) for n in numbers] for numbers in (range(TRAIN), range(TRAIN, TRAIN + TEST)))
    folder = asked.out / kind
    for part, masks in (("images", 0), ("masks", 1)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(training):
            write_image(folder / part / f"{number:02}.tif", pair[masks], axes="YX")
    end: dict[str, Any] = {"steps": asked.steps} if asked.steps else {"budget_s": parse_duration(asked.budget or "3m")}
    table = look_up(training)
    row: dict[str, Any] = {"look-up": float(np.mean(dice([(table[i], m) for i, m in test], classes)))}
    print(f"{kind}: look-up {row['look-up']:.3f}", flush=True)
    for seed in asked.seeds:
        run = asked.out / f"{kind}-{seed}"
        model = septum.train(folder, out=run, kind="classes", seed=seed, set=asked.set, verbose=True, **end)
        scores = dice([(septum.predict(model, i), m) for i, m in test], classes)
        steps = model.header.training["steps"]
        row[f"seed {seed}"] = {"steps": steps, "mean": float(np.mean(scores)), "classes": [round(s, 3) for s in scores]}
        print(f"{kind} seed {seed}: {steps} steps, mean Dice {np.mean(scores):.3f}, by class", end=" ")
        print(*(f"{s:.2f}" for s in scores), flush=True)
    row["mean"] = float(np.mean([row[f"seed {seed}"]["mean"] for seed in asked.seeds]))
    print(f"{kind}: mean Dice {row['mean']:.3f}")
    if asked.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[f"{kind} {asked.budget or f'{asked.steps} steps'}"] = row
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
