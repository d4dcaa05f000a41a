"""Otsu and watershed: a fair baseline."""

import numpy as np

from septum.demo.otsu_watershed import otsu_watershed
from septum.demo.synthetic_cells import generate


def disks(*centers, radius=10, shape=(64, 96)):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return [(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centers]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_separate_disks_are_found():
    truth = disks((20, 20), (40, 70))
    image = np.full((1, 64, 96), 20, np.float32)
    for disk in truth:
        image[0][disk] = 120
    labels = otsu_watershed(image)
    assert labels.dtype == np.int32
    assert labels.max() == 2
    for disk in truth:
        (found,) = np.unique(labels[disk & (labels > 0)])
        assert iou(disk, labels == found) > 0.8


def test_touching_disks_are_split_at_the_neck():
    truth = disks((32, 30), (32, 48))
    image = np.full((1, 64, 96), 20, np.float32)
    image[0][truth[0] | truth[1]] = 120
    labels = otsu_watershed(image)
    assert labels.max() == 2
    assert labels[32, 30] != labels[32, 48]
    assert set(np.unique(labels[:, :36])) - {0} == {labels[32, 30]}
    assert set(np.unique(labels[:, 43:])) - {0} == {labels[32, 48]}


def test_uneven_light_is_removed():
    truth = disks((20, 15), (44, 80), (20, 50))
    image = np.full((1, 64, 96), 20, np.float32)
    for disk in truth:
        image[0][disk] = 120
    image *= np.linspace(1.0, 0.15, 96, dtype=np.float32)
    assert otsu_watershed(image).max() == 3
    assert otsu_watershed(image, background_px=None).max() < 3


def test_small_objects_are_removed_and_holes_filled():
    image = np.full((1, 64, 96), 20, np.float32)
    (disk, hole) = disks((32, 40), radius=14) + disks((32, 40), radius=3)
    image[0][disk & ~hole] = 120
    image[0, 5:9, 80:84] = 120
    labels = otsu_watershed(image)
    assert set(np.unique(labels)) == {0, 1}
    assert labels[hole].min() == 1
    assert labels[5:9, 80:84].max() == 0


def test_a_constant_image_has_no_objects():
    for value in (0.0, -3.0, 200.0):
        labels = otsu_watershed(np.full((1, 32, 40), value, np.float32))
        assert labels.shape == (32, 40)
        assert labels.max() == 0


def test_channels_are_averaged_and_scale_and_offset_have_no_effect():
    image, _ = generate(0, shape=(96, 96))
    expected = otsu_watershed(image)
    assert np.array_equal(otsu_watershed(np.repeat(image, 3, axis=0)), expected)
    assert np.array_equal(otsu_watershed(image * 256 - 1024), expected)


def test_volumes_are_segmented_by_the_same_code():
    z, y, x = np.ogrid[:24, :32, :48]
    balls = [(z - 12) ** 2 + (y - 16) ** 2 + (x - c) ** 2 <= 64 for c in (12, 36)]
    image = np.full((1, 24, 32, 48), 10, np.float32)
    image[0][balls[0] | balls[1]] = 90
    labels = otsu_watershed(image)
    assert labels.max() == 2
    assert labels[12, 16, 12] != labels[12, 16, 36]


def test_the_baseline_is_better_than_one_threshold_on_synthetic_cells():
    # The demo does not compare with one threshold for the whole image, which finds far less.
    image, truth = generate(100)
    covered = {}
    for background in (None, 16.0):
        covered[background] = iou(otsu_watershed(image, background_px=background) > 0, truth > 0)
    assert covered[16.0] > 0.7
    assert covered[16.0] > covered[None] + 0.1
