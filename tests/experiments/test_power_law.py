from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.experiments.power_law import fit_power_law

IMAGES = np.array([4.0, 8.0, 16.0, 32.0])


@given(st.floats(0.5, 1.0), st.floats(0.1, 1.0), st.floats(0.15, 1.8))
def test_a_curve_that_is_a_power_law_is_found_and_carried_on(a: float, b: float, c: float) -> None:
    law = fit_power_law(IMAGES, (a - b * IMAGES**-c)[None])
    assert law.c[0] == pytest.approx(c, rel=0.03)
    more = np.array([48.0, 64.0])
    np.testing.assert_allclose(law.at(more)[0], a - b * more**-c, atol=2e-3)


def test_a_case_worked_by_hand() -> None:
    # n^-1 at 1, 2, 4: 1, 1/2, 1/4, so 0.9 - 0.4 / n.
    law = fit_power_law(np.array([1.0, 2.0, 4.0]), np.array([[0.5, 0.7, 0.8]]))
    assert law.c[0] == pytest.approx(1, rel=0.03)
    assert law.at(np.array([8.0]))[0, 0] == pytest.approx(0.85, abs=2e-3)


def test_scores_that_stay_or_fall_give_no_gain() -> None:
    law = fit_power_law(IMAGES, np.array([[0.7, 0.7, 0.7, 0.7], [0.8, 0.75, 0.72, 0.7]]))
    gain = law.at(np.array([64.0]))[:, 0] - law.at(np.array([32.0]))[:, 0]
    assert gain[0] == pytest.approx(0, abs=1e-12)
    assert gain[1] < 0


def test_weights_count_as_repeated_points() -> None:
    scores = np.array([0.4, 0.65, 0.6, 0.8])
    twice = fit_power_law(np.append(IMAGES, IMAGES[1]), np.append(scores, scores[1])[None])
    weighted = fit_power_law(IMAGES, scores[None], np.array([[1.0, 2.0, 1.0, 1.0]]))
    np.testing.assert_allclose(twice.at(IMAGES), weighted.at(IMAGES), atol=1e-12)
