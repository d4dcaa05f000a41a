from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from septum.arrays import normalize as module
from septum.arrays.normalize import (
    NormalizeSettings,
    constant_ends,
    join_samples,
    normalize,
    quantiles,
    sample_intensities,
    statistics,
)

STANDARD, RANGE = NormalizeSettings(), NormalizeSettings(method="range")
ROBUST = NormalizeSettings(limit=4, skip_constant=True)


def test_range_scales_each_channel_to_0_and_1() -> None:
    image = np.array([[[10, 20], [30, 50]], [[7, 7], [7, 9]]], dtype=np.uint8)
    stats = statistics(image, RANGE)
    assert stats.tolist() == [[10, 40, np.inf], [7, 2, np.inf]]
    found = normalize(image, stats)
    np.testing.assert_allclose(found, [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 1]]])
    assert found.dtype == np.float32


def test_standardize_gives_mean_0_and_deviation_1_after_clipping() -> None:
    values = np.random.default_rng(0).normal(300, 20, (1, 100, 100))
    low, high = np.quantile(values, [0.005, 0.995])
    cut = np.clip(values, low, high)
    offset, scale, _ = statistics(values, STANDARD)[0]
    assert offset == pytest.approx(cut.mean(), rel=1e-6)
    assert scale == pytest.approx(cut.std(), rel=1e-6)
    found = normalize(np.clip(values, low, high), np.array([[offset, scale, np.inf]], np.float32))
    assert abs(float(found.mean())) < 1e-4
    assert float(found.std()) == pytest.approx(1, abs=1e-4)


def test_a_few_hot_pixels_do_not_set_the_scale() -> None:
    clean = np.random.default_rng(1).normal(100, 10, (1, 100, 100))
    hot = clean.copy()
    hot[0, 5, :20] = 65_535
    np.testing.assert_allclose(statistics(hot, STANDARD), statistics(clean, STANDARD), rtol=0.02)
    assert statistics(hot, RANGE)[0, 1] > 60_000  # the scale of the paper is not robust


def test_common_takes_the_same_offset_and_scale_for_every_image_and_part() -> None:
    settings = NormalizeSettings(method="common", common=((100.0, 20.0), (5.0, 0.5)))
    image = np.random.default_rng(2).normal(300, 20, (2, 30, 40))
    own = [[100, 20, np.inf], [5, 0.5, np.inf]]
    assert statistics(image, settings).tolist() == own == statistics(image / 9, settings).tolist()
    parts = [sample_intensities(image[:, rows], (rows.start, 0), (30, 40), settings) for rows in (np.s_[:7], np.s_[7:])]
    assert join_samples(parts, settings).tolist() == own
    assert [part.shape for pair in parts for part in pair] == [(2, 0), (0,)] * 2
    np.testing.assert_allclose(normalize(image, statistics(image, settings))[1], (image[1] - 5) / 0.5, rtol=1e-5)


@pytest.mark.parametrize("values", [{"method": "common"}, {"method": "common", "common": ((1.0, 0.0),)}])
def test_common_without_offset_and_scale_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="common"):
        NormalizeSettings(**values)


@pytest.mark.parametrize("settings", [STANDARD, RANGE])
@pytest.mark.parametrize("value", [0, 255, 65_535])
def test_constant_image_becomes_0_everywhere(settings: NormalizeSettings, value: int) -> None:
    image = np.full((2, 4, 5), value, np.uint16)
    stats = statistics(image, settings)
    assert stats[:, 1].tolist() == [1, 1]
    assert not normalize(image, stats).any()


@pytest.mark.parametrize("value", [0.1, 1e-30, -3e30])
def test_constant_image_of_a_rounded_value_stays_finite(value: float) -> None:
    image = np.full((1, 7, 9), value, np.float32)
    for settings in (STANDARD, RANGE):
        assert np.isfinite(normalize(image, statistics(image, settings))).all()


def test_rare_bright_pixels_on_a_constant_background_have_a_scale() -> None:
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 3, 3:6] = 200  # less than the 0.5 % that are clipped
    offset, scale, _ = statistics(image, STANDARD)[0]
    assert offset == pytest.approx(image.mean())
    assert scale == pytest.approx(image.std())


def test_one_pixel() -> None:
    image = np.full((1, 1, 1), 9, np.uint8)
    assert normalize(image, statistics(image, STANDARD)).tolist() == [[[0]]]


@given(st.floats(0.1, 1000), st.floats(-1000, 1000), st.sampled_from(["standardize", "range"]))
def test_the_unit_of_the_intensities_does_not_matter(gain: float, offset: float, method: str) -> None:
    settings = NormalizeSettings.model_validate({"method": method})
    image = np.random.default_rng(2).uniform(0, 1, (2, 8, 8))
    found = [normalize(i, statistics(i, settings)) for i in (image, image * gain + offset)]
    np.testing.assert_allclose(found[1], found[0], atol=0.02)


