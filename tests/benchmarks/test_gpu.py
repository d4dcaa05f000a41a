"""The command of the GPU measurements runs without a GPU, keeps its time, and writes what it has."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUESTIONS = ("peak", "steps", "compile", "order", "batch", "images", "width", "prediction", "peers")

pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="benchmarks are not part of a source package")


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def run(*options: str) -> dict[str, Any]:
        out = tmp_path / "gpu.json"
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--out", str(out), *options])
        runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return run


def test_the_command_for_gpus_asks_each_question(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask("--minutes", "60")  # it takes seconds, and may wait for other programs
    assert tuple(found["questions"]) == QUESTIONS
    rows = {q: {row["name"]: row for row in one["rows"]} for q, one in found["questions"].items()}
    assert found["quick"] and found["peak_tflops"] > 0
    assert set(rows["steps"]) == {"auto", "auto, volumes", "paper"}
    assert rows["steps"]["auto"]["network"]["batch_norm"] and rows["steps"]["auto"]["planned_bytes"] > 0
    assert 0 < rows["steps"]["paper"]["share_of_peak"] < 1
    assert len(rows["order"]) == 4 and len(rows["batch"]) == 2 and len(rows["width"]) == 2
    assert rows["images"]["on the device"]["times"] == 1 and rows["images"]["on the processor"]["times"] > 0
    assert {"tile 60, plain", "image 512 x 512"} <= set(rows["prediction"])
    # A peer is measured, or the reason for its absence is given; everything else is measured.
    for question, one in rows.items():
        for name, row in one.items():
            assert row.get("median_s", 0) > 0 or (question == "peers" and row["left_out"]), (question, name)


def test_what_has_no_time_is_left_out_with_the_reason(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask("--minutes", "0", "--questions", "peak,width")
    assert tuple(found["questions"]) == ("peak", "width")
    assert found["peak_tflops"] is None
    for one in found["questions"].values():
        assert all("time of this question is over" in row["left_out"] for row in one["rows"])
