"""Small layers and models. Networks compute with one thread: they are too small for more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import ModelHeader, save_model

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Untrained networks of images and of volumes: what they find is arbitrary, and always the same."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    for rank in (2, 3):
        settings = UNetSettings(width=2, depths=(1,) * rank)
        header: dict[str, Any] = {"kind": "objects", "class_values": (0, 1), "normalization": NormalizeSettings()}
        made[rank] = folder / f"{rank}d.safetensors"
        save_model(made[rank], UNet(settings), ModelHeader(network=settings, objects=ObjectSettings(), **header))
    return made
