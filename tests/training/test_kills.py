"""A training that is killed or stopped at any moments ends with the bits of an uninterrupted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from septum.io.tensors import read_model


def _result(run: Path) -> tuple[dict[str, bytes], list[list[str]], str, dict[str, object]]:
    """Return weights, log and header of the model without the seconds, and scores."""
    tensors, header = read_model(run / "model.safetensors")
    training = header.pop("training")
    assert isinstance(training, dict)
    training.pop("seconds")
    training.pop("activities_s")
    log = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    place = log[0].index("seconds")
    rows = [[*line[:place], *line[place + 1 :]] for line in log]
    weights = {name: tensor.tobytes() for name, tensor in tensors.items()}
    return weights, rows, (run / "scores.json").read_text(), {**header, "training": training}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sessions are forked")
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_no_bit(disks: Path, tmp_path: Path, kills: int) -> None:
    program = Path(__file__).with_name("killed_trainings.py")
    command = [sys.executable, str(program), str(disks), str(tmp_path), str(kills), "1"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == kills
    assert kills < 20 or result["stops"] > 0  # about every fifth ends with a signal that saves
    assert len(set(result["killed_at"])) > 0.4 * kills, result  # a step, a validation, a file, an event ...
    whole = _result(tmp_path / "whole")
    assert [row[0] for row in whole[1][1:]] == [str(step) for step in range(1, 9)]
    for number in range(1, result["runs"] + 1):
        run = tmp_path / f"killed-{number}"
        assert _result(run) == whole, f"run {number}: {result}"
        assert not list(run.rglob(".septum-part-*"))  # partial files are removed
