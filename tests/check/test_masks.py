"""Values of masks and images: cases worked out by hand, and properties."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage

from septum.check.census import census
from septum.check.images import fill_holes, fits_channels, match_channels
from septum.check.label_kind import to_classes
from septum.check.masks import (
    COLOR,
    MASK_COLORS,
    MASK_FLOAT,
    MASK_LARGE_IDS,
    MASK_NAN,
    MASK_SMOOTHED,
    color_of,
    read_labels,
    unsmooth,
)
from septum.check.smoothing import has_jpeg_artifacts, restore_two_values
from septum.errors import DataError


def squares(*values: int, side: int = 12) -> np.ndarray:
    """Return ``(1, 2 side, n side)`` with one square of each value on 0."""
    mask = np.zeros((1, 2 * side, side * len(values)), np.int64)
    for number, value in enumerate(values):
        mask[0, 4 : 4 + side, number * side + 2 : (number + 1) * side - 2] = value
    return mask


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint32, np.int64])
def test_integers_are_kept(dtype: type) -> None:
    mask = np.array([[[0, 1, 1], [0, 0, 1]]], dtype)
    found = read_labels(mask)
    assert found.mends == ()
    assert found.problem == ""
    assert found.array.dtype == np.int32
    np.testing.assert_array_equal(found.array, mask[0])


def test_whole_floating_point_numbers_become_integers() -> None:
    found = read_labels(np.array([[[0, 1.0001, np.nan], [2.9999, -1, 0]]], np.float32))
    np.testing.assert_array_equal(found.array, [[0, 1, -1], [3, -1, 0]])
    assert found.mends == (MASK_NAN, MASK_FLOAT)


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        ([[[0.0, 0.5], [1.5, 2.0]]], "fractions between 0 and 2"),
        ([[[0, -2], [1, 0]]], "the value -2"),
        ([[[0.0, np.inf], [1, 0]]], "infinite"),
        ([[[0, 2, 1]], [[1, 3, 0]]], "2 channels that overlap or hold several values"),
        ([[[0, 300]], [[1, 0]], [[0, 0]]], "more than 8 bits"),
        ([[[0, -1]], [[1, 0]], [[0, 0]]], "negative values in a color mask"),
    ],
)
def test_values_that_are_no_labels_are_a_problem(mask: list[object], problem: str) -> None:
    found = read_labels(np.array(mask))
    assert problem in found.problem
    assert not found.array.any()


def test_colors_become_labels_and_alpha_is_no_color() -> None:
    mask = np.zeros((4, 1, 4), np.uint8)
    mask[3] = 255
    mask[:3, 0, 1] = 255, 0, 1
    mask[:3, 0, 2] = 255
    mask[:3, 0, 3] = 7, 7, 7
    found = read_labels(mask)
    np.testing.assert_array_equal(found.array, [[0, COLOR + 0xFF0001, 255, 7]])
    assert color_of(int(found.array[0, 1])) == (255, 0, 1)
    assert color_of(255) == (255, 255, 255)
    assert found.mends == (MASK_COLORS,)


def test_ids_above_31_bits_are_numbered() -> None:
    found = read_labels(np.array([[[0, 4_000_000_000, 5, 4_000_000_000]]], np.uint32))
    np.testing.assert_array_equal(found.array, [[0, 2, 1, 2]])
    assert found.mends == (MASK_LARGE_IDS,)


@pytest.mark.parametrize("sigma", [0.6, 1.0])
@pytest.mark.parametrize("as_float", [False, True])
def test_smoothed_mask_of_two_values_is_restored(sigma: float, as_float: bool) -> None:
    mask = squares(255, 255, 255, side=18)
    smooth = ndimage.gaussian_filter(mask[0].astype(float), sigma)[None]
    given_mask = (smooth / 255).astype(np.float32) if as_float else np.rint(smooth).astype(np.uint8)
    found = read_labels(given_mask)
    assert MASK_SMOOTHED in found.mends
    wrong = (found.array > 0) != (mask[0] > 0)
    assert np.count_nonzero(wrong) <= 4 * 3  # no more than the corners of three squares


def test_three_classes_are_restored_without_a_seam_of_the_middle_one() -> None:
    mask = squares(100, 200, 200)
    smooth = np.rint(ndimage.gaussian_filter(mask[0].astype(float), 0.7))[None].astype(np.int64)
    restored = unsmooth(smooth)
    assert restored is not None
    assert restored[1] == ((0,), (100,), (200,))
    around_200 = restored[0][0, :, 12:]
    assert set(np.unique(around_200)) == {0, 200}  # the way from 0 to 200 passes 100


def test_smoothed_colors_are_restored() -> None:
    mask = np.zeros((3, 24, 36), np.int64)
    mask[0, 4:20, 2:16] = 255
    mask[2, 4:20, 20:34] = 255
    smooth = np.rint(ndimage.gaussian_filter(mask.astype(float), (0, 0.6, 0.6))).astype(np.int64)
    restored = unsmooth(smooth)
    assert restored is not None
    assert restored[1] == ((0, 0, 0), (0, 0, 255), (255, 0, 0))
    assert np.count_nonzero((restored[0] != mask).any(axis=0)) <= 8


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000))
def test_masks_of_ids_are_not_unsmoothed(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((1, 64, 64), np.int64)
    for value in rng.permutation(255)[:count]:  # touching and overlapping rectangles of 3 pixels and more
        y, x = rng.integers(0, 60, 2)
        mask[0, y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = value + 1
    assert unsmooth(mask) is None


def test_masks_with_thin_classes_are_not_unsmoothed() -> None:
    mask = squares(200, 200)
    border = ndimage.maximum_filter(mask, (1, 3, 3)) != ndimage.minimum_filter(mask, (1, 3, 3))
    assert unsmooth(np.where(border, 100, mask)) is None


def test_two_values_are_restored_after_jpeg() -> None:
    noisy = np.array([[[0, 3, 1, 0, 250, 255, 255, 249, 140]]], np.int64)
    np.testing.assert_array_equal(restore_two_values(noisy), [[[0, 0, 0, 0, 255, 255, 255, 255, 255]]])
    assert restore_two_values(np.array([[[0, 3, 1, 0, 128, 128, 255, 249]]], np.int64)) is None
    assert restore_two_values(np.array([[[0, 1, 2, 3]]], np.int64)) is None


def through_jpeg(array: np.ndarray, quality: int) -> np.ndarray:
    """Return ``(C, Y, X)`` of an image ``(Y, X)`` or ``(Y, X, 3)`` after JPEG compression."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    found = np.asarray(Image.open(buffer))
    return found[None] if found.ndim == 2 else np.moveaxis(found, -1, 0)


