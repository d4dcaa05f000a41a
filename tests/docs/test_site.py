"""The site is complete: every page is in its navigation, every public module of arrays and metrics in the reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEXES = sorted(DOCS.rglob("index.md"))


@pytest.mark.parametrize("index", INDEXES, ids=lambda path: path.parent.name)
def test_each_index_lists_every_page_of_its_folder(index: Path) -> None:
    listed = set(re.findall(r"\]\(([^)#]+)\)", index.read_text(encoding="utf-8")))
    pages = {path.name for path in index.parent.glob("*.md")} - {"index.md"}
    if index.parent == DOCS:
        pages = {f"../{name.upper()}.md" for name in ("changelog", "contributing")}  # their text stands in the root
    pages |= {f"{path.parent.name}/index.md" for path in index.parent.glob("*/index.md")}
    assert pages <= listed


def test_pages_lie_in_the_folder_of_their_kind() -> None:
    assert {path.name for path in DOCS.glob("*.md")} == {"index.md", "changes.md", "contributing.md"}
    assert {path.parent.name for path in DOCS.glob("*/index.md")} == {"tutorials", "how-to", "reference", "explanation"}


def test_the_reference_names_every_public_module_of_arrays_and_metrics() -> None:
    inside = {"septum.arrays.learned", "septum.arrays.separability", "septum.metrics.thinning"}
    named = set(re.findall(r"^   (septum\.[\w.]+)$", (DOCS / "reference" / "python.md").read_text(), re.MULTILINE))
    public = {
        f"septum.{room}.{path.stem}"
        for room in ("arrays", "metrics")
        for path in (ROOT / "src" / "septum" / room).glob("[a-z]*.py")
    }
    assert public - named == inside


def test_the_pictures_of_the_gallery_are_those_that_make_figures_draws() -> None:
    shown = set(re.findall(r"images/([\w-]+)\.png", (DOCS / "explanation" / "gallery.md").read_text(encoding="utf-8")))
    listed = re.search(r"^PICTURES = \((.*?)\)", (DOCS / "figures.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed is not None
    drawn = set(re.findall(r'"(\w+)"', listed[1]))
    assert {name.replace("-", "_") for name in shown} == drawn - {"membranes_picture"}  # shown by a tutorial
    assert all((ROOT / "examples" / f"{name}.py").is_file() for name in drawn)
