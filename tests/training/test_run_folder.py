from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from septum.errors import FileError, UsageError
from septum.training.run_folder import RunFolder
from septum.training.settings import TrainSettings


def _rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.log.open(newline="") as file:
        return list(csv.DictReader(file))


def _settings(**values: Any) -> TrainSettings:
    return TrainSettings.model_validate({"data": ("d",), "out": "r", "steps": 5, **values})


def _begin(path: Path, *, remove: Sequence[str] = (), add: Mapping[str, Any] | None = None, **values: Any) -> RunFolder:
    """Return the folder of a run of another version, whose settings have more or fewer keys."""
    folder = RunFolder(path)
    folder.check_same_settings(_settings(**values), {"a": "1"}, {"data_fingerprint": "x"})
    stored = json.loads((path / "settings.json").read_text())
    stored = {key: value for key, value in stored.items() if key not in remove} | dict(add or {})
    (path / "settings.json").write_text(json.dumps(stored))
    return folder


def _go_on(folder: RunFolder, **values: Any) -> None:
    folder.check_same_settings(_settings(**values), {"a": "1"}, {"data_fingerprint": "x"})


def test_the_same_settings_go_on_and_others_are_refused_with_the_difference(tmp_path: Path) -> None:
    folder = _begin(tmp_path / "run")
    _go_on(folder, device="cpu", out="elsewhere", data=("moved",))
    with pytest.raises(UsageError) as caught:
        _go_on(folder, seed=3, until_plateau=True)
    assert "  --seed: 0 -> 3\n  --until-plateau: no -> yes" in str(caught.value)
    assert "preset" not in str(caught.value)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["seed"] == 0
    with pytest.raises(UsageError, match="data_fingerprint: x -> y\n  image a: changed\n  image b: new"):
        folder.check_same_settings(_settings(), {"a": "2", "b": "1"}, {"data_fingerprint": "y"})


def test_a_run_goes_on_after_an_option_was_added(tmp_path: Path) -> None:
    folder = _begin(tmp_path, remove=("precision", "until_plateau", "split"))
    _go_on(folder)
    with pytest.raises(UsageError, match="--until-plateau: no -> yes"):
        _go_on(folder, until_plateau=True)
    with pytest.raises(UsageError, match=r"  split.names: not given -> a, b\nexpected"):
        _go_on(folder, split={"names": ("a", "b")})
    with pytest.raises(UsageError, match="--precision: not given -> float32"):
        _go_on(folder, precision="float32")
    with pytest.raises(UsageError, match=r"  --group: not given -> a\\d\nexpected"):
        _go_on(folder, split={"group": r"a\d"})


def test_a_run_goes_on_after_an_unused_option_was_removed(tmp_path: Path) -> None:
    _go_on(_begin(tmp_path, add={"warmth": None, "layers": [], "fast": False, "split": {"strata": None}}))


@pytest.mark.parametrize("add", [{"warmth": 5}, {"split": {"warmth": 5}}])
def test_a_removed_option_that_was_used_is_refused_by_name(tmp_path: Path, add: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"warmth: 5 -> not a setting of this version"):
        _go_on(_begin(tmp_path, add=add))


def test_a_run_with_the_old_names_of_options_goes_on(tmp_path: Path) -> None:
    changed = {"until_plateau": True, "ignore_values": (0, 255)}
    old = {"early_stop": True, "ignore": [0, 255]}
    folder = _begin(tmp_path, remove=tuple(changed), add=old, **changed)
    _go_on(folder, **changed)
    with pytest.raises(UsageError, match="--ignore-value: 0, 255 -> 0"):
        _go_on(folder, until_plateau=True, ignore_values=(0,))


def test_a_series_goes_on_after_its_base_model_was_moved(tmp_path: Path) -> None:
    folder = _begin(tmp_path, add={"from_model": "earlier/place", "folds": 3, "data_fingerprint": None, "images": {}})
    folder.check_same_settings(_settings(from_model="moved"), {}, {"folds": 3})
    with pytest.raises(UsageError, match="folds: 3 -> 4"):
        folder.check_same_settings(_settings(), {}, {"folds": 4})


