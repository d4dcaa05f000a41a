"""The code on the pages about scores runs and prints the stated results."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "reference" / "scores"


def test_code_on_the_pages_runs(capsys):
    pages = [page.read_text() for page in sorted(PAGES.glob("*.md"))]
    blocks = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/reference/scores", "exec"), {})  # noqa: S102 - our own pages
    printed = capsys.readouterr().out
    assert printed.startswith("2 1.0 0.7778\n0.7778\n")


def test_links_between_the_pages_exist():
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
