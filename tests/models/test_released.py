"""The models of one data set each, beside the package: they open, have a card, are small, and predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from septum.io.image import Image
from septum.prediction.in_memory import predict_image
from septum.prediction.model import open_model
from septum.reproduce.datasets import SETS

FOLDER = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize("name", ["dic-hela", "phc-u373"])
def test_a_released_model_is_small_has_a_card_and_predicts(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 10_000_000
    model = open_model(path, "cpu")
    assert model.header.kind == "objects"
    card = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert f"septum predict models/{name}.safetensors" in card
    assert SETS[name].page in card and SETS[name].terms in card
    assert f"{model.header.training['steps']} steps" in card
    pixels = np.random.default_rng(0).normal(100, 20, (1, 96, 80)).astype(np.float32)
    found = predict_image(model, Image.from_array(pixels, "CYX"))
    assert found.shape == (1, 96, 80) and set(np.unique(found)) <= set(range(256))
