"""The verbs as seen from Python: what arrays mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import septum
from septum.errors import DataError, UsageError
from septum.io.images import read_image
from septum.jobs.python import _as_folder

SMALL = {"steps": 1, "width": 1, "depth": 1, "batch": 1, "device": "cpu"}


def _pair(*shape: int, channels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros(shape, np.uint8)
    mask[..., 4:12, 3:9], mask[..., 4:12, 10:17] = 1, 2
    image = mask * 60.0 + np.random.default_rng(0).normal(100, 5, shape)
    return (np.stack([image + k for k in range(channels)]) if channels else image).astype(np.float32), mask


@pytest.mark.parametrize(
    ("shape", "channels", "rank"), [((20, 24), 0, 2), ((20, 24), 3, 2), ((20, 24), 2, 2), ((6, 20, 24), 0, 3)]
)
def test_dimensions_of_the_masks_say_what_those_of_the_images_are(
    shape: tuple[int, ...], channels: int, rank: int
) -> None:
    image, mask = _pair(*shape, channels=channels)
    model = septum.train([image, image + 1], [mask, mask], kind="objects", **SMALL)
    assert model.rank == rank
    assert model.header.network.channels == max(1, channels)
    assert septum.predict(model, image).shape == shape
    assert septum.predict(model, image, output="probabilities").shape == shape


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(9, 11), (5, 9, 11)])
def test_arrays_become_files_that_say_their_axes(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    full = (channels, *shape) if channels else shape
    array = np.random.default_rng(0).normal(size=(2, *full)).astype(np.float32)
    folder = _as_folder(array, tmp_path / "images", len(shape))
    for number in range(2):
        found = read_image(folder / f"image-{number:06d}.tif")
        assert found.axes == ("CYX" if len(shape) == 2 else "CZYX")
        np.testing.assert_array_equal(found.array, array[number] if channels else array[number][None])


def test_arrays_of_other_dimensions_are_refused() -> None:
    image, mask = _pair(20, 24)
    with pytest.raises(DataError, match="array 1 has 4 dimensions"):
        septum.train([image, image[None, None]], [mask, mask], **SMALL)


@pytest.mark.parametrize("wrong", [{"epochs": 3}, {"steps": 0}, {"steps": 1, "budget_s": 5.0}])
def test_wrong_settings_are_an_error_in_words(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        septum.train(tmp_path, **wrong)
    assert next(iter(wrong)) in str(caught.value)


def test_an_attribute_that_is_none_is_named() -> None:
    with pytest.raises(AttributeError, match="fit"):
        septum.fit  # noqa: B018
