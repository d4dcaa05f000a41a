"""Time to write the objects of a label image for other programs: GeoJSON, ImageJ ROIs, COCO and the table.

Usage: python benchmarks/exports.py [--side 4096] [--objects 5000]

A made label image: ellipses on a grid, moved and turned by chance, with a rough rim. Each figure is the least time of
the processor in three runs of one process, after the loops are compiled, without reading the label image from a disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.export.coco import coco_file
from septum.export.geojson import write_geojson
from septum.export.imagej import write_rois
from septum.export.measure import channels_of, measure_objects
from septum.export.runs import split_labels
from septum.io.image import Image


def make_labels(side: int, objects: int) -> NDArray[np.int32]:
    """Return ``(side, side)`` int32 labels 1 .. `objects`."""
    rng = np.random.default_rng(0)
    cells = int(np.ceil(np.sqrt(objects)))
    pitch = side / cells
    labels = np.zeros((side, side), np.int32)
    for number in range(objects):
        y, x = (np.array(divmod(number, cells)) + 0.5) * pitch + rng.uniform(-0.05, 0.05, 2) * pitch
        major, minor = rng.uniform(0.3, 0.45) * pitch, rng.uniform(0.2, 0.3) * pitch
        reach = int(major * 1.2) + 1
        top, left = max(0, int(y) - reach), max(0, int(x) - reach)
        part = labels[top : int(y) + reach + 1, left : int(x) + reach + 1]
        rows, columns = np.indices(part.shape)
        angle = rng.uniform(0, np.pi)
        dy, dx = rows + top - y, columns + left - x
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        rough = 1 + 0.08 * np.sin(9 * np.arctan2(across, along)) + rng.normal(0, 0.02, part.shape)
        part[(np.hypot(along / major, across / minor) < rough) & (part == 0)] = number + 1
    return labels


def best(job: Callable[[], object], runs: int = 3) -> float:
    """Return the least time of the processor for a job in seconds; it is run once before."""
    job()
    times = []
    for _ in range(runs):
        begin = time.process_time()
        job()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    """Print a line for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--objects", type=int, default=5000)
    asked = parser.parse_args()
    labels = make_labels(asked.side, asked.objects)
    frames = split_labels(Image.from_array(labels[None], "CYX"))
    image = Image.from_array(np.random.default_rng(1).integers(0, 4096, (1, *labels.shape)).astype(np.uint16), "CYX")

    def write_coco(path: Path) -> None:
        with coco_file(path) as file:
            file.add("a.tif", frames)

    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("a.geojson", "a.zip", "a.json")}
        print(f"{asked.side} x {asked.side} pixels, {len(np.unique(labels)) - 1} objects")
        for name, job in {
            "GeoJSON": lambda: write_geojson(files["a.geojson"], frames),
            "ImageJ ROIs": lambda: write_rois(files["a.zip"], frames),
            "COCO": lambda: write_coco(files["a.json"]),
            "table with one channel": lambda: measure_objects(frames[0], channels_of(image)),
        }.items():
            print(f"{name:24s} {best(job):6.2f} s")
        for path in files.values():
            print(f"{path.suffix:24s} {path.stat().st_size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main()
