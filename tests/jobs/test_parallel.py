"""Two processes train as one does: the same tiles, the same loss."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def _train(data: Path, out: Path, world: int) -> list[float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "septum", "train", str(data), "-o", str(out), "--steps", "4", "--quiet"]
    command += ["--preset", "fiji", "--width", "2", "--depth", "1", "--tile", "36", "--batch", "2", "--device", "cpu"]
    processes = []
    for rank in range(world):
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        if world > 1:
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "RANK": str(rank)}
        processes.append(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    said = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * world, said
    assert said[1:] == [""] * (world - 1)  # one process speaks
    with (out / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_give_the_loss_of_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for name in "ab":
        mask = np.zeros((40, 40), np.uint8)
        mask[5:20, 5:20], mask[22:35, 8:30] = 1, 2
        np.save(tmp_path / "masks" / f"{name}.npy", mask)
        np.save(tmp_path / "images" / f"{name}.npy", (mask * 40 + rng.normal(100, 9, mask.shape)).astype(np.float32))
    one, two = _train(tmp_path, tmp_path / "one", 1), _train(tmp_path, tmp_path / "two", 2)
    assert one == pytest.approx(two, abs=1e-5)
    assert len(one) == 4
