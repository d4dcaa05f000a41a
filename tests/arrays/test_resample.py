"""Resampling: a region equals that region of the whole bit for bit; flat stays flat; outlines stay smooth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.arrays import resample
from septum.arrays.instances import LEVELS
from septum.arrays.resample import Resampled, resample_labels, scaled_sides
from septum.metrics.contingency import table
from septum.metrics.matching import ious


@st.composite
def _cases(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], tuple[slice, ...]]:
    """Return an image, the sides of another grid, and a region of it."""
    rank = draw(st.integers(2, 3))
    before = [draw(st.integers(1, 40 if rank == 2 else 14)) for _ in range(rank)]
    after = tuple(draw(st.integers(1, 60 if rank == 2 else 20)) for _ in range(rank))
    starts = [draw(st.integers(0, n - 1)) for n in after]
    region = tuple(slice(a, draw(st.integers(a + 1, n))) for a, n in zip(starts, after, strict=True))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 60000, (2, *before)).astype(np.uint16)
    return values, after, region


@given(_cases(), st.sampled_from([1, 7, 100, 1 << 22]))
@settings(max_examples=80, deadline=None)
def test_a_region_equals_that_region_of_the_whole_bit_for_bit(
    case: tuple[np.ndarray, tuple[int, ...], tuple[slice, ...]], piece: int
) -> None:
    image, sides, region = case
    whole = Resampled(image, sides)[(slice(None),) * image.ndim]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "_PIECE", piece)
        part = Resampled(image, sides)[(slice(None), *region)]
        channel = Resampled(image, sides)[(slice(1, 2), *region)]
    assert whole.shape == (2, *sides)
    assert whole.dtype == part.dtype == np.float32
    np.testing.assert_array_equal(part, whole[(slice(None), *region)])
    np.testing.assert_array_equal(channel, whole[(slice(1, 2), *region)])


@given(_cases(), st.sampled_from([1, 50, 1 << 22]))
@settings(max_examples=80, deadline=None)
def test_a_region_of_labels_equals_that_region_of_the_whole(
    case: tuple[np.ndarray, tuple[int, ...], tuple[slice, ...]], piece: int
) -> None:
    image, sides, region = case
    labels, levels = (image[0] % 4).astype(np.int32), image[1]

    def bring(part: tuple[slice, ...]) -> np.ndarray:
        return resample_labels(lambda where: (labels[where], levels[where]), labels.shape, sides, part, threshold=30000)

    whole = bring(tuple(slice(0, n) for n in sides))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "_PIECE", piece)
        np.testing.assert_array_equal(bring(region), whole[region])
    assert set(np.unique(whole)) <= set(np.unique(labels))


@given(_cases())
@settings(max_examples=40, deadline=None)
def test_a_flat_image_stays_flat_and_values_stay_in_range(
    case: tuple[np.ndarray, tuple[int, ...], tuple[slice, ...]],
) -> None:
    image, sides, _ = case
    everything = (slice(None),) * image.ndim
    np.testing.assert_allclose(Resampled(np.full_like(image, 777), sides)[everything], 777, rtol=1e-6)
    made = Resampled(image, sides)[everything]
    assert image.min() - 0.01 <= made.min()
    assert made.max() <= image.max() + 0.01


def test_pixels_are_squares_that_cover_the_same_extent() -> None:
    ramp = (np.arange(12) + 0.5)[None, None] * np.ones((1, 4, 1))
    halved = Resampled(ramp, (2, 6))[:, :, :]
    np.testing.assert_allclose(halved[0, 0, 1:-1], np.arange(3, 11, 2), rtol=1e-6)  # centers at twice the distance
    doubled = Resampled(ramp, (8, 24))[:, :, :]
    np.testing.assert_allclose(doubled[0, 0, 1:-1], np.arange(1.5, 23.5, 1) / 2, rtol=1e-6)
    np.testing.assert_array_equal(Resampled(ramp, (4, 12))[:, :, :], ramp)


def test_structure_finer_than_the_grid_vanishes_instead_of_becoming_a_pattern() -> None:
    stripes = np.tile(np.array([0, 1000], np.uint16), 120)[None, None].repeat(20, axis=1)
    for side in (60, 53, 48):
        made = Resampled(stripes, (10, side))[:, :, 2:-2]
        assert np.abs(made - 500).max() < 60


def test_sides_are_rounded_and_never_zero() -> None:
    assert scaled_sides((100, 51, 1), (0.37, 0.37, 0.1)) == (37, 19, 1)
    assert scaled_sides((5, 7), (0.5, 2.0)) == (3, 14)


def _disks(side: int) -> np.ndarray:
    """Return two disks that touch, on a grid of `side` pixels for the same extent."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    first, second = ((y - 0.5) ** 2 + (x - c) ** 2 for c in (0.31, 0.69))
    return np.where(first < 0.19**2, 1, np.where(second < 0.19**2, 2, 0)).astype(np.int32)


@pytest.mark.parametrize(("before", "after"), [(48, 192), (48, 130), (192, 48)])
def test_disks_keep_their_shape_on_another_grid(before: int, after: int) -> None:
    fine = _disks(before * 8).reshape(before, 8, before, 8).swapaxes(1, 2).reshape(before, before, 64)
    levels = np.rint((fine > 0).mean(axis=2) * LEVELS).astype(np.uint16)  # as a network is unsure at outlines
    labels = np.where(levels > LEVELS // 2, np.where(np.arange(before) < before / 2, 1, 2), 0).astype(np.int32)
    whole = (slice(0, after), slice(0, after))
    made = resample_labels(
        lambda part: (labels[part], levels[part]), labels.shape, (after, after), whole, threshold=LEVELS // 2
    )
    truth = _disks(after)
    found = ious(table(truth, made))[1]
    assert len(found) == 2
    assert found.min() > (0.97 if after > before else 0.93)
    if after > before:  # smooth outlines: few more boundary steps than those of true disks
        steps = [np.count_nonzero(np.diff(m > 0, axis=a)) for m in (made, truth) for a in (0, 1)]
        assert sum(steps[:2]) <= 1.03 * sum(steps[2:])


def test_a_label_decides_where_it_disagrees_with_the_level() -> None:
    labels = np.array([[1, 1, 2, 2, 0, 0, 0]], np.int32)
    levels = np.array([[60000, 9, 9, 60000, 9, 60000, 9]], np.uint16)  # a gap that was closed, a speck that was removed
    whole = (slice(0, 2), slice(0, 14))
    made = resample_labels(lambda part: (labels[part], levels[part]), (1, 7), (2, 14), whole, threshold=32768)
    np.testing.assert_array_equal(made, np.tile([[1] * 4 + [2] * 4 + [0] * 6], (2, 1)))