def test_tile_is_normalized_like_the_whole_image_without_changing_it() -> None:
    image = np.random.default_rng(3).integers(0, 4000, (2, 6, 30, 40)).astype(np.uint16)
    before = image.copy()
    stats = statistics(image, STANDARD)
    part = normalize(image[:, 1:3, 5:9, 7:20], stats)
    np.testing.assert_array_equal(part, normalize(image, stats)[:, 1:3, 5:9, 7:20])
    np.testing.assert_array_equal(image, before)


def test_float32_tile_is_copied() -> None:
    image = np.ones((1, 3, 3), np.float32)
    normalize(image, np.array([[1, 2, np.inf]], np.float32))
    assert (image == 1).all()


def test_statistics_of_a_sample_are_close_to_those_of_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(4).gamma(2.0, 50, (1, 300, 301)).astype(np.float32)
    whole = statistics(image, STANDARD)
    monkeypatch.setattr(module, "_SAMPLE", 10_000)
    sampled = statistics(image, STANDARD)
    assert (sampled != whole).any()
    np.testing.assert_allclose(sampled, whole, rtol=0.03)


def test_range_uses_all_pixels_of_a_large_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLE", 10)
    image = np.zeros((1, 50, 50), np.uint8)
    image[0, 31, 17] = 9
    assert statistics(image, RANGE).tolist() == [[0, 9, np.inf]]


@pytest.mark.parametrize("settings", [STANDARD, RANGE, ROBUST])
@pytest.mark.parametrize("shape", [(37, 41), (5, 19, 23), (1, 1), (3, 300)])
@pytest.mark.parametrize("most", [50, 10_000])
def test_statistics_of_parts_equal_those_of_the_whole_to_the_last_bit(
    settings: NormalizeSettings, shape: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAMPLE", most)
    image = np.random.default_rng(0).normal(5, 2, (2, *shape)).astype(np.float32)
    cuts = [[slice(a, a + 9) for a in range(0, n, 9)] for n in shape]
    regions = list(itertools.product(*cuts))
    parts = [sample_intensities(image[(slice(None), *r)], [s.start for s in r], shape, settings) for r in regions]
    np.testing.assert_array_equal(join_samples(parts[::-1], settings), statistics(image, settings))


def test_hot_pixels_are_no_brighter_than_the_limit_and_change_no_other_pixel() -> None:
    image = np.random.default_rng(5).normal(100, 10, (1, 64, 64)).astype(np.float32)
    hot = image.copy()
    hot[0, 3, 5] = 65_535
    values = normalize(hot, statistics(hot, ROBUST))
    assert values[0, 3, 5] == 4
    np.testing.assert_allclose(np.delete(values.ravel(), 3 * 64 + 5), np.delete(
        normalize(image, statistics(image, ROBUST)).ravel(), 3 * 64 + 5), atol=0.01)  # fmt: skip


@pytest.mark.parametrize("value", [0, 60_000])
def test_constant_frame_and_burnt_in_bar_do_not_change_the_statistics(value: int) -> None:
    image = np.random.default_rng(6).normal(3000, 200, (1, 64, 64)).clip(1).astype(np.uint16)
    framed = np.full((1, 96, 80), value, np.uint16)
    framed[:, 8:72, 8:72] = image
    np.testing.assert_array_equal(statistics(framed, ROBUST), statistics(image, ROBUST))
    assert abs(statistics(framed, STANDARD)[0, 0] - 3000) > 500  # as models of before compute it


@pytest.mark.parametrize(
    "pixels",
    [
        np.random.default_rng(7).poisson(1.5, 4096),  # a background of zeros, without a gap above it
        np.minimum(np.random.default_rng(8).gamma(2, 60, 4096), 255).round(),  # saturated objects
        np.repeat([0, 255], 2048),  # two values only: neither is a frame
        np.where(np.arange(4096) % 8 == 0, np.random.default_rng(9).normal(200, 20, 4096).round(), 0),  # thresholded
        np.full(16, 7),
    ],
)
def test_values_of_the_picture_are_no_constant_ends(pixels: np.ndarray) -> None:
    assert constant_ends(pixels.astype(np.float64)) == []


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 65536])
def test_quantiles_are_those_of_numpy_to_the_bit(count: int) -> None:
    rng = np.random.default_rng(count)
    shares = (0.0, 0.001, 0.005, 0.01, 0.25, 0.5, 0.75, 0.95, 0.995, 1.0)
    for values in (rng.normal(size=(3, count)), rng.integers(0, 20, (2, count)).astype(np.float64)):
        np.testing.assert_array_equal(quantiles(values, shares), np.quantile(values, shares, axis=1).T)
        np.testing.assert_array_equal(quantiles(values[0], shares), np.quantile(values[0], shares))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, bool])
def test_quantiles_of_whole_numbers_are_those_of_their_floats(dtype: type) -> None:
    numbers = np.random.default_rng(1).integers(0, 200, (2, 777)).astype(dtype)
    shares = (0.0, 0.01, 0.37, 0.5, 0.99, 1.0)
    np.testing.assert_array_equal(quantiles(numbers, shares), quantiles(numbers.astype(np.float64), shares))
