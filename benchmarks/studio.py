"""Wall times of the studio, seen from outside: its server in a process of its own, asked as the page asks.

    python benchmarks/studio.py [--out FOLDER] [--side 20000] [--write]

A folder gets generated cells and a large OME-Zarr image, in which only a part is not zero. Measured are: opening the
large image and the tiles of the first window; saving a stroke; the first prediction after the second object, from
nothing and from a model that comes with Septum; the refresh of 1024 x 1024 pixels; and the memory of the server. What
else runs on the computer changes all of it: the load at the beginning is kept with the figures
(benchmarks/results/studio.json), and the aims are those of an idle computer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from annotator_learners import SIDE, Studio
from annotator_person import background_band

from septum import seeding
from septum.demo.synthetic_cells import generate
from septum.io.files import write_image
from septum.io.zarr_write import create_zarr

RESULTS = Path(__file__).parent / "results" / "studio.json"
AIMS = {
    "opening the large image, and the tiles of a window, s": 2.0,
    "saving a stroke, s": 0.2,
    "first prediction from nothing, s": 30.0,
    "first prediction from a model, s": 10.0,
    "refresh of 1024 x 1024 pixels, s": 2.0,
    "memory of the server, MB": 500.0,
}
WINDOW = 8  # tiles of a window
REPEATS = 5


def make(folder: Path, side: int) -> dict[str, np.ndarray[Any, Any]]:
    """Write the images; return the true objects of the cells."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    image, labels = generate(seeding.number(0, "studio"), shape=(1024, 1024))
    write_image(folder / "images" / "cells.tif", image.astype(np.uint8), axes="CYX")
    large = create_zarr(folder / "images" / "slide.ome.zarr", shape=(side, side), axes="YX", dtype=np.uint8)
    middle = side // 2
    part = tuple(slice(middle - 512, middle + 512) for _ in "YX")
    large.write(part, image[0].astype(np.uint8))
    return {"cells.tif": labels.astype(np.int32)}


def timed(do: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    begin = time.monotonic()
    do()
    return time.monotonic() - begin


def memory_mb(process: int) -> float:
    """Return the largest memory that a process has had, in megabytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def first_prediction(folder: Path, truth: np.ndarray[Any, Any], start: str, found: dict[str, float]) -> None:
    """Paint two objects and some background; measure until outlines are there, then the refresh."""
    studio = Studio(folder, start, 1.0)
    try:
        from annotator_person import Person

        person = Person(studio, {"cells.tif": truth})
        studio.labels("cells.tif")
        studio.stroke("cells.tif", background_band(truth))
        ids, sizes = np.unique(truth[truth > 0], return_counts=True)
        for number in ids[np.argsort(-sizes)][:2]:
            points, _ = person.drawn(truth == number)
            begin = time.monotonic()
            studio.outline("cells.tif", points)
        studio.show("cells.tif")
        name = "nothing" if start == "nothing" else "a model"
        found[f"first prediction from {name}, s"] = time.monotonic() - begin
        times = [timed(lambda: studio.show("cells.tif")) for _ in range(REPEATS)]
        found["refresh of 1024 x 1024 pixels, s"] = statistics.median(times)
    finally:
        studio.close()


def of_the_server(folder: Path, truth: np.ndarray[Any, Any], side: int, found: dict[str, float]) -> None:
    """Measure what the server does alone, before anything is learned."""
    studio = Studio(folder, "nothing", 1.0)
    try:
        middle = side // 2 // SIDE

        def window() -> None:
            studio.labels_of("slide.ome.zarr", middle, middle)
            for n in range(WINDOW):
                studio.pixels("slide.ome.zarr", middle + n // 4, middle + n % 4)

        found["opening the large image, and the tiles of a window, s"] = timed(window)
        band = background_band(truth)
        times = []
        for n in range(REPEATS):
            shifted = np.roll(band, 2 * n, axis=0) & (truth == 0)
            times.append(timed(lambda pixels=shifted: studio.stroke("cells.tif", pixels)))
        found["saving a stroke, s"] = statistics.median(times)
        found["memory of the server, MB"] = memory_mb(studio.process)
    finally:
        studio.close()


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the images; a temporary one if it is left out")
    parser.add_argument("--side", type=int, default=20_000, help="sides of the large image in pixels")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        truth = make(out / "cells", asked.side)["cells.tif"]
        of_the_server(out / "cells", truth, asked.side, found)
        for start in ("nothing", "a model that fits"):
            shutil.rmtree(out / "cells" / ".studio", ignore_errors=True)
            shutil.rmtree(out / "cells" / "masks", ignore_errors=True)
            shutil.rmtree(out / "cells" / "runs", ignore_errors=True)
            first_prediction(out / "cells", truth, start, found)
    for name, aim in AIMS.items():
        print(f"{name:55} {found[name]:8.2f}   aim {aim:g}")
    print(f"load average at the beginning: {load:.1f}; {os.cpu_count()} processors")
    if asked.write:
        rounded = {name: round(value, 3) for name, value in found.items()}
        about = {"load average": round(load, 1), "processors": os.cpu_count(), "processor": platform.processor()}
        RESULTS.write_text(json.dumps({"figures": rounded, "aims": AIMS, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