def many(seed: int) -> np.ndarray:
    """Return ids 1 .. 16 of squares of different sizes, ``(96, 96)`` uint8."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((96, 96), np.uint8)
    for number in range(16):
        y, x = 24 * (number // 4), 24 * (number % 4)
        labels[y + 3 : y + rng.integers(12, 21), x + 2 : x + rng.integers(12, 22)] = number + 1
    return labels


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("seed", [0, 1])
def test_masks_that_went_through_jpeg_are_detected_in_the_pixels(quality: int, seed: int) -> None:
    labels = many(seed)
    binary = np.where(labels > 0, 255, 0).astype(np.uint8)
    restored = read_labels(through_jpeg(binary, quality))
    np.testing.assert_array_equal(restored.array, binary)
    assert restored.restored or MASK_SMOOTHED in restored.mends
    colors = np.random.default_rng(seed).integers(40, 256, (17, 3), np.uint8)
    colors[0] = 0
    # At the best quality ids of a few gray values change by one or two, which a single mask does not show.
    for spoiled in (10 * labels, colors[labels], colors[(labels > 0).astype(int)], *([labels] * (quality < 95))):
        assert "blurred" in read_labels(through_jpeg(spoiled, quality)).problem
    assert read_labels(labels[None]).problem == read_labels(np.moveaxis(colors[labels], -1, 0)).problem == ""


def test_tiny_objects_and_many_classes_are_no_jpeg_artifacts() -> None:
    ids = np.zeros((90, 90), np.int64)
    ids[::3, ::3] = np.arange(900).reshape(30, 30)
    assert not has_jpeg_artifacts(ids)
    assert not has_jpeg_artifacts(np.kron(np.arange(144).reshape(12, 12), np.ones((7, 7), int)))
    assert not has_jpeg_artifacts(np.kron(np.arange(400).reshape(20, 20), np.pad(np.ones((3, 3), int), 1)))
    assert not has_jpeg_artifacts(np.zeros((5, 90), np.int64))


def test_two_values_of_a_jpeg_file_are_marked_as_restored() -> None:
    mask = squares(255, 255)[0].astype(np.uint8)
    found = read_labels(through_jpeg(mask, 75), lossy=True)
    np.testing.assert_array_equal(found.array, mask)
    assert (found.restored, found.mends, found.problem) == (True, (), "")


def test_jpeg_of_ids_is_a_problem() -> None:
    assert "JPEG" in read_labels(np.arange(60, dtype=np.uint8).reshape(1, 6, 10), lossy=True).problem
    assert read_labels(np.array([[[0, 1, 1]]], np.uint8), lossy=True).problem == ""


def test_values_become_class_numbers() -> None:
    labels = np.array([0, 128, 255, -1, 254, 128])
    np.testing.assert_array_equal(to_classes(labels, (0, 128, 254), (255,)), [0, 1, -1, -1, 2, 1])
    with pytest.raises(DataError, match="value 7"):
        to_classes(np.array([0, 7]), (0, 1))


def test_nan_and_infinity_are_filled() -> None:
    image = np.array([[[1, np.nan, 3], [4, np.inf, -np.inf]], [[np.nan] * 3, [np.nan] * 3]], np.float32)
    np.testing.assert_array_equal(fill_holes(image), [[[1, 3, 3], [4, 4, 1]], [[0] * 3, [0] * 3]])
    assert np.isnan(image[0, 0, 1])  # the array of the caller is unchanged
    whole = np.ones((1, 2, 2), np.float32)
    assert fill_holes(whole) is whole
    beyond = np.array([[[1, -1.7e308, 3], [4, 1e39, 2]]])  # infinite in float32, in which networks compute
    np.testing.assert_array_equal(fill_holes(beyond), [[[1, 1, 3], [4, 4, 2]]])


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, (2, 3, 4), elements=st.floats(width=32)))
def test_filled_images_are_finite_and_within_their_range(image: np.ndarray) -> None:
    filled = fill_holes(image)
    assert np.isfinite(filled).all()
    for before, after in zip(image, filled, strict=True):
        finite = np.isfinite(before)
        np.testing.assert_array_equal(after[finite], before[finite])
        if finite.any():
            assert before[finite].min() <= after.min()
            assert after.max() <= before[finite].max()


def test_channels_are_repeated_or_dropped() -> None:
    gray = np.arange(6).reshape(1, 2, 3)
    np.testing.assert_array_equal(match_channels(gray, 3), np.stack([gray[0]] * 3))
    four = np.arange(24).reshape(4, 2, 3)
    np.testing.assert_array_equal(match_channels(four, 3), four[:3])
    assert match_channels(gray, 1) is gray
    assert fits_channels(1, 3, spare=False)
    assert fits_channels(4, 3, spare=True)
    assert not fits_channels(4, 3, spare=False)
    gray_and_alpha = np.stack([gray[0], np.full((2, 3), 9)])
    np.testing.assert_array_equal(match_channels(gray_and_alpha, 3), np.stack([gray[0]] * 3))
    with pytest.raises(DataError, match="5 channels"):
        match_channels(np.zeros((5, 1, 1)), 3)


def test_census_of_a_mask_worked_out_by_hand() -> None:
    labels = np.array(
        [
            [1, 1, 0, 0, 5],
            [0, 0, 2, 0, 0],
            [-1, 0, 0, 0, 5],
        ]
    )
    image = np.where(labels == 5, 2.0, 0.0)[None]
    found = census(labels, image)
    assert found.values == (1, 2, 5)
    assert found.counts == (2, 1, 2)
    assert (found.background, found.ignored) == (9, 1)
    assert found.pieces == 4
    assert (found.whole, found.split) == (2, 1)
    assert found.touching == 2  # 1 and 2, by a corner
    assert found.median_value_px == 2
    assert found.median_piece_px == 1
    assert found.traits[0].center == pytest.approx((1 / 6, 1 / 5))
    assert found.traits[1].share == pytest.approx(1 / 15)
    assert found.traits[2].brightness == pytest.approx((2 - image.mean()) / image.std())
    assert census(np.zeros((3, 4), int)).values == ()


def test_census_of_a_volume() -> None:
    labels = np.zeros((3, 4, 5), np.int32)
    labels[0, 0, 0], labels[1, 1, 1], labels[2, 3, 4] = 1, 1, 2
    found = census(labels)
    assert (found.pieces, found.whole, found.touching) == (2, 2, 0)
