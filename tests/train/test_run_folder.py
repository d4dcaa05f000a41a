from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from septum.errors import FileError, UsageError
from septum.train.run_folder import RunFolder


def _rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.log.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_request_goes_on_and_another_is_refused_with_what_differs(tmp_path: Path) -> None:
    asked = {"seed": 0, "preset": "auto", "data": ["a", "b"]}
    RunFolder(tmp_path / "run").claim(asked, {})
    RunFolder(tmp_path / "run").claim({"data": ("a", "b"), "preset": "auto", "seed": 0}, {})  # JSON knows no tuples
    with pytest.raises(UsageError) as caught:
        RunFolder(tmp_path / "run").claim(asked | {"seed": 3, "new": True}, {})
    assert "seed: 0 -> 3" in str(caught.value)
    assert "new: None -> True" in str(caught.value)
    assert "preset" not in str(caught.value)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["seed"] == 0


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "7", "\x00\x00"])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(FileError, match=r"settings\.json: damaged"):
        folder.claim({"seed": 0}, {})


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(FileError, match="run"):
        RunFolder(tmp_path / "run")


def test_the_log_holds_each_step_and_the_scores_where_there_are_some(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = folder.open_log(("SEG",), after=0)
    log.append({"step": 1, "loss": 0.123456789, "rate": 1e-3, "seconds": 2.0})
    log.append({"step": 2, "loss": 0.5, "rate": 1e-3, "seconds": 3.0, "SEG": 0.75})
    assert _rows(folder) == [
        {"step": "1", "loss": "0.123457", "rate": "0.001", "seconds": "2", "SEG": ""},
        {"step": "2", "loss": "0.5", "rate": "0.001", "seconds": "3", "SEG": "0.75"},
    ]


def test_a_resumed_log_is_cut_back_to_the_checkpoint_and_a_new_run_begins_a_new_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = folder.open_log((), after=0)
    for step in range(1, 6):
        log.append({"step": step, "loss": step / 10, "rate": 0.5, "seconds": step})
    folder.open_log((), after=3).append({"step": 4, "loss": 9.0, "rate": 0.5, "seconds": 8})
    assert [(r["step"], r["loss"]) for r in _rows(folder)] == [("1", "0.1"), ("2", "0.2"), ("3", "0.3"), ("4", "9")]
    folder.open_log((), after=0)
    assert _rows(folder) == []


@pytest.mark.parametrize("torn", ["2", "2,0", "\x00\x00\x00", ",,,", "x,1,1,1"])
def test_a_last_line_that_a_crash_tore_does_not_stop_the_next_start(tmp_path: Path, torn: str) -> None:
    folder = RunFolder(tmp_path)
    folder.open_log((), after=0).append({"step": 1, "loss": 0.5, "rate": 0.5, "seconds": 1})
    with folder.log.open("a") as file:
        file.write(torn)
    folder.open_log((), after=1).append({"step": 2, "loss": 0.25, "rate": 0.5, "seconds": 2})
    assert [(r["step"], r["loss"]) for r in _rows(folder)] == [("1", "0.5"), ("2", "0.25")]


def test_a_log_that_is_not_ours_is_written_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log.write_text("epoch,accuracy\n1,0.9\n")
    folder.open_log((), after=5)
    assert folder.log.read_text().strip() == "step,loss,rate,seconds"


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = folder.open_log((), after=0)
    folder.log.unlink()
    folder.log.mkdir()
    with pytest.raises(FileError, match=r"log\.csv"):
        log.append({"step": 1, "loss": 0.5, "rate": 0.5, "seconds": 1})
