"""Score predicted files against truth files: pairing, reading, intervals, comparison, written tables."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from septum.errors import DataError, SeptumError, UsageError
from septum.evaluation.evaluate import evaluate
from septum.evaluation.results import EvaluateSettings
from septum.io.files import write_image
from septum.metrics import contingency, ctc, isbi, matching, pixel


def grid(n=4, size=12, ids=None):
    """n x n squares of 8 pixels with ids 1..n*n."""
    labels = np.zeros((n * size, n * size), np.uint16)
    for k in range(n * n if ids is None else ids):
        y, x = divmod(k, n)
        labels[y * size + 2 : y * size + 10, x * size + 2 : x * size + 10] = k + 1
    return labels


def save(folder: Path, images, *, suffix=".tif", axes="YX", **kwargs):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in images.items():
        write_image(folder / f"{name}{suffix}", array, axes=axes, **kwargs)
    return folder


def run(predicted, truth, **kwargs):
    given = predicted if isinstance(predicted, tuple) else (predicted,)
    return evaluate(EvaluateSettings(predicted=given, truth=truth, **kwargs))


def scores(evaluation, k=0):
    return {s.name: s for s in evaluation.results[k].scores}


@pytest.fixture
def objects(tmp_path):
    """Three images of 5, 9 and 14 cells; predictions shifted by 0, 1 and 2 pixels."""
    truth = {f"cell{k}": grid(ids=n) for k, n in ((2, 5), (10, 9), (11, 14))}
    shifted = {name: np.roll(a, k, 1) for k, (name, a) in enumerate(truth.items())}
    return save(tmp_path / "predicted", shifted), save(tmp_path / "truth", truth), truth, shifted


def test_objects_are_scored_as_instances_and_pooled(objects):
    predicted, truth, true, found = objects
    result = run(predicted, truth)
    assert result.metrics == ("instances",)
    assert "object ids" in result.notes[0]
    pooled = matching.scores([contingency.table(t, found[n]) for n, t in true.items()])
    ours = scores(result)
    for s in pooled:
        assert ours[f"AP@{s.threshold:.2f}"].value == s.ap
        assert ours[f"F1@{s.threshold:.2f}"].value == s.f1
        assert ours[f"PQ@{s.threshold:.2f}"].value == s.panoptic_quality
    assert ours["AP"].value == pytest.approx(np.mean([s.ap for s in pooled]))
    assert ours["AP"].low < ours["AP"].value < ours["AP"].high
    assert [i.name for i in result.results[0].images] == ["cell2", "cell10", "cell11"]
    assert [i.scores["AP@0.75"] for i in result.results[0].images] == [1, 1, 0]
    assert result.failed == 0


def test_objects_are_listed_with_their_positions_and_the_worst_first(objects):
    predicted, truth, _, _ = objects
    found = run(predicted, truth).results[0]
    first = found.objects[0]
    assert (first.image, first.kind, first.id, first.partner, first.iou) == ("cell2", "true", 1, 1, 1)
    assert first.area_px == 64 and first.center_px == (5.5, 5.5)
    assert len(found.objects) == 5 + 9 + 14
    assert len(found.worst) == 10 and {w.image for w in found.worst} == {"cell11"}
    assert found.worst[0].iou == pytest.approx(6 / 10)


def test_extra_objects_are_listed(tmp_path):
    truth, predicted = grid(ids=3), grid(ids=4)
    result = run(save(tmp_path / "p", {"a": predicted}), save(tmp_path / "t", {"a": truth}), metrics=("instances",))
    extra = [o for o in result.results[0].objects if o.kind == "extra"]
    assert [(o.id, o.iou, o.area_px, o.center_px) for o in extra] == [(4, 0, 64, (5.5, 41.5))]


def test_files_are_written(objects, tmp_path):
    predicted, truth, _, _ = objects
    result = run(predicted, truth, out=tmp_path / "out")
    assert [f.name for f in result.files] == ["scores.json", "per_image.csv", "objects.csv"]
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    by_name = {s["name"]: s for s in content["results"][0]["scores"]}
    assert by_name["AP"]["value"] == scores(result)["AP"].value
    with (tmp_path / "out" / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["image"] for r in rows] == ["cell2", "cell10", "cell11"]
    assert [float(r["AP@0.75"]) for r in rows] == [1, 1, 0]
    with (tmp_path / "out" / "objects.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 28 and (listed[0]["y"], listed[0]["z"]) == ("5.5", "")


def test_an_earlier_table_of_objects_does_not_stay_beside_scores_without_objects(objects, tmp_path):
    predicted, truth, _, _ = objects
    out = tmp_path / "out"
    assert (out / "objects.csv") in run(predicted, truth, out=out).files
    result = run(predicted, truth, out=out, metrics=("pixels",))
    assert (
        sorted(f.name for f in out.iterdir())
        == ["per_image.csv", "scores.json"]
        == sorted(f.name for f in result.files)
    )
    (out / "objects.csv").write_text("name,size\nmine,3\n")
    run(predicted, truth, out=out, metrics=("pixels",))
    assert (out / "objects.csv").read_text() == "name,size\nmine,3\n", "a file of the user"


def test_intervals_repeat_with_the_seed(objects):
    predicted, truth, _, _ = objects
    first, again, other = (scores(run(predicted, truth, seed=s))["AP"] for s in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high) or first.value == other.value


def test_two_predictions_are_compared_image_by_image(objects, tmp_path):
    predicted, truth, true, _ = objects
    worse = save(tmp_path / "worse", {n: np.roll(a, 3, 1) for n, a in true.items()})
    result = run((worse, predicted), truth)
    change = {d.name: d for d in result.differences}
    assert change["AP"].value == pytest.approx(scores(result, 1)["AP"].value - scores(result, 0)["AP"].value)
    assert change["AP"].low > 0 and change["AP"].higher_is_better
    same = {d.name: d for d in run((predicted, predicted), truth).differences}
    assert (same["AP"].value, same["AP"].low, same["AP"].high) == (0, 0, 0)


def test_a_comparison_uses_the_images_that_both_have(objects, tmp_path):
    predicted, truth, true, _ = objects
    only = save(tmp_path / "only", {"cell2": true["cell2"], "cell10": true["cell10"]})
    result = run((predicted, only), truth)
    assert any("leave out 1 image that" in n for n in result.notes)
    both = matching.scores(
        [contingency.table(true[n], np.roll(true[n], k, 1)) for k, n in enumerate(("cell2", "cell10"))]
    )
    change = {d.name: d.value for d in result.differences}
    assert change["AP"] == pytest.approx(1 - np.mean([s.ap for s in both]))
    assert result.failed == 1 and result.results[1].failures[0].name == "cell11.tif"


@pytest.mark.parametrize(("stated", "metrics"), [("objects", "instances"), ("classes", "pixels")])
def test_a_truth_that_states_its_kind_is_scored_by_it(tmp_path, stated, metrics):
    images = {f"cell{k}": grid(ids=2) for k in range(3)}
    predicted, truth = save(tmp_path / "predicted", images), save(tmp_path / "truth", images, labels=stated)
    result = run(predicted, truth)
    assert result.metrics == (metrics,)
    assert ("as the files state" in result.notes[0]) == (stated == "objects") and "guess" not in result.notes[0]


def test_classes_of_any_value_are_scored_as_pixels(tmp_path):
    random = np.random.default_rng(0)
    truth = (random.random((2, 20, 20)) < 0.4).astype(np.uint8) * 255
    predicted = np.where(random.random((2, 20, 20)) < 0.1, 255 - truth, truth) // 255
    result = run(
        save(tmp_path / "p", {"a": predicted[0].astype(np.uint8), "b": predicted[1].astype(np.uint8)}, suffix=".png"),
        save(tmp_path / "t", {"a": truth[0], "b": truth[1]}, suffix=".png"),
    )
    assert result.metrics == ("pixels",)
    assert any("0 as 0, 1 as 255" in n for n in result.notes)
    expected = pixel.scores(truth, predicted * 255, classes=(0, 255))
    ours = scores(result)
    assert ours["Dice"].value == ours["Dice 255"].value == expected.classes[1].dice
    assert ours["IoU 0"].value == expected.classes[0].iou
    assert ours["wrong pixels"].value == expected.pixel_error
    assert not ours["wrong pixels"].higher_is_better and not ours["ASD 255 (px)"].higher_is_better


def test_distances_are_in_micrometers_where_the_size_is_known(tmp_path):
    truth, predicted = np.zeros((2, 12, 12), np.uint8), np.zeros((2, 12, 12), np.uint8)
    truth[:, 4, 4], predicted[:, 4, 7] = 1, 1
    size = {"pixel_size_um": {"Y": 0.5, "X": 0.5}}
    known = save(tmp_path / "t", {"a": truth[0], "b": truth[1]}, **size)
    ours = scores(run(save(tmp_path / "p", {"a": predicted[0], "b": predicted[1]}, **size), known))
    assert ours["ASD 1 (um)"].value == ours["HD95 1 (um)"].value == 1.5
    bare = save(tmp_path / "bare", {"a": truth[0], "b": truth[1]}, suffix=".png")
    ours = scores(run(save(tmp_path / "q", {"a": predicted[0], "b": predicted[1]}, suffix=".png"), bare))
    assert ours["ASD 1 (px)"].value == 3


def test_probabilities_are_calibrated(tmp_path):
    truth = np.zeros((10, 10), np.uint8)
    truth[:, :5] = 1
    probability = np.where(truth > 0, 0.9, 0.3).astype(np.float32)
    result = run(save(tmp_path / "p", {"a": probability}), save(tmp_path / "t", {"a": truth}))
    ours = scores(result)
    assert ours["Dice"].value == 1
    assert ours["ECE"].value == pytest.approx((0.1 + 0.3) / 2, abs=1e-6) and not ours["ECE"].higher_is_better
    filled = [b for b in result.results[0].reliability if b.pixels]
    assert [(b.pixels, b.right) for b in filled] == [(50, 0), (50, 1)]
    assert math.isnan(ours["Dice"].low) and any("no interval" in n for n in result.notes)


def test_with_one_map_per_class_the_largest_probability_decides(tmp_path):
    truth = np.arange(36).reshape(6, 6) % 3
    maps = np.stack([(truth == k) * 0.8 + 0.1 for k in range(3)]).astype(np.float32)
    ours = scores(
        run(
            save(tmp_path / "p", {"a": maps}, axes="CYX"),
            save(tmp_path / "t", {"a": (truth * 100).astype(np.uint8)}),
            metrics=("pixels",),
        )
    )
    assert ours["Dice"].value == 1 and ours["Dice 200"].value == 1


def test_isbi_scores_of_probability_maps_and_stacks(tmp_path):
    random = np.random.default_rng(1)
    truth = np.ones((3, 24, 24), np.uint8)
    truth[:, :, 8], truth[:, 15] = 0, 0
    soft = np.clip(truth * 0.6 + 0.4 * random.random(truth.shape), 0, 1).astype(np.float32)
    expected = isbi.combine([isbi.section(t > 0, p) for t, p in zip(truth, soft, strict=True)])
    predicted = save(tmp_path, {"soft": soft}, axes="TYX") / "soft.tif"
    stack = save(tmp_path, {"stack": truth * 255}, axes="TYX") / "stack.tif"
    result = run(predicted, stack, metrics=("isbi",))
    for name, best in expected.items():
        assert scores(result)[name].value == pytest.approx(best.value, nan_ok=True), name
    assert scores(result)["V_Rand threshold"].value == expected["V_Rand"].threshold
    assert [i.name for i in result.results[0].images] == ["stack[0]", "stack[1]", "stack[2]"]
    volume = save(tmp_path, {"volume": soft}, axes="ZYX") / "volume.tif"
    assert scores(run(volume, stack, metrics=("isbi",)))["V_Rand"] == scores(result)["V_Rand"]
    gray = save(tmp_path, {"gray": (soft * 255).astype(np.uint8)}, axes="TYX") / "gray.tif"
    assert any("value / 255" in n for n in run(gray, stack, metrics=("isbi",)).notes)


def test_isbi_refuses_object_ids(tmp_path):
    predicted, truth = save(tmp_path / "p", {"a": grid()}), save(tmp_path / "t", {"a": (grid() > 0).astype(np.uint8)})
    with pytest.raises(DataError, match="--metrics instances"):
        run(predicted, truth, metrics=("isbi",))
    with pytest.raises(DataError, match="16 values other than 0"):
        run(truth, predicted, metrics=("isbi",))


def challenge(tmp_path, names="t{:03d}", folder="01_RES"):
    truth = {k: grid(ids=n) for k, n in ((0, 4), (3, 9))}
    truth[3][truth[3] > 2] = 0  # partial: two of nine cells are named
    found = {k: np.roll(grid(ids=9), 1, 0) for k in range(5)}
    save(tmp_path / "data" / "01_GT" / "SEG", {f"man_seg{k:03d}": a for k, a in truth.items()})
    save(tmp_path / "results" / folder, {names.format(k): a for k, a in found.items()})
    return truth, found


@pytest.mark.parametrize(("names", "folder"), [("mask{:03d}", "01_RES"), ("t{:03d}", "01")])
def test_layouts_of_the_challenge_are_found(tmp_path, names, folder):
    truth, found = challenge(tmp_path, names, folder)
    expected = ctc.seg([contingency.table(t, found[k]) for k, t in truth.items()])
    for predicted, true in (
        ("results", "data"),
        ("results", "data/01_GT"),
        (f"results/{folder}", "data/01_GT/SEG"),
        (f"results/{folder}", "data/01_GT"),
    ):
        result = run(tmp_path / predicted, tmp_path / true)
        assert result.metrics == ("ctc",)
        assert scores(result)["SEG"].value == pytest.approx(expected)
        assert "DET" not in scores(result)
        assert [i.name for i in result.results[0].images] == ["01_man_seg000", "01_man_seg003"]
        assert any("3 predictions without truth, not scored: " in n for n in result.notes)
    assert len(result.results[0].objects) == 6


def test_det_needs_markers_and_sequences_are_averaged(tmp_path):
    _, found = challenge(tmp_path)
    markers = {k: grid(ids=9) for k in range(5)}
    save(tmp_path / "data" / "01_GT" / "TRA", {f"man_track{k:03d}": a for k, a in markers.items()})
    one = scores(run(tmp_path / "results", tmp_path / "data"))
    expected = ctc.det(contingency.table(markers[k], found[k]) for k in range(5))
    assert one["DET"].value == pytest.approx(expected.det)
    save(tmp_path / "data" / "02_GT" / "SEG", {"man_seg001": grid(ids=6)})
    save(tmp_path / "results" / "02_RES", {"mask001": grid(ids=6)})
    two = scores(run(tmp_path / "results", tmp_path / "data"))
    assert two["SEG 01"].value == one["SEG"].value and two["SEG 02"].value == 1
    assert two["SEG"].value == pytest.approx((one["SEG"].value + 1) / 2)


def test_sequences_of_one_frame_have_an_interval_together_and_none_alone(tmp_path):
    for k in range(2):
        save(tmp_path / "set" / f"0{k}_GT" / "SEG", {"man_seg000": grid(ids=9)})
        save(tmp_path / "set" / f"0{k}_RES", {"mask000": np.roll(grid(ids=9), 1 + k, 0)})
        save(tmp_path / "other" / f"0{k}_RES", {"mask000": grid(ids=9)})
    result = run((tmp_path / "set", tmp_path / "other"), tmp_path / "set")
    ours, change = scores(result), {d.name: d for d in result.differences}
    both, first, second = ours["SEG"], ours["SEG 00"], ours["SEG 01"]
    assert (both.low, both.high) == pytest.approx((second.value, first.value))
    assert math.isnan(first.low) and math.isnan(second.high)
    assert 0 < change["SEG"].low < change["SEG"].value < change["SEG"].high and math.isnan(change["SEG 00"].low)
    told = [n for n in result.notes if "no interval" in n]
    assert told[0] == f"{tmp_path / 'set'}: no interval of SEG 00, SEG 01: only one image or sequence defines the score"


def test_a_sequence_that_only_one_of_two_predictions_has_is_scored_in_either_order(tmp_path):
    cells = grid(ids=6)
    for sequence in ("01", "02"):
        save(tmp_path / f"truth/{sequence}_GT/SEG", {"man_seg001": cells})
        save(tmp_path / f"both/{sequence}_RES", {"mask001": cells})
    save(tmp_path / "one/01_RES", {"mask000": cells})
    save(tmp_path / "one/02_RES", {"mask001": cells})
    for given in (("both", "one"), ("one", "both")):
        result = run(tuple(tmp_path / name for name in given), tmp_path / "truth")
        both, one = (scores(result, given.index(name)) for name in ("both", "one"))
        assert both["SEG 01"].value == both["SEG 02"].value == both["SEG"].value == 1
        assert one["SEG 02"].value == one["SEG"].value == 1 and "SEG 01" not in one
        (failure,) = result.results[given.index("one")].failures
        assert failure.name == "01_GT/SEG/man_seg001.tif"  # both sequences have a truth of this name
        assert any("1 prediction without truth, not scored: 01_RES/mask000.tif" in n for n in result.notes)


def test_slices_of_3d_truth(tmp_path):
    volume = np.zeros((6, 48, 48), np.uint16)
    volume[2] = grid(ids=9)
    save(tmp_path / "01_GT" / "SEG", {"man_seg_000_002": np.roll(grid(ids=9), 1, 0)})
    save(tmp_path / "01_RES", {"mask000": volume}, axes="ZYX")
    expected = ctc.seg(contingency.table(np.roll(grid(ids=9), 1, 0), volume[2]))
    assert scores(run(tmp_path / "01_RES", tmp_path / "01_GT"))["SEG"].value == pytest.approx(expected)
    save(tmp_path / "01_GT" / "SEG", {"man_seg_000_007": grid(ids=9)})
    result = run(tmp_path / "01_RES", tmp_path / "01_GT")
    assert result.failed == 1 and "6 slices" in result.results[0].failures[0].message


def test_volumes_are_scored_as_a_whole(tmp_path):
    truth = np.zeros((4, 12, 24), np.uint16)
    truth[:2, 2:8, 2:8], truth[2:, 2:8, 12:20] = 1, 2
    other = {"a": truth, "b": np.where(truth == 2, 0, truth)}
    result = run(save(tmp_path / "p", other, axes="ZYX"), save(tmp_path / "t", other, axes="ZYX"))
    assert result.metrics == ("instances",)
    assert scores(result)["AP"].value == 1
    assert result.results[0].objects[1].center_px == (2.5, 4.5, 15.5)


def test_ignored_pixels(tmp_path):
    truth, predicted = grid(ids=16), grid(ids=16)
    predicted[:12] = 0
    mask = np.zeros(truth.shape, np.uint8)
    mask[:12] = 255
    given = save(tmp_path / "p", {"a": predicted}), save(tmp_path / "t", {"a": truth})
    assert scores(run(*given, metrics=("instances",)))["AP"].value == 12 / 16
    folder = save(tmp_path / "ignore", {"a": mask})
    for ignore in (folder, folder / "a.tif"):
        assert scores(run(*given, metrics=("instances",), ignore_mask=ignore))["AP"].value == 1
    small = save(tmp_path, {"small": mask[:5]}) / "small.tif"
    with pytest.raises(DataError, match="mask of 5 x 48"):
        run(*given, metrics=("instances",), ignore_mask=small)


def test_one_bad_file_does_not_stop_the_others(objects):
    predicted, truth, _, _ = objects
    (predicted / "cell10.tif").write_bytes(b"II*\0 cut off")
    result = run(predicted, truth)
    assert [i.name for i in result.results[0].images] == ["cell2", "cell11"]
    assert result.failed == 1 and result.results[0].failures[0].name == "cell10"
    write_image(predicted / "cell10.tif", grid(3), axes="YX")
    assert "36 x 36" in run(predicted, truth).results[0].failures[0].message


def test_without_any_scorable_image_an_error_is_raised(tmp_path):
    truth = save(tmp_path / "t", {"a": grid()})
    with pytest.raises(DataError, match="36 x 36"):
        run(save(tmp_path / "p", {"a": grid(3)}), truth, metrics=("instances",))
    with pytest.raises(DataError, match="no prediction fits"):
        run(save(tmp_path / "q", {"elsewhere": grid()}), truth)
    with pytest.raises(UsageError, match="does not exist"):
        run(tmp_path / "nowhere", truth)
    with pytest.raises(UsageError, match="one is a folder"):
        run(tmp_path / "p" / "a.tif", truth)
    with pytest.raises(DataError, match="object ids"):
        run(save(tmp_path / "soft", {"a": np.zeros((48, 48), np.float32)}), truth, metrics=("instances",))
    with pytest.raises(SeptumError, match="values from -1"):
        run(save(tmp_path / "raw", {"a": np.full((48, 48), -1.5, np.float32)}), truth, metrics=("pixels",))


def test_a_truth_without_objects_stops_ctc_as_in_the_challenge(tmp_path):
    nothing = np.zeros((12, 12), np.uint16)
    save(tmp_path / "01_GT" / "SEG", {"man_seg000": nothing})
    save(tmp_path / "01_RES", {"mask000": nothing})
    with pytest.raises(DataError, match="no reference object"):
        run(tmp_path / "01_RES", tmp_path / "01_GT")


def test_settings_are_checked():
    with pytest.raises(ValueError, match="predicted"):
        EvaluateSettings(predicted=(), truth=Path("t"))
    with pytest.raises(ValueError, match="metrics"):
        EvaluateSettings(predicted=(Path("p"),), truth=Path("t"), metrics=("dice",))


def test_pieces_of_a_truth_with_one_value_are_objects(tmp_path):
    truth = (grid(ids=7) > 0).astype(np.uint8)
    given = save(tmp_path / "p", {"a": grid(ids=7)}), save(tmp_path / "t", {"a": truth})
    result = run(*given, metrics=("instances",))
    assert scores(result)["AP"].value == 1 and any("each connected piece" in n for n in result.notes)
    white = save(tmp_path / "w", {"a": truth * 255}, suffix=".png")
    assert scores(run(white, given[0], metrics=("instances",)))["AP"].value == 1
    doubtful = run(given[1], given[0], metrics=("instances",))
    assert scores(doubtful)["AP"].value == 0 and any("class map" in n for n in doubtful.notes)


def test_255_after_running_classes_is_not_annotated(tmp_path):
    truth = np.array([[0, 0, 1, 1, 2, 2, 255, 255]] * 4, np.uint8)
    predicted = np.array([[0, 0, 1, 1, 2, 2, 1, 2]] * 4, np.uint8)
    result = run(save(tmp_path / "p", {"a": predicted}), save(tmp_path / "t", {"a": truth}), metrics=("pixels",))
    assert any("255" in n and "do not count" in n for n in result.notes)
    assert scores(result)["Dice"].value == 1 and "Dice 255" not in scores(result)


def test_truths_of_0_and_1_beside_0_and_255_mean_the_same(tmp_path):
    mask = (grid() > 0).astype(np.uint8)
    result = run(
        save(tmp_path / "p", {"a": mask, "b": mask}),
        save(tmp_path / "t", {"a": mask, "b": mask * 255}),
        metrics=("pixels",),
    )
    assert scores(result)["Dice"].value == scores(result)["Dice 255"].value == 1


def test_all_images_of_a_prediction_hold_class_values_or_all_hold_places(tmp_path):
    places = {"x": np.array([[0, 0, 1, 2]] * 4, np.uint8), "y": np.array([[0, 0, 0, 2]] * 4, np.uint8)}
    values = {name: np.array([0, 2, 4], np.uint8)[array] for name, array in places.items()}
    truth = save(tmp_path / "t", values)
    for name, given in (("places", places), ("values", values)):
        result = run(save(tmp_path / name, given), truth, metrics=("pixels",))
        assert scores(result)["wrong pixels"].value == 0
        assert scores(result)["recall 4"].value == 1
    both = run((tmp_path / "places", tmp_path / "values"), truth, metrics=("pixels",))
    assert [scores(both, k)["wrong pixels"].value for k in (0, 1)] == [0, 0]
    wrong = save(tmp_path / "wrong", values | {"y": np.array([[0, 0, 0, 1]] * 4, np.uint8)})
    result = run(wrong, truth, metrics=("pixels",))
    assert scores(result)["wrong pixels"].value == 1 / 8
    assert any("not classes of the truth count as wrong: 1" in note for note in result.notes)


def test_a_class_that_only_one_of_two_predictions_has_is_scored_in_either_order(tmp_path):
    first, second = np.array([[0, 1, 1, 1]] * 4, np.uint8), np.array([[0, 1, 2, 2]] * 4, np.uint8)
    truth = save(tmp_path / "t", {"x": first, "y": second})
    both, one = save(tmp_path / "both", {"x": first, "y": second}), save(tmp_path / "one", {"x": first})
    alone = scores(run(both, truth, metrics=("pixels",)))
    assert alone["Dice 2"].value == 1
    for given in ((both, one), (one, both)):
        result = run(given, truth, metrics=("pixels",))
        found = scores(result, given.index(both))
        assert {name: score.value for name, score in found.items()} == {n: s.value for n, s in alone.items()}
        assert math.isnan(scores(result, given.index(one))["Dice 2"].value)
        assert not any("not classes" in n for n in result.notes)


def test_values_that_are_not_classes_count_as_wrong(tmp_path):
    truth, predicted = np.array([[0, 1, 2, 2]] * 4, np.uint8), np.array([[0, 1, 7, 2]] * 4, np.uint8)
    result = run(save(tmp_path / "p", {"a": predicted}), save(tmp_path / "t", {"a": truth}), metrics=("pixels",))
    assert any("not classes of the truth count as wrong: 7" in n for n in result.notes)
    assert scores(result)["wrong pixels"].value == 0.25 and scores(result)["recall 2"].value == 0.5
