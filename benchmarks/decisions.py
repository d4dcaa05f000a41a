"""Where the loss of AP50 comes from: merged neighbors, parts of objects, and others, by image.

    python benchmarks/decisions.py RUN IMAGES TRUTH [--cache FILE.npz]

RUN is a run folder or a model file, IMAGES and TRUTH two folders with files of equal names (but for the suffix).
Probabilities are predicted once and kept in FILE. An image with `tp` matched objects (IoU 0.5), `fp` false and `fn`
missing ones has AP50 = tp / (tp + fp + fn); each false and each missing object takes 1 / (tp + fp + fn) away, which is
counted under one cause, the first that applies:

merged
    A missing object of which a prediction contains at least half, where this prediction contains at least half of
    another true object as well; and a false prediction that contains at least half of two true objects or more.
part
    A false prediction that lies by at least half in a true object that another prediction matched.
split
    A missing object of which at least half is covered by two or more predictions that lie in it by at least half; and
    the false ones among these.
missed, nothing there
    A missing object, or a false prediction, of which less than 20 % is covered by others.
inexact
    All others: the outline fits too badly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import label_objects
from septum.io.files import list_images, read_image, read_mask
from septum.metrics.aggregate import finish_objects, object_columns
from septum.metrics.contingency import Table, table
from septum.metrics.matching import match
from septum.prediction.frames import split_frames
from septum.prediction.model import open_model
from septum.prediction.tiled import image_probabilities

CAUSES = ("merged", "part", "split", "missed", "inexact", "nothing there")


def causes(overlap: Table) -> NDArray[np.int64]:
    """Count the false and missing objects of one image by `CAUSES`: ``(6,) int64``."""
    (true_ids, true_sizes), (ids, sizes) = overlap.truth_objects, overlap.predicted_objects
    shared = np.zeros((len(true_ids), len(ids)))
    row, column, count, _ = overlap.overlaps
    shared[row, column] = count
    contained, inside = shared / true_sizes[:, None], shared / sizes
    matched = match(overlap)
    found, right = np.isin(true_ids, matched.truth), np.isin(ids, matched.predicted)
    merging = (contained >= 0.5).sum(axis=0) > 1
    pieces = np.where(inside >= 0.5, contained, 0)
    split = ((pieces > 0).sum(axis=1) > 1) & (pieces.sum(axis=1) >= 0.5) & ~found
    missing = np.select(
        [(contained >= 0.5)[:, merging].any(axis=1), split, contained.sum(axis=1) < 0.2], (0, 2, 3), default=4
    )
    false = np.select(
        [
            merging,
            (inside[found] >= 0.5).any(axis=0),
            (inside[split] >= 0.5).any(axis=0),
            inside.sum(axis=0) < 0.2,
        ],
        (0, 1, 2, 5),
        default=4,
    )
    counted: NDArray[np.int64] = np.bincount(np.concatenate([missing[~found], false[~right]]), minlength=len(CAUSES))
    return counted


def losses(overlap: Table) -> NDArray[np.float64]:
    """Return the loss of AP50 of one image by `CAUSES`: ``(6,) float64``; AP50 is 1 minus their sum."""
    counted, matched = causes(overlap), len(match(overlap).truth)
    return counted / max(1, matched + counted.sum())


def scores_of(overlap: Table) -> dict[str, float]:
    """Return AP50, AP and SEG of one image, and its losses."""
    own = finish_objects(object_columns(overlap, overlap))
    main = {name: float(np.nan_to_num(own[name], nan=0.0)) for name in ("AP50", "AP", "SEG")}
    return main | dict(zip(CAUSES, losses(overlap), strict=True))


def probabilities(run: Path, images: list[Path], cache: Path | None) -> dict[str, NDArray[np.float32]]:
    """Predict the foreground probability of each image, or read it from the cache."""
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            return {name: kept[name] for name in kept}
    model = open_model(run)
    network = model.computed_by(model.choose().name == "septum")
    maps = {}
    for path in images:
        frame = split_frames(read_image(path), model)[0]
        image = frame[(slice(None),) * (1 + model.rank)]
        settings = model.header.normalization
        maps[path.stem] = image_probabilities(network, image, device=model.device, normalization=settings)[1]
    if cache is not None:
        np.savez(cache, **maps)
    return maps


def truths(folder: Path) -> dict[str, NDArray[np.int32]]:
    """Read the true objects by the stem of the file."""
    return {p.stem: read_mask(p)[...].squeeze().astype(np.int32) for p in list_images([folder])}


def main() -> None:
    """Measure and print."""
    run, images, truth = (Path(word) for word in sys.argv[1:4])
    cache = Path(sys.argv[5]) if "--cache" in sys.argv else None
    settings, true = open_model(run).header.objects, truths(truth)
    maps = probabilities(run, [p for p in list_images([images]) if p.stem in true], cache)
    rows = [scores_of(table(true[name], label_objects(one, settings))) for name, one in maps.items()]
    print(f"{run}: {settings}, {len(rows)} images, means over images (standard error)")
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        print(f"{name:14} {values.mean():.4f} ({values.std() / np.sqrt(len(values)):.4f})")


if __name__ == "__main__":
    main()
