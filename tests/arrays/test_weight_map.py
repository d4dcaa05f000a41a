from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from septum.arrays.targets import IGNORE_INDEX, UNANNOTATED, object_target, separate_touching
from septum.arrays.weight_map import border_term, class_balance, class_counts, fiji_weight_map, weight_map
from septum.errors import DataError, UsageError
from septum.seeding import generator

EPS = float(np.finfo(np.float32).eps)


def distances(labels, spacing):
    """Return the distances to the nearest and second nearest object by definition: over all pairs of pixels."""
    size = np.asarray(spacing) / min(spacing)
    pixels = np.argwhere(np.ones(labels.shape)) * size
    to_each = [np.full(labels.size, np.inf), np.full(labels.size, np.inf)]
    for i in np.unique(labels[labels > 0]):
        offsets = pixels[:, None] - pixels[labels.ravel() == i]
        to_each.append(np.sqrt((offsets**2).sum(-1)).min(1))
    return np.sort(to_each, axis=0)[:2].reshape(2, *labels.shape)


def slow_border(labels, w0=10.0, sigma=5.0, spacing=None):
    d1, d2 = distances(labels, spacing or (1.0,) * labels.ndim)
    return np.where(labels == 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)


def blobs(shape, count, seed):
    draw = generator(seed, "test blobs")
    labels = np.zeros(shape, np.int32)
    for i, center in enumerate(draw.uniform(0, shape, (count, len(shape)))):
        radius = draw.uniform(1, max(shape) / 6)
        square = sum((g - c) ** 2 for g, c in zip(np.indices(shape), center, strict=True))
        labels[square < radius**2] = 3 * i + 2
    return labels


@given(
    arrays(
        np.int32,
        array_shapes(min_dims=2, max_dims=3, max_side=7),
        elements=st.sampled_from([0, 0, 0, 0, 0, 0, 0, -1, 1, 2, 2_000_000_000]),
        fill=st.just(0),
    ),
    st.sampled_from([1.0, 5.0]),
    st.permutations([1.0, 1.7, 3.0]),
)
@settings(deadline=None, max_examples=150)
def test_border_term_equals_its_definition_on_tiny_arrays(labels, sigma, sizes):
    spacing = tuple(sizes[: labels.ndim])
    expected = slow_border(labels, 10.0, sigma, spacing)
    assert np.allclose(border_term(labels, sigma_px=sigma, spacing=spacing), expected, rtol=4e-6, atol=2e-8)


@pytest.mark.parametrize("seed", range(3))
def test_border_term_equals_its_definition_on_blobs(seed):
    labels = blobs((23, 31), 9, seed)
    term = border_term(labels)
    assert term.dtype == np.float32
    assert np.abs(term - slow_border(labels)).max() <= 10 * EPS
    volume = blobs((6, 14, 13), 7, seed)
    spacing = (3.0, 1.0, 1.0)
    # The same numbers in micrometers: only ratios count.
    assert np.array_equal(border_term(volume, spacing=(0.6, 0.2, 0.2)), border_term(volume, spacing=spacing))
    assert np.abs(border_term(volume, spacing=spacing) - slow_border(volume, spacing=spacing)).max() <= 10 * EPS


@pytest.mark.parametrize("rank", [2, 3])
def test_slabs_do_not_change_the_result(rank, monkeypatch):
    labels = blobs((70, 24) if rank == 2 else (40, 9, 11), 12, 5)
    whole = border_term(labels, sigma_px=1.5)
    monkeypatch.setattr("septum.arrays.weight_map.SLAB_PIXELS", 1)
    assert np.array_equal(border_term(labels, sigma_px=1.5), whole)
    assert np.abs(whole - slow_border(labels, sigma=1.5)).max() <= 10 * EPS


def test_axes_are_interchangeable():
    labels = blobs((9, 10, 11), 6, 8)
    term = border_term(labels, spacing=(2.0, 1.0, 1.5))
    for order in itertools.permutations(range(3)):
        turned = border_term(labels.transpose(order), spacing=tuple(np.array([2.0, 1.0, 1.5])[list(order)]))
        assert np.allclose(turned, term.transpose(order), rtol=1e-6, atol=2e-8)


def test_by_hand():
    labels = np.array([[1, 0, 0, 7]])
    # d1 + d2 = 1 + 2 on both background pixels.
    assert np.allclose(border_term(labels, w0=10, sigma_px=5), [[0, 10 * np.exp(-0.18), 10 * np.exp(-0.18), 0]])
    labels = np.array([[4], [0], [9]], np.uint8)
    assert np.allclose(border_term(labels, w0=3, sigma_px=2, spacing=(2, 1)), [[0], [3 * np.exp(-16 / 8)], [0]])


def test_an_id_in_two_pieces_is_one_object():
    assert border_term(np.array([[1, 0, 0, 1]])).max() == 0
    pieces = np.array([[1, 0, 1, 0, 2]])
    assert np.allclose(border_term(pieces)[0, 1], 10 * np.exp(-((1 + 3) ** 2) / 50))


