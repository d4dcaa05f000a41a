"""Test-time augmentation is exact, and gives the same result in regions as for the whole image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from septum.arrays.normalize import NormalizeSettings, statistics
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.tiled import TiledPredictor, image_probabilities, region_probabilities
from septum.prediction.tta import (
    TransformedImage,
    averaged_probabilities,
    transformed_probabilities,
    tta_transforms,
    turn,
)

DEVICE = find_device("cpu")
PLAIN = NormalizeSettings()


def _network(depths: tuple[int, ...]) -> UNet:
    return for_prediction(UNet(UNetSettings(channels=2, classes=3, depths=depths, width=4), seed=1))


def test_transforms_are_eight_exact_rotations_and_reflections() -> None:
    geometry = UNetSettings().geometry
    array = np.arange(6).reshape(1, 2, 3)
    seen = {turn(array, v).tobytes() + bytes(turn(array, v).shape) for v in tta_transforms(geometry)}
    assert len(seen) == 8
    np.testing.assert_array_equal(turn(array, (1, False))[0], np.rot90(array[0]))
    np.testing.assert_array_equal(turn(array, (0, True))[0], array[0, :, ::-1])
    assert len(tta_transforms(UNetSettings(depths=(3, 4)).geometry)) == 4


def _regions(shape: tuple[int, ...], side: int) -> list[tuple[slice, ...]]:
    return list(itertools.product(*([slice(a, min(a + side, n)) for a in range(0, n, side)] for n in shape)))


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(("depths", "shape"), [((2, 2), (61, 83)), ((0, 2, 2), (3, 21, 30))])
def test_joined_regions_equal_the_whole(depths: tuple[int, ...], shape: tuple[int, ...], tta: bool) -> None:
    image = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32)
    network = _network(depths)
    stats = statistics(image, PLAIN)
    mean = np.zeros((3, *shape))
    chosen = tta_transforms(network.geometry) if tta else [(0, False)]
    for version in chosen:
        turned = np.ascontiguousarray(turn(image, version))
        turn(mean, version)[...] += image_probabilities(network, turned, device=DEVICE, normalization=PLAIN)
    mean /= len(chosen)
    tiler = TiledPredictor(network, DEVICE, (16,) * len(shape))
    for region in _regions(shape, 24):
        predict = averaged_probabilities if tta else region_probabilities
        *_, (part, left) = predict(tiler, image, stats, region)
        assert left == 0
        assert np.abs(part - mean[(slice(None), *region)]).max() <= 1e-5


@pytest.mark.parametrize("transform", tta_transforms(UNetSettings().geometry))
def test_parts_of_a_transformed_image_equal_those_of_the_array(transform: tuple[int, bool]) -> None:
    image = np.random.default_rng(3).normal(size=(2, 5, 7))
    whole, lazy = turn(image, transform), TransformedImage(image, transform)
    assert lazy.shape == whole.shape
    index = (slice(0, 2), slice(1, 4), slice(2, 5))
    np.testing.assert_array_equal(lazy[index], whole[index])


@pytest.mark.parametrize("transform", [(0, False), (1, True), (2, False)])
def test_a_single_transform_is_turned_back(transform: tuple[int, bool]) -> None:
    image = np.random.default_rng(4).normal(size=(2, 21, 34)).astype(np.float32)
    network, stats = _network((2, 2)), statistics(image, PLAIN)
    tiler = TiledPredictor(network, DEVICE, (16, 16))
    *_, (found, left) = transformed_probabilities(tiler, image, stats, (slice(0, 21), slice(0, 34)), transform)
    turned = np.ascontiguousarray(turn(image, transform))
    expected = image_probabilities(network, turned, device=DEVICE, normalization=PLAIN)
    assert left == 0
    assert np.abs(turn(found, transform) - expected).max() <= 1e-5
