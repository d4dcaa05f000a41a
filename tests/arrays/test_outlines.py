"""Outlines of objects: the level at which they lie, contacts without teeth, and holes that are filled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from septum.arrays.instances import ObjectSettings, finish_contacts, label_objects
from septum.arrays.targets import connected_components
from septum.arrays.watershed import fill_holes, find_holes

VALLEY = ObjectSettings(contacts="valley", min_size_px=0)


def labeled(*rows: str) -> np.ndarray:
    """Return labels drawn as digits, ``.`` for background."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows], np.int32)


def finished(labels, grow_px, values=None):
    values = np.zeros(labels.shape, np.uint16) if values is None else values
    choice = VALLEY.model_copy(update={"grow_px": grow_px})
    return finish_contacts(labels, values, choice, (1.0,) * labels.ndim)


def face_neighbors(labels):
    """Return ``(2 D, *S)``: the labels of the face neighbors, -1 beyond the border."""
    padded = np.pad(labels, 1, constant_values=-1)
    inner = (slice(1, -1),) * labels.ndim
    return np.stack([np.roll(padded, s, a)[inner] for a in range(labels.ndim) for s in (1, -1)])


def test_holes_of_one_object_are_filled():
    labels = labeled(
        "1111.222",
        "1.11.2.2",
        "11.1.222",
        "1111....",
        ".33344.5",
        ".3.3.4.5",
        ".33344.5",
    )
    filled = labeled(
        "1111.222",
        "1111.222",
        "1111.222",
        "1111....",
        ".33344.5",
        ".333.4.5",  # between 3 and 4, and at the border: no holes
        ".33344.5",
    )
    np.testing.assert_array_equal(fill_holes(labels), filled)


def test_a_hole_that_touches_the_outside_at_a_corner_only_is_filled():
    labels = labeled(".111.", "11.1.", "1111.", ".....")
    labels[0, 3] = 0  # diagonal to the hole
    np.testing.assert_array_equal(fill_holes(labels), labeled(".11..", "1111.", "1111.", "....."))


@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.sampled_from([-1, 0, 0, 2, 2, 5]))
)
def test_holes_are_the_closed_pieces_of_background_with_one_neighbor(labels):
    pieces, owners = find_holes(labels)
    np.testing.assert_array_equal(pieces > 0, labels == 0)
    around = face_neighbors(labels)
    for number in range(1, len(owners)):
        ids = set(np.unique(around[:, pieces == number]).tolist()) - {0}
        assert owners[number] == (max(ids) if len(ids) == 1 and min(ids) > 0 else 0)


def test_a_tunnel_through_a_volume_is_no_hole_and_a_cavity_is_one():
    volume = np.zeros((5, 6, 6), np.int32)
    volume[1:4, 1:5, 1:5] = 1
    cavity, tunnel = volume.copy(), volume.copy()
    cavity[2, 2:4, 2:4] = 0
    tunnel[1:4, 2, 2] = 0
    np.testing.assert_array_equal(fill_holes(cavity), volume)
    np.testing.assert_array_equal(fill_holes(tunnel), tunnel)


def test_a_hole_beside_pixels_that_are_not_annotated_stays():
    labels = labeled("1111", "1..1", "1111")
    labels[1, 2] = -1
    np.testing.assert_array_equal(fill_holes(labels), labels)


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=3, max_side=8), elements=st.sampled_from([0, 0, 1, 1, 2])))
def test_filling_holes_changes_background_only_and_leaves_no_hole(labels):
    filled = fill_holes(labels)
    np.testing.assert_array_equal(filled[labels > 0], labels[labels > 0])
    np.testing.assert_array_equal(fill_holes(filled), filled)
    background, neighbors = connected_components(labels == 0), face_neighbors(labels)
    for number in range(1, background.max() + 1):
        own = background == number
        around = set(np.unique(neighbors[:, own]).tolist()) - {0}
        enclosed = len(around) == 1 and -1 not in around
        assert np.all(filled[own] == (around.pop() if enclosed else 0))


def test_a_gap_is_closed_without_ends_that_protrude():
    labels = labeled("......", ".11.22", ".11.22", ".11.22", "......")
    closed = labeled("......", ".11222", ".11222", ".11222", "......")  # a tie goes to the higher label
    np.testing.assert_array_equal(finished(labels, 1), closed)
    np.testing.assert_array_equal(finished(labels, 0), labels)


