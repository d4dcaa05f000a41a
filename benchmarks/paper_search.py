"""Search on held-out sections for values that the paper does not publish: learning rate, class balance, sampler.

    python benchmarks/paper_search.py DATA OUT [--steps 2000] [--width 64] [--rates 1e-4 3e-4 1e-3 3e-3 1e-2]

DATA is the ISBI 2012 data as `septum fetch isbi2012` lays it out. One value after the other is searched: the best rate
by V_rand is kept while balances are tried, the best of both while samplers are tried. Each choice trains on the first
fold's training sections and predicts its held-out block, which is a small part of the sections behind
docs/explanation/reproduction.md; all other values are those of preset paper. The full width needs a GPU; a narrow
network shows which rates diverge. Finished choices are not computed again. Figures go to
benchmarks/results/paper_search.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from settle import train_on

from septum.errors import SeptumError
from septum.evaluation.evaluate import EvaluateSettings, evaluate
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.reproduce.protocols import PROTOCOLS, ProtocolPart, find_data, section_parts

RESULTS = Path(__file__).parent / "results" / "paper_search.json"
SCORES = ("V_Rand", "V_Info", "pixel error")


def measure(folder: Path, part: ProtocolPart, values: tuple[str, ...], *, steps: int, width: int) -> dict[str, Any]:
    """Train one choice and score its held-out block; a loss that does not stay finite is a result, too."""
    for source, place in part.truth:
        (folder / "truth" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / "truth" / place)
    try:
        done = train_on(part, folder, preset="paper", steps=steps, width=width, set=values)
    except SeptumError as error:
        return {"failed": error.given}
    asked = PredictSettings(
        model=done.model,
        inputs=tuple(map(str, part.inputs)),
        out=folder / "predicted",
        output="probabilities",
        format="tif",
    )
    list(predict_files(asked))
    found = evaluate(EvaluateSettings(predicted=(folder / "predicted",), truth=folder / "truth", metrics=("isbi",)))
    scores = {s.name: s.value for s in found.results[0].scores}
    return {name: round(scores[name], 4) for name in SCORES} | {"seconds": round(done.seconds, 1)}


def main() -> None:
    """Measure every choice that is not kept yet, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--balances", type=float, nargs="+", default=[10.0, 1.0])
    parser.add_argument("--samplers", nargs="+", default=["uniform", "objects"])
    asked = parser.parse_args()
    part = section_parts(find_data(PROTOCOLS["isbi2012"], asked.data), 5)[0]
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    best = {"optimizer.rate": asked.rates[0], "weights.balance": asked.balances[0], "sampler": asked.samplers[0]}
    for name, choices in zip(best, (asked.rates, asked.balances, asked.samplers), strict=True):
        found = {}
        for choice in choices:
            values = tuple(f"{key}={value}" for key, value in (best | {name: choice}).items())
            key = ", ".join((f"width {asked.width}", f"{asked.steps} steps", *values))
            if key not in table:
                folder = asked.out / key.replace(", ", "-").replace(" ", "")
                table[key] = measure(folder, part, values, steps=asked.steps, width=asked.width)
                RESULTS.write_text(json.dumps(table, indent=1) + "\n")
            print(key, table[key], flush=True)
            found[choice] = table[key].get("V_Rand", 0.0)
        best[name] = max(found, key=found.__getitem__)
    print("best:", best)


if __name__ == "__main__":
    main()
