"""Sizes as text, and the memory of a process."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import UsageError
from septum.io.files import write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import memory
from septum.prediction.memory import parse_bytes, peak_bytes, resident_bytes, usual_limit
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.tile_plan import Request, plan_prediction
from septum.words import format_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("2G", 2 << 30), ("800M", 800 << 20), ("1.5 GB", 3 << 29), ("2GiB", 2 << 30), ("64k", 1 << 16), ("1000B", 1000)],
)
def test_parse_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "2X", "-1G", "0", "G", "2 2G", "4", "2147483648"])
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="2G or 800M"):
        parse_bytes(text)


def test_format_bytes() -> None:
    assert [format_bytes(n) for n in (1, 640 << 20, 1 << 30, 1.34 * (1 << 30))] == [
        "1 MB",
        "640 MB",
        "1.0 GB",
        "1.3 GB",
    ]


def test_peak_bytes_includes_memory_that_was_freed() -> None:
    before = resident_bytes()
    block = mmap.mmap(-1, 60_000_000)  # new pages: an allocator may hand out what an earlier test gave back
    pixels = np.frombuffer(block, np.uint8)
    pixels[:] = 1
    assert resident_bytes() >= before + 50_000_000
    del pixels
    block.close()
    assert peak_bytes() >= before + 50_000_000
    assert resident_bytes() < before + 40_000_000


def test_the_usual_limit_leaves_room_and_respects_control_groups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import psutil

    assert resident_bytes() < usual_limit() < psutil.virtual_memory().total
    monkeypatch.setattr(memory, "_group_free", lambda: [100 << 20])
    assert usual_limit() - resident_bytes() <= 71 << 20


def test_a_prediction_keeps_its_memory_limit(tmp_path: Path) -> None:
    network = UNetSettings(depths=(1, 1), width=2)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(threshold=0.5, seed_level=0.5, min_size_px=1),
    )
    save_model(tmp_path / "model.safetensors", UNet(network, seed=2), header)
    pixels = np.random.default_rng(0).integers(0, 255, (2560, 2048), np.uint8)
    write_image(tmp_path / "large.ome.zarr", pixels, axes="YX")
    command = [sys.executable, "-m", "septum", "predict", "model.safetensors", "large.ome.zarr", "-o", "out"]
    done = subprocess.run([*command, "--max-memory", "550M", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_bytes"] <= parse_bytes("550M")
    whole = plan_prediction(Request(network=network, shape=pixels.shape), held=300 << 20, limit=8 << 30)
    assert whole.block is None and whole.peak_bytes > parse_bytes("550M")  # so that the limit means something
