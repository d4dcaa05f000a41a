from __future__ import annotations

import numpy as np
import pytest

from septum.review.label_issues import class_disagreements, object_disagreements


def _scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six squares of 100 pixels that mask and model agree on, the model being 0.9 sure of everything."""
    labels = np.zeros((60, 90), np.int32)
    for number in range(6):
        y, x = 5 + 30 * (number // 3), 5 + 30 * (number % 3)
        labels[y : y + 10, x : x + 10] = number + 1
    return labels, labels.copy(), np.where(labels > 0, 0.9, 0.1).astype(np.float32)


def test_what_agrees_is_not_doubted() -> None:
    truth, predicted, foreground = _scene()
    assert object_disagreements(truth, predicted, foreground, usual_px=100) == []


def test_a_removed_an_added_and_a_shifted_object_are_found_by_kind_and_place() -> None:
    truth, predicted, foreground = _scene()
    truth[truth == 2] = 0  # forgotten
    truth[20:28, 70:80] = 9  # nothing is there
    truth[truth == 5] = 0
    truth[35:45, 39:49] = 5  # 4 pixels off
    foreground[predicted == 2] = 0.99
    removed, added, moved = object_disagreements(truth, predicted, foreground, usual_px=100)
    assert (removed.kind, removed.label, removed.predicted) == ("missing", 0, 2)
    assert (removed.start, removed.stop, removed.area_px) == ((5, 35), (15, 45), 100)
    assert (removed.confidence, removed.strength) == (pytest.approx(0.99), pytest.approx(0.98))
    assert (added.kind, added.label, added.predicted) == ("extra", 9, 0)
    assert (added.start, added.stop, added.area_px) == ((20, 70), (28, 80), 80)
    assert (added.confidence, added.strength) == (pytest.approx(0.9), pytest.approx(0.8 * 0.8))
    assert (moved.kind, moved.label, moved.predicted) == ("outline", 5, 5)
    assert (moved.area_px, moved.strength) == (80, pytest.approx(0.8 * 0.8))


def test_where_the_model_is_not_sure_or_nothing_is_known_there_is_no_doubt() -> None:
    truth, predicted, foreground = _scene()
    truth[truth == 2] = 0
    foreground[predicted == 2] = 0.5
    assert object_disagreements(truth, predicted, foreground, usual_px=100)[0].strength == 0
    truth[predicted == 2] = -1
    assert object_disagreements(truth, predicted, foreground, usual_px=100) == []


def test_objects_that_only_one_of_the_two_keeps_apart_are_not_judged() -> None:
    truth, predicted, foreground = _scene()
    truth[5:15, 10:15] = np.where(truth[5:15, 10:15] == 1, 11, 0)
    predicted[35:45, 10:15] = np.where(predicted[35:45, 10:15] == 4, 14, 0)
    assert object_disagreements(truth, predicted, foreground, usual_px=100) == []


def test_what_a_large_prediction_adds_is_held_against_one_object_only() -> None:
    truth, predicted, foreground = _scene()
    predicted[5:15, 5:45] = 1  # over the first two, and the 20 pixels between them
    foreground[5:15, 5:45] = 0.9
    (doubt,) = object_disagreements(truth, predicted, foreground, usual_px=100)
    assert (doubt.kind, doubt.label, doubt.predicted, doubt.area_px) == ("outline", 1, 1, 200)


def test_volumes_are_compared_alike() -> None:
    truth, predicted, foreground = (np.repeat(a[None], 4, axis=0) for a in _scene())
    truth[truth == 2] = 0
    (doubt,) = object_disagreements(truth, predicted, foreground, usual_px=400)
    assert (doubt.start, doubt.stop, doubt.area_px) == ((0, 5, 35), (4, 15, 45), 400)


def test_classes_are_compared_by_pieces_and_rims_do_not_count() -> None:
    truth = np.zeros((40, 50), np.int32)
    truth[5:25, 5:25] = 1
    truth[30:38, 30:45] = 2
    predicted = truth.copy()
    predicted[5:25, 25] = 1  # a rim of one pixel
    predicted[10:20, 35:45] = 2  # forgotten in the mask
    predicted[30:38, 30:45] = 1  # another class
    probabilities = np.full((3, 40, 50), 0.05, np.float32)
    np.put_along_axis(probabilities, predicted[None], 0.9, axis=0)
    probabilities[2, 10:20, 35:45] = 0.95
    first, second = class_disagreements(truth, predicted, probabilities, usual_px=200)
    assert (first.label, first.predicted, first.start, first.stop) == (2, 1, (30, 30), (38, 45))
    assert (first.area_px, first.strength) == (120, pytest.approx(0.8 * 0.6, rel=1e-5))
    assert (second.label, second.predicted, second.area_px) == (0, 2, 100)
    assert second.strength == pytest.approx(0.9 * 0.5, rel=1e-5)


def test_two_classes_have_one_probability() -> None:
    truth = np.zeros((20, 20), np.int32)
    predicted = np.zeros((20, 20), np.int32)
    predicted[4:14, 4:14] = 1
    probability = np.where(predicted == 1, 0.8, 0.3).astype(np.float32)[None]
    (doubt,) = class_disagreements(truth, predicted, probability, usual_px=100)
    assert (doubt.confidence, doubt.area_px) == (pytest.approx(0.8), 100)
