"""Sums of columns become scores: equal to the scores computed on all images at once, with intervals over images."""

from __future__ import annotations

import math

import numpy as np
import pytest

from septum.metrics import aggregate, bootstrap, contingency, ctc, isbi, matching, pixel, rand


def images(seed: int, count: int = 5, classes: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of truth and prediction that differ in some pixels."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, (count, 6, 6)).repeat(3, axis=1).repeat(3, axis=2)
    return [(t, np.where(random.random(t.shape) < 0.2, random.integers(0, classes, t.shape), t)) for t in truth]


def test_scores_of_objects_equal_those_of_all_images_together():
    tables = [contingency.table(*pair) for pair in images(0)]
    gold = [contingency.table(np.where(t == 1, t, -1), p) for t, p in images(0)]
    rows = np.stack([aggregate.object_columns(g, f) for g, f in zip(gold, tables, strict=True)])
    found = aggregate.finish_objects(rows.sum(axis=0))
    pooled = matching.scores(tables)
    assert found["SEG"] == pytest.approx(ctc.seg(gold), abs=1e-15)
    assert found["AP50"] == pooled[0].ap and found["PQ"] == pooled[0].panoptic_quality
    assert found["AP"] == np.mean([s.ap for s in pooled])
    assert (found["AP75"], pooled[5].threshold) == (pooled[5].ap, 0.75)
    high = aggregate.finish_instances(rows[:, :-1].sum(axis=0))["AP@0.75-0.95"]
    assert high == pytest.approx(np.mean([s.ap for s in pooled[5:]]))
    each = aggregate.finish_objects(rows)
    assert each["F1"].tolist() == [matching.scores(t)[0].f1 for t in tables]
    assert math.isnan(aggregate.finish_objects(np.zeros((11, 4)))["SEG"])


def test_scores_of_classes_equal_those_of_all_pixels():
    pairs = images(1)
    rows = np.stack([aggregate.class_columns(contingency.table(*pair), classes=4) for pair in pairs])
    found = aggregate.finish_classes((0, 3, 5, 9))(rows.sum(axis=0))
    truth, predicted = (np.stack(part) for part in zip(*pairs, strict=True))
    whole = pixel.scores(truth, predicted, classes=range(4))
    assert list(found) == ["dice", "iou", "pixel_error", "dice 3", "dice 5", "dice 9"]
    assert found["dice"] == pytest.approx(np.mean([c.dice for c in whole.classes[1:]]))
    assert found["iou"] == pytest.approx(np.mean([c.iou for c in whole.classes[1:]]))
    assert found["pixel_error"] == whole.pixel_error == (truth != predicted).mean()
    assert found["dice 9"] == whole.classes[3].dice


def test_v_rand_is_the_mean_over_images_and_exists_only_with_areas():
    pairs = [(t, p) for t, p in images(2, classes=2)]
    areas = [isbi.areas(*pair) for pair in pairs]
    tables = [contingency.table(*pair) for pair in pairs]
    rows = np.stack([aggregate.class_columns(t, classes=2, areas=a) for t, a in zip(tables, areas, strict=True)])
    finish = aggregate.finish_classes((0, 1))
    assert finish(rows.sum(axis=0))["V_Rand"] == pytest.approx(np.mean([rand.score(a).f for a in areas]))
    without = np.stack([aggregate.class_columns(t, classes=2) for t in tables])
    assert "V_Rand" not in finish(without.sum(axis=0))


def test_estimates_have_the_interval_of_their_bootstrap_samples():
    rows = np.stack([aggregate.class_columns(contingency.table(*pair), classes=4) for pair in images(3)])
    finish, groups = aggregate.finish_classes(range(4)), ["a", "a", "b", "b", "b"]
    found = aggregate.estimates(rows, finish, groups=groups, seed=1)
    samples = aggregate.resampled(rows, finish, groups=groups, seed=1)
    assert samples["dice"].shape == (bootstrap.REPEATS,)
    assert (found["dice"].low, found["dice"].high) == bootstrap.interval(samples["dice"])
    assert found["dice"].low < found["dice"].value < found["dice"].high
    one = aggregate.estimates(rows[:1], finish, groups=groups[:1], seed=1)["dice"]
    assert one.value == finish(rows[0])["dice"] and math.isnan(one.low) and math.isnan(one.high)


def interval(found: aggregate.Estimate) -> tuple[float, float]:
    return found.low, found.high


@pytest.mark.parametrize("count", [2, 5, 10])
def test_images_that_are_groups_of_one_vary_as_images_on_their_own(count):
    rows = np.stack([aggregate.class_columns(contingency.table(*pair), classes=4) for pair in images(6, count=count)])
    finish, names = aggregate.finish_classes(range(4)), [f"folder {k}" for k in range(count)]
    alone, apart = (aggregate.estimates(rows, finish, groups=g, seed=0)["dice"] for g in ([""] * count, names))
    assert apart == alone and apart.low < apart.value < apart.high
    better = [aggregate.differences(rows, 2 * rows[::-1], finish, groups=g, seed=0) for g in ([""] * count, names)]
    assert better[0] == better[1] and better[1]["dice"].low < better[1]["dice"].high


def test_whole_groups_are_drawn_where_there_are_six_and_images_otherwise():
    """Three equal images in each group say no more than one of them."""
    single = np.stack([aggregate.class_columns(contingency.table(*pair), classes=4) for pair in images(7, count=6)])
    rows, finish = single.repeat(3, axis=0), aggregate.finish_classes(range(4))
    found = aggregate.estimates(rows, finish, groups=list("aaabbbcccdddeeefff"), seed=0)["dice"]
    one_each = aggregate.estimates(single, finish, groups=[""] * 6, seed=0)["dice"]
    assert interval(found) == pytest.approx(interval(one_each), abs=1e-12)
    few = aggregate.estimates(rows[:15], finish, groups=list("aaabbbcccdddeee"), seed=0)
    assert few == aggregate.estimates(rows[:15], finish, groups=[""] * 15, seed=0)
    mixed = aggregate.estimates(rows[:8], finish, groups=["a", "a", "a", "", "", "", "", ""], seed=0)["dice"]
    summed = np.concatenate([rows[:3].sum(axis=0, keepdims=True), rows[3:8]])
    assert mixed == aggregate.estimates(summed, finish, groups=[""] * 6, seed=0)["dice"], "an image is a group"


def test_a_score_that_one_image_defines_has_no_interval():
    """Only the third image holds class 3: no draw of images shows how its score varies."""
    pairs = [tuple(np.where(a == 3, 3 * (k == 2), a) for a in pair) for k, pair in enumerate(images(8))]
    rows = np.stack([aggregate.class_columns(contingency.table(*pair), classes=4) for pair in pairs])
    finish, groups = aggregate.finish_classes(range(4)), [""] * 5
    found = aggregate.estimates(rows, finish, groups=groups, seed=0)
    assert 0 < found["dice 3"].value < 1 and all(map(math.isnan, interval(found["dice 3"])))
    assert found["dice 2"].low < found["dice 2"].value < found["dice 2"].high
    assert np.isnan(aggregate.resampled(rows, finish, groups=groups, seed=0)["dice 3"]).all()
    worse = np.stack([aggregate.class_columns(contingency.table(t, 0 * p), classes=4) for t, p in pairs])
    change = aggregate.differences(rows, worse, finish, groups=groups, seed=0)
    assert change["dice 3"].value < 0 and all(map(math.isnan, interval(change["dice 3"])))
    assert change["dice 2"].low < change["dice 2"].high < 0


def test_differences_of_equal_predictions_are_0():
    rows = np.stack([aggregate.class_columns(contingency.table(*pair), classes=4) for pair in images(4)])
    finish = aggregate.finish_classes(range(4))
    groups = [""] * len(rows)
    same = aggregate.differences(rows, rows, finish, groups=groups, seed=0)
    assert set(same.values()) == {aggregate.Estimate(0, 0, 0)}
    perfect = np.stack([aggregate.class_columns(contingency.table(t, t), classes=4) for t, _ in images(4)])
    better = aggregate.differences(rows, perfect, finish, groups=groups, seed=0)["dice"]
    assert 0 < better.low < better.value == pytest.approx(1 - finish(rows.sum(axis=0))["dice"])


def test_sequences_have_their_own_scores_and_count_equally():
    tables = [contingency.table(*pair) for pair in images(5, count=3)]
    rows = np.zeros((3, 2, 6))
    for k, place in enumerate((0, 0, 1)):
        rows[k, place] = ctc.columns(tables[k])
    family = aggregate.ctc_scores(("01", "02"))
    found = family.finish(rows.sum(axis=0))
    assert found["SEG 01"] == ctc.seg(tables[:2]) and found["SEG 02"] == ctc.seg(tables[2])
    assert found["SEG"] == pytest.approx((ctc.seg(tables[:2]) + ctc.seg(tables[2])) / 2)
    assert math.isnan(found["DET"])


@pytest.mark.parametrize("family", [aggregate.ISBI, aggregate.INSTANCES, aggregate.CALIBRATION])
def test_headlines_are_names_of_scores(family):
    shapes = {aggregate.ISBI: (11, len(isbi.COLUMNS)), aggregate.INSTANCES: (10, 4), aggregate.CALIBRATION: (15, 3)}
    assert set(family.headlines) <= set(family.finish(np.ones(shapes[family])))


def test_errors_and_distances_are_better_if_lower():
    assert [name for name, more in isbi.SCORES.items() if not more] == [
        name for name in isbi.SCORES if not aggregate.ISBI.higher_is_better(name)
    ]
    pixels = aggregate.pixel_scores((0, 1), um=True)
    names = pixels.finish(np.ones((3, 9)))
    assert {n for n in names if not pixels.higher_is_better(n)} == {"wrong pixels", "ASD 1 (um)", "HD95 1 (um)"}
    assert set(pixels.headlines) <= set(names)
