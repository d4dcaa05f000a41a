"""How long `septum --help` and `import septum` take: medians of nine fresh processes, and the slowest imports.

Usage: python benchmarks/startup.py [--write]      (--write stores benchmarks/results/startup.json)
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 9
LIMITS_S = {"septum --help": 0.6, "import septum": 0.3}
COMMANDS = {
    "python, nothing imported": [sys.executable, "-c", ""],
    "import septum": [sys.executable, "-c", "import septum"],
    "septum --help": [str(Path(sys.executable).with_name("septum")), "--help"],
    "septum train --help": [str(Path(sys.executable).with_name("septum")), "train", "--help"],
}


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def slowest_imports(count: int = 8) -> list[str]:
    """The modules whose own import costs most when the command line is loaded, as ``"12.3 ms  typer.main"``."""
    command = [sys.executable, "-X", "importtime", "-c", "import septum.app.cli"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    parts = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")][1:]
    costs = sorted(((int(own), name.strip()) for own, _, name in parts), reverse=True)
    return [f"{own / 1000:.1f} ms  {name}" for own, name in costs[:count]]


def main() -> None:
    result: dict[str, object] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "runs": RUNS,
    }
    medians = {}
    for name, command in COMMANDS.items():
        seconds(command)  # once, so that the byte code and the disk cache are there
        medians[name] = round(statistics.median(seconds(command) for _ in range(RUNS)), 3)
        limit = f"  (limit {LIMITS_S[name]} s)" if name in LIMITS_S else ""
        print(f"{medians[name]:.3f} s  {name}{limit}")
    result["median_s"] = medians
    result["limits_s"] = LIMITS_S
    print("slowest imports of the command line, without what they import themselves:")
    for line in slowest_imports():
        print(f"  {line}")
    if "--write" in sys.argv[1:]:
        path = Path(__file__).parent / "results" / "startup.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written: {path}")
    if any(medians[name] > limit for name, limit in LIMITS_S.items()):
        raise SystemExit("too slow")


if __name__ == "__main__":
    main()
