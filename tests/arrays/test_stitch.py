from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from septum.arrays import stitch
from septum.arrays.boundaries import draw_boundaries
from septum.arrays.distance import MAX_DISTANCE_PX
from septum.arrays.instances import ObjectSettings, label_each, label_objects, quantize
from septum.arrays.learned import CONTACT_PROPERTIES, OBJECT_PROPERTIES, LearnedDecisions, LogisticScore
from septum.errors import UsageError

OBJECTS = ("ids", "sizes", "seeded", "firsts", "small", "lowest", "highest")  # reports of objects and of background


class Memory:
    """Store in memory; pixels that no block has written hold an invalid id."""

    def __init__(self, values):
        self.values = values
        self.written = {}

    def levels(self, region):
        return self.values[region]

    def ids(self, stage, region):
        return self.written[stage][region]

    def write_ids(self, stage, core, ids):
        assert ids.dtype == np.int64
        self.written.setdefault(stage, np.full(self.values.shape, -(2**40)))[core] = ids


def blockwise(foreground, block, objects, spacing=None, *, seed=0, lines=False):
    """Return the labels, the tables, and the largest number of values in a report for a join."""
    division = stitch.Division(foreground.shape, block, objects, spacing, lines)
    axes = [[slice(a, min(a + b, n)) for a in range(0, n, b)] for n, b in zip(foreground.shape, block, strict=True)]
    cores = list(itertools.product(*axes))
    order = np.random.Generator(np.random.Philox(seed)).permuted(np.arange(len(cores)))
    store, tables, labels, most = Memory(quantize(foreground)), {}, None, 0
    for stage in stitch.STAGES:
        reports = []
        for i in order:
            report = stitch.run_block(stage, cores[i], store, division, tables)
            if stage == stitch.STAGES[-1]:
                numbers = report.pop("numbers")
                labels = np.zeros(foreground.shape, numbers.dtype) if labels is None else labels
                labels[cores[i]] = numbers
            reports.append(report)
            most = max(most, sum(len(v.T) for name, v in report.items() if name not in OBJECTS))
        tables[stage] = stitch.join(stage, reports, division, tables)
    return labels, tables, most


@st.composite
def images(draw):
    """Draw noise, blobs, plateaus or constants; 2D and 3D."""
    rank = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 24 if rank == 2 else 9)) for _ in range(rank))
    noise = np.random.Generator(np.random.Philox(draw(st.integers(0, 2**32)))).random(shape)
    smooth = gaussian_filter(noise, draw(st.sampled_from([0.0, 0.7, 1.5, 3.0])))
    spread = np.ptp(smooth) or 1.0
    steps = draw(st.sampled_from([1, 2, 5, 10, 10**6]))  # few steps give plateaus of equal values
    return (np.round((smooth - smooth.min()) / spread * steps) / steps).astype(np.float32)


def scores(properties):
    """Draw logistic scores of any sign; small weights keep them away from 0 and 1."""
    numbers = st.lists(st.sampled_from([-1.0, -0.3, 0.0, 0.3, 1.0]), min_size=len(properties), max_size=len(properties))
    zeros, ones = (0.0,) * len(properties), (1.0,) * len(properties)
    return st.builds(
        lambda weights, bias: LogisticScore(
            properties=properties, mean=zeros, deviation=ones, weights=tuple(weights), bias=bias
        ),
        numbers,
        st.sampled_from([-1.0, 0.0, 1.0]),
    )


LEARNED = st.builds(
    LearnedDecisions,
    size_px=st.sampled_from([4.0, 60.0]),
    contact=st.none() | scores(CONTACT_PROPERTIES),
    confidence=scores(OBJECT_PROPERTIES),
    least=st.sampled_from([0.0, 0.3, 0.6]),
)
CHOICES = st.builds(
    ObjectSettings,
    threshold=st.sampled_from([0.0, 0.2, 0.5]),
    seed_level=st.sampled_from([0.1, 0.5, 0.6, 0.8]),
    seed_share=st.sampled_from([0.0, 0.0, 0.2, 0.5, 1.0]),
    merge_ratio=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
    min_size_px=st.sampled_from([0, 3, 8, 30]),
    grow_px=st.sampled_from([0, 0, 1, 3]),
    outline_level=st.sampled_from([0.1, 0.4, 1.0, 1.0]),
    contacts=st.sampled_from(["steps", "valley"]),
    fill_holes=st.booleans(),
    learned=st.none() | LEARNED,
)


@given(st.data(), images(), CHOICES)
@settings(deadline=None, max_examples=150)
def test_blockwise_labels_equal_those_of_the_whole_image(data, foreground, objects):
    spacing = data.draw(st.none() | st.tuples(*[st.sampled_from([1.0, 1.3, 2.7])] * foreground.ndim))
    blocks = [range(1 if foreground.size < 60 else min(side, 3), side + 1) for side in foreground.shape]
    block = tuple(data.draw(st.sampled_from(sides)) for sides in blocks)
    ((_, whole, sure),) = label_each(foreground, [objects], spacing=spacing)
    seed, lines = data.draw(st.integers(0, 9)), data.draw(st.booleans())
    labels, tables, _ = blockwise(foreground, block, objects, spacing, seed=seed, lines=lines)
    assert np.array_equal(labels, draw_boundaries(whole) if lines else whole)
    assert labels.dtype == np.min_scalar_type(whole.max(initial=0))
    assert stitch.count(tables) == (whole.max(initial=0) if sure is None else len(sure))
    assert np.array_equal(stitch.confidence(tables), sure) if sure is not None else stitch.confidence(tables) is None


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 6), (2, 3, 4)])
def test_empty_and_full_foreground(shape, value):
    foreground = np.full(shape, value, np.float32)
    for objects in (ObjectSettings(min_size_px=1), ObjectSettings(threshold=0.2, merge_ratio=0, min_size_px=10)):
        labels, _, _ = blockwise(foreground, (1,) * len(shape), objects)
        assert np.array_equal(labels, label_objects(foreground, objects))


