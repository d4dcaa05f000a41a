"""Predict an image of 1.6 gigapixels in 2 GB, and compare a part with a prediction in memory.

Usage: python benchmarks/huge.py FOLDER [--side 40000] [--memory 2G] [--write]

FOLDER keeps the image, the model and the result (about 6 GB free are needed); existing files are used again. The
network is narrow (width 4, depth 3) and trained for 300 steps on made cells. The prediction runs in a control group
(Linux, as root) that kills it above the limit; if none can be made it runs without, and the result states this.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from septum.arrays.instances import label_objects
from septum.demo.synthetic_cells import generate
from septum.io.files import open_image, write_image
from septum.io.zarr_write import create_zarr
from septum.prediction.memory import parse_bytes
from septum.prediction.model import open_model
from septum.prediction.tiled import region_probabilities

STAMP = 2048
PART = 1500  # side of what is compared


def make_model(folder: Path) -> Path:
    """Train the narrow network on made cells."""
    model = folder / "run/model.safetensors"
    if not model.exists():
        for number in range(8):
            image, labels = generate(number)
            for kind, values in (("images", image[0].astype(np.uint8)), ("masks", labels.astype(np.uint16))):
                (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
                write_image(folder / "data" / kind / f"{number}.tif", values, axes="YX")
        options = ["--width", "4", "--depth", "3", "--steps", "300", "-o", str(folder / "run")]
        subprocess.run(["septum", "train", str(folder / "data"), *options], check=True)
    return model


def make_image(folder: Path, side: int) -> Path:
    """Write an image of made cells, stamp beside stamp, each brighter or darker than the others."""
    path = folder / f"cells-{side}.ome.zarr"
    if not path.exists():
        stamps = [generate(100 + number, shape=(STAMP, STAMP))[0][0] for number in range(3)]
        rng = np.random.default_rng(0)
        part = path.with_name(path.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        target = create_zarr(
            part, shape=(side, side), axes="YX", dtype=np.uint8, chunks=(512, 512), shards=(STAMP, STAMP)
        )
        for y in range(0, side, STAMP):
            for x in range(0, side, STAMP):
                stamp = np.rot90(stamps[rng.integers(3)], rng.integers(4)) * rng.uniform(0.8, 1.0)
                values = stamp[: side - y, : side - x].astype(np.uint8)
                target.write((slice(y, y + values.shape[0]), slice(x, x + values.shape[1])), values)
        part.rename(path)
    return path


@contextmanager
def limited(limit: int) -> Iterator[Path | None]:
    """Make a control group that may hold `limit` bytes; yield its folder, or None where that is not possible."""
    for base, name, more in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"),
    ):
        group = base / f"septum-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
        except OSError:
            continue
        if (group / more).exists():
            (group / more).write_text("0" if more.endswith("max") else str(limit))
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def predict(model: Path, image: Path, out: Path, memory: str, group: Path | None) -> tuple[float, str]:
    """Run the command inside the group; return its seconds and what it printed."""
    command = ["septum", "predict", str(model), str(image), "-o", str(out), "--max-memory", memory]

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=enter)
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait() != 0:
        raise SystemExit(f"the command ended with {process.returncode}")
    return time.monotonic() - begin, "".join(lines)


def compare(model_path: Path, image: Path, result: Path) -> dict[str, float | int | bool]:
    """Compute a part in memory, with the statistics of the whole image, and compare its complete objects."""
    from scipy.ndimage import label

    from septum.arrays.normalize import statistics
    from septum.prediction.tiled import TiledPredictor

    model = open_model(model_path, "cpu")
    source = open_image(image)
    whole = source[...]
    stats = statistics(whole, model.header.normalization)
    start = min(6000, max(0, whole.shape[1] - PART)) // 16 * 16
    region = (slice(start, start + PART), slice(start + 48, start + 48 + PART))
    tiler = TiledPredictor(model.network, model.device, (400, 400))  # other tiles than the command took
    *_, (probabilities, _) = region_probabilities(tiler, whole, stats, region)
    expected = label_objects(probabilities[1], model.header.objects)
    found = open_image(result)[(0, *region)]
    pieces, _ = label(probabilities[1] > model.header.objects.threshold)
    rims = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    complete = (pieces > 0) & ~np.isin(pieces, rims)
    pairs = np.unique(np.stack([expected[complete], found[complete]]), axis=1)
    one_to_one = len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    return {
        "side": PART,
        "objects": len(np.unique(expected[complete])),
        "pixels_compared": int(complete.sum()),
        "equal_up_to_numbers": bool(one_to_one),
        "pixels_of_other_objects": int(complete.sum()) - _agreeing(expected[complete], found[complete]),
    }


def _agreeing(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many pixels the best partners share."""
    pairs, counts = np.unique(np.stack([a, b]), axis=1, return_counts=True)
    best: dict[int, int] = {}
    for first, count in zip(pairs[0], counts, strict=True):
        best[int(first)] = max(best.get(int(first), 0), int(count))
    return sum(best.values())


def main() -> None:
    """Run it all and print one JSON document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    model, image = make_model(given.folder), make_image(given.folder, given.side)
    out = given.folder / f"result-{given.side}"
    with limited(parse_bytes(given.memory)) as group:
        seconds, said = predict(model, image, out, given.memory, group)
        kept = None
        if group is not None:
            names = ("memory.max_usage_in_bytes", "memory.peak")
            kept = next((int((group / n).read_text()) for n in names if (group / n).exists()), None)
    peak = re.search(r"at most ([\d.]+ [MG]B) of memory\s*$", said.strip())
    document = {
        "command": f"python benchmarks/huge.py FOLDER --side {given.side} --memory {given.memory}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "side": given.side,
        "limit": given.memory,
        "limit_kept_by_the_system": group is not None,
        "peak_of_the_group_with_file_cache_bytes": kept,
        "peak_said": peak[1] if peak else None,
        "plan_said": next((Path(line).name for line in said.splitlines() if " tiles of " in line), None),
        "seconds": round(seconds, 1),
        "megapixels_per_second": round(given.side**2 / 1e6 / seconds, 2),
        "part": compare(model, image, out / image.name),
    }
    text = json.dumps(document, indent=2)
    print(text)
    if given.write:
        (Path(__file__).parent / "results/huge.json").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
