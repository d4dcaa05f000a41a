from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from septum.arrays.instances import LEVELS, ObjectSettings, label_each, label_objects, quantize
from septum.arrays.targets import connected_components, separate_touching
from septum.errors import UsageError


def disks(shape, centers, radius):
    """Return labels 1 .. N of disks or balls; later ones overwrite earlier ones."""
    labels = np.zeros(shape, np.int32)
    for i, center in enumerate(centers, 1):
        labels[sum((g - c) ** 2 for g, c in zip(np.indices(shape), center, strict=True)) <= radius**2] = i
    return labels


def probability(labels, sigma=1.0):
    return gaussian_filter((labels > 0).astype(np.float32), sigma)


def iou(truth, labels):
    """Return the IoU of each true object with the predicted object at its center of mass."""
    result = []
    for i in range(1, truth.max() + 1):
        center = tuple(np.round(np.argwhere(truth == i).mean(0)).astype(int))
        own = labels == labels[center] if labels[center] else np.zeros(labels.shape, bool)
        result.append(((truth == i) & own).sum() / ((truth == i) | own).sum())
    return np.array(result)


TOUCHING = disks((40, 60), [(20, 15), (20, 33), (18, 50)], 10)


@pytest.mark.parametrize("merge_ratio", [0.0, 0.5])
def test_touching_disks_with_borders(merge_ratio):
    labels = label_objects(probability(separate_touching(TOUCHING), 0.7), ObjectSettings(merge_ratio=merge_ratio))
    assert labels.max() == 3 and labels.dtype == np.int32
    assert np.all(iou(TOUCHING, labels) > 0.9)


def test_touching_disks_without_borders_are_split_at_constrictions():
    foreground = probability(TOUCHING)
    assert label_objects(foreground, ObjectSettings(merge_ratio=0)).max() == 1
    labels = label_objects(foreground, ObjectSettings(merge_ratio=0.7))
    assert labels.max() == 3 and np.all(iou(TOUCHING, labels) > 0.85)


def test_3d_objects_with_thick_slices():
    truth = disks((24, 24, 44), [(12, 12, 12), (12, 12, 31)], 10)
    thin = probability(separate_touching(truth), 0.7)
    labels = label_objects(thin)
    assert labels.max() == 2 and np.all(iou(truth, labels) > 0.85)
    # Every second slice of the same volume, with twice the spacing, is split at the same place.
    touching = probability(truth)[::2]
    labels = label_objects(touching, ObjectSettings(merge_ratio=0.7), spacing=(2, 1, 1))
    assert labels.max() == 2 and np.all(iou(truth[::2], labels) > 0.85)


def test_constrictions_are_measured_in_physical_widths():
    # Two bricks of 9 x 9 pixels joined by a bridge 3 wide, all 3 slices thick. In pixels the bricks are as thin as the
    # bridge (half-width 2); with slices of 4 pixels they are 5 deep, and the bridge is a constriction.
    foreground = np.zeros((5, 11, 26), np.float32)
    foreground[1:4, 1:10, 1:10] = foreground[1:4, 1:10, 16:25] = foreground[1:4, 4:7, 10:16] = 1
    assert label_objects(foreground).max() == 1
    labels = label_objects(foreground, spacing=(4, 1, 1))
    assert labels.max() == 2 and np.all(labels[1:4, 1:10, 1:10] == 1) and np.all(labels[1:4, 1:10, 16:25] == 2)


def test_low_probability_between_high_ones_is_a_border():
    foreground = np.full((9, 31), 0.95, np.float32)
    foreground[:, 15] = 0.6
    labels = label_objects(foreground, ObjectSettings(min_size_px=0))
    assert np.all(labels[:, :15] == 1) and np.all(labels[:, 16:] == 2)
    assert label_objects(foreground, ObjectSettings(seed_level=0.5, min_size_px=0)).max() == 1
    assert np.all(label_objects(foreground, ObjectSettings(threshold=0.6))[:, 15] == 0)


def test_piece_below_the_seed_level_is_one_object():
    foreground = np.zeros((8, 16), np.float32)
    foreground[1:6, 1:6], foreground[1:6, 8:14] = 0.7, 0.99
    labels = label_objects(foreground)
    assert np.array_equal(labels > 0, foreground > 0) and labels[1, 1] != labels[1, 8] and labels.max() == 2


def test_small_objects_are_removed_or_merged_into_their_neighbor():
    foreground = np.zeros((12, 30), np.float32)
    foreground[2:10, 2:10] = 0.99  # 64 pixels
    foreground[5:7, 10:13] = 0.6
    foreground[5:7, 13:15] = 0.99  # 4 pixels, joined to the square by pixels below the seed level
    foreground[5:7, 20:22] = 0.99  # 4 pixels alone
    with_specks = label_objects(foreground, ObjectSettings(min_size_px=0))
    assert with_specks.max() == 3
    labels = label_objects(foreground, ObjectSettings(min_size_px=8))
    assert labels.max() == 1
    assert np.array_equal(labels == 1, (foreground > 0.5) & (np.arange(30) < 20))
    assert label_objects(foreground, ObjectSettings(min_size_px=500)).max() == 0


