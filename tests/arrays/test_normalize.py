from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from septum.arrays import normalize as module
from septum.arrays.normalize import NormalizeSettings, join_samples, normalize, sample_intensities, statistics

STANDARD, RANGE = NormalizeSettings(), NormalizeSettings(method="range")


def test_range_scales_each_channel_to_0_and_1() -> None:
    image = np.array([[[10, 20], [30, 50]], [[7, 7], [7, 9]]], dtype=np.uint8)
    stats = statistics(image, RANGE)
    assert stats.tolist() == [[10, 40], [7, 2]]
    found = normalize(image, stats)
    np.testing.assert_allclose(found, [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 1]]])
    assert found.dtype == np.float32


def test_standardize_gives_mean_0_and_deviation_1_after_clipping() -> None:
    values = np.random.default_rng(0).normal(300, 20, (1, 100, 100))
    low, high = np.quantile(values, [0.005, 0.995])
    cut = np.clip(values, low, high)
    offset, scale = statistics(values, STANDARD)[0]
    assert offset == pytest.approx(cut.mean(), rel=1e-6)
    assert scale == pytest.approx(cut.std(), rel=1e-6)
    found = normalize(np.clip(values, low, high), np.array([[offset, scale]], np.float32))
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
    assert statistics(image, settings).tolist() == [[100, 20], [5, 0.5]] == statistics(image / 9, settings).tolist()
    parts = [sample_intensities(image[:, rows], (rows.start, 0), (30, 40), settings) for rows in (np.s_[:7], np.s_[7:])]
    assert join_samples(parts, settings).tolist() == [[100, 20], [5, 0.5]]
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
    offset, scale = statistics(image, STANDARD)[0]
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
    normalize(image, np.array([[1, 2]], np.float32))
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
    assert statistics(image, RANGE).tolist() == [[0, 9]]


@pytest.mark.parametrize("settings", [STANDARD, RANGE])
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
