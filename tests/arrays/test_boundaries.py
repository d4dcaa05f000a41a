from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from septum.arrays.boundaries import close_gaps, draw_boundaries
from septum.arrays.targets import connected_components


@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_closing_a_slanted_gap_leaves_no_isolated_pixels(width):
    slant = np.add.outer(np.arange(12), np.arange(12))
    apart = np.where(slant < 9, 1, np.where(slant >= 8 + width, 2, 0)).astype(np.int32)
    across = close_gaps(apart, 1, (1.0, 1.0))
    for number in (1, 2):
        assert connected_components(across == number).max() == 1
    # A gap is closed across its whole width or stays. (`separate_touching` leaves two diagonals between such objects.)
    # At the border of the image fewer neighbors exist.
    inner = across[1:-1, 1:-1]
    rows = [np.unique(inner[slant[1:-1, 1:-1] == s]).tolist() for s in range(9, 8 + width)]
    assert rows == {2: [[2]], 3: [[1], [2]]}.get(width, [[0]] * (width - 1))


def test_boundaries_are_drawn_where_areas_touch():
    labels = np.array(
        [
            [1, 1, 1, 2, 2, 2],
            [1, 1, 1, 2, 2, 0],
            [1, 1, 0, 0, 0, 3],
            [4, 4, 0, 5, 0, 3],
        ],
        np.int32,
    )
    lined = [
        [1, 1, 1, 0, 2, 2],
        [1, 1, 1, 0, 2, 0],
        [1, 1, 0, 0, 0, 0],  # 3 touches 2 at a corner
        [0, 0, 0, 5, 0, 3],  # 4 touches 1 along a side
    ]
    np.testing.assert_array_equal(draw_boundaries(labels), lined)
    assert draw_boundaries(labels.astype(np.uint8)).dtype == np.uint8


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.integers(0, 3)))
def test_no_two_areas_touch_after_drawing_boundaries_and_isolated_areas_stay(labels):
    lined = draw_boundaries(labels)
    assert set(np.unique(lined - labels * (lined > 0))) <= {0}
    for pixel in np.argwhere(labels > 0):
        around = tuple(slice(max(0, p - 1), p + 2) for p in pixel)
        here = tuple(pixel)
        if lined[here]:
            assert set(np.unique(lined[around])) <= {0, labels[here]}
        if set(np.unique(labels[around])) <= {0, labels[here]}:
            assert lined[here] == labels[here]