def test_a_series_in_the_folder_of_a_training_is_refused_for_its_kind_alone(tmp_path: Path) -> None:
    folder = _begin(tmp_path / "training")
    with pytest.raises(UsageError, match=r"other settings or data:\n  folds: not given -> 2\nexpected"):
        folder.check_same_settings(_settings(), {}, {"folds": 2})
    series = RunFolder(tmp_path / "series", parts=True)
    series.check_same_settings(_settings(), {}, {"folds": 2})
    with pytest.raises(UsageError, match=r"other settings or data:\n  folds: 2 -> not given\nexpected"):
        _go_on(series)
    with pytest.raises(UsageError, match=r"folds: 2 -> not given\n  seeds: not given -> 3\nexpected"):
        series.check_same_settings(_settings(), {}, {"seeds": 3})


def test_a_stored_value_out_of_range_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"settings\.json: width = -2: .*greater than or equal to 1"):
        _go_on(_begin(tmp_path, add={"width": -2}))


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "7", "\x00\x00"])
def test_damaged_settings_are_refused_by_name(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(FileError, match=r"settings\.json: damaged"):
        _go_on(folder)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(FileError, match="run"):
        RunFolder(tmp_path / "run")


@pytest.mark.parametrize("name", ["log.csv", "model.safetensors", "report.html", "metrics.json", "scores.json"])
def test_a_folder_that_is_no_run_keeps_its_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of the user")
    with pytest.raises(UsageError, match=rf"holds {name}, which a training would replace.*\n.*a new folder"):
        RunFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "of the user"


def test_a_plan_in_a_folder_that_is_no_run_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"monday": "count cells"}')
    with pytest.raises(UsageError, match=r"holds plan\.json"):
        RunFolder(tmp_path, parts=True)
    with pytest.raises(FileError, match=r"plan\.json: damaged"):
        RunFolder(tmp_path).read_plan()


def test_a_run_that_was_killed_before_it_wrote_its_settings_begins(tmp_path: Path) -> None:
    with RunFolder(tmp_path).lock():
        RunFolder(tmp_path).write_json("plan.json", {})  # as in the folders of a series
    (tmp_path / "notes.txt").write_text("of the user")
    _go_on(RunFolder(tmp_path))
    assert RunFolder(tmp_path).read_settings()
    (tmp_path / "log.csv").touch()
    _go_on(RunFolder(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "of the user"


def test_the_log_has_a_line_for_each_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = folder.open_log(("SEG",), after=0)
    log.append({"step": 1, "loss": 0.123456789, "rate": 1e-3, "seconds": 2.0})
    log.append({"step": 2, "loss": 0.5, "rate": 1e-3, "seconds": 3.0, "SEG": 0.75})
    assert _rows(folder) == [
        {"step": "1", "loss": "0.123457", "rate": "0.001", "seconds": "2", "SEG": ""},
        {"step": "2", "loss": "0.5", "rate": "0.001", "seconds": "3", "SEG": "0.75"},
    ]


def test_a_resumed_log_is_truncated_to_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = folder.open_log((), after=0)
    for step in range(1, 6):
        log.append({"step": step, "loss": step / 10, "rate": 0.5, "seconds": step})
    folder.open_log((), after=3).append({"step": 4, "loss": 9.0, "rate": 0.5, "seconds": 8})
    assert [(r["step"], r["loss"]) for r in _rows(folder)] == [("1", "0.1"), ("2", "0.2"), ("3", "0.3"), ("4", "9")]
    folder.open_log((), after=0)
    assert _rows(folder) == []


@pytest.mark.parametrize("torn", ["2", "2,0", "\x00\x00\x00", ",,,", "x,1,1,1"])
def test_a_torn_last_line_of_the_log_is_removed(tmp_path: Path, torn: str) -> None:
    folder = RunFolder(tmp_path)
    folder.open_log((), after=0).append({"step": 1, "loss": 0.5, "rate": 0.5, "seconds": 1})
    with folder.log.open("a") as file:
        file.write(torn)
    folder.open_log((), after=1).append({"step": 2, "loss": 0.25, "rate": 0.5, "seconds": 2})
    assert [(r["step"], r["loss"]) for r in _rows(folder)] == [("1", "0.5"), ("2", "0.25")]


def test_a_foreign_log_is_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log.write_text("epoch,accuracy\n1,0.9\n")
    folder.open_log((), after=5)
    assert folder.log.read_text().strip() == "step,loss,rate,seconds"


def test_a_log_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = folder.open_log((), after=0)
    folder.log.unlink()
    folder.log.mkdir()
    with pytest.raises(FileError, match=r"log\.csv"):
        log.append({"step": 1, "loss": 0.5, "rate": 0.5, "seconds": 1})
