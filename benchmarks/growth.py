"""How time and memory grow: with the sides of an image, with the objects in it, with the number of images.

Usage: python benchmarks/growth.py [KIND ...] [--quick] [--write]
    KIND is prediction, objects, "weight map", scores, "scores of volumes", images or check: all where none is named
    --quick stops at small sizes; --write stores benchmarks/results/growth.json and docs/images/growth.svg

Each point is a process of its own. Its seconds are processor seconds (a busy machine does not matter), of a
second call if the first takes under 5 s, so that imports and first uses are left out; its memory is the most that
the process ever held (Linux). The network is narrow (width 4, depth 2) and was not trained: its answers mean nothing,
its cost does not depend on them. Objects are disks of equal size at equal distances, so that pixels grow with objects.
`exponent` is the slope between the last points of ten times and more the
work on logarithmic axes: 1 is a straight line through the origin.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDES = (512, 1024, 2048, 4096, 8192, 16384)
OBJECTS = (10, 100, 1000, 10_000, 100_000)
BALLS = (50, 500, 5000, 50_000)
IMAGES = (1, 4, 16, 64)
CHECKED = (10, 100, 1000, 4000)
SPACING_PX, RADIUS_PX = 20, 8
MEMORY = 1_500_000_000
KINDS = {
    "prediction": (SIDES, "side in pixels", "prediction of one image, at most 1.5 GB allowed"),
    "objects": (OBJECTS, "objects", "objects from probabilities"),
    "weight map": (OBJECTS, "objects", "weight map, border term"),
    "scores": (OBJECTS, "objects", "object scores (AP at ten thresholds, SEG)"),
    "scores of volumes": (BALLS, "objects", "scores of objects, their centers, and surface distances, in volumes"),
    "images": (IMAGES, "images of 512 x 512", "prediction of many images"),
    "check": (CHECKED, "images of 96 x 96", "check and loading of a data set, and its figures"),
}
DRAWN = (("prediction",), ("objects", "weight map", "scores"), ("images",))


def peak_mb() -> float:
    """Highest resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def make_model(path: Path) -> None:
    from septum.arrays.instances import ObjectSettings
    from septum.arrays.normalize import NormalizeSettings
    from septum.nn.unet import UNet, UNetSettings
    from septum.prediction.model import ModelHeader, save_model

    settings = UNetSettings(width=4, depths=(2, 2))
    plain: dict[str, Any] = {"network": settings, "normalization": NormalizeSettings(), "class_values": (0, 255)}
    save_model(path, UNet(settings), ModelHeader(**plain, kind="classes", objects=ObjectSettings()))


