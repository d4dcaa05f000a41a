"""Reproductions from end to end on tiny data: splits, scored images, resuming, refusals; not their quality."""

import json
import shutil

import numpy as np
import pytest

from septum.check.check import check
from septum.errors import UsageError
from septum.io.files import read_image, write_image
from septum.metrics import ctc, isbi
from septum.metrics.contingency import table
from septum.prediction.events import ImageDone
from septum.reproduce.protocols import PROTOCOLS, find_data, section_parts, sequence_parts
from septum.reproduce.reproduce import reproduce
from septum.reproduce.results import FoldStarted, Reproduced
from septum.reproduce.settings import ReproduceSettings
from septum.training.events import Step, Stopped, Trained
from septum.training.interrupt import StopRequest

SIDE = 44


def disks(rng, *, pair=True):
    """An image of one or two disks and its object ids."""
    y, x = np.mgrid[:SIDE, :SIDE]
    cy, cx = rng.uniform(14, 26, 2)
    ids = np.where((y - cy) ** 2 + (x - cx) ** 2 < 49, 1, 0)
    if pair:
        ids = np.where((y - cy) ** 2 + (x - cx - 15) ** 2 < 40, 2, ids)
    image = 150.0 * (ids > 0) + rng.normal(60, 5, ids.shape)
    return image.clip(0, 255).astype(np.uint8), ids.astype(np.uint16)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, array, axes="YX")


@pytest.fixture(scope="session")
def sections(tmp_path_factory):
    """Six training sections and two test sections of the first challenge."""
    folder, rng = tmp_path_factory.mktemp("isbi"), np.random.default_rng(0)
    for number in range(6):
        image, ids = disks(rng)
        write(folder / "train" / "images" / f"{number:02d}.png", image)
        write(folder / "train" / "masks" / f"{number:02d}.png", np.where(ids > 0, 255, 0).astype(np.uint8))
    for number in range(2):
        image, ids = disks(rng)
        write(folder / "test" / "images" / f"{number:02d}.png", image)
        write(folder / "truth" / f"{number:02d}.png", np.where(ids > 0, 255, 0).astype(np.uint8))
    return folder


def sequence(folder, name, frames, gold, *, partial=()):
    rng = np.random.default_rng(int(name))
    for number in range(frames):
        image, ids = disks(rng)
        write(folder / name / f"t{number:03d}.tif", image)
        write(folder / f"{name}_ST" / "SEG" / f"man_seg{number:03d}.tif", ids)
        if number in gold:
            kept = np.where(ids == 1, 1, 0).astype(np.uint16) if number in partial else ids
            write(folder / f"{name}_GT" / "SEG" / f"man_seg{number:03d}.tif", kept)


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """Two sequences of eight frames."""
    folder = tmp_path_factory.mktemp("ctc") / "DIC-C2DH-HeLa"
    sequence(folder, "01", 8, {0, 3, 5}, partial={5})
    sequence(folder, "02", 8, {1, 6, 7})
    return folder


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """One sequence of twenty frames."""
    folder = tmp_path_factory.mktemp("alone") / "PhC-C2DH-U373"
    sequence(folder, "01", 20, {1, 5, 11, 12, 13, 18})
    return folder


def tiny(name, data, out, **more):
    return ReproduceSettings(name=name, data=data, out=out, steps=2, width=2, device="cpu", **more)


def names(paths):
    return [p.stem for p in paths]


def trained_on(part, kind="images"):
    return [place.rpartition("/")[2].partition(".")[0] for _, place in part.training if place.startswith(f"{kind}/")]


def test_folds_are_contiguous_cover_all_sections_and_never_train_on_the_predicted_ones(sections):
    parts = section_parts(sections, 4)
    assert [names(p.inputs) for p in parts[:-1]] == [["00", "01"], ["02", "03"], ["04"], ["05"]]
    for part in parts[:-1]:
        assert set(trained_on(part)) == {f"{i:02d}" for i in range(6)} - set(names(part.inputs))
        assert trained_on(part) == trained_on(part, "masks")
        assert part.held_out == ()
    last = parts[-1]
    assert (last.test, len(trained_on(last)), names(last.inputs), last.truth) == (True, 6, ["00", "01"], ())


def test_two_sequences_predict_each_other(both):
    first, second = sequence_parts(both, "silver")
    assert (names(first.inputs), first.results) == (["t001", "t006", "t007"], "02_RES")
    assert (names(second.inputs), second.results) == (["t000", "t003", "t005"], "01_RES")
    for part, own in ((first, "01"), (second, "02")):
        assert {place.partition("/")[0] for _, place in part.training} == {own, f"{own}_GT", f"{own}_ST"}
        assert len(trained_on(part, own)) == 8


