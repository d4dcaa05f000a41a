"""Cross-validation: every image is scored by the network that was not trained on it; the networks are averaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.check.check import check
from septum.check.samples import load_samples
from septum.errors import DataError, UsageError
from septum.evaluation.evaluate import evaluate
from septum.evaluation.results import EvaluateSettings
from septum.experiments.cross_validation import train_folds
from septum.experiments.events import PartStarted, PartTrained
from septum.io.files import read_image
from septum.io.tensors import read_model
from septum.prediction.info import describe_model
from septum.prediction.model import open_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.report.gallery import predicted_sample
from septum.report.summary import RunReport, metrics
from septum.training.events import Planned, Resumed, Step, Stopped, Trained
from septum.training.interrupt import StopRequest
from septum.training.loop import train
from septum.training.settings import TrainSettings


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    shape = {"width": 4, "depth": 1, "tile": 36, "batch": 2, "device": "cpu", "precision": "float32"}
    return TrainSettings.model_validate({"data": (data,), "out": out, "steps": 40, **shape, **changes})


@pytest.fixture(scope="module")
def before_the_report() -> set[str]:
    """Return the names of the files in the run folder before its report is written; filled by `run`."""
    return set()


@pytest.fixture(scope="module")
def run(disks: Path, tmp_path_factory: pytest.TempPathFactory, before_the_report: set[str]) -> tuple[Path, list[Any]]:
    out, events = tmp_path_factory.mktemp("folds") / "run", list[Any]()
    for event in train_folds(_settings(disks, out), 2):
        events.append(event)
        if isinstance(event, RunReport) and event.folder == out:
            before_the_report.update(path.name for path in out.iterdir())
    return out, events


def test_a_run_is_complete_before_its_report_is_written(
    run: tuple[Path, list[Any]], before_the_report: set[str]
) -> None:
    assert {"model.safetensors", "scores.json", "plan.json", "folds.json"} <= before_the_report


def _tensors(model: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in read_model(model)[0].items()}


def test_folds_are_announced_and_trained_into_one_model(run: tuple[Path, list[Any]]) -> None:
    out, events = run
    assert [r.title for r in events if isinstance(r, PartStarted)] == ["fold 1 of 2", "fold 2 of 2"]
    assert [r.folder for r in events if isinstance(r, PartStarted)] == ["fold-1", "fold-2"]
    lines = [r.lines for r in events if isinstance(r, Planned)]
    assert lines[0] == ("2 folds of 2 to 3 images, drawn at random",)
    assert lines[1][0].startswith("fold 1 of 2: 2 images for training, 3 held out: ")
    assert len(lines[2]) == 1  # the plan is reported once
    last = events[-1]
    assert isinstance(last, Trained)
    assert (last.model, last.steps) == (out / "model.safetensors", 80)
    parts = [r.trained for r in events if isinstance(r, PartTrained)]
    written = json.loads((out / "folds.json").read_text())
    assert sorted(name for fold in written["folds"] for name in fold["held_out"]) == list("abcde")
    assert [fold["scores"] for fold in written["folds"]] == [part.scores for part in parts]
    assert written["scores"] == json.loads((out / "scores.json").read_text()) == last.scores
    plans = [json.loads((out / f / "plan.json").read_text())["plan"] for f in (".", "fold-1", "fold-2")]
    assert plans[0] == plans[1] == plans[2]


def test_every_image_is_predicted_by_the_network_that_was_not_trained_on_it(
    run: tuple[Path, list[Any]], disks: Path
) -> None:
    out, _ = run
    samples = {s.name: s for s in load_samples(check([disks]))}
    for fold in json.loads((out / "folds.json").read_text())["folds"]:
        model = open_model(out / fold["folder"] / "model.safetensors", "cpu")
        for name in fold["held_out"]:
            written = read_image(out / "out-of-fold" / "probabilities" / f"{name}.tif").array
            np.testing.assert_array_equal(written, predicted_sample(model, samples[name])[0])


def test_scores_equal_those_of_evaluate_on_the_written_predictions(run: tuple[Path, list[Any]], disks: Path) -> None:
    out, events = run
    asked = EvaluateSettings(predicted=(out / "out-of-fold",), truth=disks / "masks", metrics=("ctc", "instances"))
    found = {s.name: s.value for s in evaluate(asked).results[0].scores}
    scores = events[-1].scores
    assert scores["SEG"] > 0.2
    assert (scores["SEG"], scores["AP50"], scores["AP"]) == pytest.approx((found["SEG"], found["AP@0.50"], found["AP"]))
    report = next(r for r in reversed(events) if isinstance(r, RunReport))
    numbers = metrics(report)
    assert (numbers["held_out"], numbers["scored"]) == (5, 5)
    assert {k: numbers["scores"][k]["value"] for k in scores} == pytest.approx(scores)


def test_predict_and_info_accept_the_ensemble(run: tuple[Path, list[Any]], disks: Path, tmp_path: Path) -> None:
    out, _ = run
    model = open_model(out / "model.safetensors", "cpu")
    assert model.header.members == 2
    assert model.header.training["parts"] == ["fold 1 of 2", "fold 2 of 2"]
    single = [open_model(out / f"fold-{k}" / "model.safetensors", "cpu") for k in (1, 2)]
    asked = PredictSettings(
        model=out / "model.safetensors",
        inputs=(str(disks / "images"),),
        out=tmp_path / "p",
        output="probabilities",
        device="cpu",
        tile=24,
        format="tif",
    )
    list(predict_files(asked))
    list(predict_files(asked.model_copy(update={"out": tmp_path / "blocks", "blocks": True})))
    for sample in load_samples(check([disks])):
        mean = np.mean([predicted_sample(m, sample)[0] for m in single], axis=0)
        for folder in ("p", "blocks"):
            found = read_image(tmp_path / folder / f"{sample.name}.tif").array
            np.testing.assert_allclose(found, mean, atol=1e-5)
    assert describe_model(out / "model.safetensors")["parameters"] == 2 * sum(
        p.numel() for p in single[0].network.parameters()
    )


def test_a_stopped_run_resumes_to_the_same_bits(
    run: tuple[Path, list[Any]], disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stop = tmp_path / "run", StopRequest()
    settings = _settings(disks, out)
    seen: list[Any] = []
    for event in train_folds(settings, 2, stop):
        seen.append(event)
        if isinstance(event, Step) and event.step == 7 and (out / "fold-2").exists():
            stop.request()
    assert isinstance(seen[-1], Stopped)
    assert not (out / "model.safetensors").exists()
    second = list(train_folds(settings, 2))
    assert [r.step for r in second if isinstance(r, Resumed)] == [7]
    assert [r.step for r in second if isinstance(r, Step)] == list(range(8, 41))
    assert _tensors(out / "model.safetensors") == _tensors(run[0] / "model.safetensors")
    assert second[-1].scores == run[1][-1].scores


def test_a_finished_run_returns_its_result_without_training(run: tuple[Path, list[Any]], disks: Path) -> None:
    out, events = run
    for folder in (".", "fold-1", "fold-2"):
        for name in ("report.html", "metrics.json"):
            (out / folder / name).write_text("{}")
    again = list(train_folds(_settings(disks, out), 2))
    assert not any(isinstance(r, Step | RunReport) for r in again[:-1])
    assert (again[-1].model, again[-1].scores) == (events[-1].model, events[-1].scores)
    with pytest.raises(UsageError, match="folds: 2 -> 3"):
        list(train_folds(_settings(disks, out), 3))


def test_a_run_folder_of_an_earlier_version_is_resumed(
    run: tuple[Path, list[Any]], disks: Path, tmp_path: Path
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    for path in (tmp_path / "run").rglob("settings.json"):
        stored = json.loads(path.read_text())
        stored["early_stop"], stored["ignore"] = stored.pop("until_plateau"), stored.pop("ignore_values")
        path.write_text(json.dumps(stored | {"from_model": None}))
    *_, last = train_folds(_settings(disks, tmp_path / "run"), 2)
    assert last.scores == run[1][-1].scores


def test_the_budget_is_shared_out_and_a_resumed_fold_keeps_its_share(disks: Path, tmp_path: Path) -> None:
    settings = _settings(disks, tmp_path / "run", steps=None, budget_s=6.0)
    stop = StopRequest()
    for event in train_folds(settings, 3, stop):
        if isinstance(event, Step):
            stop.request()
    first = json.loads((tmp_path / "run" / "fold-1" / "settings.json").read_text())["budget_s"]
    assert 1.0 <= first <= 6.0 * 0.88 / 3
    events = list(train_folds(settings, 3))
    assert json.loads((tmp_path / "run" / "fold-1" / "settings.json").read_text())["budget_s"] == first
    shares = [r.trained.seconds for r in events if isinstance(r, PartTrained)]
    assert sum(shares) < 6.0
    assert isinstance(events[-1], Trained)


def test_wrong_requests_are_refused_before_any_training(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="5 annotated images for 9 folds"):
        list(train_folds(_settings(disks, tmp_path / "a"), 9))
    with pytest.raises(UsageError, match="2 or more"):
        list(train_folds(_settings(disks, tmp_path / "b"), 1))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="several processes for septum train --folds 2"):
        list(train_folds(_settings(disks, tmp_path / "c"), 2))
    assert not (tmp_path / "b").exists()


def test_a_run_resumes_after_its_base_model_was_moved(run: tuple[Path, list[Any]], disks: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    shutil.copyfile(run[0] / "fold-1" / "model.safetensors", base)
    settings = _settings(disks, tmp_path / "run", from_model=base, width=None, depth=None, steps=1)
    list(train_folds(settings, 2))
    moved = tmp_path / "elsewhere" / base.name
    moved.parent.mkdir()
    base.rename(moved)
    *_, last = train_folds(settings.model_copy(update={"from_model": moved}), 2)
    assert isinstance(last, Trained)


def test_a_corrected_request_is_accepted_in_the_same_folder(disks: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DataError, match="9 folds"):
        list(train_folds(_settings(disks, out), 9))
    with pytest.raises(DataError, match="does not match"):
        list(train(_settings(disks, out, split={"group": "mouse"})))
    events = train_folds(_settings(disks, out), 2)
    assert any(isinstance(r, Step) for r in events)


def test_all_folds_start_from_the_model_that_the_first_chose(nuclei: Path, tmp_path: Path) -> None:
    settings = _settings(nuclei, tmp_path / "run", width=None, depth=None, tile=64, steps=1)
    events = list(train_folds(settings, 3))
    origins = [open_model(tmp_path / "run" / f"fold-{k}", "cpu").header.training["from"] for k in (1, 2, 3)]
    assert [origin["file"] for origin in origins] == ["nuclei.safetensors"] * 3
    assert isinstance(events[-1], Trained)
    again = list(train_folds(settings, 3))
    assert isinstance(again[-1], Trained)


def test_folds_of_which_one_has_no_object_to_train_on_are_refused_before_the_first(disks: Path, tmp_path: Path) -> None:
    shutil.copytree(disks, tmp_path / "data")
    for name in "bcde":
        np.save(tmp_path / "data" / "masks" / f"{name}.npy", np.zeros((44, 44), np.uint8))
    with pytest.raises(DataError, match=r"fold . of 5: no image to train on holds an object"):
        list(train_folds(_settings(tmp_path / "data", tmp_path / "run", kind="objects"), 5))
    assert not (tmp_path / "run" / "fold-1").exists()


def test_finished_folds_without_an_object_to_train_on_return_their_result(
    run: tuple[Path, list[Any]], disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    monkeypatch.setattr("septum.training.split.holds_objects", lambda _: False)  # as if an earlier version had done it
    *_, last = train_folds(_settings(disks, tmp_path / "run"), 2)
    assert last.scores == run[1][-1].scores
