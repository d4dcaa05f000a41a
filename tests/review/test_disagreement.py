from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.review.disagreement import mutual_information, strongest_boxes


def _votes(*foreground: float) -> list[np.ndarray]:
    return [np.array([[1 - p], [p]], np.float32) for p in foreground]


def test_two_sure_votes_for_different_classes_disagree_by_one_bit() -> None:
    information, entropy = mutual_information(_votes(0.0, 1.0))
    assert (information[0], entropy[0]) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))


def test_equal_votes_do_not_disagree_however_unsure_they_are() -> None:
    information, entropy = mutual_information(_votes(0.5, 0.5, 0.5))
    assert (information[0], entropy[0]) == (0, 1)
    assert mutual_information(_votes(0.9))[0][0] == 0


def test_a_case_worked_by_hand() -> None:
    # Mean 1/2: 1 bit. Each: H(1/4) = 0.811278 bits.
    information, _ = mutual_information(_votes(0.25, 0.75))
    assert information[0] == pytest.approx(1 - 0.811278, abs=1e-5)


@given(st.integers(2, 4), st.integers(1, 5), st.integers(0, 1000))
def test_disagreement_lies_between_0_and_the_entropy_of_the_mean(classes: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    votes = [rng.dirichlet(np.full(classes, 0.3), (4, 3)).transpose(2, 0, 1).astype(np.float32) for _ in range(count)]
    information, entropy = mutual_information(votes)
    assert (information >= 0).all()
    assert (information <= entropy + 1e-6).all()
    assert entropy.max() <= np.log2(classes) + 1e-6
    again, _ = mutual_information(votes[::-1])
    np.testing.assert_allclose(information, again, atol=1e-6)


def test_the_strongest_boxes_are_in_order_and_do_not_overlap() -> None:
    values = np.zeros((30, 40), np.float32)
    values[3:8, 5:10] = 1.0
    values[20:25, 30:35] = 2.0
    values[21, 31] = 4.0
    boxes = strongest_boxes(values, (5, 5), 3)
    assert [box for box, _ in boxes[:2]] == [(slice(20, 25), slice(30, 35)), (slice(3, 8), slice(5, 10))]
    assert [mean for _, mean in boxes] == [pytest.approx(52 / 25), pytest.approx(1.0)]


def test_a_box_is_no_larger_than_the_array_and_zeros_give_no_box() -> None:
    values = np.ones((6, 9, 4), np.float32)
    assert strongest_boxes(values, (64, 64, 64), 2) == [((slice(0, 6), slice(0, 9), slice(0, 4)), pytest.approx(1.0))]
    assert strongest_boxes(values * 0, (2, 2, 2), 2) == []


@given(st.integers(0, 1000), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_the_first_box_is_the_best_of_all(seed: int, sides: tuple[int, int]) -> None:
    values = np.random.default_rng(seed).random((11, 8)).astype(np.float32)
    sides = (sides[0], min(sides[1], 8))
    best = np.lib.stride_tricks.sliding_window_view(values, sides).mean(axis=(2, 3)).max()
    assert strongest_boxes(values, sides, 1)[0][1] == pytest.approx(best, rel=1e-5)
