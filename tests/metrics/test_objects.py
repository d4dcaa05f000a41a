"""Tables, matching, SEG, DET, Rand and information: hand-worked cases and the properties that a score must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import DataError, UsageError
from septum.metrics import contingency, ctc, information, matching, rand

FEW = settings(max_examples=25, deadline=None)


def labels_of(seed, shape=(9, 11), ids=5):
    """Blocks of ids, so that objects have more than a pixel."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, ids, tuple(-(-n // 3) for n in shape))
    for axis in range(len(shape)):
        coarse = coarse.repeat(3, axis)
    return coarse[tuple(slice(n) for n in shape)]


def table(truth, predicted, **kwargs):
    return contingency.table(np.asarray(truth), np.asarray(predicted), **kwargs)


def counts(t):
    pairs = zip(t.truth.tolist(), t.predicted.tolist(), strict=True)
    return dict(zip(pairs, t.count.tolist(), strict=True))


def every_score(t):
    pairs, nats = rand.score(t), information.score(t)
    objects = matching.scores(t, thresholds=(0.3, 0.5, 0.75))
    found = ctc.det(t)
    return (
        *((s.tp, s.fp, s.fn, s.mean_matched_iou, s.panoptic_quality) for s in objects),
        (pairs.f, pairs.split, pairs.merge, nats.f, nats.split, nats.merge, ctc.seg(t), found.det),
    )


def test_table_by_hand():
    t = table([[0, 1, 1], [2, 2, 1]], [[7, 7, 0], [7, 9, 9]])
    assert counts(t) == {(0, 7): 1, (1, 0): 1, (1, 7): 1, (1, 9): 1, (2, 7): 1, (2, 9): 1}
    assert [a.tolist() for a in t.truth_objects] == [[1, 2], [3, 2]]
    assert [a.tolist() for a in t.predicted_objects] == [[7, 9], [3, 2]]
    assert t.pixels == 6


@FEW
@given(st.integers(0, 1000), st.sampled_from([(40,), (13, 7), (4, 5, 6)]), st.booleans())
def test_table_equals_a_count_pixel_by_pixel(seed, shape, ignored):
    random = np.random.default_rng(seed)
    truth, predicted = random.integers(-1, 4, shape), random.integers(0, 4, shape)
    ignore = random.random(shape) < 0.3 if ignored else None
    counted = (truth >= 0) & (True if ignore is None else ~ignore)
    expected: dict[tuple[int, int], int] = {}
    for pair in zip(truth[counted].tolist(), predicted[counted].tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    t = table(truth, predicted, ignore=ignore)
    assert (
        dict(zip(zip(t.truth.tolist(), t.predicted.tolist(), strict=True), t.count.tolist(), strict=True)) == expected
    )


def test_table_is_the_same_in_slabs(monkeypatch):
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 9, (50, 40)), random.integers(0, 9, (50, 40))
    whole = table(truth, predicted)
    monkeypatch.setattr(contingency, "SLAB_PIXELS", 64)
    slabs = table(truth, predicted)
    for name in ("truth", "predicted", "count"):
        assert np.array_equal(getattr(whole, name), getattr(slabs, name))


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64])
def test_ids_up_to_2_to_the_31_and_beyond(dtype):
    small = labels_of(3)
    large = np.where(small > 0, small.astype(np.int64) + 2**31 - 3, 0).astype(dtype)
    assert large.max() >= 2**31
    assert every_score(table(large, large)) == every_score(table(small, small))
    shifted = np.roll(small, 1, 1)
    expected = every_score(table(small, shifted))
    assert every_score(table(large, np.roll(large, 1, 1))) == expected


def test_ids_beyond_32_bits_are_refused():
    with pytest.raises(DataError, match="renumber"):
        table(np.array([0, 2**33]), np.array([0, 1]))


def test_different_shapes_are_refused():
    with pytest.raises(DataError, match=r"truth of 3 x 4 pixels, prediction of 4 x 3"):
        table(np.zeros((3, 4), int), np.zeros((4, 3), int))
    with pytest.raises(DataError, match="ignore mask of 2 x 2"):
        table(np.zeros((3, 4), int), np.zeros((3, 4), int), ignore=np.zeros((2, 2), bool))


def test_labels_that_are_no_integers_or_negative_are_refused():
    with pytest.raises(DataError, match="float64"):
        table(np.zeros((3, 4)), np.zeros((3, 4), int))
    with pytest.raises(DataError, match="labels from -1"):
        table(np.zeros((3, 4), int), np.full((3, 4), -1))


@FEW
@given(st.integers(0, 1000), st.sampled_from([(9, 11), (6, 7, 8)]))
def test_identical_labels_have_perfect_scores(seed, shape):
    labels = labels_of(seed, shape)
    t = table(labels, labels)
    for s in matching.scores(t):
        assert (s.tp, s.fp, s.fn) == (len(np.unique(labels[labels > 0])), 0, 0)
        assert s.ap == s.f1 == s.panoptic_quality == s.mean_true_iou == s.mean_matched_iou == 1
    assert ctc.seg(t) == 1 and ctc.det(t).det == 1
    assert rand.score(t).f == rand.score(t).split == rand.score(t).merge == rand.score(t).index == 1
    assert information.score(t).f == pytest.approx(1)


