"""Matching equals StarDist, SEG and DET the programs of the Cell Tracking Challenge, pairs the ISBI program."""

from __future__ import annotations

import math

import numpy as np
import pytest

from septum.metrics import contingency, ctc, information, matching, rand

FLOAT32 = 1e-6
"""StarDist keeps IoU as float32; counts are exact."""
NAMES = {
    "precision": "precision",
    "recall": "recall",
    "accuracy": "ap",
    "f1": "f1",
    "mean_true_score": "mean_true_iou",
    "mean_matched_score": "mean_matched_iou",
    "panoptic_quality": "panoptic_quality",
}


def same(ours, theirs):
    assert len(ours) == len(theirs) == 10
    for found, gold in zip(ours, theirs, strict=True):
        assert found.threshold == gold["thresh"]
        assert (found.tp, found.fp, found.fn) == (gold["tp"], gold["fp"], gold["fn"])
        for theirs_name, name in NAMES.items():
            assert getattr(found, name) == pytest.approx(gold[theirs_name], abs=FLOAT32)


def test_matching_equals_stardist(gold):
    for name, case in gold.numbers["matching"]["cases"].items():
        table = contingency.table(gold.arrays[f"match/{name}/true"], gold.arrays[f"match/{name}/pred"])
        same(matching.scores(table), case["stardist"])
        ours = matching.match(table, 0.5)
        theirs = [(t, p) for t, p, _, enough in case["stardist_pairs_thresh0.5"] if enough]
        assert list(zip(ours.truth.tolist(), ours.predicted.tolist(), strict=True)) == theirs, name


def test_scores_of_data_sets_equal_stardist(gold):
    dataset = gold.numbers["matching"]["dataset"]
    tables = [
        contingency.table(gold.arrays[f"match/{n}/true"], gold.arrays[f"match/{n}/pred"]) for n in dataset["images"]
    ]
    same(matching.scores(tables), dataset["by_image_false"])
    same(matching.scores(tables, by_image=True), dataset["by_image_true"])


def test_seg_and_det_equal_the_programs_of_the_challenge(gold):
    for name, case in gold.numbers["ctc"].items():
        seg, tra, res, frames = (gold.arrays[f"ctc/{name}/{k}"] for k in ("seg", "tra", "res", "seg_frames"))
        tables = [contingency.table(seg[f], res[f]) for f in frames]
        found = ctc.det(contingency.table(t, r) for t, r in zip(tra, res, strict=True))
        operations = case["operations"]
        assert (found.splits, found.misses, found.extras) == tuple(operations[k] for k in ("NS", "FN", "FP")), name
        assert found.markers == operations["reference_markers"]
        if case["seg_exact"] is None:
            assert math.isnan(ctc.seg(tables)) and math.isnan(found.det), name
            continue
        assert ctc.seg(tables) == pytest.approx(case["seg_exact"], abs=1e-12), name
        assert found.det == pytest.approx(case["det_exact"], abs=1e-12), name
        assert round(ctc.seg(tables), 6) == pytest.approx(case["official"]["SEG"], abs=1.1e-6), name
        assert found.det == pytest.approx(case["official"]["DET"], abs=1e-6), name
        lenient = ctc.det((contingency.table(t, r) for t, r in zip(tra, res, strict=True)), penalize_extra=False)
        assert lenient.det == pytest.approx(case["official"]["DET_extra_not_penalised"], abs=1e-6), name
        each = [
            (int(f), int(i), j)
            for f, t in zip(frames, tables, strict=True)
            for i, j in zip(*ctc.seg_objects(t), strict=True)
        ]
        assert [e[:2] for e in each] == [tuple(o[:2]) for o in case["official_per_object"]], name
        assert np.allclose([e[2] for e in each], [o[2] for o in case["official_per_object"]], atol=1e-6), name


def test_pairs_equal_the_isbi_program(gold):
    seen = 0
    for name, case in gold.numbers["pairs"].items():
        key = f"match/{name.removeprefix('match_')}" if name.startswith("match_") else f"pair/{name}"
        other = "pred" if name.startswith("match_") else "test"
        table = contingency.table(gold.arrays[f"{key}/true"], gold.arrays[f"{key}/{other}"])
        pairs, nats, theirs = rand.score(table), information.score(table), case["isbi"]
        seen += 1
        for gold_name, value in (
            ("v_rand_f", pairs.f),
            ("v_rand_split", pairs.split),
            ("v_rand_merge", pairs.merge),
            ("v_info_f", nats.f),
        ):
            expected = math.nan if theirs[gold_name] is None else theirs[gold_name]
            assert value == pytest.approx(expected, abs=1e-9, nan_ok=True), f"{name}: {gold_name}"
        if nats.proposal > 0 and nats.truth > 0:
            assert nats.split == pytest.approx(theirs["v_info_split"], abs=1e-9), name
            assert nats.merge == pytest.approx(theirs["v_info_merge"], abs=1e-9), name
        singles = case.get("sklearn_foreground_singletons")
        if singles and nats.proposal > 0 and nats.truth > 0:
            assert nats.merge == pytest.approx(singles["homogeneity"], abs=1e-9), name
            assert nats.split == pytest.approx(singles["completeness"], abs=1e-9), name
    assert seen == 22
