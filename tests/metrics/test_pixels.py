"""Pixel scores, surface distances, calibration and intervals: hand-worked cases and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from septum.errors import DataError
from septum.metrics import bootstrap, calibration, contingency, pixel, surface

FEW = settings(max_examples=20, deadline=None)


def test_pixel_scores_by_hand():
    truth = np.array([[0, 0, 1, 1, 2, 2]])
    predicted = np.array([[0, 1, 1, 1, 2, 0]])
    found = pixel.scores(truth, predicted, classes=(0, 1, 2))
    background, one, two = found.classes
    assert (background.tp, background.fp, background.fn) == (1, 1, 1)
    assert (one.iou, one.dice, one.precision, one.recall) == (2 / 3, 4 / 5, 2 / 3, 1)
    assert (two.iou, two.dice, two.precision, two.recall) == (1 / 2, 2 / 3, 1, 1 / 2)
    assert found.pixel_error == 2 / 6
    assert found.mean("iou") == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)


def test_an_absent_class_has_no_score_and_is_left_out_of_the_mean():
    found = pixel.scores(np.array([[0, 1]]), np.array([[0, 1]]), classes=(0, 1, 5))
    assert math.isnan(found.classes[2].iou) and math.isnan(found.classes[2].dice)
    assert found.mean("iou") == found.mean("dice") == 1


def test_a_class_only_in_one_of_the_two_scores_0():
    missed = pixel.scores(np.array([[0, 5]]), np.array([[0, 0]]), classes=(5,)).classes[0]
    assert (missed.iou, missed.dice, missed.recall) == (0, 0, 0) and math.isnan(missed.precision)
    invented = pixel.scores(np.array([[0, 0]]), np.array([[0, 5]]), classes=(5,)).classes[0]
    assert (invented.iou, invented.dice, invented.precision) == (0, 0, 0) and math.isnan(invented.recall)


def test_an_ignored_image_has_no_score():
    found = pixel.scores(np.full((2, 2), -1), np.ones((2, 2), int), classes=(0, 1))
    assert math.isnan(found.pixel_error) and math.isnan(found.mean("iou"))
    assert found.pixels == 0


def test_columns_of_images_add_up_to_those_of_all_pixels():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 3, (4, 6, 5)), random.integers(0, 3, (4, 6, 5))
    parts = [pixel.columns(contingency.table(t, p), classes=range(3)) for t, p in zip(truth, predicted, strict=True)]
    together = pixel.columns(contingency.table(truth, predicted), classes=range(3))
    assert np.array_equal(np.sum(parts, axis=0), together)
    dice = pixel.ratios(together[:-1])["dice"]
    assert dice.tolist() == [c.dice for c in pixel.scores(truth, predicted, classes=range(3)).classes]


@FEW
@given(st.integers(0, 1000), st.sampled_from([(5, 6), (3, 4, 5)]))
def test_iou_and_dice_are_symmetric_and_agree(seed, shape):
    random = np.random.default_rng(seed)
    truth, predicted = random.integers(0, 3, shape), random.integers(0, 3, shape)
    ours, theirs = (pixel.scores(*pair, classes=range(3)) for pair in ((truth, predicted), (predicted, truth)))
    for a, b in zip(ours.classes, theirs.classes, strict=True):
        assert a.iou == pytest.approx(b.iou, nan_ok=True)
        assert a.dice == pytest.approx(2 * a.iou / (1 + a.iou), nan_ok=True)
        assert a.precision == pytest.approx(b.recall, nan_ok=True)
    assert ours.pixel_error == (truth != predicted).mean()


def test_pixel_scores_of_different_shapes_are_refused():
    with pytest.raises(DataError, match="2 x 3"):
        pixel.scores(np.zeros((2, 3), int), np.zeros((3, 2), int), classes=(0,))


def square(top, left, side=8, shape=(24, 24)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_surface_distances_by_hand():
    truth = np.zeros((9, 9), bool)
    predicted = truth.copy()
    truth[4, 4], predicted[4, 7] = True, True
    assert surface.distances(truth, predicted) == (3, 3)
    assert surface.distances(truth, predicted, spacing=(1, 0.5)) == (1.5, 1.5)
    line = truth.copy()
    line[4, 4:7] = True  # one way 0; the other 0, 1, 2
    found = surface.distances(truth, line)
    assert found.average == pytest.approx((0 + 1) / 2)
    assert found.hausdorff_95 == pytest.approx(np.percentile([0, 0, 1, 2], 95))


def test_surface_distance_of_a_shift_and_of_itself():
    assert surface.distances(square(5, 5), square(5, 5)) == (0, 0)
    shifted = surface.distances(square(5, 5), square(5, 8))
    assert 0 < shifted.average < 3 and shifted.hausdorff_95 == 3
    assert shifted == surface.distances(square(5, 8), square(5, 5))


def test_the_edge_of_the_image_is_no_surface():
    truth, predicted = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    truth[:, :5], predicted[:, :7] = True, True
    assert surface.distances(truth, predicted) == (2, 2)


def test_surface_distance_of_an_empty_class_is_not_defined():
    nothing = np.zeros((24, 24), bool)
    for pair in ((square(5, 5), nothing), (nothing, square(5, 5)), (nothing, nothing)):
        assert all(math.isnan(v) for v in surface.distances(*pair))


def test_surface_distance_in_3d_with_ignored_pixels():
    truth, predicted = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    truth[4, 4, 4], predicted[6, 4, 4], predicted[4, 4, 0] = True, True, True
    assert surface.distances(truth, predicted, spacing=(2, 1, 1)).hausdorff_95 > 3.5
    ignore = np.zeros((9, 9, 9), bool)
    ignore[6] = True
    assert surface.distances(truth, predicted, spacing=(2, 1, 1), ignore=ignore) == (4, 4)


def surfaces_by_scipy(truth, predicted, spacing):
    """The definition in MedPy's words: scipy's distances over the whole image; the edge is no surface."""
    shape = ndimage.generate_binary_structure(truth.ndim, 1)
    inner = [ndimage.binary_erosion(mask, shape, border_value=1) for mask in (truth, predicted)]
    one, two = (mask & ~eroded for mask, eroded in zip((truth, predicted), inner, strict=True))
    if not (one.any() and two.any()):
        return (math.nan, math.nan)
    first, second = (
        ndimage.distance_transform_edt(~there, sampling=spacing)[here] for here, there in ((one, two), (two, one))
    )
    return (first.mean() + second.mean()) / 2, np.percentile(np.concatenate([first, second]), 95)


@FEW
@given(
    st.integers(0, 1000), st.sampled_from([(9, 12), (6, 7, 8), (1, 30, 4)]), st.sampled_from([0.003, 0.05, 0.4, 0.9])
)
def test_surface_distances_equal_those_of_all_pixels(seed, shape, share):
    random = np.random.default_rng(seed)
    truth, predicted = random.random(shape) < 0.5, random.random(shape) < share
    spacing = (2.5, 0.7, 1.1)[: len(shape)]
    found = surface.distances_in_units(truth, predicted, spacings=[None, spacing])
    for distances, sizes in zip(found, (None, spacing), strict=True):
        assert distances == pytest.approx(surfaces_by_scipy(truth, predicted, sizes), rel=1e-6, nan_ok=True)
        assert distances == pytest.approx(surface.distances(truth, predicted, spacing=sizes), nan_ok=True)


def test_surfaces_that_lie_far_apart_have_the_same_distances():
    truth, predicted = np.zeros((40, 40, 40), bool), np.zeros((40, 40, 40), bool)
    truth[::2, ::2, ::2], predicted[0, 0, 0], predicted[39, 39, 39] = True, True, True
    found = surface.distances(truth, predicted, spacing=(3, 1, 1))
    assert found == pytest.approx(surfaces_by_scipy(truth, predicted, (3, 1, 1)), rel=1e-6)


def test_calibration_by_hand():
    probability = np.array([[0.9] * 10 + [0.2] * 10], np.float32)[None]
    truth = np.array([[1] * 9 + [0] + [1] * 4 + [0] * 6])
    columns = calibration.columns(probability, truth)
    assert columns[:, 0].sum() == 20 and columns[13].tolist() == pytest.approx([10, 9, 9])
    assert calibration.finish(columns) == pytest.approx((0.0 * 10 + abs(0.2 - 0.4) * 10) / 20)


def test_calibration_of_classes_and_ignored_pixels():
    probability = np.array([[0.7, 0.1], [0.2, 0.1], [0.1, 0.8]], np.float32).reshape(3, 1, 2)
    assert calibration.finish(calibration.columns(probability, np.array([[0, 2]]))) == pytest.approx(0.25)
    assert calibration.finish(calibration.columns(probability, np.array([[0, -1]]))) == pytest.approx(0.3)
    ignored = calibration.columns(probability, np.array([[0, 2]]), ignore=np.array([[True, True]]))
    assert np.isnan(calibration.finish(ignored))


def test_a_perfect_binary_map_is_calibrated():
    truth = np.random.default_rng(0).integers(0, 2, (20, 20))
    assert calibration.finish(calibration.columns(truth[None].astype(np.float32), truth)) == 0


def test_bootstrap_is_seeded_and_draws_as_many_images_as_there_are():
    drawn = bootstrap.weights(5, seed=3)
    assert np.array_equal(drawn, bootstrap.weights(5, seed=3))
    assert not np.array_equal(drawn, bootstrap.weights(5, seed=4))
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn[:2].tolist() == [[1, 1, 0, 1, 2], [0, 0, 1, 3, 1]], "intervals of earlier versions repeat"


def test_bootstrap_interval_of_a_mean_equals_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, 400)
    columns = np.stack([values, np.ones(400)], axis=1)
    sums = bootstrap.resample(columns, bootstrap.weights(400, seed=0, repeats=4000))
    low, high = bootstrap.interval(sums[:, 0] / sums[:, 1])
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_interval_leaves_out_undefined_values():
    assert bootstrap.interval(np.array([math.nan, 1.0, 1.0])) == (1, 1)
    assert all(math.isnan(v) for v in bootstrap.interval(np.array([math.nan])))
