"""From Python: color arrays as every library gives them, (height, width, 3), and channels first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import septum
from septum.array_likes import axes_of, write_pairs
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.check.check import check
from septum.errors import DataError, ModelError
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import Model, ModelHeader, open_model, save_model


def model(path: Path, channels: int, depths: tuple[int, ...] = (1, 1)) -> Model:
    network = UNetSettings(channels=channels, classes=2, depths=depths, width=2)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(min_size_px=1),
    )
    save_model(path, UNet(network, seed=1), header)
    return open_model(path)


@pytest.fixture(scope="module")
def color(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model(tmp_path_factory.mktemp("color") / "model.safetensors", 3)


RGB = np.random.default_rng(0).integers(0, 255, (36, 40, 3), np.uint8)


def probabilities(taken: Model, image: Any) -> NDArray[np.float32]:
    result = septum.predict(taken, image, output="probabilities")
    return np.asarray(result, np.float32)


@pytest.mark.parametrize("given", [lambda a: a, lambda a: a.tolist(), lambda a: a[::1].astype(np.float32)])
def test_color_last_is_color_first_and_the_file(color: Model, tmp_path: Path, given: Callable[[Any], Any]) -> None:
    np.save(tmp_path / "rgb.npy", RGB)
    expected = probabilities(color, tmp_path / "rgb.npy")
    assert expected.shape == (36, 40)
    np.testing.assert_array_equal(probabilities(color, given(RGB)), expected)
    np.testing.assert_array_equal(probabilities(color, np.moveaxis(RGB, -1, 0)), expected)


def test_volumes_with_channels_last(tmp_path: Path) -> None:
    taken = model(tmp_path / "m.safetensors", 2, (0, 1, 1))
    volume = np.random.default_rng(1).normal(size=(6, 20, 24, 2))
    np.testing.assert_array_equal(probabilities(taken, volume), probabilities(taken, np.moveaxis(volume, -1, 0)))


def test_the_channels_of_the_model_decide(tmp_path: Path) -> None:
    five = model(tmp_path / "m.safetensors", 5)
    image = np.random.default_rng(2).normal(size=(30, 32, 5))
    np.testing.assert_array_equal(probabilities(five, image), probabilities(five, np.moveaxis(image, -1, 0)))


def test_a_fourth_channel_is_named(color: Model) -> None:
    with pytest.raises(ModelError, match="4 channels") as caught:
        septum.predict(color, np.dstack([RGB, RGB[..., :1]]))
    assert "--axes" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "rank", "known", "axes"),
    [
        ((40, 30), 2, {}, "YX"),
        ((3, 40, 30), 2, {}, "CYX"),
        ((40, 30, 3), 2, {}, "YXC"),
        ((40, 30, 2), 2, {}, "CYX"),
        ((40, 30, 2), 2, {"sides": (40, 30)}, "YXC"),
        ((3, 3, 3), 2, {"sides": (3, 3)}, "CYX"),
        ((4, 40, 3), 2, {"sides": (40, 3)}, "CYX"),
        ((3, 40, 3), 2, {"channels": 3}, "CYX"),
        ((40, 30, 4), 2, {"channels": 3}, "YXC"),
        ((9, 40, 30, 3), 3, {}, "ZYXC"),
        ((2, 9, 40, 30), 3, {"channels": 2}, "CZYX"),
    ],
)
def test_axes_of_arrays(shape: tuple[int, ...], rank: int, known: dict[str, Any], axes: str) -> None:
    assert axes_of(shape, rank, **known) == axes


def test_arrays_to_train_on_may_have_color_last(tmp_path: Path) -> None:
    masks = [np.zeros((36, 40), np.uint8) for _ in range(3)]
    for n, mask in enumerate(masks):
        mask[4 + n : 12, 5:15] = 1
        mask[20:30, 20:30] = 2
    images = [np.roll(RGB, n, 0) for n in range(3)]
    for number, given in enumerate((images, [np.moveaxis(image, -1, 0) for image in images])):
        (tmp_path / f"{number}").mkdir()
        report = check(write_pairs(given, masks, tmp_path / f"{number}"))
        assert report.rules.channels == 3
        stored = report.files.image(report.pairs[0].image)
        np.testing.assert_array_equal(stored.array, np.moveaxis(RGB, -1, 0))


def test_masks_in_color_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which look like color"):
        write_pairs([RGB, RGB], [RGB, RGB], tmp_path)
