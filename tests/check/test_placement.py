"""Masks put right: worked out by hand, and undone again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.check.placement import Placement, orientations, placed

STILL = Placement((0, 1), (False, False), (0, 0))


def test_by_hand() -> None:
    mask = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    np.testing.assert_array_equal(placed(mask, STILL), mask)
    np.testing.assert_array_equal(placed(mask, Placement((1, 0), (False, False), (0, 0))), mask.T)
    np.testing.assert_array_equal(placed(mask, Placement((0, 1), (True, False), (0, 0))), mask[::-1])
    moved = placed(mask, Placement((0, 1), (False, False), (1, -1)))
    np.testing.assert_array_equal(moved, [[-1, -1, -1], [2, 3, -1]])
    np.testing.assert_array_equal(placed(mask > 5, Placement((0, 1), (False, False), (0, -2))), [[0, 0, 0], [1, 0, 0]])


def test_words_say_how_the_mask_lies_now() -> None:
    assert STILL.words() == ""
    assert Placement((1, 0), (False, True), (0, 0)).words() == "transposed, mirrored along X"
    assert Placement((0, 1), (False, False), (-3, 0)).words() == "shifted by 3 pixels along Y"
    assert Placement((2, 1, 0), (False,) * 3, (0,) * 3).words() == "axes in the order XYZ"


@pytest.mark.parametrize(
    ("mask", "image", "count"),
    [
        ((5, 5), (5, 5), 8),
        ((5, 6), (5, 6), 4),
        ((6, 5), (5, 6), 4),
        ((6, 4), (5, 6), 0),
        ((4, 4, 4), (4, 4, 4), 6),
        ((4, 5, 6), (6, 5, 4), 1),
        ((4, 4, 6), (6, 4, 4), 2),
    ],
)
def test_orientations_that_fit(mask: tuple[int, ...], image: tuple[int, ...], count: int) -> None:
    found = list(orientations(mask, image))
    assert len(set(found)) == len(found) == count
    array = np.arange(np.prod(mask)).reshape(mask)
    assert all(placed(array, p).shape == image for p in found)
    assert len({placed(array, p).tobytes() for p in found}) == count
    if mask == image:
        assert not found[0].words()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-12, 12), st.integers(-12, 12))
def test_a_shift_and_back_keeps_what_stayed_inside(height: int, width: int, y: int, x: int) -> None:
    mask = np.arange(height * width, dtype=np.int32).reshape(height, width)
    there = placed(mask, Placement((0, 1), (False, False), (y, x)))
    back = placed(there, Placement((0, 1), (False, False), (-y, -x)))
    inside = max(0, height - abs(y)) * max(0, width - abs(x))
    assert (there >= 0).sum() == (back >= 0).sum() == inside
    np.testing.assert_array_equal(back[back >= 0], mask[back >= 0])