def test_gold_trains_on_complete_frames_only(both):
    first, second = sequence_parts(both, "gold")
    assert trained_on(first, "01") == ["t000", "t003"]  # t005 has one of its two cells
    assert trained_on(second, "02") == ["t001", "t006", "t007"]
    assert not any("_ST" in place for part in (first, second) for _, place in part.training)
    assert any("t005" in note for note in first.notes)
    assert names(second.inputs) == ["t000", "t003", "t005"]  # t005 is scored for the object it has


def test_gold_trains_on_incomplete_frames_if_there_are_tracking_markers(tmp_path):
    folder = tmp_path / "DIC-C2DH-HeLa"
    sequence(folder, "01", 20, {0, 3, 5, 18}, partial={5})
    for path in (folder / "01_ST" / "SEG").iterdir():  # every cell has a marker
        write(folder / "01_GT" / "TRA" / path.name.replace("man_seg", "man_track"), read_image(path).array[0])
    (part,) = sequence_parts(folder, "gold")
    assert trained_on(part, "01") == ["t000", "t003", "t005"]
    assert part.notes == sequence_parts(folder, "silver")[0].notes
    for source, place in part.training:
        (tmp_path / "train" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, tmp_path / "train" / place)
    report = check((tmp_path / "train",))
    assert [(f.code, [p.name for p in f.files]) for f in report.issues if f.code.startswith("gold")] == [
        ("gold-partial", ["man_seg005.tif"])
    ]


def test_one_sequence_is_split_by_time_with_a_gap(alone):
    (part,) = sequence_parts(alone, "silver")
    assert trained_on(part, "01") == [f"t{i:03d}" for i in range(12)]  # 60 %, then a gap of one frame
    assert names(part.inputs) == ["t013", "t018"]
    (part,) = sequence_parts(alone, "gold")
    assert trained_on(part, "01") == ["t001", "t005", "t011"]


def test_data_are_found_in_a_folder_of_data_sets_and_missing_data_are_refused(both, tmp_path):
    assert find_data(PROTOCOLS["dic-hela"], both.parent) == both
    with pytest.raises(UsageError, match="septum fetch dic-hela"):
        find_data(PROTOCOLS["dic-hela"], tmp_path)


