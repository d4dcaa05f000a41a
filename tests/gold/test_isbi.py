"""Scores of ISBI 2012 equal Fiji's Trainable_Segmentation, value by value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from septum.metrics import contingency, information, isbi, rand, thinning, warping

TOLERANCE = 1e-9
KINDS = dict(zip(warping.Mismatch, ("object_add", "object_del", "hole_add", "hole_del", "merge", "split"), strict=True))
CHALLENGE = {
    "v_rand_thinned_max": "V_Rand",
    "v_rand_thinned_max_micro": "V_Rand (pooled)",
    "v_info_thinned_max": "V_Info",
    "v_info_raw_max": "V_Info (not thinned)",
    "old_foreground_rand_error": "Rand error",
    "old_foreground_rand_error_2014": "Rand error (2014)",
    "pixel_error": "pixel error",
    "warping_splits_mergers_r20_min": "warping error",
    "warping_full_min": "warping error (all)",
}


def equal(ours, theirs):
    theirs = math.nan if theirs is None else theirs
    return (math.isnan(ours) and math.isnan(theirs)) or abs(ours - theirs) <= TOLERANCE


def test_simple_points_equal_those_of_the_program(gold):
    table = gold.numbers["isbi"]["simple_point_table"]
    assert "".join("01"[int(s)] for s in warping.simple_points()) == table["simple"]


def test_thresholds_equal_the_doubles_of_the_program(gold):
    case = gold.numbers["isbi"]["cases"][0]
    assert tuple(level["threshold"] for level in case["slices"][0]) == isbi.THRESHOLDS


def check_level(case, z, k):
    """Rand and information of one section at one threshold; a part whose entropy is 0 is not defined (0 / 0)."""
    gold = case.gold["slices"][z][k]
    white = case.proposal[z].astype(np.float64) > isbi.THRESHOLDS[k]
    objects = thinning.components(case.truth[z])
    for how, labels in (("thinned", thinning.thin(white)), ("raw", thinning.components(white))):
        table = contingency.table(objects, labels)
        pairs, nats, there = rand.score(table), information.score(table), gold[how]
        where = f"{case.name}, slice {z}, threshold {k}, {how}"
        for name, value in (
            ("v_rand_f", pairs.f),
            ("v_rand_split", pairs.split),
            ("v_rand_merge", pairs.merge),
            ("rand_index", pairs.index),
            ("v_info_f", nats.f),
        ):
            assert equal(value, there[name]), f"{where}: {name} {value} instead of {there[name]}"
        if pairs.pixels:
            assert equal(nats.truth, there["h_truth"]) and equal(nats.proposal, there["h_prop"]), where
            assert equal(nats.variation, there["vi"]), where
        assert equal(nats.split, there["v_info_split"]) or nats.proposal == 0, where
        assert equal(nats.merge, there["v_info_merge"]) or nats.truth == 0, where
    if "thinned_labels" in gold:
        theirs = np.array(gold["thinned_labels"])
        ours = thinning.thin(white)
        pairs_of_labels = contingency.table(theirs, ours).count.size
        assert np.array_equal(theirs == 0, ours == 0)
        assert pairs_of_labels == np.unique(theirs).size == np.unique(ours).size


def check_warping(case, z, k):
    gold = case.gold["slices"][z][k]
    ignore = None if case.ignore is None else case.ignore[z]
    found = warping.warp(case.truth[z], case.proposal[z], isbi.THRESHOLDS[k], ignore=ignore)
    where = f"{case.name}, slice {z}, threshold {k}"
    assert len(found.places) == gold["warping"]["n_mismatch"], where
    assert found.error == gold["warping"]["error"], where
    if "warped" in gold:
        assert np.array_equal(found.warped, np.array(gold["warped"]) > 0), where
    for radius, label in ((20, "r20"), (None, "whole")):
        if f"pixels_{label}" in gold["warping"]:
            kinds = warping.kinds(found, radius_px=radius)
            counts = {KINDS[kind]: n for kind, n in warping.pixels(kinds).items()}
            groups = {KINDS[kind]: n for kind, n in warping.clusters(found, kinds).items()}
            assert counts == gold["warping"][f"pixels_{label}"], where
            assert groups == gold["warping"][f"clusters_{label}"], where


def check_challenge(case, *, warp):
    """The stack's scores. The program was given the mask for warping only."""
    n = len(case.truth)
    plain = isbi.combine([isbi.section(case.truth[z], case.proposal[z], warp=False) for z in range(n)])
    if warp:
        ignore = [None] * n if case.ignore is None else list(case.ignore)
        warped = isbi.combine([isbi.section(case.truth[z], case.proposal[z], ignore=ignore[z]) for z in range(n)])
    for key, name in CHALLENGE.items():
        if key in case.gold["challenge"] and (warp or "warping" not in key):
            value = (warped if "warping" in key else plain)[name].value
            assert equal(value, case.gold["challenge"][key]), f"{case.name}: {key} {value}"


@pytest.mark.parametrize("source", ["tiny", "tissue"])
def test_every_synthetic_case(gold, source):
    cases = list(gold.isbi(source))
    assert len(cases) == {"tiny": 60, "tissue": 12}[source]
    for case in cases:
        for z in range(len(case.truth)):
            for k in range(len(isbi.THRESHOLDS)):
                check_level(case, z, k)
                check_warping(case, z, k)
        check_challenge(case, warp=True)


@pytest.mark.slow
def test_every_isbi_section(isbi_gold):
    names = []
    for case in isbi_gold.isbi("isbi"):
        names.append(case.name)
        warp = "warping" in case.gold["slices"][0][0]
        for k in range(len(isbi.THRESHOLDS)):
            check_level(case, 0, k)
            if warp:
                check_warping(case, 0, k)
        check_challenge(case, warp=warp and case.name in ("isbi0_graded", "isbi0_gaps"))
    assert len(names) == 36


@pytest.mark.parametrize("recipe", ["graded", "image_blur", "thick2"])
def test_three_isbi_sections_as_one_stack(isbi_gold, recipe):
    stack = isbi_gold.numbers["isbi"]["three_slice_stack"][recipe]
    sections = []
    for number in stack["slices"]:
        label, levels = isbi_gold.recipes(number)
        sections.append(isbi.section(label > 0, isbi_gold.make.prob(levels[recipe]), warp=False))
    ours = isbi.combine(sections)
    for key, name in CHALLENGE.items():
        if key in stack:
            assert equal(ours[name].value, stack[key]), f"{key}: {ours[name].value} instead of {stack[key]}"
