"""One id on several objects: cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from septum.check.split_ids import separate_split_ids


def blocks(*places: tuple[int, int, int, int], sides: tuple[int, int] = (60, 60)) -> np.ndarray:
    """Return a mask of squares ``(y, x, side, id)``."""
    mask = np.zeros(sides, np.int32)
    for y, x, side, number in places:
        mask[y : y + side, x : x + side] = number
    return mask


def test_far_pieces_get_new_ids_and_the_largest_keeps_its_own() -> None:
    mask = blocks((2, 2, 6, 7), (40, 40, 5, 7), (2, 40, 4, 7), (40, 2, 6, 9))
    found, ids = separate_split_ids(mask)
    assert ids == (7,)
    expected = blocks((2, 2, 6, 7), (40, 40, 5, 10), (2, 40, 4, 11), (40, 2, 6, 9))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "places",
    [
        [(10, 10, 6, 3), (10, 20, 6, 3)],  # 4 pixels apart, less than their width
        [(10, 10, 8, 3), (40, 40, 2, 3)],  # a speck
        [(0, 5, 6, 3), (0, 24, 6, 3)],  # both cut by the upper side: they may meet outside
        [(y, x, 2, 3) for y in (0, 20, 40) for x in (0, 25)],  # six pieces are no mistake in an id
        [(10, 10, 8, 3), (30, 30, 8, 4)],
        [],
    ],
)
def test_pieces_that_may_be_one_object_keep_their_id(places: list[tuple[int, int, int, int]]) -> None:
    mask = blocks(*places)
    found, ids = separate_split_ids(mask)
    assert ids == ()
    np.testing.assert_array_equal(found, mask)


def test_pieces_cut_by_one_side_are_separated_if_very_far_apart() -> None:
    assert separate_split_ids(blocks((0, 2, 6, 3), (0, 50, 6, 3)))[1] == (3,)


def test_ids_of_volumes_are_separated_and_unannotated_pixels_kept() -> None:
    mask = np.zeros((20, 30, 30), np.int32)
    mask[1:4, 1:4, 1:4], mask[14:17, 20:23, 20:23], mask[:, :, 29] = 5, 5, -1
    found, ids = separate_split_ids(mask)
    assert ids == (5,)
    assert (found == 6).sum() == (found == 5).sum() == 27
    np.testing.assert_array_equal(found == -1, mask == -1)


@given(arrays.arrays(np.int32, (12, 12), elements=st.integers(-1, 4)))
def test_foreground_is_kept_and_no_ids_are_joined(mask: np.ndarray) -> None:
    found, _ = separate_split_ids(mask)
    np.testing.assert_array_equal(found > 0, mask > 0)
    np.testing.assert_array_equal(found == -1, mask == -1)
    for number in np.unique(found[found > 0]):
        assert len(np.unique(mask[found == number])) == 1
    assert ndimage.label(found > 0)[1] == ndimage.label(mask > 0)[1]
