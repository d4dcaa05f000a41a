"""The main scores of a training, and the one number that chooses."""

from __future__ import annotations

import math

import pytest

from septum.training.model_selection import MAIN_SCORES, main_scores, selection_names, selection_score


@pytest.mark.parametrize(
    ("scores", "names", "score"),
    [
        ({"SEG": 0.6, "AP50": 0.8, "AP": 0.1}, ("SEG", "AP50"), 0.7),
        ({"SEG": math.nan, "AP50": 0.8}, ("SEG", "AP50"), 0.4),
        ({"V_Rand": 0.9, "dice": 0.7, "iou": 0.5}, ("V_Rand", "dice"), 0.8),
        ({"V_Rand": 0.9, "dice": math.nan}, ("V_Rand", "dice"), 0.45),
        ({"dice": 0.7, "pixel_error": 0.1}, ("dice",), 0.7),
        ({"dice": math.nan, "pixel_error": 0.1}, ("dice",), 0.0),
    ],
)
def test_the_selection_score_is_a_mean_in_which_undefined_scores_count_0(
    scores: dict[str, float], names: tuple[str, ...], score: float
) -> None:
    assert selection_names(scores) == names
    assert selection_score(scores) == pytest.approx(score)


def test_main_scores_keep_their_order_and_leave_out_others() -> None:
    scores = {"dice 7": 0.1, "pixel_error": 0.2, "dice": 0.7, "iou": 0.6}
    assert list(main_scores(scores, "classes").items()) == [("dice", 0.7), ("iou", 0.6), ("pixel_error", 0.2)]
    assert all(selection_names(names) for names in MAIN_SCORES.values())