def test_a_gap_goes_to_the_object_that_is_more_probable_beside_it():
    labels = labeled(".......", ".11.22.", ".11.22.", ".11.22.", ".......")
    values = np.where(labels == 1, 60_000, 50_000).astype(np.uint16)
    np.testing.assert_array_equal(finished(labels, 1, values)[1:4, 3], [1, 1, 1])
    np.testing.assert_array_equal(finished(labels, 1, values[:, ::-1])[1:4, 3], [2, 2, 2])


def test_the_middle_of_a_wide_gap_is_divided_between_both_sides():
    labels = labeled("11....22", "11....22", "11....22")
    values = np.full(labels.shape, 9, np.uint16)
    np.testing.assert_array_equal(finished(labels, 4, values), labeled("11112222", "11112222", "11112222"))
    np.testing.assert_array_equal(finished(labels, 3, values), labels)


def test_teeth_at_a_contact_are_removed():
    labels = labeled(
        "11122222",
        "11112222",
        "11122222",
        "11122222",
        "11111222",
        "11122222",
    )
    straight = labeled("11122222", "11122222", "11122222", "11122222", "11122222", "11122222")
    np.testing.assert_array_equal(finished(labels, 0), straight)
    step = labeled("111222", "111222", "111122", "111122")  # a step is no tooth
    np.testing.assert_array_equal(finished(step, 0), step)
    alone = labeled("2222", "2122", "2222")  # an object of one pixel is no tooth
    np.testing.assert_array_equal(finished(alone, 0), alone)


TOUCHING = arrays(np.int32, array_shapes(min_dims=2, max_dims=3, max_side=8), elements=st.sampled_from([0, 1, 2, 3]))


@given(TOUCHING, st.integers(0, 3), st.integers(0, 2**32))
@settings(deadline=None)
def test_objects_stay_connected_and_none_vanishes(labels, grow_px, seed):
    pieces = np.zeros_like(labels)  # each face-connected piece is an object
    for number in (1, 2, 3):
        own = connected_components(labels == number)
        pieces[own > 0] = own[own > 0] + pieces.max()
    values = np.random.Generator(np.random.Philox(seed)).integers(0, 2**16, labels.shape).astype(np.uint16)
    closed = finished(pieces, grow_px, values)
    assert set(np.unique(closed)) - {0} == set(np.unique(pieces)) - {0}
    assert np.all(closed[pieces > 0] > 0)
    for number in range(1, pieces.max() + 1):
        assert connected_components(closed == number).max() == 1


@given(TOUCHING)
@settings(deadline=None)
def test_contacts_do_not_depend_on_the_scale_of_probabilities(labels):
    values = np.full(labels.shape, 100, np.uint16)
    np.testing.assert_array_equal(finished(labels, 2, values), finished(labels, 2, 7 * values))


def test_outlines_lie_at_their_level_and_contacts_in_the_valley():
    profile = np.array([0.2, 0.6, 0.9, 0.95, 0.7, 0.55, 0.65, 0.95, 0.9, 0.6, 0.3, 0.6], np.float32)
    foreground = np.tile(profile, (4, 1))
    high = ObjectSettings(threshold=0.8, merge_ratio=0, min_size_px=0)
    np.testing.assert_array_equal(label_objects(foreground, high), np.tile(labeled("..11...22..."), (4, 1)))
    low = high.model_copy(update={"outline_level": 0.5})
    # 0.55 is the valley; its more probable neighbor is on the left. The piece on the right holds no object.
    np.testing.assert_array_equal(label_objects(foreground, low), np.tile(labeled(".111112222.."), (4, 1)))


@pytest.mark.parametrize("level", [0.8, 1.0])
def test_an_outline_level_above_the_threshold_changes_nothing(level):
    foreground = np.random.Generator(np.random.Philox(3)).random((20, 30)).astype(np.float32)
    settings = ObjectSettings(threshold=0.6, min_size_px=2)
    expected = label_objects(foreground, settings)
    np.testing.assert_array_equal(
        label_objects(foreground, settings.model_copy(update={"outline_level": level})), expected
    )


def test_models_of_earlier_versions_keep_their_outlines():
    settings = ObjectSettings.model_validate_json('{"threshold": 0.4, "grow_px": 1}')
    assert (settings.outline_level, settings.contacts, settings.fill_holes) == (1.0, "steps", False)
    foreground = np.zeros((5, 9), np.float32)
    foreground[1:4, 1:4] = foreground[1:4, 5:8] = 1
    foreground[2, 2] = 0
    expected = labeled("....2....", ".1112222.", ".1.12222.", ".1112222.", "....2....")
    np.testing.assert_array_equal(label_objects(foreground, settings.model_copy(update={"min_size_px": 0})), expected)
