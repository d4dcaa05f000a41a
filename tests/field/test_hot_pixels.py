"""Hot pixels of a camera in an image to predict: the objects around them are found all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import septum
from septum.io.tensors import read_model
from septum.models.named import file_of
from septum.prediction.model import ModelHeader, open_model, save_model, trained_networks

Data = Callable[..., Path]
Cells = Callable[..., tuple[np.ndarray, np.ndarray]]


def with_hot_pixels(image: np.ndarray, number: int) -> np.ndarray:
    hot, rng = image.astype(np.uint16) * 20, np.random.default_rng(1)
    hot[rng.integers(0, hot.shape[0], number), rng.integers(0, hot.shape[1], number)] = 65_535
    return hot


@pytest.mark.filterwarnings("ignore::septum.errors.UnfamiliarImageWarning")
@pytest.mark.parametrize("number", [1, 20])
def test_a_model_that_comes_with_septum_finds_the_objects_around_hot_pixels(cells: Cells, number: int) -> None:
    image, ids = cells(5, side=128, number=14)
    found = septum.predict("nuclei", with_hot_pixels(image, number), scale=1)
    assert matched(found, ids) == 14


def matched(found: np.ndarray, ids: np.ndarray) -> int:
    return sum(
        max(np.sum((found == k) & (ids == i)) / np.sum((found == k) | (ids == i)) for k in np.unique(found)[1:]) > 0.5
        for i in np.unique(ids)[1:]
    )


@pytest.mark.filterwarnings("ignore:the model has the weights of its start:septum.errors.SeptumWarning")
def test_a_training_from_a_model_without_a_limit_chooses_one(data: Data, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.safetensors"
    header = ModelHeader.model_validate(read_model(file_of("nuclei"))[1])
    unlimited = header.normalization.model_copy(update={"limit": None})
    changes = {"normalization": unlimited, "release": None}
    save_model(earlier, trained_networks(file_of("nuclei")), header.model_copy(update=changes))
    folder = data(lambda _, ids, __: ids.astype(np.uint16), count=3)
    run = tmp_path / "run"
    septum.train(folder, out=run, steps=1, tile=64, batch=1, device="cpu", from_model=earlier, verbose=False)
    limit = open_model(run, "cpu").header.normalization.limit
    assert limit is not None
    assert 4 < limit < 12  # twice the distance of the objects from the mean
