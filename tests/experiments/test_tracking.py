"""What of a training is logged for programs that compare runs: names, values, and that nothing they do ends it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from septum.errors import DataError, UsageError
from septum.events import Warned
from septum.experiments import trackers as trackers_module
from septum.experiments.events import PartStarted, PartTrained, SeedsCompared
from septum.experiments.trackers import MLflow, TensorBoard, trackers_of
from septum.experiments.tracking import Outcome, Value, tracked, values_of
from septum.report.curve import Curve
from septum.train import loop as train_module
from septum.train.events import Planned, Saved, Step, Trained
from septum.train.interrupt import StopRequest
from septum.train.loop import train
from septum.train.settings import TrainSettings


class Memory:
    """A tracker that keeps what it is told; `fails_at` names what it fails at."""

    name = "Memory"

    def __init__(self, *, ended: Sequence[str] = (), fails_at: str = "") -> None:
        self.known = ended
        self.fails_at = fails_at
        self.part: str | None = None
        self.begun: list[tuple[str, int]] = []
        self.lines: dict[str, Sequence[str]] = {}
        self.values: dict[str, Mapping[str, Value]] = {}
        self.figures: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self.finished: dict[str, list[str]] = {}
        self.outcome = ""

    def _act(self, what: str) -> None:
        if what == self.fails_at:
            raise ConnectionError("no answer\nfrom the server " + 300 * "!")

    def ended(self, part: str) -> bool:
        return part in self.known

    def begin(self, part: str, *, after: int, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        self._act("begin")
        self.part = part
        self.begun.append((part, after))
        self.lines[part], self.values[part] = lines, values

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._act("log")
        assert self.part is not None
        for name, value in values.items():
            self.figures.setdefault(self.part, {}).setdefault(name, []).append((step, value))

    def sync(self) -> None:
        self._act("sync")

    def finish(self, files: Sequence[Path]) -> None:
        self._act("finish")
        assert self.part is not None
        self.finished[self.part] = [path.name for path in files]
        self.part = None

    def close(self, outcome: Outcome) -> None:
        self._act("close")
        assert not self.outcome
        self.outcome = outcome


def _settings(data: Path, out: Path) -> TrainSettings:
    shape = {"width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu", "precision": "float32"}
    return TrainSettings.model_validate({"data": (data,), "out": out, "steps": 4, "seed": 7, **shape})


def _log(out: Path, column: str) -> list[tuple[int, float]]:
    with (out / "log.csv").open(newline="") as file:
        return [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row[column]]


@pytest.fixture(scope="module")
def run(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Memory, list[Any]]:
    out, memory = tmp_path_factory.mktemp("tracked") / "run", Memory()
    return out, memory, list(tracked(train(_settings(disks, out)), out, [memory]))


def test_a_training_is_logged_as_its_own_log_has_it(run: tuple[Path, Memory, list[Any]]) -> None:
    out, memory, records = run
    figures, trained = memory.figures[""], records[-1]
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


def test_plan_and_what_was_asked_are_logged_and_no_place_on_the_disk(run: tuple[Path, Memory, list[Any]]) -> None:
    out, memory, records = run
    values = memory.values[""]
    plan = json.loads((out / "plan.json").read_text())["plan"]
    assert {"seed": 7, "steps": 4, "preset": "auto", "width": 2}.items() <= values.items()
    assert values["optimizer.rate"] == plan["optimizer"]["rate"]
    assert values["network.width"] == 2
    assert values["tile"] == json.dumps(plan["tile"])
    assert "budget_s" not in values and "images" not in values
    assert not any(str(out.parent) in str(value) for value in values.values())
    assert memory.lines[""] == next(record.lines for record in records if isinstance(record, Planned))


def test_a_training_that_goes_on_says_so_and_a_finished_one_is_not_logged_twice(
    disks: Path, run: tuple[Path, Memory, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "KEEP_STEPS", 1)
    memory, stop = Memory(), StopRequest()
    for record in tracked(train(_settings(disks, tmp_path), stop), tmp_path, [memory]):
        if isinstance(record, Step) and record.step == 2:
            stop.ask()
    assert (memory.outcome, memory.finished) == ("stopped", {})
    again = Memory()
    list(tracked(train(_settings(disks, tmp_path)), tmp_path, [again]))
    assert again.begun == [("", 2)]
    losses = memory.figures[""]["train/loss"] + again.figures[""]["train/loss"]
    assert losses == run[1].figures[""]["train/loss"]

    held = Memory(ended=[""])
    list(tracked(train(_settings(disks, tmp_path)), tmp_path, [held]))
    assert (held.begun, held.figures, held.finished, held.outcome) == ([], {}, {}, "finished")
    late = Memory()  # asked for when the training was done
    list(tracked(train(_settings(disks, tmp_path)), tmp_path, [late]))
    assert late.figures[""]["final/SEG"] == again.figures[""]["final/SEG"]
    assert late.finished == {"": ["plan.json", "model.safetensors"]}


def _folder(path: Path, seed: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "settings.json").write_text(json.dumps({"seed": seed, "budget_s": None, "split": {"seed": 3}}))
    (path / "plan.json").write_text(json.dumps({"plan": {"batch": 2, "network": {"width": 4}}}))


def _series(out: Path, *, first: list[Any]) -> Iterator[Any]:
    """Two trainings as a run; the records of the first are given."""
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


def test_several_trainings_have_names_of_their_own_within_the_run(tmp_path: Path) -> None:
    memory = Memory()
    list(tracked(_series(tmp_path, first=[Step(1, 1, 0.5, 0.01, 1.0)]), tmp_path, [memory]))
    assert memory.begun == [("seed-0", 0), ("seed-1", 0), ("", 0)]
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


def test_a_training_of_several_that_was_done_before_is_left_as_it_is(tmp_path: Path) -> None:
    memory = Memory(ended=["seed-0"])
    list(tracked(_series(tmp_path, first=[]), tmp_path, [memory]))
    assert memory.begun == [("seed-1", 0), ("", 0)]


@pytest.mark.parametrize("what", ["begin", "log", "sync", "finish"])
def test_a_tracker_that_fails_is_named_once_and_ends_nothing(tmp_path: Path, what: str) -> None:
    step = Step(1, 2, 0.5, 0.01, 1.0)
    records = [step, Saved(tmp_path), Trained(tmp_path / "m", {"SEG": 0.5}, 1, 2.0)]
    _folder(tmp_path, 0)
    bad, good = Memory(fails_at=what), Memory()
    seen = list(tracked(iter(records), tmp_path, [bad, good]))
    assert [record for record in seen if not isinstance(record, Warned)] == records
    (warned,) = (record for record in seen if isinstance(record, Warned))
    assert warned.text.startswith("Memory failed, the training goes on without it: no answer from the server !!!")
    assert len(warned.text) < 260
    assert (bad.outcome, good.outcome) == ("", "finished")
    assert good.figures[""]["final/SEG"] == [(1, 0.5)]


def test_a_log_is_closed_however_the_training_ends(tmp_path: Path) -> None:
    _folder(tmp_path, 0)

    def failing() -> Iterator[Any]:
        yield Step(1, 2, 0.5, 0.01, 1.0)
        raise DataError("an image is gone")

    memory = Memory()
    with pytest.raises(DataError, match="an image is gone"):
        list(tracked(failing(), tmp_path, [memory, Memory(fails_at="close")]))
    assert memory.outcome == "failed"

    memory = Memory()
    left = tracked(failing(), tmp_path, [memory])
    next(left)
    left.close()
    assert memory.outcome == "stopped"


def test_what_is_not_installed_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers_module, "find_spec", lambda _: None)
    assert trackers_of(tmp_path, tensorboard=False, mlflow=False) == []
    with pytest.raises(UsageError, match=r"--tensorboard without TensorBoard") as error:
        trackers_of(tmp_path, tensorboard=True, mlflow=False)
    assert "pip install 'septum[tensorboard]'" in str(error.value)
    with pytest.raises(UsageError, match=r"--mlflow without MLflow") as error:
        trackers_of(tmp_path, tensorboard=False, mlflow=True)
    assert "pip install 'septum[mlflow]'" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _begin(tracker: TensorBoard | MLflow, part: str = "", after: int = 0) -> None:
    tracker.begin(part, after=after, lines=["two steps", "device: cpu"], values={"seed": 0, "network.width": 2})


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorboard", reason="needs septum[tensorboard]")

    def test_events_hold_what_was_logged_and_of_repeated_steps_the_last(self, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = TensorBoard(tmp_path)
        assert not board.ended("")
        _begin(board)
        for step in (1, 2, 3):
            board.log(step, {"train/loss": 1.0 / 2**step})
        board.close("stopped")
        assert board.ended("")
        board = TensorBoard(tmp_path)
        _begin(board, after=2)
        for step, loss in [(3, 0.5), (4, 0.25), (4, 0.75)]:  # the training itself went back once
            board.log(step, {"train/loss": loss})
        board.log(4, {"final/SEG": 0.5})
        board.finish([])
        board.close("finished")
        assert _events(tmp_path / "tensorboard") == {
            "train/loss": [(1, 0.5), (2, 0.25), (3, 0.5), (4, 0.75)],
            "final/SEG": [(4, 0.5)],
        }
        told = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        (plan,) = told.Tensors("plan/text_summary")
        assert plan.tensor_proto.string_val[0].decode() == "- two steps\n- device: cpu"
        (values,) = told.Tensors("values/text_summary")
        assert "    network.width = 2" in values.tensor_proto.string_val[0].decode().splitlines()

    def test_each_of_several_trainings_has_a_folder(self, tmp_path: Path) -> None:
        board = TensorBoard(tmp_path)
        for part in ("fold-1", "fold-2"):
            _begin(board, part)
            board.log(1, {"train/loss": 0.5})
            board.finish([])
        assert not board.ended("")
        assert [_events(tmp_path / "tensorboard" / f"fold-{k}") for k in (1, 2)] == [{"train/loss": [(1, 0.5)]}] * 2


class TestMLflow:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("mlflow", reason="needs septum[mlflow]")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in trackers_module._MLFLOW.items():
            monkeypatch.setenv(name, value)

    def test_a_run_holds_what_was_logged_once_though_it_was_stopped(self, tmp_path: Path) -> None:
        from mlflow import MlflowClient

        client, run = MlflowClient(), tmp_path / "cells"
        run.mkdir()
        model = run / "model.safetensors"
        model.write_bytes(b"weights")
        first = MLflow(run)
        assert not first.ended("")
        _begin(first)
        for step in (1, 2, 3):
            first.log(step, {"train/loss": 1.0 / 2**step})
        first.close("stopped")
        number = json.loads((run / "mlflow.json").read_text())["run"]
        assert client.get_run(number).info.status == "KILLED"
        second = MLflow(run)
        _begin(second, after=2)
        assert client.get_run(number).info.status == "RUNNING"
        for step, loss in [(3, 0.125), (4, 0.0625)]:
            second.log(step, {"train/loss": loss})
        second.log(4, {"final/SEG": 0.5})
        second.finish([model])
        second.close("finished")
        found = client.get_run(number)
        assert MLflow(run).ended("")
        assert (found.info.status, found.info.run_name) == ("FINISHED", "cells")
        assert client.get_experiment(found.info.experiment_id).name == "septum"
        assert found.data.params == {"seed": "0", "network.width": "2"}
        assert found.data.metrics == {"train/loss": 0.0625, "final/SEG": 0.5}
        history = [(metric.step, metric.value) for metric in client.get_metric_history(number, "train/loss")]
        assert history == [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625)]
        assert found.data.tags["mlflow.note.content"] == "two steps\n\ndevice: cpu"
        assert [file.path for file in client.list_artifacts(number)] == ["model.safetensors"]

    def test_several_trainings_lie_within_the_run_and_a_deleted_one_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mlflow import MlflowClient

        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        client, tracker = MlflowClient(), MLflow(tmp_path)
        for part in ("fold-1", "fold-2", ""):
            _begin(tracker, part)
            tracker.log(1, {"final/SEG": 0.5})
            tracker.finish([])
        numbers = json.loads((tmp_path / "mlflow.json").read_text())
        runs = {name: client.get_run(number) for name, number in numbers.items()}
        assert set(runs) == {"run", "fold-1", "fold-2"}
        assert {found.info.status for found in runs.values()} == {"FINISHED"}
        assert {runs[f"fold-{k}"].data.tags["mlflow.parentRunId"] for k in (1, 2)} == {numbers["run"]}
        assert runs["fold-1"].info.run_name == f"{tmp_path.name}/fold-1"
        assert client.get_experiment(runs["run"].info.experiment_id).name == "mine"
        client.delete_run(numbers["fold-1"])
        assert [MLflow(tmp_path).ended(part) for part in ("fold-1", "fold-2", "")] == [False, True, True]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "other").as_uri())
        assert not MLflow(tmp_path).ended("fold-2")


def test_values_are_flat(tmp_path: Path) -> None:
    _folder(tmp_path, 5)
    (tmp_path / "plan.json").write_text(
        json.dumps({"plan": {"tile": [36, 36], "network": {"a": {"b": True, "c": None}}}})
    )
    assert values_of(tmp_path) == {"seed": 5, "split.seed": 3, "tile": "[36, 36]", "network.a.b": True}
