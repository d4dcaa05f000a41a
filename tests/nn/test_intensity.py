"""Intensity changes compared with their formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from septum.nn.intensity import IntensityTransform, transform_intensity


def changed(values: np.ndarray, gray: IntensityTransform) -> np.ndarray:
    tile = torch.from_numpy(values.astype(np.float32))
    transform_intensity(tile, gray)
    return tile.numpy()


VALUES = np.random.default_rng(0).uniform(-0.2, 1.2, size=(2, 12, 9)).astype(np.float32)


def test_defaults_change_nothing():
    assert np.array_equal(changed(VALUES, IntensityTransform(noise_seed=5)), VALUES)


def test_gain_offset_and_bend():
    c = VALUES.clip(0, 1).astype(np.float64)
    expected = 0.9 * (VALUES + 0.4 * c * (1 - c) * (2 * c - 1)) - 0.05
    np.testing.assert_allclose(
        changed(VALUES, IntensityTransform(gain=0.9, offset=-0.05, bend=0.4)), expected, atol=1e-6
    )


def test_gamma_keeps_the_range_of_each_channel_and_a_constant_one():
    values = np.stack([VALUES[0], np.full_like(VALUES[0], 7)])
    found = changed(values, IntensityTransform(gamma=0.7))
    low, span = values[0].min(), np.ptp(values[0])
    np.testing.assert_allclose(found[0], ((values[0] - low) / span) ** 0.7 * span + low, atol=1e-5)
    assert np.array_equal(found[1], values[1])


def test_noise_has_its_deviation_differs_between_channels_and_repeats():
    flat = np.zeros((2, 100, 100), np.float32)
    first, again, other = (changed(flat, IntensityTransform(noise=0.3, noise_seed=s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert abs(first.std() - 0.3) < 0.01
    assert abs(first.mean()) < 0.01
    for a, b in ((first[0], first[1]), (first, other)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("sigma", [(0.7, 0.4), (0.0, 0.6)])
def test_blur_is_the_three_point_kernel_of_the_given_variance(sigma):
    found = changed(VALUES, IntensityTransform(blur_px=sigma))
    expected = VALUES.astype(np.float64)
    for axis, s in enumerate(sigma, 1):
        kernel = np.array([s * s / 2, 1 - s * s, s * s / 2])
        assert np.sum(kernel * np.array([1, 0, 1])) == pytest.approx(s * s)
        expected = ndimage.correlate1d(expected, kernel, axis=axis, mode="nearest")
    np.testing.assert_allclose(found, expected, atol=1e-6)
