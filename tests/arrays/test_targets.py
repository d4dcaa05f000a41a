from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from septum.arrays.targets import (
    IGNORE_INDEX,
    UNANNOTATED,
    class_target,
    connected_components,
    drop_unannotated,
    ignore_far_background,
    local_extreme,
    object_target,
    relabel_consecutive,
    separate_touching,
)
from septum.errors import DataError

MASKS = Path(__file__).parents[2] / "../shared/data/ctc/DIC-C2DH-HeLa/01_ST/SEG"
masks = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.sampled_from([-1, 0, 0, 3, 7, 8])
)


def neighbors(labels, reach):
    """Return all pairs of different objects with pixels within `reach` of each other (a loop over offsets)."""
    pairs = set()
    padded = np.pad(labels, reach)
    for offset in np.ndindex(*[2 * reach + 1] * labels.ndim):
        moved = padded[tuple(slice(o, o + n) for o, n in zip(offset, labels.shape, strict=True))]
        touching = (labels > 0) & (moved > 0) & (labels != moved)
        pairs |= set(zip(labels[touching].tolist(), moved[touching].tolist(), strict=True))
    return pairs


def test_border_is_taken_from_the_larger_object():
    labels = np.array([[1, 1, 1, 1, 2, 2, 2]] * 2)
    assert separate_touching(labels).tolist() == [[1, 1, 1, 0, 2, 2, 2]] * 2
    assert separate_touching(labels[:, ::-1]).tolist() == [[2, 2, 2, 0, 1, 1, 1]] * 2


def test_border_is_taken_from_the_lower_id_of_equally_large_objects():
    assert separate_touching(np.array([[5, 5, 9, 9]])).tolist() == [[5, 0, 9, 9]]


def test_diagonal_contact_counts():
    labels = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 2]])
    assert separate_touching(labels).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 2]]


def test_wider_gap_includes_existing_background():
    labels = np.array([[1, 1, 1, 1, 1, 0, 2, 2, 2]])
    assert separate_touching(labels, gap_px=1).tolist() == labels.tolist()
    assert separate_touching(labels, gap_px=3).tolist() == [[1, 1, 1, 0, 0, 0, 2, 2, 2]]
    assert separate_touching(np.array([[1, 1, 2]]), gap_px=0).tolist() == [[1, 1, 2]]


def test_object_between_smaller_ones_keeps_its_innermost_pixels():
    # Object 9 is the largest and each of its pixels touches a smaller one; its center (one pixel deep inside) is kept.
    labels = np.array([[1, 1, 9, 2, 2], [1, 9, 9, 9, 2], [3, 3, 9, 4, 4]])
    separated = separate_touching(labels)
    assert (separated == 9).tolist() == [[False] * 5, [False, False, True, False, False], [False] * 5]
    assert set(separated.ravel().tolist()) == {0, 1, 2, 3, 4, 9}
    assert neighbors(separated, 1) == set()


def test_adjacent_objects_of_one_pixel_both_stay():
    assert separate_touching(np.array([[1, 2]])).tolist() == [[1, 2]]


def test_ids_that_do_not_fit_into_the_result_are_refused():
    labels = np.zeros((8, 8), np.uint32)
    labels[1:4, 1:4], labels[4:7, 1:7] = 2**31 - 1, 3
    assert set(np.unique(separate_touching(labels))) == {0, 3, 2**31 - 1}
    labels[1:4, 5:8] = 2**31
    for function in (separate_touching, partial(ignore_far_background, reach_px=2)):
        with pytest.raises(DataError, match="an object with the id 2147483648"):
            function(labels)


def test_unannotated_pixels_are_kept_and_do_not_separate():
    labels = np.array([[1, 1, UNANNOTATED, 2], [UNANNOTATED, 1, 1, 2]])
    assert separate_touching(labels).tolist() == [[1, 1, UNANNOTATED, 2], [UNANNOTATED, 1, 0, 2]]


def test_three_dimensions():
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[:2], labels[2:, 1:3, 1:3] = 300, 65535
    separated = separate_touching(labels)
    assert separated.dtype == np.int32
    assert np.all(separated[1] == 0)  # the 4 x 4 layer of the larger object above and around the smaller one
    assert np.array_equal(separated == 65535, labels == 65535)
    assert np.all(separated[0] == 300)


@given(masks, st.integers(0, 2))
@settings(deadline=None, max_examples=150)
def test_every_object_keeps_its_place(labels, gap_px):
    separated = separate_touching(labels, gap_px=gap_px)
    changed = separated != labels
    assert np.all(separated[changed] == 0) and np.all(labels[changed] > 0)
    assert np.array_equal(np.unique(separated[separated > 0]), np.unique(labels[labels > 0]))
    if gap_px == 0:
        assert np.array_equal(separated, labels)


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.sampled_from([-1, 0, 3, 7, 8])))
@settings(deadline=None, max_examples=60)
def test_large_objects_are_separated(labels):
    # Each pixel becomes a block of 5: no object can vanish at a gap of one pixel, so that no contact may remain.
    large = np.kron(labels, np.ones((5, 5), np.int32))
    separated = separate_touching(large)
    assert neighbors(separated, 1) == set()
    assert np.array_equal(separated == UNANNOTATED, large == UNANNOTATED)


