"""Tracking: names and values that are logged, resumed logs without repeated points, and trackers that fail."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from septum.errors import DataError, UsageError
from septum.events import Warned
from septum.experiments import tracking as tracking_module
from septum.experiments.events import PartStarted, PartTrained, SeedsCompared
from septum.experiments.tracking import MLflow, Outcome, TensorBoard, Value, flat_settings, open_trackers, track
from septum.report.curve import Curve
from septum.training.events import Planned, Saved, Step, Trained, Validated
from septum.training.interrupt import StopRequest
from septum.training.loop import train
from septum.training.settings import TrainSettings


class Memory:
    """A tracker that keeps values; `ended` names trainings with a complete log, `fails_at` the method that fails."""

    name = "Memory"

    def __init__(self, *, ended: Sequence[str] = (), fails_at: str = "") -> None:
        self.known = ended
        self.fails_at = fails_at
        self.part: str | None = None
        self.begun: list[tuple[str, int | None]] = []
        self.lines: dict[str, Sequence[str]] = {}
        self.values: dict[str, Mapping[str, Value]] = {}
        self.figures: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self.finished: dict[str, list[str]] = {}
        self.outcome = ""

    def _act(self, action: str) -> None:
        if action == self.fails_at:
            raise ConnectionError("no answer\nfrom the server " + 300 * "!")

    def begin(self, part: str, *, after: int | None, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        self._act("begin")
        self.part = None
        if after is None and part in self.known:
            return
        self.part = part
        self.begun.append((part, after))
        self.lines[part], self.values[part] = lines, values

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._act("log")
        if self.part is not None:
            for name, value in values.items():
                self.figures.setdefault(self.part, {}).setdefault(name, []).append((step, value))

    def end(self, outcome: Outcome, files: Sequence[Path] = ()) -> None:
        self._act("end")
        if self.part is not None and outcome == "finished":
            self.finished[self.part] = [path.name for path in files]
        self.part, self.outcome = None, outcome


def _settings(data: Path, out: Path) -> TrainSettings:
    shape = {"width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu", "precision": "float32"}
    return TrainSettings.model_validate({"data": (data,), "out": out, "steps": 4, "seed": 7, **shape})


def _log(out: Path, column: str) -> list[tuple[int, float]]:
    with (out / "log.csv").open(newline="") as file:
        return [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row[column]]


@pytest.fixture(scope="module")
def run(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Memory, list[Any]]:
    out, memory = tmp_path_factory.mktemp("tracked") / "run", Memory()
    return out, memory, list(track(train(_settings(disks, out)), out, [memory]))


def test_logged_values_are_those_of_the_log_file(run: tuple[Path, Memory, list[Any]]) -> None:
    out, memory, events = run
    figures, trained = memory.figures[""], events[-1]
    for name, column in [
        ("train/loss", "loss"),
        ("train/rate", "rate"),
        ("held-out/SEG", "SEG"),
        ("held-out/AP", "AP"),
    ]:
        logged = _log(out, column)
        assert [step for step, _ in figures[name]] == [step for step, _ in logged] == [1, 2, 3, 4]
        assert [value for _, value in figures[name]] == pytest.approx([value for _, value in logged], rel=1e-5)
    assert {name: figures[f"final/{name}"] for name in trained.scores} == {
        n: [(4, v)] for n, v in trained.scores.items()
    }
    assert figures["final/seconds"] == [(4, trained.seconds)]
    assert memory.begun == [("", 0)]
    assert memory.finished == {"": ["plan.json", "model.safetensors"]}
    assert memory.outcome == "finished"


def test_settings_and_plan_are_logged_without_paths(run: tuple[Path, Memory, list[Any]]) -> None:
    out, memory, events = run
    values = memory.values[""]
    plan = json.loads((out / "plan.json").read_text())["plan"]
    assert {"seed": 7, "steps": 4, "preset": "auto", "width": 2}.items() <= values.items()
    assert values["optimizer.rate"] == plan["optimizer"]["rate"]
    assert values["network.width"] == 2
    assert values["tile"] == json.dumps(plan["tile"])
    assert "budget_s" not in values and "images" not in values
    assert not any(str(out.parent) in str(value) for value in values.values())
    assert memory.lines[""] == next(event.lines for event in events if isinstance(event, Planned))


def test_a_resumed_training_continues_its_log_and_a_finished_one_is_not_logged_twice(
    disks: Path, run: tuple[Path, Memory, list[Any]], tmp_path: Path
) -> None:
    memory, stop = Memory(), StopRequest()
    for event in track(train(_settings(disks, tmp_path), stop), tmp_path, [memory]):
        if isinstance(event, Step) and event.step == 2:
            stop.request()
    assert (memory.outcome, memory.finished) == ("stopped", {})
    again = Memory()
    list(track(train(_settings(disks, tmp_path)), tmp_path, [again]))
    assert again.begun == [("", 2)]
    losses = memory.figures[""]["train/loss"] + again.figures[""]["train/loss"]
    assert losses == run[1].figures[""]["train/loss"]

    held = Memory(ended=[""])
    list(track(train(_settings(disks, tmp_path)), tmp_path, [held]))
    assert (held.begun, held.figures, held.finished, held.outcome) == ([], {}, {}, "finished")
    late = Memory()  # added after the training was complete
    list(track(train(_settings(disks, tmp_path)), tmp_path, [late]))
    assert late.figures[""]["final/SEG"] == again.figures[""]["final/SEG"]
    assert late.finished == {"": ["plan.json", "model.safetensors"]}


def test_a_training_that_was_killed_before_its_first_checkpoint_is_logged_again(tmp_path: Path) -> None:
    """A training that starts from a model begins with a validation, at step 0."""
    again = Memory(ended=[""])  # a log of the killed training exists
    _folder(tmp_path, 0)
    events = [Validated(0, 2, {"SEG": 0.5}, True), Step(1, 2, 0.7, 1e-3, 1.0), Step(2, 2, 0.6, 1e-3, 2.0)]
    list(track(events, tmp_path, [again]))
    assert again.begun == [("", 0)]
    assert again.figures[""]["train/loss"] == [(1, 0.7), (2, 0.6)]
    assert again.figures[""]["held-out/SEG"] == [(0, 0.5)]


def _folder(path: Path, seed: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "settings.json").write_text(json.dumps({"seed": seed, "budget_s": None, "split": {"seed": 3}}))
    (path / "plan.json").write_text(json.dumps({"plan": {"batch": 2, "network": {"width": 4}}}))


def _series(out: Path, *, first: list[Any]) -> Iterator[Any]:
    """Two trainings as a run; the events of the first are given."""
    yield Planned(("2 trainings",))
    for index, steps in enumerate((first, [Step(1, 1, 0.75, 0.01, 1.0)])):
        _folder(out / f"seed-{index}", index)
        yield PartStarted(f"seed {index}", index, 2, f"seed-{index}")
        yield Planned((f"plan {index}",))
        yield from steps
        yield PartTrained(f"seed {index}", Trained(out / f"seed-{index}" / "m.safetensors", {"SEG": 0.5}, 1, 2.0))
    _folder(out, 0)
    yield SeedsCompared((0, 1), {"SEG": (0.5, 0.7)})
    yield Curve("SEG", (1, 2), (0.4, 0.6), ((0, 1), (0, 1)), (1, 1, 1), 2, (), True, "so")
    yield Trained(out / "model.safetensors", {"SEG": 0.8, "dice": float("nan")}, 2, 5.0)


def test_each_of_several_trainings_is_logged_under_its_name(tmp_path: Path) -> None:
    memory = Memory()
    list(track(_series(tmp_path, first=[Step(1, 1, 0.5, 0.01, 1.0)]), tmp_path, [memory]))
    assert memory.begun == [("seed-0", 0), ("seed-1", 0), ("", None)]
    assert [memory.figures[f"seed-{k}"]["train/loss"] for k in (0, 1)] == [[(1, 0.5)], [(1, 0.75)]]
    assert memory.lines == {"seed-0": ("plan 0",), "seed-1": ("plan 1",), "": ("2 trainings",)}
    assert memory.values["seed-1"] == {"seed": 1, "split.seed": 3, "batch": 2, "network.width": 4}
    assert memory.figures[""] == {
        "seeds/SEG-mean": [(0, pytest.approx(0.6))],
        "seeds/SEG-deviation": [(0, pytest.approx(0.1414214))],
        "images/SEG": [(1, 0.4), (2, 0.6)],
        "final/SEG": [(2, 0.8)],  # a score that is not defined is left out
        "final/seconds": [(2, 5.0)],
    }
    assert list(memory.finished) == ["seed-0", "seed-1", ""]


def test_the_complete_log_of_one_of_several_trainings_is_not_changed(tmp_path: Path) -> None:
    memory = Memory(ended=["seed-0"])
    list(track(_series(tmp_path, first=[]), tmp_path, [memory]))
    assert memory.begun == [("seed-1", 0), ("", None)]


@pytest.mark.parametrize("action", ["begin", "log", "end"])
def test_a_tracker_that_fails_is_dropped_with_one_warning(tmp_path: Path, action: str) -> None:
    step = Step(1, 2, 0.5, 0.01, 1.0)
    events = [step, Saved(tmp_path), Trained(tmp_path / "m", {"SEG": 0.5}, 1, 2.0)]
    _folder(tmp_path, 0)
    bad, good = Memory(fails_at=action), Memory()
    seen = list(track(iter(events), tmp_path, [bad, good]))
    assert [event for event in seen if not isinstance(event, Warned)] == events
    (warned,) = (event for event in seen if isinstance(event, Warned))
    assert warned.text.startswith("Memory failed, the training goes on without it: no answer from the server !!!")
    assert len(warned.text) < 260
    assert (bad.outcome, good.outcome) == ("", "finished")
    assert good.figures[""]["final/SEG"] == [(1, 0.5)]


def test_the_log_ends_with_the_outcome_of_the_training(tmp_path: Path) -> None:
    _folder(tmp_path, 0)

    def failing() -> Iterator[Any]:
        yield Step(1, 2, 0.5, 0.01, 1.0)
        raise DataError("an image is gone")

    memory = Memory()
    with pytest.raises(DataError, match="an image is gone"):
        list(track(failing(), tmp_path, [memory, Memory(fails_at="end")]))
    assert memory.outcome == "failed"

    memory = Memory()
    left = track(failing(), tmp_path, [memory])
    next(left)
    left.close()
    assert memory.outcome == "stopped"


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_module, "find_spec", lambda _: None)
    assert open_trackers(tmp_path, tensorboard=False, mlflow=False) == []
    with pytest.raises(UsageError, match=r"--tensorboard without TensorBoard") as error:
        open_trackers(tmp_path, tensorboard=True, mlflow=False)
    assert "pip install 'septum[tensorboard]'" in str(error.value)
    with pytest.raises(UsageError, match=r"--mlflow without MLflow") as error:
        open_trackers(tmp_path, tensorboard=False, mlflow=True)
    assert "pip install 'septum[mlflow]'" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _begin(tracker: TensorBoard | MLflow, part: str = "", after: int | None = 0) -> None:
    tracker.begin(part, after=after, lines=["two steps", "device: cpu"], values={"seed": 0, "network.width": 2})


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorboard", reason="needs septum[tensorboard]")

    def test_repeated_steps_replace_the_first_ones(self, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = TensorBoard(tmp_path)
        _begin(board)
        for step in (1, 2, 3):
            board.log(step, {"train/loss": 1.0 / 2**step})
        board.end("stopped")
        board = TensorBoard(tmp_path)
        _begin(board, after=2)
        for step, loss in [(3, 0.5), (4, 0.25), (4, 0.75)]:  # the training itself went back once
            board.log(step, {"train/loss": loss})
        board.log(4, {"final/SEG": 0.5})
        board.end("finished")
        _begin(board, after=None)  # started again when it is complete
        board.log(4, {"final/SEG": 0.5})
        board.end("finished")
        assert _events(tmp_path / "tensorboard") == {
            "train/loss": [(1, 0.5), (2, 0.25), (3, 0.5), (4, 0.75)],
            "final/SEG": [(4, 0.5)],
        }
        logged = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        (plan,) = logged.Tensors("plan/text_summary")
        assert plan.tensor_proto.string_val[0].decode() == "- two steps\n- device: cpu"
        (values,) = logged.Tensors("values/text_summary")
        assert "    network.width = 2" in values.tensor_proto.string_val[0].decode().splitlines()

    def test_each_of_several_trainings_has_a_folder(self, tmp_path: Path) -> None:
        board = TensorBoard(tmp_path)
        for part in ("fold-1", "fold-2"):
            _begin(board, part)
            board.log(1, {"train/loss": 0.5})
            board.end("finished")
        assert [_events(tmp_path / "tensorboard" / f"fold-{k}") for k in (1, 2)] == [{"train/loss": [(1, 0.5)]}] * 2


class TestMLflow:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("mlflow", reason="needs septum[mlflow]")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in tracking_module.MLFLOW_DEFAULTS.items():
            monkeypatch.setenv(name, value)

    def test_a_resumed_run_holds_every_value_once(self, tmp_path: Path) -> None:
        from mlflow import MlflowClient

        client, run = MlflowClient(), tmp_path / "cells"
        run.mkdir()
        model = run / "model.safetensors"
        model.write_bytes(b"weights")
        first = MLflow(run)
        _begin(first)
        for step in (1, 2, 3):
            first.log(step, {"train/loss": 1.0 / 2**step})
        first.end("stopped")
        number = json.loads((run / "mlflow.json").read_text())["run"]
        assert client.get_run(number).info.status == "KILLED"
        second = MLflow(run)
        _begin(second, after=2)
        assert client.get_run(number).info.status == "RUNNING"
        for step, loss in [(3, 0.125), (4, 0.0625)]:
            second.log(step, {"train/loss": loss})
        second.log(4, {"final/SEG": 0.5})
        second.end("finished", [model])
        third = MLflow(run)
        _begin(third, after=None)  # started again when it is complete
        third.log(5, {"final/SEG": 0.6})
        third.end("finished", [model, run / "mlflow.json"])
        found = client.get_run(number)
        assert (found.info.status, found.info.run_name) == ("FINISHED", "cells")
        assert client.get_experiment(found.info.experiment_id).name == "septum"
        assert found.data.params == {"seed": "0", "network.width": "2"}
        assert found.data.metrics == {"train/loss": 0.0625, "final/SEG": 0.5}
        history = [(metric.step, metric.value) for metric in client.get_metric_history(number, "train/loss")]
        assert history == [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625)]
        assert found.data.tags["mlflow.note.content"] == "two steps\n\ndevice: cpu"
        assert [file.path for file in client.list_artifacts(number)] == ["model.safetensors"]

    def test_several_trainings_are_nested_in_the_run_and_a_deleted_one_is_created_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mlflow import MlflowClient

        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        client, tracker = MlflowClient(), MLflow(tmp_path)
        for part in ("fold-1", "fold-2", ""):
            _begin(tracker, part)
            tracker.log(1, {"final/SEG": 0.5})
            tracker.end("finished")
        numbers = json.loads((tmp_path / "mlflow.json").read_text())
        runs = {name: client.get_run(number) for name, number in numbers.items()}
        assert set(runs) == {"run", "fold-1", "fold-2"}
        assert {found.info.status for found in runs.values()} == {"FINISHED"}
        assert {runs[f"fold-{k}"].data.tags["mlflow.parentRunId"] for k in (1, 2)} == {numbers["run"]}
        assert runs["fold-1"].info.run_name == f"{tmp_path.name}/fold-1"
        assert client.get_experiment(runs["run"].info.experiment_id).name == "mine"
        client.delete_run(numbers["fold-1"])
        again = MLflow(tmp_path)
        for part in ("fold-1", "fold-2", ""):
            _begin(again, part, after=None)
            again.end("finished")
        renumbered = json.loads((tmp_path / "mlflow.json").read_text())
        assert [part for part in numbers if renumbered[part] != numbers[part]] == ["fold-1"]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "other").as_uri())
        _begin(MLflow(tmp_path), "fold-2", after=None)  # the earlier run is not there
        assert json.loads((tmp_path / "mlflow.json").read_text())["fold-2"] != numbers["fold-2"]


def test_settings_and_plan_are_flat(tmp_path: Path) -> None:
    _folder(tmp_path, 5)
    (tmp_path / "plan.json").write_text(
        json.dumps({"plan": {"tile": [36, 36], "network": {"a": {"b": True, "c": None}}}})
    )
    assert flat_settings(tmp_path) == {"seed": 5, "split.seed": 3, "tile": "[36, 36]", "network.a.b": True}
