from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from septum.arrays import watershed as module
from septum.arrays.targets import connected_components
from septum.arrays.watershed import flood
from septum.errors import UsageError


def neighbors(place, shape):
    """Yield the face neighbors of a pixel in the order of a scan."""
    for axis, step in [(a, -1) for a in range(len(shape))] + [(a, 1) for a in reversed(range(len(shape)))]:
        if 0 <= place[axis] + step < shape[axis]:
            yield (*place[:axis], place[axis] + step, *place[axis + 1 :])


def pixel_by_pixel(values, seeds, ratio):
    """Follow the definition in the module's docstring, pixel by pixel."""
    seeded = seeds is not None
    seeds = seeds if seeded else np.zeros(values.shape, int)
    order = sorted(map(tuple, np.argwhere(values > 0)), key=lambda p: (seeds[p] == 0, -values[p], p))
    cluster, heights = {}, {}

    def find(p):
        while cluster[p] != p:
            p = cluster[p]
        return p

    for p in order:
        if seeds[p]:
            cluster[p] = next(q for q in order if seeds[q] == seeds[p])
            heights[p] = np.inf
    for p in order:
        met = [q for q in neighbors(p, values.shape) if q in cluster]
        if seeds[p]:
            continue
        if not met:
            cluster[p], heights[p] = p, 0 if seeded else values[p]
            continue
        cluster[p] = find(min(met, key=order.index))
        for q in met:
            high, low = sorted([find(p), find(q)], key=heights.get, reverse=True)
            if high != low and values[p] >= ratio * heights[low]:
                cluster[low] = high
    labels = np.zeros(values.shape, np.int32)
    numbers = {}
    for p in map(tuple, np.argwhere(values > 0)):
        labels[p] = numbers.setdefault(find(p), len(numbers) + 1)
    return labels


@given(
    st.data(),
    array_shapes(min_dims=2, max_dims=3, max_side=6),
    st.sampled_from([1, 2, 5, 300]),
    st.sampled_from([0.0, 0.09, 0.25, 0.7, 1.0]),
)
@settings(deadline=None, max_examples=150)
def test_flood_equals_a_pixel_by_pixel_model(data, shape, top, ratio):
    values = data.draw(arrays(np.int32, shape, elements=st.integers(0, top)))
    labels, sizes = flood(values, ratio=ratio)
    assert np.array_equal(labels, pixel_by_pixel(values, None, ratio))
    assert np.array_equal(sizes, np.bincount(labels.ravel(), minlength=1)[1:])
    seeds = data.draw(arrays(np.int32, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 3]))) * (values > 0)
    labels, sizes = flood(values, seeds=seeds)
    assert np.array_equal(labels, pixel_by_pixel(values, seeds, 1.0))
    assert np.array_equal(sizes, np.bincount(labels.ravel(), minlength=1)[1:])


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=3, max_side=9)))
@settings(deadline=None)
def test_flood_of_a_mask_gives_its_components(mask):
    assert np.array_equal(flood(mask.astype(np.uint8), ratio=0.0)[0], connected_components(mask))


def test_constrictions_by_hand():
    depth = np.array([[3, 2, 1, 2, 4, 0, 5, 5]]) ** 2
    assert flood(depth, ratio=0)[0].tolist() == [[1, 1, 1, 1, 1, 0, 2, 2]]
    # The constriction is 1 deep, the narrower part 3: split if 1 < ratio * 3.
    assert flood(depth, ratio=0.3**2)[0].tolist() == [[1, 1, 1, 1, 1, 0, 2, 2]]
    assert flood(depth, ratio=0.4**2)[0].tolist() == [[1, 1, 1, 2, 2, 0, 3, 3]]
    assert flood(np.ones((2, 2), int), ratio=1)[0].tolist() == [[1, 1], [1, 1]]
    assert flood(np.array([[2, 0], [0, 2]]), ratio=0)[0].tolist() == [[1, 0], [0, 2]]


def test_seeds_by_hand():
    values = np.array([[9, 3, 1, 5, 2, 8, 0, 7]])
    seeds = np.array([[1, 0, 0, 0, 0, 2, 0, 0]], np.int32)
    # 5 is a peak; seed 2 reaches it at value 2 before seed 1 does at value 1. The last part has no seed.
    assert flood(values, seeds=seeds)[0].tolist() == [[1, 1, 2, 2, 2, 2, 0, 3]]
    # The pixels of a seed need not be connected.
    assert flood(values, seeds=np.minimum(seeds, 1))[0].tolist() == [[1, 1, 1, 1, 1, 1, 0, 2]]


def test_too_many_pixels_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 30)
    assert flood(np.ones((3, 4), int))[1].tolist() == [12]
    with pytest.raises(UsageError, match="36 pixels"):
        flood(np.ones((4, 4), int))