@pytest.mark.skipif(not MASKS.is_dir(), reason="real images are not here")
def test_touching_cells_become_components():
    from skimage.io import imread

    labels = imread(MASKS / "man_seg000.tif").astype(np.int32)
    cells = len(np.unique(labels)) - 1
    assert connected_components(labels > 0).max() < cells
    separated = separate_touching(labels)
    assert neighbors(separated, 1) == set()
    assert len(np.unique(separated)) - 1 == cells
    assert (separated > 0).sum() > 0.99 * (labels > 0).sum()


def test_relabel_consecutive_keeps_the_order_of_small_and_huge_ids():
    numbers, ids = relabel_consecutive(np.array([[7, 0, UNANNOTATED], [3, 7, 12]]))
    assert numbers.tolist() == [[2, 0, UNANNOTATED], [1, 2, 3]] and ids.tolist() == [3, 7, 12]
    numbers, ids = relabel_consecutive(np.array([[2**31 - 1, 0, UNANNOTATED], [3, 3, 10**9]]))
    assert numbers.tolist() == [[3, 0, UNANNOTATED], [1, 1, 2]] and ids.tolist() == [3, 10**9, 2**31 - 1]
    assert numbers.dtype == np.int32
    assert relabel_consecutive(np.zeros((2, 2), np.uint8))[1].size == 0


def test_negative_ids_are_refused():
    with pytest.raises(DataError, match="-3"):
        separate_touching(np.array([[-3, 1]]))
    with pytest.raises(DataError, match="from -2 to 1"):
        class_target(np.array([[-2, 1]]))
    with pytest.raises(DataError, match="to 255"):
        class_target(np.array([[0, 255]]))


def test_targets():
    mask = np.array([[0, 2, 70000], [UNANNOTATED, 1, 0]], np.int32)
    assert object_target(mask).tolist() == [[0, 1, 1], [IGNORE_INDEX, 1, 0]]
    classes = class_target(np.array([[0, 2, 254], [UNANNOTATED, 1, 0]], np.int32))
    assert classes.tolist() == [[0, 2, 254], [255, 1, 0]] and classes.dtype == np.uint8


def test_components_connect_faces_only():
    mask = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 1]], bool)
    assert connected_components(mask).tolist() == [[1, 1, 0], [0, 0, 2], [3, 0, 2]]
    volume = np.zeros((2, 2, 2), bool)
    volume[0, 0, 0] = volume[1, 0, 0] = volume[1, 1, 1] = True
    assert connected_components(volume).max() == 2
    assert connected_components(np.zeros((0, 3), bool)).shape == (0, 3)


def test_only_background_near_an_object_is_kept():
    row = np.array([[0, 0, 0, 0, 5, 0, UNANNOTATED, 0, 0]])
    assert ignore_far_background(row, reach_px=2).tolist() == [[-1, -1, 0, 0, 5, 0, -1, -1, -1]]
    assert ignore_far_background(row, reach_px=2, spacing=(1, 2)).tolist() == [[-1, -1, -1, 0, 5, 0, -1, -1, -1]]
    assert ignore_far_background(np.pad(row, ((1, 1), (0, 0))), reach_px=1)[0].tolist() == [
        -1,
        -1,
        -1,
        -1,
        0,
        -1,
        -1,
        -1,
        -1,
    ]
    assert (ignore_far_background(np.zeros((3, 4), np.int32), reach_px=9) == UNANNOTATED).all()
    volume = np.zeros((3, 5, 5), np.int32)
    volume[1, 2, 2] = 1
    assert int((ignore_far_background(volume, reach_px=1) == 0).sum()) == 6


def test_objects_mostly_on_unannotated_pixels_are_dropped():
    truth = np.array([[1, 1, 0, 0, -1, -1, -1]])
    assert drop_unannotated(np.array([[3, 3, 0, 7, 7, 7, 0]]), truth).tolist() == [[3, 3, 0, 0, 0, 0, 0]]
    assert drop_unannotated(np.array([[3, 3, 7, 7, 7, 7, 0]]), truth).tolist() == [[3, 3, 7, 7, 7, 7, 0]]  # one half
    assert drop_unannotated(np.array([[4, 4, 4, 4, 4, 4, 4]]), truth).tolist() == [[4] * 7]
    assert drop_unannotated(np.zeros((1, 7), np.int32), truth).tolist() == [[0] * 7]


@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(-9, 9)), st.integers(0, 3)
)
def test_local_extremes_are_those_of_the_filters_of_scipy(values, reach):
    size = 2 * reach + 1
    for extreme, other in ((np.maximum, ndimage.maximum_filter), (np.minimum, ndimage.minimum_filter)):
        np.testing.assert_array_equal(
            local_extreme(extreme, values, reach_px=reach), other(values, size=size, mode="nearest")
        )
