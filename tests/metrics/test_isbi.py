"""Scores of membrane sections: hand-worked cases, and properties that hold for any proposal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import DataError
from septum.metrics import isbi, thinning, warping

FEW = settings(max_examples=15, deadline=None)


def cells(*rows):
    """``.`` is a cell, ``#`` is membrane."""
    return np.array([[c == "." for c in row] for row in rows])


WALL = cells(*["....#..."] * 8)


def score(truth, proposal, **kwargs):
    return isbi.combine([isbi.section(truth, proposal.astype(np.float32), **kwargs)])


def test_components_meet_at_edges_only():
    assert thinning.components(cells(".#", "#.")).max() == 2
    assert thinning.components(np.ones((2, 2, 2), bool)).max() == 1


def test_thinning_keeps_a_thin_wall_and_thins_a_thick_one():
    assert np.array_equal(thinning.thin(WALL) > 0, WALL)
    thick = thinning.thin(cells(*["...###.."] * 8))
    assert np.array_equal(thick == 0, ~WALL)
    assert (thick[:, :4] == thick[0, 0]).all() and (thick[:, 5:] == thick[0, 7]).all()


def test_a_map_without_cells_is_one_object():
    assert (thinning.thin(np.zeros((4, 5), bool)) == 1).all()


@FEW
@given(st.integers(0, 1000))
def test_thinning_keeps_cells_and_adds_none(seed):
    white = np.random.default_rng(seed).random((14, 11)) < 0.4
    white[0, 0] = True
    thin, before = thinning.thin(white), thinning.components(white)
    assert np.array_equal(thin[white], before[white])
    assert set(np.unique(thin[~white])) <= set(np.unique(before))


@FEW
@given(st.integers(0, 1000))
def test_the_truth_has_perfect_scores(seed):
    truth = np.random.default_rng(seed).random((16, 16)) < 0.7
    truth[:, 5] = False  # two cells at least, so that entropies are not 0
    truth[3, 2] = truth[3, 9] = True
    found = score(truth, truth)
    for name in ("Rand error", "Rand error (2014)", "pixel error", "warping error", "warping error (all)"):
        assert found[name].value == pytest.approx(0, abs=1e-12)
    assert found["V_Info (not thinned)"].value == pytest.approx(1)


def test_thick_walls_do_not_lower_thinned_scores():
    found = score(WALL, cells(*["...###.."] * 8))
    assert found["V_Rand"].value == found["V_Info"].value == pytest.approx(1)
    assert found["Rand error"].value > 0.2


def test_a_gap_merges_and_a_wall_splits():
    merged = score(WALL, cells(*["....#..."] * 3, "........", *["....#..."] * 4))
    assert merged["V_Rand split"].value == 1 and merged["V_Rand merge"].value < 0.6
    split = score(WALL, cells(*["....#..."] * 4, "#####...", *["....#..."] * 3))
    assert split["V_Rand merge"].value == 1 and split["V_Rand split"].value < 0.8
    assert merged["warping error"].value == split["warping error"].value == 1 / 64


def test_a_gap_is_a_merge_and_a_wall_is_a_split():
    gap = cells(*["....#..."] * 3, "........", *["....#..."] * 4)
    for proposal, kind in ((gap, warping.Mismatch.MERGE),):
        found = warping.warp(WALL, proposal.astype(np.float32), 0.0)
        assert found.places.tolist() == [[3, 4]]
        assert warping.pixels(warping.kinds(found))[kind] == 1
    wall = warping.warp(gap, WALL.astype(np.float32), 0.0)
    assert warping.pixels(warping.kinds(wall))[warping.Mismatch.SPLIT] == 1


def test_a_wall_moved_by_one_pixel_has_no_warping_error_and_by_two_it_has():
    assert score(WALL, cells(*["...#...."] * 8))["warping error (all)"].value == 0
    assert score(WALL, cells(*["......#."] * 8))["warping error (all)"].value > 0


def test_a_blank_map_has_no_warping_error_but_a_low_v_rand():
    found = score(WALL, np.zeros((8, 8)))
    assert found["warping error"].value == 0
    assert found["V_Rand"].value < 0.7


def test_ignored_pixels_do_not_count():
    gap = cells(*["....#..."] * 3, "........", *["....#..."] * 4)
    ignore = np.zeros((8, 8), bool)
    ignore[3, 4] = True
    found = score(WALL, gap, ignore=ignore)
    assert found["warping error"].value == found["pixel error"].value == 0
    everything = score(WALL, gap, ignore=np.ones((8, 8), bool))
    assert everything["V_Rand"].value == everything["V_Info"].value == 0
    assert math.isnan(everything["V_Rand split"].value)


def test_scores_of_a_stack_choose_one_threshold_for_all_sections():
    good = isbi.section(WALL, (WALL * 0.45).astype(np.float32), warp=False)
    late = isbi.section(WALL, (WALL * 0.3 + 0.65).astype(np.float32), warp=False)
    assert isbi.combine([good])["V_Rand"].value == isbi.combine([late])["V_Rand"].value == 1
    both = isbi.combine([good, late])["V_Rand"]
    assert both.value < 1 and both.threshold in isbi.THRESHOLDS
    assert math.isnan(isbi.combine([good])["warping error"].value)


def test_columns_of_sections_give_the_scores_of_each_section():
    parts = [isbi.section(WALL, np.roll(WALL, k, 1).astype(np.float32)) for k in range(3)]
    rows = np.stack([isbi.columns(p) for p in parts])
    together = isbi.finish(rows)
    for k, part in enumerate(parts):
        for name, best in isbi.combine([part]).items():
            assert together[name][0][k] == pytest.approx(best.value, nan_ok=True)


@pytest.mark.parametrize(
    ("truth", "proposal", "message"),
    [
        (WALL, np.zeros((8, 7)), "8 x 8 and 8 x 7"),
        (WALL, WALL * 255.0, "0 to 255"),
        (WALL, np.full((8, 8), np.nan), "nan"),
        (np.ones((2, 2, 2), bool), np.ones((2, 2, 2)), "2D section"),
    ],
)
def test_an_input_that_is_not_a_section_is_refused(truth, proposal, message):
    with pytest.raises(DataError, match=message):
        isbi.section(truth, proposal.astype(np.float32))
    with pytest.raises(DataError, match="no section"):
        isbi.combine([])
