"""Tiled prediction of large images: Septum beside the sliding windows of MONAI and nnU-Net. Linux, about 35 minutes.

Usage: python benchmarks/tiling.py [--quick] [--runs N] [--skip-large]
    --quick       2048 x 2048 pixels, one run, nothing is stored: does everything work?
    --runs N      timed runs of each method, taking turns (5)
    --skip-large  leave out 8192 x 8192
Figures go to benchmarks/results/tiling.json. The peers are no dependencies of Septum; one that is missing is left out:

    python3.11 -m venv peers && peers/bin/pip install -r requirements.lock
    peers/bin/pip install --no-deps --no-build-isolation --editable .
    peers/bin/pip install torch==2.13.0 monai nnunetv2
    peers/bin/python benchmarks/tiling.py

Every method runs in a process of its own, from the array of the image to the array of the second class's probability
(`tiling_worker.py` has the calls). Each has its usual kind of network, a U-Net of four poolings and 16 features, all
trained alike; Septum's network also runs in MONAI's windows, so that the tiling alone differs.
`peak` is the highest resident memory above that before the call, when libraries, network and image were there already.
`seam` is the difference from the same network applied to the whole image at once.
At 8192 x 8192 each goes from a TIFF file to a TIFF file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tiling_worker import METHODS, shape_facts, train

WORKER = Path(__file__).with_name("tiling_worker.py")
RESULTS = Path(__file__).parent / "results" / "tiling.json"
PACKAGES = {"monai": ["monai"], "nnunet": ["nnunetv2"], "septum in monai": ["monai"], "septum": []}
LARGE = [
    ("Septum", "files", None),
    ("Septum", "files", "1G"),
    ("Septum", "run", None),
    ("Septum's network in MONAI's windows, overlap 0.25", "files", None),
    ("nnU-Net, step 0.5", "files", None),
]


class Worker:
    """A process that knows one method; see `tiling_worker.py`."""

    def __init__(self, name: str, folder: Path) -> None:
        # Threads that wait spin only briefly, as in Septum's command line: this helps all methods on a busy machine.
        environment = {"GOMP_SPINCOUNT": "10000", **os.environ}
        urgent = ["nice", "-n", "-15"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            [*urgent, sys.executable, str(WORKER), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "worker.log").open("a"),
            text=True,
            env=environment,
        )
        self._reply()

    def ask(self, **task: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(task), file=self.process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": "the process ended; see worker.log"}

    def end(self) -> None:
        self.process.communicate()


def scene(folder: Path, side: int) -> Path:
    """A picture of `side` pixels of made cells: sixteen fields of 512 x 512, laid at random and mirrored."""
    from septum.demo.synthetic_cells import generate
    from septum.seeding import generator

    draw = generator(0, "tiling benchmark", side)
    fields = [generate(100 + seed, shape=(512, 512))[0][0].astype(np.uint8) for seed in range(16)]
    rows = [
        [fields[draw.integers(16)][:: draw.choice([-1, 1])] for _ in range(side // 512)] for _ in range(side // 512)
    ]
    path = folder / f"{side}.npy"
    np.save(path, np.block(rows))
    return path


def known() -> list[str]:
    """The methods whose packages are here; says which are not."""
    missing = {family for family, needed in PACKAGES.items() if any(not importlib.util.find_spec(p) for p in needed)}
    for name, (family, _) in METHODS.items():
        if family in missing:
            print(f"left out: {name} ({', '.join(PACKAGES[family])} is not installed)")
    return [name for name, (family, _) in METHODS.items() if family not in missing]


def timed(names: list[str], image: Path, folder: Path, runs: int) -> dict[str, Any]:
    """Seconds and memory of all methods, taking turns; ratios are of runs of the same turn."""
    workers = {name: Worker(name, folder) for name in names}
    turns = []
    for number in range(runs):
        turns.append({name: worker.ask(do="run", image=str(image)) for name, worker in workers.items()})
        print(f"turn {number + 1}: " + ", ".join(f"{t['seconds']:.1f}" for t in turns[-1].values()), flush=True)
    rows = {}
    for name, worker in workers.items():
        worker.end()
        seconds = [turn[name]["seconds"] for turn in turns]
        ratios = [turn[name]["seconds"] / turn["Septum"]["seconds"] for turn in turns]
        first = turns[0][name]
        rows[name] = {
            "median_s": round(statistics.median(seconds), 2),
            "spread_s": [min(seconds), max(seconds)],
            "times_septum": round(statistics.median(ratios), 2),
            "times_septum_spread": [round(min(ratios), 2), round(max(ratios), 2)],
            "peak_mib": first["peak_mib"],
            "process_mib": first["process_mib"],
            "computed_pixels_per_pixel": first["computed"],
            **shape_facts(name),
        }
        flop = rows[name]["flop_per_input_pixel"] * first["computed"] / 1000
        print(
            f"{rows[name]['median_s']:8.2f} s {rows[name]['times_septum']:6.2f}x {first['peak_mib']:6.0f} MiB "
            f"{flop:5.0f} kFLOP a pixel  {name}"
        )
    return rows


def seams(names: list[str], image: Path, folder: Path) -> dict[str, Any]:
    rows = {}
    for name in names:
        worker = Worker(name, folder)
        rows[name] = worker.ask(do="seam", image=str(image))
        worker.end()
        print(f"  max {rows[name]['max']:.1e}  mean {rows[name]['mean']:.1e}  {name}", flush=True)
    return rows


def large(names: list[str], image: Path, folder: Path) -> list[dict[str, Any]]:
    """One run of each; the windows' memory does not depend on their overlap."""
    import tifffile

    tifffile.imwrite(folder / "large.tif", np.load(image), tile=(512, 512))
    rows = []
    for name, do, memory in LARGE:
        if name in names:
            worker = Worker(name, folder)
            given = str(image if do == "run" else folder / "large.tif")
            rows.append({"method": name, "do": do, "memory": memory, **worker.ask(do=do, image=given, memory=memory)})
            worker.end()
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(usage=__doc__)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--skip-large", action="store_true")
    chosen = options.parse_args()
    names = known()
    packages = ["torch", "numpy", "septum", *(p for p in ("monai", "nnunetv2") if importlib.util.find_spec(p))]
    with tempfile.TemporaryDirectory(prefix="septum-tiling-") as temporary:
        folder = Path(temporary)
        for family in sorted({METHODS[name][0].removesuffix(" in monai") for name in names}):
            train(folder, family)
        sides = (2048, 2048, 2048) if chosen.quick else (4096, 2048, 8192)
        images = {side: scene(folder, side) for side in set(sides)}
        result: dict[str, Any] = {
            "python": platform.python_version(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "packages": {p: importlib.metadata.version(p) for p in packages},
            "runs": 1 if chosen.quick else chosen.runs,
        }
        print(f"{sides[0]} x {sides[0]} pixels")
        result[f"timed_{sides[0]}"] = timed(names, images[sides[0]], folder, result["runs"])
        print(f"difference from the whole image at {sides[1]} x {sides[1]} pixels")
        result[f"seam_{sides[1]}"] = seams(names, images[sides[1]], folder)
        if not chosen.skip_large:
            print(f"{sides[2]} x {sides[2]} pixels, from file to file")
            result[f"large_{sides[2]}"] = large(names, images[sides[2]], folder)
        if not chosen.quick:
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
