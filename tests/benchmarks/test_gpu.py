"""The command of the GPU measurements runs without a GPU."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="benchmarks are not part of a source package")
def test_the_command_for_gpus_runs_on_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--write", "--out", str(out)])
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")
    found = json.loads(out.read_text())
    training = {row["name"]: row for row in found["training"]}
    prediction = {row["name"]: row for row in found["prediction"]}
    assert found["quick"] and found["peak_tflops"] > 0
    assert training["septum"]["steps_per_s"] > 0
    assert 0 < training["septum"]["share_of_peak"] < 1
    assert prediction["tile 60, alone"]["tiles_per_s"] > 0
    assert prediction["image 512 x 512"]["median_s"] > 0
    # A peer is measured, or the reason for its absence is given.
    assert all("median_s" in row or row["left_out"] for row in training.values())
    assert len(training) == 4
    assert "matrix product" in capsys.readouterr().out
