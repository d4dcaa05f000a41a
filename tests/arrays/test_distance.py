from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import distance_transform_edt

from septum.arrays.distance import MAX_DISTANCE_PX, ONE_PX, squared_distance, squared_distance_of_region

SIZES = st.sampled_from([1.0, 1.0, 1.37, 2.0, 4.9, 1000.0])


@given(st.data(), array_shapes(min_dims=2, max_dims=3, max_side=12))
@settings(deadline=None, max_examples=150)
def test_squared_distances_are_exact_and_a_region_equals_the_whole(data, shape):
    mask = data.draw(arrays(np.bool_, shape, elements=st.sampled_from([True, True, True, False])))
    sizes = [data.draw(SIZES) for _ in shape]
    sizes = [size / min(sizes) for size in sizes]
    squares = squared_distance(mask, sizes)
    cap = ONE_PX * MAX_DISTANCE_PX[len(shape)] ** 2
    if mask.all():
        assert np.all(squares == cap)
    else:
        weights = np.minimum([round(ONE_PX * size**2) for size in sizes], cap)
        away = np.argwhere(np.ones(shape, bool))[:, None] - np.argwhere(~mask)[None]
        assert np.array_equal(squares.ravel(), np.minimum((away**2 * weights).sum(axis=-1).min(axis=-1), cap))
    part = tuple(
        slice(a, data.draw(st.integers(a + 1, side))) for side in shape for a in [data.draw(st.integers(0, side - 1))]
    )
    assert np.array_equal(squared_distance_of_region(lambda region: mask[region], shape, part, sizes), squares[part])


def test_margin_doubles_until_the_distances_of_thick_shapes_are_certain():
    rows, columns = np.indices((150, 240))
    mask = (rows - 75) ** 2 + ((columns - 120) / 1.5) ** 2 < 70**2
    squares = squared_distance(mask, (1, 1))
    assert np.allclose(squares / ONE_PX, distance_transform_edt(mask) ** 2)
    read = []

    def reader(region):
        read.append(mask[region].size)
        return mask[region]

    for part in [(slice(60, 80), slice(100, 130)), (slice(0, 10), slice(0, 20)), (slice(149, 150), slice(7, 8))]:
        assert np.array_equal(squared_distance_of_region(reader, mask.shape, part, (1, 1)), squares[part])
    assert read[0] == 52 * 62 and len(read) == 4 + 1 + 1  # margins of 16, 32, 64 and 128 for the first part


@pytest.mark.parametrize("rank", [2, 3])
def test_distances_are_capped(rank, monkeypatch):
    monkeypatch.setitem(MAX_DISTANCE_PX, rank, 5)
    mask = np.ones((40,) * rank, bool)
    mask[0] = False
    squares = squared_distance(mask, (1,) * rank)
    assert np.array_equal(squares[:, 1, ...].reshape(40, -1)[:, 0], ONE_PX * np.minimum(np.arange(40), 5) ** 2)
    part = (slice(3, 9), *(slice(20, 21),) * (rank - 1))
    assert np.array_equal(squared_distance_of_region(lambda r: mask[r], mask.shape, part, (1,) * rank), squares[part])
