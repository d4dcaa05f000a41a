"""What the paper does not publish, searched on held-out sections: learning rate and class balance of preset paper.

    python benchmarks/paper_search.py DATA OUT [--steps 2000] [--width 64] [--rates 1e-4 3e-4 1e-3 3e-3 1e-2]

DATA is the ISBI 2012 data as `septum data` lays them out. Each choice trains on the first fold's training sections and
predicts its held-out block, which no figure of docs/reproduction.md is made with alone; all else is preset paper. The
full width needs a GPU; a narrow network says which rates diverge. What is done is not done again. Figures go to
benchmarks/results/paper_search.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from septum.errors import SeptumError
from septum.jobs.check import check
from septum.jobs.evaluate import EvaluateSettings, evaluate
from septum.jobs.facts import find_facts
from septum.jobs.load import load_samples
from septum.jobs.plan import make_plan
from septum.jobs.predict import predict_files
from septum.jobs.predict_settings import PredictSettings
from septum.jobs.protocols import PROTOCOLS, Part, find_data, section_parts
from septum.jobs.records import Trained
from septum.jobs.split import SplitSettings
from septum.jobs.train import train
from septum.jobs.train_settings import TrainSettings

RESULTS = Path(__file__).parent / "results" / "paper_search.json"
SCORES = ("V_Rand", "V_Info", "pixel error")


def choose(folder: Path, rate: float, balance: float, width: int) -> None:
    """Write the plan of one choice into a run folder: a training follows the plan that it finds there."""
    report = check([folder / "data"], kind="classes")
    facts = find_facts(list(load_samples(report)), "classes", classes=2, gpu=False)
    plan, reasons = make_plan(facts, preset="paper", width=width)
    optimizer = plan.optimizer.model_copy(update={"rate": rate})
    weights = plan.weights.model_copy(update={"balance": balance})
    plan = plan.model_copy(update={"optimizer": optimizer, "weights": weights})
    (folder / "run").mkdir(exist_ok=True)
    said = {
        "plan": plan.model_dump(mode="json"),
        "reasons": [*reasons, f"rate {rate:g}, balance {balance:g}: searched"],
    }
    (folder / "run" / "plan.json").write_text(json.dumps(said, indent=2) + "\n")


def measure(folder: Path, part: Part, steps: int, width: int) -> dict[str, Any]:
    """Train one choice and score its held-out block; a loss that does not stay finite is a result, too."""
    settings = TrainSettings(
        data=(folder / "data",),
        out=folder / "run",
        preset="paper",
        steps=steps,
        kind="classes",
        split=SplitSettings(names=()),
        width=width,
    )
    try:
        (trained,) = [r for r in train(settings) if isinstance(r, Trained)]
    except SeptumError as error:
        return {"failed": error.given}
    asked = PredictSettings(
        model=trained.model,
        inputs=tuple(map(str, part.inputs)),
        out=folder / "predicted",
        output="probabilities",
        format="tif",
    )
    list(predict_files(asked))
    for source, place in part.truth:
        (folder / "truth").mkdir(exist_ok=True)
        shutil.copyfile(source, folder / "truth" / place)
    found = evaluate(EvaluateSettings(predicted=(folder / "predicted",), truth=folder / "truth", metrics=("isbi",)))
    values = {s.name: s.value for s in found.results[0].scores}
    return {name: round(values[name], 4) for name in SCORES} | {"seconds": round(trained.seconds, 1)}


def main() -> None:
    """Measure every choice that is not kept yet, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--balances", type=float, nargs="+", default=[10.0])
    asked = parser.parse_args()
    part = section_parts(find_data(PROTOCOLS["isbi2012"], asked.data), 5)[0]
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for rate, balance in product(asked.rates, asked.balances):
        key = f"width {asked.width}, {asked.steps} steps, rate {rate:g}, balance {balance:g}"
        folder = asked.out / key.replace(", ", "-").replace(" ", "")
        if key not in table:
            if not (folder / "run" / "plan.json").exists():
                for source, place in part.training:
                    (folder / "data" / place).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, folder / "data" / place)
                choose(folder, rate, balance, asked.width)
            table[key] = measure(folder, part, asked.steps, asked.width)
            RESULTS.write_text(json.dumps(table, indent=1) + "\n")
        print(key, table[key], flush=True)


if __name__ == "__main__":
    main()