def test_growing_closes_gaps_and_keeps_outlines():
    square = np.zeros((9, 21), np.int32)
    square[2:7, 2:10], square[2:7, 10:19] = 1, 2
    apart = separate_touching(square)
    assert np.count_nonzero(apart) == np.count_nonzero(square) - 5
    foreground = (apart > 0).astype(np.float32)
    assert np.array_equal(label_objects(foreground), apart)
    closed = label_objects(foreground, ObjectSettings(grow_px=1))
    # The column returns to an object, and so do the two ends of the gap, which also have both objects near.
    square[[1, 7], 10] = 2
    assert np.array_equal(closed, square)
    # Slices four pixels thick are too far apart.
    stacked = np.zeros((3, 9, 9), np.float32)
    stacked[0, 2:7, 2:7] = stacked[2, 2:7, 2:7] = 1
    assert np.all(label_objects(stacked, ObjectSettings(grow_px=2), spacing=(4, 1, 1))[1] == 0)
    assert np.all(label_objects(stacked, ObjectSettings(grow_px=2))[1, 2:7, 2:7] > 0)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (1, 9), (3, 4, 5), (1, 1, 1), (0, 3)])
def test_empty_and_full_foreground(shape):
    assert not label_objects(np.zeros(shape, np.float32)).any()
    full = label_objects(np.ones(shape, np.float32), ObjectSettings(min_size_px=1, grow_px=1))
    assert np.all(full == 1)
    assert full.shape == shape


def test_one_pixel():
    foreground = np.zeros((5, 5), np.float32)
    foreground[2, 3] = 0.99
    assert np.array_equal(label_objects(foreground, ObjectSettings(min_size_px=1)), foreground > 0)
    assert not label_objects(foreground, ObjectSettings(min_size_px=2)).any()


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.floats(0, 1, width=32)),
    st.sampled_from([0.0, 0.3, 0.6]),
    st.sampled_from([0.5, 0.8]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(deadline=None, max_examples=100)
def test_objects_partition_the_mask(foreground, threshold, seed_level, merge_ratio):
    labels = label_objects(
        foreground, ObjectSettings(threshold=threshold, seed_level=seed_level, merge_ratio=merge_ratio, min_size_px=0)
    )
    mask = quantize(foreground) > round(threshold * LEVELS)
    assert np.all(mask == (foreground > threshold), where=np.abs(foreground - threshold) > 1 / LEVELS)
    assert np.array_equal(labels > 0, mask)
    numbers = np.unique(labels[labels > 0])
    assert np.array_equal(numbers, np.arange(1, len(numbers) + 1))
    assert np.all(np.diff([np.flatnonzero(labels == i)[0] for i in numbers]) > 0)
    for i in numbers:
        assert connected_components(labels == i).max() == 1
    assert len(numbers) >= connected_components(mask).max()
    larger = label_objects(
        foreground, ObjectSettings(threshold=threshold, seed_level=seed_level, merge_ratio=merge_ratio, min_size_px=3)
    )
    assert np.all(np.bincount(larger.ravel(), minlength=2)[1:] >= 3) or not larger.any()
    assert not np.any(larger[~mask])


def test_several_settings_give_the_results_of_single_calls():
    draw = np.random.Generator(np.random.Philox(3))
    foreground = np.clip(probability(separate_touching(TOUCHING)) + draw.normal(0, 0.1, TOUCHING.shape), 0, 1).astype(
        np.float32
    )
    choices = [
        ObjectSettings(threshold=t, seed_level=0.8, seed_share=share, merge_ratio=ratio, min_size_px=size, grow_px=grow)
        for t, share, ratio, size, grow in itertools.product((0.35, 0.7), (0, 0.3), (0, 0.5), (1, 10), (0, 1))
    ]
    for choice, labels, _ in label_each(foreground, choices):
        assert np.array_equal(labels, label_objects(foreground, choice)), choice


def test_settings_of_older_model_files_are_read():
    written = '{"threshold":0.4,"seed_level":0.8,"seed_share":0.15,"neck":0.3,"min_size_px":20,"grow_px":1}'
    read = ObjectSettings.model_validate_json(written)
    assert read.merge_ratio == 0.3 and ObjectSettings.model_validate_json(read.model_dump_json()) == read


def test_settings_are_closed_and_frozen():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        ObjectSettings(threshold=1.5)
    with pytest.raises(ValidationError, match="Extra inputs"):
        ObjectSettings.model_validate({"tresh": 0.5})
    with pytest.raises(UsageError, match="spacing"):
        label_objects(np.zeros((4, 4), np.float32), spacing=(1, 1, 1))