@FEW
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_scores_do_not_depend_on_the_ids(first, second):
    truth, predicted = labels_of(first), labels_of(second)
    random = np.random.default_rng(first)
    renamed = [np.append(0, random.permutation(np.arange(1, 40))[:6])[a] for a in (truth, predicted)]
    for ours, theirs in zip(every_score(table(truth, predicted)), every_score(table(*renamed)), strict=True):
        assert ours == pytest.approx(theirs, nan_ok=True)


@FEW
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_exchanging_truth_and_prediction_exchanges_precision_and_recall(first, second):
    truth, predicted = labels_of(first), labels_of(second)
    for threshold in (0.2, 0.5, 0.7):
        (ours,), (theirs,) = (
            matching.scores(table(*pair), thresholds=(threshold,)) for pair in ((truth, predicted), (predicted, truth))
        )
        assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fn, theirs.fp)
        assert (ours.precision, ours.recall) == (theirs.recall, theirs.precision)
        assert ours.panoptic_quality == pytest.approx(theirs.panoptic_quality)
    truth, predicted = truth + 1, predicted + 1  # without background: pixels of label 0 are treated differently
    ours, theirs = (rand.score(table(*pair)) for pair in ((truth, predicted), (predicted, truth)))
    assert ours.f == pytest.approx(theirs.f) and ours.split == pytest.approx(theirs.merge)
    ours, theirs = (information.score(table(*pair)) for pair in ((truth, predicted), (predicted, truth)))
    assert ours.f == pytest.approx(theirs.f) and ours.variation == pytest.approx(theirs.variation)


def test_split_and_merge_are_not_exchanged():
    one, two = np.ones((4, 6), int), np.repeat([[1, 1, 1, 2, 2, 2]], 4, 0)
    split, merge = rand.score(table(one, two)), rand.score(table(two, one))
    assert (split.split, split.merge) == (0.5, 1)
    assert (merge.split, merge.merge) == (1, 0.5)
    three = np.repeat([[1, 1, 2, 2, 3, 3]], 4, 0)
    split, merge = information.score(table(two, three)), information.score(table(three, two))
    assert split.split < split.merge and merge.merge < merge.split
    both = rand.score(table(two, three))
    # 12 true pairs of sides 12 and 12: squares 288; shared 8, 4, 4, 8: 160; proposed 8, 8, 8: 192.
    assert (both.joint, both.truth, both.proposal) == (160, 288, 192)


def test_each_background_pixel_inside_a_cell_is_an_object():
    truth = np.ones((1, 10), int)
    predicted = np.array([[5] * 6 + [0] * 4])
    pairs = rand.score(table(truth, predicted))
    assert (pairs.joint, pairs.truth, pairs.proposal) == (36 + 4, 100, 36 + 4)
    nats = information.score(table(truth, predicted))
    assert nats.proposal == pytest.approx(-0.6 * math.log(0.6) + 0.4 * math.log(10))
    old = rand.score_2014(table(truth, predicted))
    assert (old.joint, old.truth, old.proposal) == (15, 45, 15)


def test_pixels_outside_true_cells_do_not_count_in_rand():
    truth = np.array([[0, 0, 1, 1, 2, 2]])
    assert rand.score(table(truth, np.array([[3, 3, 3, 3, 4, 4]]))).f == 1


def test_empty_prediction_and_empty_truth():
    labels, nothing = labels_of(1), np.zeros((9, 11), int)
    n = len(np.unique(labels)) - 1
    missed, invented, neither = table(labels, nothing), table(nothing, labels), table(nothing, nothing)
    for t, fp, fn in ((missed, 0, n), (invented, n, 0), (neither, 0, 0)):
        for s in matching.scores(t, thresholds=(0.1, 0.5)):
            assert (s.tp, s.fp, s.fn, s.ap, s.f1, s.panoptic_quality) == (0, fp, fn, 0, 0, 0)
    assert ctc.seg(missed) == 0 and ctc.det(missed).det == 0
    assert math.isnan(ctc.seg(invented)) and math.isnan(ctc.det(neither).det)
    assert rand.score(invented).f == 0 and math.isnan(rand.score(invented).split)
    assert information.score(invented).f == 0 and math.isnan(information.score(invented).truth)
    assert math.isnan(information.score(invented).mutual)


def test_an_ignored_image_scores_as_an_empty_one():
    labels = labels_of(2)
    t = table(labels, labels, ignore=np.ones(labels.shape, bool))
    assert t.pixels == 0
    assert matching.scores(t)[0].ap == 0 and math.isnan(ctc.seg(t))
    assert rand.score(t).f == information.score(t).f == 0
    assert table(np.full((3, 3), -1), labels[:3, :3]).pixels == 0


