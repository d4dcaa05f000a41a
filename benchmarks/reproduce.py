"""Keep the figures of reproductions, and print them as the table of docs/explanation/reproduction.md.

    septum reproduce dic-hela --data DATA --budget 1h -o OUT/dic-hela
    python benchmarks/reproduce.py OUT/dic-hela [OUT/isbi2012 ...]

Each folder's ``reproduction.json`` is kept as benchmarks/results/reproduce/FOLDER.json, with the paths of this machine
shortened to DATA and OUT. Without a folder the table is printed from what is kept.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "reproduce"


def keep(folder: Path) -> None:
    """Keep the figures of one reproduction."""
    text = (folder / "reproduction.json").read_text(encoding="utf-8")
    text = re.sub(r"(--data )\S+", r"\1DATA", text)
    text = re.sub(r"(--out )\S*?([^/\s]+)(?=[\s\"])", r"\1OUT/\2", text)
    text = re.sub(r"(--truth )\S+", r"\1TRUTH", text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{folder.name}.json").write_text(text, encoding="utf-8")


def number(value: float | None) -> str:
    """Return a figure as the table shows it."""
    return "" if value is None else f"{value:.3g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def rows(name: str, found: dict[str, Any]) -> list[str]:
    """Return the lines of the table for one reproduction."""
    settings, lines = found["settings"], []
    how = (
        f"{settings['preset']}, {settings['variant'] or 'silver'}"
        if settings["name"] != "isbi2012"
        else settings["preset"]
    )
    how += f", width {settings['width']}" if settings["width"] else ""
    steps = sum(t["steps"] for t in found["trainings"])
    for result in found["results"]:
        for line in result["lines"]:
            interval = "" if line["low"] is None else f" ({number(line['low'])}-{number(line['high'])})"
            many = f"{result['images']} images" + (f", {result['objects']} objects" if result["objects"] else "")
            lines.append(
                f"| {name} | {how} | {steps} | {many} | {line['score']} | "
                f"{number(line['value'])}{interval} | {number(line['unet_2015'])} | {number(line['next_best'])} |"
            )
    return lines


def main(folders: list[Path]) -> None:
    """Keep what is given, and print what is kept."""
    for folder in folders:
        keep(folder)
    print("| run | preset, truth | steps | scored | score | ours (95 %) | U-Net 2015 | next best then |")
    print("|---|---|---|---|---|---|---|---|")
    for path in sorted(RESULTS.glob("*.json")):
        print("\n".join(rows(path.stem, json.loads(path.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