@pytest.fixture(scope="module")
def ran(sections, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep" / "isbi"
    return out, list(reproduce(tiny("isbi2012", sections, out, folds=2, truth=sections / "truth")))


def of(events, kind):
    return [r for r in events if isinstance(r, kind)]


def test_every_part_is_trained_without_validation_and_predicted_in_order(ran):
    out, events = ran
    assert json.loads((out / "fold-1" / "run" / "plan.json").read_text())["held_out"] == []
    assert [p.name for p in of(events, FoldStarted)] == ["fold-1", "fold-2", "final"]
    assert len(of(events, Trained)) == 3
    assert len(of(events, ImageDone)) == 8
    assert isinstance(events[-1], Reproduced)


def test_figures_equal_the_scores_of_the_written_files(ran, sections):
    out, events = ran
    found = []
    for number in range(6):
        truth = read_image(sections / "train" / "masks" / f"{number:02d}.png").array[0] > 0
        proposal = read_image(out / "predicted" / f"{number:02d}.tif").array[0]
        found.append(isbi.section(truth, proposal))
    expected = isbi.combine(found)
    folds, tests = events[-1].results
    lines = {line.score: line for line in folds.lines}
    for name in ("V_Rand", "V_Info", "pixel error", "Rand error (2014)", "warping error"):
        assert lines[name].value == pytest.approx(expected[name].value, abs=1e-12)
    assert (lines["pixel error"].unet_2015, lines["warping error"].unet_2015) == (0.0611, 0.000353)
    assert lines["V_Rand"].unet_2015 is None
    assert (folds.images, tests.images) == (6, 2)


def test_the_test_sections_are_written_as_a_stack_of_probabilities(ran):
    out, _ = ran
    stack = read_image(out / "test.tif").array
    assert stack.dtype == np.float32
    each = [read_image(out / "test" / f"{number:02d}.tif").array for number in range(2)]
    assert np.array_equal(stack.reshape(2, SIDE, SIDE), np.concatenate(each))
    assert 0 <= stack.min() < stack.max() <= 1


def test_the_json_holds_the_figures_and_the_command(ran):
    out, events = ran
    written = json.loads((out / "reproduction.json").read_text())
    assert written["results"][0]["lines"][0]["value"] == events[-1].results[0].lines[0].value
    assert written["command"].startswith("septum reproduce isbi2012 --data ")
    assert [t["steps"] for t in written["trainings"]] == [2, 2, 2]


def test_examples_are_worst_median_and_best(ran):
    scores = [e.score for e in ran[1][-1].examples]
    assert scores == sorted(scores)
    assert [e.name.rpartition("(")[2] for e in ran[1][-1].examples] == ["worst)", "median)", "best)"]


def test_a_complete_reproduction_is_not_repeated_and_other_settings_are_refused(ran, sections):
    out, events = ran
    again = list(reproduce(tiny("isbi2012", sections, out, folds=2, truth=sections / "truth")))
    assert not of(again, Step)
    assert not of(again, ImageDone)
    assert again[-1].results == events[-1].results
    assert again[-1].seconds > sum(training.seconds for training in again[-1].trainings)  # of the first session, too
    with pytest.raises(UsageError, match="folds: 2 -> 3"):
        list(reproduce(tiny("isbi2012", sections, out, folds=3)))


def test_a_stopped_reproduction_resumes_to_the_same_figures(alone, tmp_path):
    straight = list(reproduce(tiny("phc-u373", alone, tmp_path / "straight", variant="gold")))
    stop = StopRequest()
    events = []
    for event in reproduce(tiny("phc-u373", alone, tmp_path / "stopped", variant="gold"), stop):
        events.append(event)
        if isinstance(event, Step):
            stop.request()
    assert isinstance(events[-1], Stopped)
    events = list(reproduce(tiny("phc-u373", alone, tmp_path / "stopped", variant="gold")))
    assert of(events, Step)
    assert events[-1].results == straight[-1].results


def test_seg_is_the_mean_of_both_sequences(both, tmp_path):
    events = list(reproduce(tiny("dic-hela", both.parent, tmp_path / "out")))
    values = {line.score: line.value for line in events[-1].results[0].lines}
    for name in ("01", "02"):
        tables = [
            table(
                read_image(truth).array[0], read_image(tmp_path / "out" / "predicted" / f"{name}_RES" / file).array[0]
            )
            for truth in sorted((both / f"{name}_GT" / "SEG").iterdir())
            for file in [f"t{truth.stem[-3:]}.tif"]
        ]
        assert values[f"SEG {name}"] == pytest.approx(ctc.seg(tables), abs=1e-12)
    assert values["SEG"] == pytest.approx((values["SEG 01"] + values["SEG 02"]) / 2, abs=1e-12)


def test_the_stacks_of_the_challenge_are_accepted(sections, tmp_path):
    for file, folder in (
        ("train-volume", "train/images"),
        ("train-labels", "train/masks"),
        ("test-volume", "test/images"),
    ):
        pages = [read_image(p).array[0] for p in sorted((sections / folder).iterdir())]
        write_image(tmp_path / f"{file}.tif", np.stack(pages), axes="TYX")
    job = reproduce(tiny("isbi2012", tmp_path, tmp_path / "out", folds=2))
    assert next(job).name == "fold-1"
    job.close()
    for place in ("train/images/05.png", "train/masks/00.png", "test/images/01.png"):
        assert np.array_equal(read_image(tmp_path / "out" / "data" / place).array, read_image(sections / place).array)


def test_predictions_of_an_earlier_model_are_replaced(alone, tmp_path):
    first = list(reproduce(tiny("phc-u373", alone, tmp_path, variant="gold")))
    shutil.rmtree(tmp_path / "train-01" / "run")
    (tmp_path / "predicted" / "01_RES" / "t018.tif").write_bytes(b"of another model")
    again = list(reproduce(tiny("phc-u373", alone, tmp_path, variant="gold")))
    assert len(of(again, ImageDone)) == 2
    assert again[-1].results == first[-1].results


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("dic-hela", {"folds": 3}, "--folds with dic-hela"),
        ("dic-hela", {"truth": "truth"}, "--truth with dic-hela"),
        ("isbi2012", {"variant": "gold"}, "--variant with isbi2012"),
    ],
)
def test_options_of_another_protocol_are_refused(name, more, message):
    with pytest.raises(UsageError, match=message):
        ReproduceSettings(name=name, data="data", out="out", **more)
