"""How well single intensities tell classes apart, on distributions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from septum.arrays.separability import intensity_recall, sample_classes


def _images(offsets: tuple[float, ...], means: tuple[float, ...], channels: int = 1) -> tuple[list, list]:
    """Make images of 300 pixels a class, normal around `means` with deviation 1, each image shifted by its offset."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(means)), 300)
    images = [np.asarray(means)[labels] + o + rng.normal(size=(channels, len(labels))) for o in offsets]
    return images, [labels] * len(offsets)


def test_distant_classes_are_told_apart_and_equal_ones_by_chance() -> None:
    assert intensity_recall(*_images((0, 0, 0, 0), (0, 20, 40)), classes=3) > 0.99
    assert intensity_recall(*_images((0, 0, 0, 0), (0, 0, 0, 0)), classes=4) == pytest.approx(0.25, abs=0.04)


def test_overlap_of_two_normal_distributions_gives_the_recall_of_the_best_threshold() -> None:
    # Means two deviations apart: the threshold between them is one deviation from both, Phi(1) = 0.841.
    assert intensity_recall(*_images((0,) * 6, (0, 2)), classes=2) == pytest.approx(0.841, abs=0.03)


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [5000, 12])
    images = [np.where(labels == 1, 8, 0) + rng.normal(size=(1, len(labels))) for _ in range(4)]
    assert intensity_recall(images, [labels] * 4, classes=2) > 0.95


def test_images_of_other_brightness_and_variations_hide_the_classes() -> None:
    images, labels = _images((0, 0, 0, 0), (0, 6, 12))
    assert intensity_recall(images, labels, classes=3) > 0.98
    varied = [(1.0, offset) for offset in (-9.0, -3.0, 3.0, 9.0)]
    assert intensity_recall(images, labels, classes=3, varied=varied) < 0.8
    shifted, _ = _images((0, 9, 0, 9), (0, 6, 12))
    assert intensity_recall(shifted, labels, classes=3) < 0.6


def test_channels_are_used_together() -> None:
    alone = intensity_recall(*_images((0, 0), (0, 2)), classes=2)
    assert intensity_recall(*_images((0, 0), (0, 2), channels=4), classes=2) > alone + 0.08


def test_one_image_is_divided_and_a_class_in_one_half_is_left_out() -> None:
    images, labels = _images((0,), (0, 20))
    assert intensity_recall(images, labels, classes=2) > 0.99
    images, labels = _images((0, 0), (0, 20, 40))
    only_first = [labels[0], np.minimum(labels[1], 1)]
    assert intensity_recall(images, only_first, classes=3) > 0.7
    assert np.isnan(intensity_recall(images, [labels[0] * 0, labels[1] * 0 + 1], classes=2))


def test_pixels_of_each_class_are_sampled_evenly_and_unannotated_ones_are_not() -> None:
    mask = np.full((100, 100), -1)
    mask[:80], mask[90, :7] = 0, 2
    image = np.stack([np.arange(10_000).reshape(100, 100), np.zeros((100, 100))])
    values, labels = sample_classes(image, mask, classes=3)
    assert np.bincount(labels).tolist() == [4096, 0, 7]
    assert (values[0, 0], values[0, 4095], values[0, 4096]) == (0, 7999, 9000)
    assert values.shape == (2, 4103)
