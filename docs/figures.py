"""Remake what the README and the pages show: pictures, help texts, and what commands print. ``make figures`` runs it.

    python docs/figures.py [NAME ...] [--check]

NAME is a picture, ``help``, ``README`` or a tutorial (``--help`` lists them); all where not given. Prints what was out
of date; ``--check`` writes nothing and ends with 1 where something is. Tutorials and README train models, which takes
some minutes each.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from pages import ROOT, renewed, rewritten, run, steps_of

DOCS = ROOT / "docs"
PICTURES = ("weight_map", "augmentation", "tiles", "objects", "worst_images", "membranes_picture")
PAGES = tuple(sorted(path.stem for path in (DOCS / "tutorials").glob("*.md") if path.stem != "index"))
DEMO = "demo.png"  # made by the demo that the README begins with
ROUNDING = 4  # gray levels: by so much a picture of predictions may differ on another processor


def alike(one: Path, other: Path) -> bool:
    """Return True if two pictures show the same, but for the rounding of another processor."""
    a, b = (np.asarray(Image.open(path)).astype(np.int16) for path in (one, other))
    return a.shape == b.shape and bool(np.abs(a - b).max() <= ROUNDING)


def picture(name: str) -> Callable[[bool], list[str]]:
    """Return a function that draws a picture of examples/ again and returns it if its pixels differ."""
    path = DOCS / "images" / f"{name.replace('_', '-')}.png"

    def remake(write: bool) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            new = Path(folder) / path.name
            script = [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(new)]
            subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
            same = path.is_file() and alike(path, new)
            if write and not same:
                path.write_bytes(new.read_bytes())
        return [] if same else [f"docs/images/{path.name}"]

    return remake


def help_texts(write: bool) -> list[str]:
    """Put the help of each command into its block of the page; return the headings whose blocks differ."""
    os.environ["COLUMNS"] = "80"
    page = DOCS / "reference" / "command-line.md"
    text, changed = page.read_text(encoding="utf-8"), []
    septum = Path(sys.executable).parent / "septum"

    def block(found: re.Match[str]) -> str:
        words = [str(septum), *found[2].split(), "--help"]
        now = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        if now != found[3]:
            changed.append(f"help of septum {found[2]}")
        return f"{found[1]}```text\n{now}\n```"

    new = re.sub(r"(## septum ([a-z -]+)\n\n)```text\n(.*?)\n```", block, text, flags=re.DOTALL)
    if write and changed:
        page.write_text(new, encoding="utf-8")
    return changed


def page(path: Path, *, before: str = "") -> Callable[[bool], list[str]]:
    """Return a function that runs the commands of a page and returns its lines that were not printed.

    Where all were, the lines are replaced by what was printed now: other numbers. `before` runs first.
    """

    def remake(write: bool) -> list[str]:
        text = path.read_text(encoding="utf-8")
        steps = [step for step in steps_of(text) if not (before and step.python)]  # those of the README are tested
        with tempfile.TemporaryDirectory() as folder:
            if before:
                subprocess.run(["bash", "-c", before], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            run(steps, Path(folder))
            if before and write:  # the picture of the README is one of the demo
                drawn = Path(folder) / "septum-demo" / "pictures" / "test-01.png"
                (DOCS / "images" / DEMO).write_bytes(drawn.read_bytes())
        missing = [f"{path.name}: {line}" for step in steps for line in renewed(step)[1]]
        if write and not missing:
            path.write_text(rewritten(text, steps), encoding="utf-8")
        return missing

    return remake


def main() -> int:
    """Remake what is named; return the exit code."""
    demo = f"{Path(sys.executable).parent / 'septum'} demo"
    things: dict[str, Callable[[bool], list[str]]] = {name: picture(name) for name in PICTURES}
    things["help"] = help_texts
    things |= {name: page(DOCS / "tutorials" / f"{name}.md") for name in PAGES}
    things["README"] = page(ROOT / "README.md", before=demo)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(things))
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(things):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(things)}")
    found = []
    for name in asked.names or things:
        old = things[name](not asked.check)
        print(f"{name}: {'out of date' if old else 'up to date'}", *old, sep="\n  ", flush=True)
        found += old
    made = {f"{name.replace('_', '-')}.png" for name in PICTURES} | {DEMO}
    for path in sorted((DOCS / "images").iterdir()):
        if path.name not in made:
            print(f"not made here, the page that shows it says how: docs/images/{path.name}")
    return 1 if asked.check and found else 0


if __name__ == "__main__":
    sys.exit(main())