def test_ignored_pixels_do_not_count():
    truth, predicted = np.array([[1, 1, 1, 1, 0, 0]]), np.array([[2, 2, 0, 0, 3, 3]])
    ignore = np.array([[0, 0, 1, 1, 1, 1]], bool)
    assert matching.scores(table(truth, predicted, ignore=ignore))[0].ap == 1
    truth_known = np.where(ignore, -1, truth)
    assert matching.scores(table(truth_known, predicted))[0].ap == 1


def test_thresholds_are_whole_number_comparisons():
    truth, predicted = np.zeros((11, 21), int), np.zeros((11, 21), int)
    for i, k in enumerate(range(10, 21)):
        truth[i, :20], predicted[i, :k] = i + 1, i + 1
    t = table(truth, predicted)
    for k, s in zip(range(10, 20), matching.scores(t), strict=True):
        assert s.tp == 21 - k, k
    # 0.6000000000000001, which arange makes, is 3/5 as well.
    assert [s.tp for s in matching.scores(t, thresholds=np.arange(0.5, 1, 0.05))] == list(range(11, 1, -1))


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, math.nan])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(UsageError, match="IoU threshold"):
        matching.match(table(np.ones((2, 2), int), np.ones((2, 2), int)), threshold)


def test_below_one_half_the_assignment_takes_most_pairs():
    # Truth 1 overlaps both predictions, truth 2 only the first: greedy by IoU would leave truth 2 alone.
    truth = np.array([[1] * 5 + [2] * 5])
    predicted = np.array([[4, 4, 3, 3, 3, 3, 3, 3, 0, 0]])
    found = matching.match(table(truth, predicted), 0.3)
    assert found.truth.tolist() == [1, 2] and found.predicted.tolist() == [4, 3]
    assert found.iou == pytest.approx([2 / 5, 3 / 8])


@FEW
@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([0.05, 0.2, 0.4]))
def test_below_one_half_the_assignment_equals_that_of_the_whole_matrix(first, second, threshold):
    from scipy.optimize import linear_sum_assignment

    truth, predicted = labels_of(first, (12, 15), 7), labels_of(second, (13, 16), 7)[1:, 1:]
    t = table(truth, predicted)
    ids, others = (np.unique(a[a > 0]) for a in (truth, predicted))
    iou = np.array(
        [
            [((truth == i) & (predicted == j)).sum() / ((truth == i) | (predicted == j)).sum() for j in others]
            for i in ids
        ]
    )
    weight = (iou >= threshold) + iou / (2 * min(iou.shape))
    rows, columns = linear_sum_assignment(-weight)
    chosen = iou[rows, columns]
    found = matching.match(t, threshold)
    assert found.truth.size == (chosen >= threshold).sum()
    assert found.iou.sum() == pytest.approx(chosen[chosen >= threshold].sum())


def test_best_iou_of_each_object():
    ids, best, partner = matching.ious(table([[1, 1, 1, 1, 2, 0]], [[5, 5, 5, 6, 0, 0]]))
    assert ids.tolist() == [1, 2] and partner.tolist() == [5, 0] and best.tolist() == [0.75, 0]


def test_seg_of_partial_truth_by_hand():
    truth = np.zeros((2, 8), int)
    truth[0, :4] = 9
    predicted = np.full((2, 8), 3)
    predicted[0, :3], predicted[0, 3] = 1, 0
    ids, jaccard = ctc.seg_objects(table(truth, predicted))
    assert ids.tolist() == [9] and jaccard.tolist() == [0.75]
    half = np.where(np.arange(8) < 2, 1, 0)[None].repeat(2, 0)
    assert ctc.seg_objects(table(truth, half))[1].tolist() == [0.0]  # exactly half is no match


def test_det_by_hand():
    truth = np.array([[1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0, 0, 0]])
    predicted = np.array([[4, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0, 0, 8, 8]])
    found = ctc.det(table(truth, predicted))
    assert (found.splits, found.misses, found.extras, found.markers) == (1, 1, 1, 3)
    assert found.det == pytest.approx(1 - 16 / 30)
    assert ctc.det(table(truth, predicted), penalize_extra=False).det == pytest.approx(1 - 15 / 30)


def test_centroids_and_values(monkeypatch):
    labels = np.zeros((6, 5, 4), int)
    labels[1:4, 2, 1], labels[5, 4, 3] = 2**31, 7
    monkeypatch.setattr(contingency, "SLAB_PIXELS", 20)
    ids, center = contingency.centroids(labels)
    assert ids.tolist() == [7, 2**31]
    assert center.tolist() == [[5, 4, 3], [2, 2, 1]]
    assert contingency.values(labels).tolist() == [0, 7, 2**31]
    assert contingency.centroids(np.zeros((3, 3), int))[1].shape == (0, 2)
