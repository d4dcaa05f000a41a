"""Processor seconds of PyTorch divided by those of Septum's engine, by network width: figures for the rule of which
code computes predictions (`septum.prediction.backend`).

    OMP_NUM_THREADS=1 python benchmarks/engine_rule.py [images|volumes] [--write]

Medians of seven tiles each, in turns, one thread. Where the processor has AVX-512, a second process keeps PyTorch,
numba and the engine to AVX2. Without a kind, images and volumes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "engine_rule.json"
# Widths, and padding, depths and sides of tiles; volumes are those of `auto` for the hippocampus and for coarse planes.
WIDTHS = {"images": (2, 4, 6, 8, 12, 16, 20, 24, 32), "volumes": (4, 8, 16, 32)}
CASES: dict[str, list[tuple[Any, tuple[int, ...], tuple[int, ...]]]] = {
    "images": [("valid", (4, 4), (572, 572)), ("same", (4, 4), (256, 256))],
    "volumes": [("same", (2, 2, 2), (36, 52, 36)), ("same", (1, 3, 3), (16, 128, 128))],
}
ROUNDS = 7
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+bmi,+bmi2,+f16c",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}


def keep_to_avx2() -> None:
    """Hide AVX-512 from the engine, which asks LLVM for the features of the processor when it is imported."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    for name in features:
        if name.startswith(("avx512", "amx", "avx10")):
            features[name] = False
    llvm.get_host_cpu_features = lambda: features


def ratios(kind: str) -> dict[str, dict[str, float]]:
    """Return the ratio of processor seconds of a kind of images by tile and width, in this process."""
    import torch

    from septum.cpu.inference import Engine
    from septum.nn.unet import UNet, UNetSettings, for_prediction

    found: dict[str, dict[str, float]] = {}
    for padding, depths, sides in CASES[kind]:
        for width in WIDTHS[kind]:
            shape = UNetSettings(width=width, padding=padding, depths=depths, batch_norm=True)
            network = for_prediction(UNet(shape, seed=0))
            x = torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(1))
            programs = (network, Engine(network))
            times: tuple[list[float], list[float]] = ([], [])
            with torch.inference_mode():
                for number in range(ROUNDS + 1):
                    for program, seconds in zip(programs, times, strict=True):
                        begin = time.process_time()
                        program(x)
                        if number:  # the first sets things up
                            seconds.append(time.process_time() - begin)
            torch_s, engine_s = map(statistics.median, times)
            tile = f"{padding}, {' x '.join(map(str, sides))}"
            found.setdefault(tile, {})[str(width)] = round(torch_s / engine_s, 2)
    return found


def main() -> None:
    """Measure, print and, with ``--write``, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*CASES, []], help="kinds of images; without, all")
    parser.add_argument("--write", action="store_true", help=f"store {RESULTS.name}")
    parser.add_argument("--avx2", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    kinds = given.kinds or list(CASES)
    if given.avx2:
        keep_to_avx2()
        print(json.dumps({tile: row for kind in kinds for tile, row in ratios(kind).items()}))
        return
    import torch

    vectors = torch.backends.cpu.get_cpu_capability()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if given.write else {}  # other kinds stay
    found.setdefault(vectors, {}).update({tile: row for kind in kinds for tile, row in ratios(kind).items()})
    if vectors == "AVX512":
        command = [sys.executable, __file__, *kinds, "--avx2"]
        done = subprocess.run(command, env=os.environ | AVX2, capture_output=True, text=True, check=True)
        found.setdefault("AVX2", {}).update(json.loads(done.stdout))
    text = json.dumps({"command": "python benchmarks/engine_rule.py"} | found, indent=1)
    print(text)
    if given.write:
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