@pytest.mark.parametrize("block", [(1, 1), (2, 5), (7, 3), (40, 40)])
def test_snake_through_many_blocks_is_one_object(block):
    foreground = np.zeros((21, 20), np.float32)
    foreground[::4] = 0.99
    foreground[1::8, -1] = foreground[2::8, -1] = foreground[3::8, -1] = 0.7
    foreground[5::8, 0] = foreground[6::8, 0] = foreground[7::8, 0] = 0.7
    for objects, count in [
        (ObjectSettings(), 6),
        (ObjectSettings(seed_level=0.6), 1),
        (ObjectSettings(merge_ratio=0), 6),
    ]:
        labels, _, _ = blockwise(foreground, block, objects)
        assert np.array_equal(labels, label_objects(foreground, objects))
        assert labels.max() == count


def test_objects_larger_than_blocks_and_deeper_than_the_margin(monkeypatch):
    rows, columns = np.indices((120, 210))
    disks = np.minimum((rows - 60) ** 2 + (columns - 60) ** 2, (rows - 60) ** 2 + (columns - 150) ** 2) < 50**2
    foreground = gaussian_filter(disks.astype(np.float32), 1)
    objects = ObjectSettings(merge_ratio=0.8)
    for deepest in (512, 20):
        monkeypatch.setitem(MAX_DISTANCE_PX, 2, deepest)
        labels, _, _ = blockwise(foreground, (16, 24), objects)
        assert np.array_equal(labels, label_objects(foreground, objects))
        # With a cap of 20 px the constriction, 21 px deep, is as deep as the disks.
        assert labels.max() == (2 if deepest == 512 else 1)


def test_reports_of_blocks_scale_with_the_block_border():
    noise = np.random.Generator(np.random.Philox(5)).random((256, 256))
    foreground = gaussian_filter(noise, 2)
    foreground = np.clip((foreground - foreground.mean()) / foreground.std() * 0.3 + 0.6, 0, 1).astype(np.float32)
    for merge_ratio in (0.0, 0.5):
        objects = ObjectSettings(merge_ratio=merge_ratio)
        labels, _, most = blockwise(foreground, (128, 128), objects)
        assert np.array_equal(labels, label_objects(foreground, objects))
        assert labels.max() > 100 and 0 < most < 2 * 4 * 128


def test_stage_for_small_objects_is_skipped_without_small_objects():
    foreground = np.zeros((10, 30), np.float32)
    foreground[2:8, 2:12] = foreground[2:8, 20:25] = 1
    division = stitch.Division(foreground.shape, (5, 5), ObjectSettings())
    _, tables, _ = blockwise(foreground, (5, 5), ObjectSettings(min_size_px=30))
    assert not stitch.needed("extend", tables, division) and tables["extend"] == {} and stitch.count(tables) == 2
    assert tables["divide"]["small"] == 0
    assert tables["divide"]["numbers"].tolist() == [1, 2]
    labels, tables, _ = blockwise(foreground, (5, 5), ObjectSettings(min_size_px=31))
    assert stitch.needed("extend", tables, division) and stitch.count(tables) == 1
    assert np.array_equal(labels == 1, (foreground > 0) & (np.arange(30) < 15))


def test_small_objects_inside_a_block_are_counted_and_not_listed():
    foreground = np.zeros((64, 64), np.float32)
    foreground[1::4, 1::4] = 1  # 256 objects of one pixel, none on the border of a block of 32
    foreground[30:36, 30:36] = 1
    objects = ObjectSettings(min_size_px=10)
    division = stitch.Division(foreground.shape, (32, 32), objects)
    store = Memory(quantize(foreground))
    cores = [(slice(y, y + 32), slice(x, x + 32)) for y in (0, 32) for x in (0, 32)]
    tables = {
        "seeds": stitch.join("seeds", [stitch.run_block("seeds", c, store, division, {}) for c in cores], division, {})
    }
    reports = [stitch.run_block("divide", core, store, division, tables) for core in cores]
    assert [len(report["ids"]) for report in reports] == [1, 1, 1, 1]
    assert sum(int(report["small"].sum()) for report in reports) == 253  # two of 256 touch the square, one lies in it
    table = stitch.join("divide", iter(reports), division, tables)
    assert (len(table["ids"]), int(table["small"])) == (1, sum(int(report["small"].sum()) for report in reports))


def test_spacing_of_wrong_length_is_refused():
    with pytest.raises(UsageError, match="spacing"):
        blockwise(np.zeros((4, 4), np.float32), (2, 2), ObjectSettings(), (1.0,))
