"""Ctrl-C and the signal to terminate, as a person and a cluster send them, and the processes of one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from septum.io.tensors import read_model
from septum.training.checkpoint import newest_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(3):
        mask = np.zeros((44, 44), np.uint8)
        mask[5:20, 5:20], mask[22:35, 8:30] = 10 * number + 1, 10 * number + 2
        noise = np.random.default_rng(number).normal(100, 9, mask.shape)
        np.save(folder / "masks" / f"{number}.npy", mask)
        np.save(folder / "images" / f"{number}.npy", ((mask > 0) * 40 + noise).astype(np.float32))
    return folder


def _start(data: Path, out: Path, steps: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "septum", "train", str(data), "-o", str(out), "--steps", str(steps)]
    command += ["--width", "2", "--depth", "1", "--tile", "36", "--batch", "2", "--device", "cpu", "--quiet", *more]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _after_steps(process: subprocess.Popen[str], out: Path) -> None:
    end = time.monotonic() + 60
    while not (out / "log.csv").exists() or (out / "log.csv").read_text().count("\n") < 5:
        assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_prints_how_to_continue(data: Path, tmp_path: Path, number: int) -> None:
    process = _start(data, tmp_path / "run", 100_000)
    _after_steps(process, tmp_path / "run")
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "stopped: the same command continues from the last checkpoint in" in said
    assert "Traceback" not in said
    checkpoint, complaints = newest_checkpoint(tmp_path / "run" / "checkpoints")
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert checkpoint is not None and complaints == []
    assert checkpoint.step == int(lines[-1].split(",")[0])  # nothing that was done is lost


class TestDevices:
    @pytest.mark.slow
    def test_of_two_processes_only_the_first_prints(self, data: Path, tmp_path: Path) -> None:
        process = _start(data, tmp_path / "run", 3, "--devices", "2", "--depth", "2", "--tile", "40")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert said.count("model: ") == 1
        assert "Warning" not in said
        read_model(tmp_path / "run" / "model.safetensors")

    def test_a_signal_to_the_command_stops_all_processes(self, data: Path, tmp_path: Path) -> None:
        process = _start(data, tmp_path / "run", 100_000, "--devices", "2")
        _after_steps(process, tmp_path / "run")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGTERM, said
        assert said.count("stopped: ") == 1
        assert newest_checkpoint(tmp_path / "run" / "checkpoints")[0] is not None

    @pytest.mark.slow
    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
    def test_killed_process_ends_the_command_and_killed_command_ends_its_processes(
        self, data: Path, tmp_path: Path
    ) -> None:
        process = _start(data, tmp_path / "run", 100_000, "--devices", "2")
        _after_steps(process, tmp_path / "run")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[1]), signal.SIGKILL)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "process 1 of 2 was killed by signal 9" in said
        assert "the same command continues" in said

        process = _start(data, tmp_path / "other", 100_000, "--devices", "2")
        _after_steps(process, tmp_path / "other")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.communicate(timeout=30)  # ends when the last process closes the pipe
        for child in children:
            assert not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes()
        assert newest_checkpoint(tmp_path / "other" / "checkpoints")[0] is not None

    def test_devices_within_other_processes_are_refused(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "3")
        said, _ = (process := _start(data, tmp_path / "run", 3, "--devices", "2")).communicate(timeout=30)
        assert process.returncode == 2
        assert "leave --devices out" in said
