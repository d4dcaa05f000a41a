"""Time of the weight map's border term: this package, windows around objects, the usual loop over objects.

Usage: python benchmarks/weightmap.py [--large] [--write]
    --large adds 8192 x 8192 with 20,000 objects (a minute); --write stores benchmarks/results/weightmap.json

Figures are processor seconds of all threads (a busy machine does not count, and no method gains by threads): medians,
methods taking turns; `ratio` is to one `scipy.ndimage.distance_transform_edt` of the same image in the same run.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.weight_map import NEGLIGIBLE, border_term
from septum.seeding import generator

Labels = NDArray[np.int32]
W0, SIGMA_PX = 10.0, 5.0
REACH = SIGMA_PX * math.sqrt(2 * math.log(W0 / NEGLIGIBLE))
FIRST_USE = """
import numpy as np, time
begun = time.process_time()
from septum.arrays.weight_map import border_term
border_term(np.eye({rank}, dtype=np.int32).reshape({shape}))
print(time.process_time() - begun)
"""


def ellipses(shape: tuple[int, ...], count: int, radius: float) -> Labels:
    """Ids 1 .. count of ellipses at random places; later ones lie on top, as touching cells."""
    draw = generator(0, "benchmark", *shape, count)
    labels = np.zeros(shape, np.int32)
    for i in range(1, count + 1):
        center, radii = draw.uniform(0, shape), draw.uniform(0.6 * radius, 1.3 * radius, len(shape))
        window = tuple(
            slice(max(0, int(c - r)), min(n, int(c + r) + 2)) for c, r, n in zip(center, radii, shape, strict=True)
        )
        grids = np.ogrid[window]
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii, strict=True)) < 1
        labels[window][inside] = i
    return labels


def one_transform(labels: Labels) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(labels == 0)


def windows(labels: Labels) -> NDArray[np.float32]:
    """The rival: one distance transform (package edt) in a window around each object, the two smallest kept."""
    import edt
    from scipy.ndimage import find_objects

    pad = int(REACH) + 1
    first = np.full(labels.shape, 1e9, np.float32)
    second = first.copy()
    for number, box in enumerate(find_objects(labels), 1):
        if box is not None:
            window = tuple(slice(max(0, side.start - pad), side.stop + pad) for side in box)
            distance = edt.edt(labels[window] != number)
            np.minimum(second[window], np.maximum(first[window], distance), out=second[window])
            np.minimum(first[window], distance, out=first[window])
    return _term(labels, first, second)


def loop(labels: Labels) -> NDArray[np.float32]:
    """What is usual: a distance transform of the whole image for each object, all kept and sorted."""
    from scipy.ndimage import distance_transform_edt

    numbers = np.unique(labels[labels > 0])
    distances = np.sort([distance_transform_edt(labels != number) for number in numbers], axis=0)
    return _term(labels, distances[0], distances[1])


def loop_from_a_few(shape: tuple[int, ...], count: int, radius: float, few: int = 7) -> dict[str, float]:
    """What the usual loop would take where it takes minutes, and more memory than there is: a few transforms, times."""
    from scipy.ndimage import distance_transform_edt

    labels, seconds = ellipses(shape, count, radius), []
    numbers = np.unique(labels[labels > 0])
    for number in numbers[:: len(numbers) // few][:few]:
        begun = time.process_time()
        distance_transform_edt(labels != number)
        seconds.append(time.process_time() - begun)
    whole = statistics.median(seconds) * len(numbers)
    return {
        "transforms": few,
        "of": len(numbers),
        "whole_s": round(whole, 1),
        "gb": round(len(numbers) * labels.size / 1.25e8, 1),
    }


def _term(labels: Labels, first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float32]:
    total = first + second
    near = (total <= REACH) & (labels == 0)
    term = np.zeros(labels.shape, np.float32)
    term[near] = W0 * np.exp(-(total[near].astype(np.float64) ** 2) / (2 * SIGMA_PX**2))
    return term


def measure(shape: tuple[int, ...], count: int, radius: float, methods: dict[str, Callable], runs: int) -> dict:
    labels = ellipses(shape, count, radius)
    times: dict[str, list[float]] = {name: [] for name in methods}
    answers = {name: method(labels) for name, method in methods.items() if runs > 1 or name == "septum"}
    for name, answer in answers.items():
        if name != "scipy transform":
            assert np.abs(answer - answers["septum"]).max() < 1e-5, f"{name} has another answer"
    del answers
    for _ in range(runs):
        for name, method in methods.items():
            begun = time.process_time()
            method(labels)
            times[name].append(time.process_time() - begun)
    base = statistics.median(times["scipy transform"])
    row: dict = {"shape": shape, "objects": count, "foreground": round(float((labels > 0).mean()), 2), "runs": runs}
    for name, values in times.items():
        middle = statistics.median(values)
        row[name] = {
            "median_s": round(middle, 4),
            "spread_s": [round(min(values), 4), round(max(values), 4)],
            "ratio": round(middle / base, 2),
            "ns_per_pixel": round(middle / labels.size * 1e9, 1),
        }
    print(f"{'x'.join(map(str, shape))}, {count} objects, {row['foreground']:.0%} foreground")
    for name in methods:
        figures = row[name]
        print(
            f"    {figures['median_s']:9.4f} s  {figures['ratio']:7.2f}x  {figures['ns_per_pixel']:7.1f} ns/px  {name}"
        )
    return row


def first_use(shape: str, rank: int) -> dict[str, float]:
    """Processor seconds of the first call of a process, with imports: with nothing compiled, and with the code kept."""
    command = [sys.executable, "-c", FIRST_USE.format(rank=rank, shape=shape)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        seconds = [
            float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
            for _ in range(4)
        ]
    return {"compiling_s": round(seconds[0], 2), "compiled_s": round(statistics.median(seconds[1:]), 2)}


def memory() -> float:
    """MiB that the border term of 8192 x 8192 pixels adds to what this process held before."""
    labels = ellipses((8192, 8192), 20000, 20)
    before = peak_mib()
    border_term(labels)
    return peak_mib() - before


def peak_mib() -> float:
    """Highest resident memory of this process. (Linux; `resource` would count the parent's as well.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    if "--memory" in sys.argv[1:]:
        print(memory())
        return
    border_term(np.eye(4, dtype=np.int32))  # compiled before anything is timed
    basic = {"scipy transform": one_transform, "septum": border_term}
    both = {**basic, "windows": windows}
    result: dict[str, object] = {
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    scenes = [
        ((512, 512), 50, 20, {**both, "loop over objects": loop}, 7),
        ((1024, 1024), 250, 20, both, 7),
        ((2048, 2048), 1000, 20, both, 7),
        ((4096, 4096), 4000, 20, both, 3),
        ((2048, 2048), 4000, 14, both, 3),
        ((2048, 2048), 16000, 6, both, 3),
        ((24, 384, 384), 600, 10, both, 3),
    ]
    rows = [measure(*scene) for scene in scenes]
    slow = loop_from_a_few((2048, 2048), 1000, 20)
    row = next(row for row in rows if row["shape"] == (2048, 2048) and row["objects"] == 1000)
    row["loop over objects, estimated"] = slow | {"times_septum": round(slow["whole_s"] / row["septum"]["median_s"])}
    print(f"2048x2048, 1000 objects, loop: {row['loop over objects, estimated']}")
    result["first_use_2d"], result["first_use_3d"] = first_use("2, 2", 2), first_use("1, 2, 2", 2)
    print(f"first use, with imports: {result['first_use_2d']} (3D: {result['first_use_3d']})")
    if "--large" in sys.argv[1:]:
        command = [sys.executable, __file__, "--memory"]
        added = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        result["peak_mib_added_8192"] = round(added)
        print(f"8192 x 8192: {added:.0f} MiB at most above the labels (the result itself has 256 MiB)")
        rows.append(measure((8192, 8192), 20000, 20, basic, 1))
    result["rows"] = rows
    if "--write" in sys.argv[1:]:
        path = Path(__file__).parent / "results" / "weightmap.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