def test_border_term_is_zero_without_a_second_object_or_if_negligible():
    assert not border_term(np.zeros((5, 5), np.int32)).any()
    assert not border_term(np.eye(5, dtype=np.uint16) * 3).any()
    far = np.zeros((1, 80), np.int32)
    far[0, 0], far[0, 31], far[0, 79] = 1, 2, 3
    term = border_term(far)
    assert np.allclose(term[0, 1:31], 10 * np.exp(-(31**2) / 50), rtol=1e-5) and not term[0, 32:].any()
    assert not border_term(np.array([[1, 0, 2]]), w0=0).any()
    assert border_term(np.zeros((0, 4), np.int32)).shape == (0, 4)


def test_wide_ids_and_any_memory_order():
    labels = np.array([[2**40, 0, 3], [0, 0, UNANNOTATED]])
    expected = slow_border(np.array([[1, 0, 3], [0, 0, UNANNOTATED]]))
    assert np.allclose(border_term(labels), expected, rtol=1e-6)
    assert np.allclose(border_term(np.asfortranarray(labels)), expected, rtol=1e-6)


def test_unannotated_pixels_have_weight_0_and_are_no_objects():
    labels = np.array([[1, 0, UNANNOTATED, 0, 2]])
    target = object_target(labels)
    weight = weight_map(labels, target, [1.0, 2.0])
    assert np.allclose(weight, [[2, 1 + 10 * np.exp(-16 / 50), 0, 1 + 10 * np.exp(-16 / 50), 2]])
    target[0, 4] = IGNORE_INDEX
    assert weight_map(labels, target, [1.0, 2.0])[0, 4] == 0


def test_binary_masks_by_components():
    target = np.array([[1, 1, 0, 2], [1, 0, 0, 0], [0, 0, 1, 255]], np.uint8)
    by_hand = np.array([[1, 1, 0, 2], [1, 0, 0, 0], [0, 0, 3, -1]])
    weights = np.array([0.5, 1, 4], np.float32)
    expected = np.where(target == 255, 0, np.array([0.5, 1, 4, *[0] * 253])[target] + slow_border(by_hand))
    assert np.allclose(weight_map(None, target, weights), expected, rtol=1e-6)


def test_border_of_separated_cells_has_a_high_weight():
    labels = np.zeros((20, 21), np.int32)
    labels[4:16, 3:10], labels[4:16, 10:19] = 1, 2
    apart = separate_touching(labels)
    weight = weight_map(apart, object_target(apart), class_balance([1, 1]))
    assert np.allclose(weight[6:14, 10], 1 + 10 * np.exp(-4 / 50))  # the column taken from the larger cell
    assert np.allclose(weight[apart > 0], 1)


def test_fiji_weights():
    labels = blobs((20, 26), 6, 1)
    labels[:3, :3] = UNANNOTATED
    d1, d2 = distances(labels, (1.0, 1.0))
    background = 0.1 + 0.9 * np.exp(-(d1**2) / 200) + 50 * np.exp(-((d1 + d2) ** 2) / 72)
    expected = np.select([labels == UNANNOTATED, labels > 0], [0.0, 1.0], background)
    assert np.allclose(fiji_weight_map(labels), expected, rtol=2e-6)
    one = np.array([[5, 0, 0, 0]])
    assert np.allclose(
        fiji_weight_map(one, spacing=(1, 1))[0], [1, *(0.1 + 0.9 * np.exp(-(np.arange(1, 4) ** 2) / 200))]
    )
    assert np.allclose(fiji_weight_map(np.zeros((3, 3), np.int32)), 0.1)
    thick = fiji_weight_map(np.array([[[5]], [[0]]]), spacing=(4, 1, 1))
    assert np.allclose(thick.ravel(), [1, 0.1 + 0.9 * np.exp(-16 / 200)])


def test_class_balance():
    assert class_counts(np.array([[0, 1, 255], [1, 1, 2]], np.uint8), classes=4).tolist() == [1, 3, 1, 0]
    assert np.allclose(class_balance([300, 100]), [1 / (2 * 0.75), 1 / (2 * 0.25)])
    assert np.allclose(class_balance([5, 5, 5]), 1)
    assert np.allclose(class_balance([0, 0]), 1)
    assert np.allclose(class_balance([990, 10], cap=1), 1)
    # A ratio of 99 is capped to 10: w = (1, 10) / (0.99 + 0.1).
    assert np.allclose(class_balance([990, 10]), np.array([1, 10]) / 1.09)
    assert np.allclose(class_balance([7, 0]), [1, 10])


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6), st.floats(1, 100))
def test_mean_weight_is_one(counts, cap):
    weights = class_balance(counts, cap=cap)
    assert weights.dtype == np.float32 and np.all(weights > 0)
    if sum(counts):
        assert np.isclose(np.average(weights, weights=counts), 1, rtol=1e-5)
    assert weights.max() <= weights.min() * cap * (1 + 1e-6)


def test_bad_values_are_refused():
    labels = np.array([[1, 0, 2]])
    with pytest.raises(UsageError, match="spacing"):
        border_term(labels, spacing=(1.0,))
    with pytest.raises(UsageError, match="spacing"):
        fiji_weight_map(labels, spacing=(0.0, 1.0))
    with pytest.raises(UsageError, match="sigma_px = 0"):
        border_term(labels, sigma_px=0)
    with pytest.raises(UsageError, match="background = 2"):
        fiji_weight_map(labels, background=2)
    with pytest.raises(DataError, match="-5"):
        border_term(labels - 5)
    with pytest.raises(DataError, match="-5"):
        border_term((labels - 5).astype(np.int16))
