"""What is predicted on the working grid is shown on the grid of the image."""

from __future__ import annotations

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings, label_objects
from septum.arrays.normalize import NormalizeSettings, statistics
from septum.arrays.resample import Resampled
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.backend import for_scores
from septum.prediction.tiled import TiledPredictor, image_probabilities, largest_output
from septum.studio.live.view import predict_view
from septum.studio.tile_grid import Rect

DEVICE = find_device("cpu")
IMAGE = np.random.default_rng(0).normal(100, 20, (1, 75, 98)).astype(np.float32)
OBJECTS = ObjectSettings(threshold=0.5, seed_level=0.5, min_size_px=0)
NORMAL = NormalizeSettings()


@pytest.fixture(scope="module")
def network() -> UNet:
    return UNet(UNetSettings(channels=1, classes=2, depths=(1, 1), width=4, padding="same"), seed=1)


def view(network: UNet, rect: Rect, scale: float, objects: ObjectSettings | None) -> tuple[np.ndarray, np.ndarray]:
    tiler = TiledPredictor(for_scores(network, DEVICE), DEVICE, largest_output(network.settings, DEVICE))
    grid = tuple(round(n * scale) for n in IMAGE.shape[1:])
    seen = IMAGE if scale == 1 else Resampled(IMAGE, grid)[(slice(None),) * 3]
    return predict_view(tiler, IMAGE, statistics(seen, NORMAL), rect, scale=scale, objects=objects)


def test_at_scale_1_a_view_holds_the_objects_of_its_part(network: UNet) -> None:
    whole = image_probabilities(for_scores(network, DEVICE), IMAGE, device=DEVICE, normalization=NORMAL)[1]
    rect = Rect(10, 20, 60, 90)
    labels, sure = view(network, rect, 1.0, OBJECTS)
    part = whole[10:60, 20:90]
    assert np.array_equal(labels, label_objects(part, OBJECTS)) and labels.max() > 1
    assert np.abs(sure - 255 * part).max() <= 0.51


@pytest.mark.parametrize("scale", [0.5, 0.37, 1.5])
def test_a_view_on_another_grid_equals_that_part_of_the_whole(network: UNet, scale: float) -> None:
    rect = Rect(11, 20, 60, 91)
    labels, sure = view(network, rect, scale, OBJECTS)
    whole, whole_sure = view(network, Rect(0, 0, 75, 98), scale, OBJECTS)
    assert labels.shape == rect.sides and labels.dtype == np.int32 and labels.max() > 1
    assert np.array_equal(sure, whole_sure[11:60, 20:91])
    # Numbers differ, and objects that the border cuts may be seeded otherwise.
    assert ((labels > 0) == (whole[11:60, 20:91] > 0)).mean() > 0.99
    assert sure[labels > 0].mean() > sure[labels == 0].mean()


def test_classes_are_the_most_probable_on_the_grid_of_the_image(network: UNet) -> None:
    labels, sure = view(network, Rect(0, 0, 75, 98), 0.5, None)
    objects, foreground = view(network, Rect(0, 0, 75, 98), 0.5, OBJECTS)
    assert np.array_equal(labels == 1, foreground >= 128) or (labels == 1).mean() == pytest.approx(
        (foreground > 127).mean(), abs=0.01
    )
    assert (sure >= 127).all() and objects.shape == labels.shape
