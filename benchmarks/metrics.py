"""Time and memory of the scores, beside the programs that people use for them.

All in one run: objects of a 4096 x 4096 image (about 5,000), and the warping of a 512 x 512 section.
The peers are scikit-image, and StarDist from wherever it is installed: name a Python that has it. ::

    python -m venv peers && peers/bin/pip install stardist
    .venv/bin/python benchmarks/metrics.py --stardist peers/bin/python

Each figure is the least of several repeats, on one thread; the numbers go to benchmarks/results/metrics.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import numpy as np
from numpy.typing import NDArray

from septum.metrics import contingency, information, isbi, matching, rand, warping

SIDE, CELLS = 4096, 71
PEER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from stardist.matching import matching
truth, predicted = (np.load(f) for f in sys.argv[1:3])
small = truth[:64, :64].copy()
matching(small, small, thresh=0.5)  # compiled before the clock starts
times = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    found = matching(truth, predicted, thresh=0.5)
    times.append(time.perf_counter() - start)
import stardist
print(json.dumps({"seconds": min(times), "tp": int(found.tp), "fp": int(found.fp), "version": stardist.__version__}))
"""


def cells(seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Truth of 71 x 71 cells with borders, and the same shifted by (3, 2) with 0.2 % of its pixels missing."""
    from scipy.spatial import cKDTree

    random = np.random.default_rng(seed)
    side = SIDE / CELLS
    grid = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij"), -1).reshape(-1, 2)
    tree = cKDTree((grid + random.random((CELLS**2, 2))) * side)
    truth = np.empty((SIDE, SIDE), np.int32)
    for y in range(0, SIDE, 256):
        place = np.stack(np.mgrid[y : y + 256, :SIDE], -1).reshape(-1, 2)
        truth[y : y + 256] = tree.query(place)[1].reshape(256, SIDE) + 1
    border = np.zeros(truth.shape, bool)
    border[:, 1:] |= truth[:, 1:] != truth[:, :-1]
    border[1:] |= truth[1:] != truth[:-1]
    truth[border] = 0
    predicted = np.roll(truth, (3, 2), (0, 1))
    predicted[random.random(truth.shape) < 0.002] = 0
    return truth, predicted


def section(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Make a 512 x 512 section of about 150 cells, and a blurred, noisy probability map of it."""
    from scipy import ndimage
    from scipy.spatial import cKDTree

    random = np.random.default_rng(seed)
    place = np.stack(np.mgrid[:512, :512], -1).reshape(-1, 2)
    nearest = cKDTree(random.random((150, 2)) * 512).query(place)[1].reshape(512, 512)
    truth = ndimage.maximum_filter(nearest, 3) == ndimage.minimum_filter(nearest, 3)
    noise = ndimage.gaussian_filter(random.standard_normal((512, 512)), 2)
    soft = ndimage.gaussian_filter(truth.astype(float), 2) + 0.12 * noise / noise.std()
    return truth, np.clip(soft, 0, 1).astype(np.float32)


def least(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most memory that `work` held at a time, above what was there (numpy reports its arrays)."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def stardist(python: Path, truth: NDArray[np.int32], predicted: NDArray[np.int32], repeats: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("truth.npy", "predicted.npy")]
        np.save(files[0], truth)
        np.save(files[1], predicted)
        command = [str(python), "-c", PEER, *files, str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def pair_scores(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> contingency.Table:
    table = contingency.table(truth, predicted)
    rand.score(table)
    information.score(table)
    return table


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--stardist", type=Path, metavar="PYTHON", help="a Python that has StarDist")
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    import skimage
    from skimage.metrics import adapted_rand_error

    truth, predicted = cells(0)
    pixels, objects = truth.size, int(truth.max())
    ours_rand = least(
        lambda: (rand.score(t := contingency.table(truth, predicted)), information.score(t)), given.repeats
    )
    theirs_rand = least(lambda: adapted_rand_error(truth, predicted), given.repeats)
    scores = matching.scores(contingency.table(truth, predicted))
    ours_ten = least(lambda: matching.scores(contingency.table(truth, predicted)), given.repeats)
    shared = peak_bytes(lambda: matching.scores(pair_scores(truth, predicted)))
    peer_memory = peak_bytes(lambda: adapted_rand_error(truth, predicted))
    inside, soft = section(0)
    isbi.section(inside[:32, :32], soft[:32, :32])  # compiled before the clock starts

    def warp() -> None:
        for threshold in isbi.THRESHOLDS[: isbi.WARPING_THRESHOLDS]:
            warping.kinds(warping.warp(inside, soft, threshold))

    results = {
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        "image": {"side": SIDE, "objects": objects},
        "rand_and_information": {
            "septum_s": ours_rand,
            "skimage_adapted_rand_error_s": theirs_rand,
            "skimage_version": skimage.__version__,
            "times_faster": theirs_rand / ours_rand,
        },
        "matching": {"septum_ten_thresholds_s": ours_ten, "tp_at_0.5": scores[0].tp, "fp_at_0.5": scores[0].fp},
        "memory": {
            "septum_all_scores_bytes_per_pixel": shared / pixels,
            "skimage_adapted_rand_error_bytes_per_pixel": peer_memory / pixels,
        },
        "section_512": {
            "warping_ten_thresholds_s": least(warp, given.repeats),
            "all_isbi_scores_s": least(lambda: isbi.section(inside, soft), given.repeats),
        },
    }
    if given.stardist:
        peer = stardist(given.stardist, truth, predicted, given.repeats)
        assert (peer["tp"], peer["fp"]) == (scores[0].tp, scores[0].fp), "the two disagree"
        results["matching"] |= {
            "stardist_one_threshold_s": peer["seconds"],
            "stardist_version": peer["version"],
            "times_faster": peer["seconds"] / ours_ten,
        }
    text = json.dumps(results, indent=1)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
