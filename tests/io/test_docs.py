"""The code in the pages runs."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "coming-from",
    "exports",
    "folds",
    "formats",
    "model-file",
    "next",
    "onnx",
    "prediction",
    "python",
    "weight-map",
)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_in_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = DOCS.rglob(f"{page}.md")
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    with warnings.catch_warnings():
        for block in blocks:
            exec(compile(block, page, "exec"), {})  # noqa: S102 - our own pages