def disks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` disks: how far inside, 0 to 1, float32; and ids, int32."""
    across = max(1, round(math.sqrt(count)))
    line = (np.arange(across * SPACING_PX, dtype=np.float32) % SPACING_PX) - SPACING_PX / 2
    inside = np.clip(1.5 - np.hypot(line[:, None], line) / RADIUS_PX, 0, 1).astype(np.float32)
    number = np.arange(across * SPACING_PX, dtype=np.int32) // SPACING_PX
    ids = np.where(inside > 0.5, number[:, None] * across + number + 1, 0).astype(np.int32)
    return inside, ids


def balls(count: int) -> np.ndarray:
    """Ids, int32, of about `count` balls of radius 6 in a volume of 64 planes: five layers, 16 pixels apart."""
    across = max(1, round(math.sqrt(count / 5)))
    square, ids = np.float32(0), np.int32(0)
    for side, number, shape in ((64, 5, (-1, 1, 1)), (16 * across, across, (-1, 1)), (16 * across, across, (-1,))):
        line = np.arange(side)
        place = line * number // side
        apart = line - (place + 0.5) * side / number + 0.5
        square = square + (apart**2).astype(np.float32).reshape(shape)
        ids = ids * number + place.astype(np.int32).reshape(shape)
    return np.where(square <= 36, ids + 1, 0)


def prediction(side: int, folder: Path) -> Callable[[], object]:
    from septum.io.zarr_write import create_zarr
    from septum.prediction.predict import predict_files
    from septum.prediction.settings import PredictSettings

    path, shard = folder / f"{side}.ome.zarr", min(side, 2048)
    target = create_zarr(path, shape=(side, side), axes="YX", dtype=np.uint8, chunks=(512, 512), shards=(shard, shard))
    stamp = np.random.default_rng(0).integers(0, 255, (shard, shard), dtype=np.uint8)
    for y in range(0, side, shard):
        for x in range(0, side, shard):
            target.write((slice(y, y + shard), slice(x, x + shard)), stamp)
    make_model(folder / "model.safetensors")
    asked = PredictSettings(
        model=folder / "model.safetensors", inputs=(str(path),), out=folder / "out", max_memory=MEMORY
    )
    return lambda: list(predict_files(asked))


def images(count: int, folder: Path) -> Callable[[], object]:
    from septum.io.files import write_image
    from septum.prediction.predict import predict_files
    from septum.prediction.settings import PredictSettings

    values = np.random.default_rng(0).integers(0, 255, (512, 512), dtype=np.uint8)
    (folder / "in").mkdir()
    for number in range(count):
        write_image(folder / "in" / f"{number:04}.png", values, axes="YX")
    make_model(folder / "model.safetensors")
    asked = PredictSettings(model=folder / "model.safetensors", inputs=(str(folder / "in"),), out=folder / "out")
    return lambda: list(predict_files(asked))


def objects(count: int, folder: Path) -> Callable[[], object]:
    from septum.arrays.instances import label_objects

    inside, ids = disks(count)
    assert label_objects(inside[:400, :400]).max() == min(ids.max(), 400), "each disk is one object"
    return lambda: label_objects(inside)


def weight_map(count: int, folder: Path) -> Callable[[], object]:
    from septum.arrays.weight_map import border_term

    ids = disks(count)[1]
    return lambda: border_term(ids)


def scores(count: int, folder: Path) -> Callable[[], object]:
    from septum.metrics import contingency, ctc, matching

    ids = disks(count)[1]
    moved = np.roll(ids, 2, axis=(0, 1))

    def run() -> object:
        table = contingency.table(ids, moved)
        return matching.scores(table), ctc.seg_objects(table)

    return run


def scores_of_volumes(count: int, folder: Path) -> Callable[[], object]:
    from septum.metrics import contingency, ctc, matching, surface

    ids = balls(count)
    moved = np.roll(ids, 1, axis=(1, 2))

    def run() -> object:
        table = contingency.table(ids, moved)
        counted = matching.scores(table), ctc.seg_objects(table), contingency.centroids(ids)
        return *counted, surface.distances(ids > 0, moved > 0)

    return run


def check(count: int, folder: Path) -> Callable[[], object]:
    from septum.check.check import check as check_data
    from septum.check.samples import load_data
    from septum.io.files import write_image
    from septum.training.fingerprint import compute_fingerprint

    rows, columns = np.ogrid[:96, :96]
    for role in ("images", "masks"):
        (folder / role).mkdir()
    for number in range(count):
        rng, labels = np.random.default_rng(number), np.zeros((96, 96), np.uint16)
        for label, (y, x) in enumerate(rng.integers(12, 84, (6, 2)).tolist(), start=1):
            labels[((rows - y) ** 2 + (columns - x) ** 2 <= RADIUS_PX**2) & (labels == 0)] = label
        image = rng.integers(20, 60, labels.shape, np.uint8) + np.uint8(90) * (labels > 0)
        write_image(folder / "images" / f"{number:05}.tif", image, axes="YX")
        write_image(folder / "masks" / f"{number:05}.tif", labels, axes="YX")

    def run() -> object:
        loaded = load_data(check_data([folder]))
        return compute_fingerprint(loaded.samples, loaded.report.rules.kind, classes=2)

    return run


MAKE = {
    "prediction": prediction,
    "objects": objects,
    "weight map": weight_map,
    "scores": scores,
    "scores of volumes": scores_of_volumes,
    "images": images,
    "check": check,
}


def worked(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def measure(kind: str, size: int) -> dict[str, float]:
    """One point, in this process."""
    with tempfile.TemporaryDirectory() as name:
        run = MAKE[kind](size, Path(name))
        seconds = worked(run)
        if seconds < 5:
            seconds = worked(run)
    return {"size": size, "seconds": round(seconds, 5), "peak_mb": round(peak_mb(), 1)}


def exponent(kind: str, points: list[dict[str, float]]) -> float:
    """Slope of log seconds over log work (pixels, objects, images) of the last points, ten times apart or more."""
    power = 2 if kind == "prediction" else 1
    last = points[-1]
    first = next(p for p in reversed(points) if last["size"] ** power >= 10 * p["size"] ** power)
    work = power * math.log(last["size"] / first["size"])
    return round(math.log(last["seconds"] / first["seconds"]) / work, 2)


def draw(rows: dict[str, Any], path: Path) -> None:
    """Draw seconds and memory over the size of the work as one SVG file; the dotted lines grow in proportion."""
    from septum.report.plots import COLORS, HEIGHT, LEFT, TOP, WIDTH, PlotArea, axis

    parts = []
    for column, kinds in enumerate(DRAWN):
        label = {"prediction": "pixels", "images": "images of 512 x 512"}.get(kinds[0], "objects")
        power = 2 if kinds[0] == "prediction" else 1
        points = {kind: rows[kind]["points"] for kind in kinds}
        sizes = {kind: np.array([p["size"] for p in points[kind]], float) ** power for kind in kinds}
        x = axis(label, np.concatenate(list(sizes.values())), log=True)
        # Memory has the same axis in all panels.
        titles = (("seconds", "processor seconds", {}), ("peak_mb", "most memory held, MB", {"low": 20, "high": 4000}))
        for row, (key, title, ends) in enumerate(titles):
            values = {kind: np.array([p[key] for p in points[kind]], float) for kind in kinds}
            area = PlotArea(x, axis(title, np.concatenate(list(values.values())), log=True, **ends))
            marks = []
            for number, (kind, color) in enumerate(zip(kinds, COLORS, strict=False)):
                size, value = sizes[kind], values[kind]
                marks.append(f'<path class="line" stroke="{color}" d="{area.path(size, value)}"/>')
                dots = zip(area.xs(size), area.ys(value), strict=True)
                marks += [f'<circle fill="{color}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in dots]
                if row == 0:
                    dotted = area.path(size, value[-1] * size / size[-1])
                    marks.append(f'<path class="line" stroke="{color}" stroke-dasharray="2 4" d="{dotted}"/>')
                marks.append(f'<text x="{LEFT + 10}" y="{TOP + 14 + 16 * number}" style="fill:{color}">{kind}</text>')
            place = f'x="{column * WIDTH}" y="{row * HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            parts.append(str(area.drawing(f"{title} over {label}", marks)).replace("<svg ", f"<svg {place}", 1))
    style = (
        "text{font:12.5px sans-serif;fill:#5d6771}.grid{stroke:#e2e0db}.axis{stroke:#5d6771;fill:none}"
        ".line{fill:none;stroke-width:2}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * WIDTH} {2 * HEIGHT}"><style>{style}</style>'
    path.write_text(f'{head}<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--point", nargs=2, metavar=("KIND", "SIZE"))
    asked = parser.parse_args()
    if asked.point:
        print(json.dumps(measure(asked.point[0], int(asked.point[1]))))
        return
    rows: dict[str, Any] = {}
    for kind in asked.kinds:
        sizes, unit, what = KINDS[kind]
        points = []
        for size in sizes[:3] if asked.quick else sizes:
            command = [sys.executable, __file__, "--point", kind, str(size)]
            environment = {**os.environ, "GOMP_SPINCOUNT": "10000"}  # as the command line sets it
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            points.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{kind:12} {size:7}  {points[-1]['seconds']:9.4f} s  {points[-1]['peak_mb']:7.0f} MB", flush=True)
        rows[kind] = {"what": what, "unit": unit, "points": points, "exponent": exponent(kind, points)}
        print(f"{kind:12} grows with the power {rows[kind]['exponent']}", flush=True)
        if asked.write:
            write(rows)


def write(rows: dict[str, Any]) -> None:
    """Store the rows beside those of other kinds, and draw all where all are there."""
    root = Path(__file__).parents[1]
    path = root / "benchmarks" / "results" / "growth.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    result = {"machine": machine, "python": platform.python_version(), "rows": {**before, **rows}}
    path.write_text(json.dumps(result, indent=1) + "\n")
    if all(kind in result["rows"] for kinds in DRAWN for kind in kinds):
        draw(result["rows"], root / "docs" / "images" / "growth.svg")


if __name__ == "__main__":
    main()
