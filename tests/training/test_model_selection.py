"""The main scores of a training, and the number that selects a model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.training.model_selection import (
    MAIN_SCORES,
    area_candidates,
    candidates,
    main_scores,
    min_size_candidates,
    selection_names,
    selection_score,
)


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


def test_candidates_are_a_grid_for_the_smallest_objects() -> None:
    choices = candidates([40, 44, 80, 100] * 30)
    assert len(choices) == len(set(choices)) == 32
    assert {choice.min_size_px for choice in choices} == {10}
    assert {choice.min_size_px for choice in candidates()} == {ObjectSettings().min_size_px}
    assert {(choice.outline_level, choice.contacts, choice.fill_holes) for choice in choices} == {
        (0.5, "valley", False)
    }
    assert {choice.fill_holes for choice in candidates(fill_holes=True)} == {True}


def test_candidates_of_areas_have_a_seed_level_above_the_threshold() -> None:
    choices = area_candidates([400] * 10)
    assert all(choice.seed_level >= choice.threshold and choice.merge_ratio == 0 for choice in choices)
    assert {choice.min_size_px for choice in choices} == {100}


def test_min_size_candidates_rise_from_a_quarter_of_the_smallest_objects() -> None:
    sizes = np.arange(100, 1101)  # 1 % below 110, 10 % below 200
    assert min_size_candidates(sizes) == [27, 33, 41, 51, 63, 78, 97, 120]
    assert min_size_candidates([9]) == [2]
    assert min_size_candidates() == [ObjectSettings().min_size_px]


def test_objects_of_much_the_same_size_may_be_smaller_in_new_images() -> None:
    """Cells of PhC-C2DH-U373: 1 % are below 1400 pixels, half above 3700; later frames have cells of 1000 pixels."""
    sizes = np.random.default_rng(0).normal(3700, 1000, 500).clip(1200)
    assert max(min_size_candidates(sizes)) < 800
