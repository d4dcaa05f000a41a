"""An image passes few modules: 30 from file to label file; 26 from file to gradient, beside those of the CPU engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "walks.py"


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the modules of each walk; traced in a process of its own, as coverage tools trace this one."""
    path = tmp_path_factory.mktemp("walks") / "walks.json"
    subprocess.run([sys.executable, str(PROGRAM), "--json", str(path)], check=True, capture_output=True)
    return {name: walk["modules"] for name, walk in json.loads(path.read_text()).items()}


def test_a_predicted_image_is_handled_by_at_most_twenty_modules(walks: dict[str, list[str]]) -> None:
    found = walks["prediction, handling the image"]
    assert len(found) <= 20, found
    assert {"prediction.in_memory", "arrays.instances", "nn.unet"} <= set(found)


def test_a_prediction_enters_at_most_30_modules(walks: dict[str, list[str]]) -> None:
    """Guard the number reached; the aim is 20.

    The walk opens the model, plans tiles and memory, predicts one TIFF file and writes objects. Of its modules 11 are
    the steps of the room ``prediction``, 7 read and write files, 6 work on arrays, 2 are the network and its device, 1
    names axes: each has one subject, and none is too small to stand alone. Lower the bound when one goes.
    """
    found = walks["prediction, file to label file"]
    assert len(found) <= 30, found


def without_engine(found: list[str]) -> list[str]:
    """Return the modules outside of `cpu`, whose engine computes steps where the processor is not faster in bfloat16.

    It has up to 8 modules of its own behind one door.
    """
    assert len([m for m in found if m.startswith("cpu.")]) <= 8, found
    return [m for m in found if not m.startswith("cpu.")]


def test_a_training_image_is_handled_by_at_most_25_modules(walks: dict[str, list[str]]) -> None:
    found = walks["training, handling the image"]
    assert len(without_engine(found)) <= 25, found
    assert "nn.unet" in found


def test_training_enters_at_most_26_modules_without_the_check(walks: dict[str, list[str]]) -> None:
    """Guard the number reached; the aim is 25, and `threads` is the one more: images are loaded in several."""
    found = walks["training without the check"]
    assert len(without_engine(found)) <= 26, found
    assert {"check.samples", "training.prepare", "nn.augment", "nn.unet"} <= set(found)
