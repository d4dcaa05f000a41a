"""Options are declared at the fields; the command line and what may differ on resume are derived from them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from septum.errors import UsageError
from septum.settings import options_of
from septum.training.settings import (
    SplitSettings,
    TrainSettings,
    command_line,
    fixed_settings,
    format_duration,
    parse_duration,
    read_fixed_settings,
)


def _settings(**values: Any) -> TrainSettings:
    return TrainSettings.model_validate({"data": ("d",), "out": "r", **values})


def test_every_field_is_an_option_with_help_and_no_flag_occurs_twice() -> None:
    places = [place for place, _, _ in options_of(TrainSettings)]
    assert {place[0] for place in places} == set(TrainSettings.model_fields)
    assert [place for place in places if len(place) > 1] == [("split", "group")]
    options = [option for _, _, option in options_of(TrainSettings)]
    assert all(option.help.endswith(".") for option in options)
    flags = [flag for option in options for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert {option.heading for option in options} == {"", "Time", "Data", "Network", "Hardware"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ""),
        ({"budget_s": 1800.0, "seed": 0, "steps": None}, ""),
        ({"steps": 5}, "--steps 5"),
        ({"budget_s": 90.5, "preset": "paper"}, "--budget 90.5s --preset paper"),
        ({"budget_s": None, "until_plateau": True}, "--budget none --until-plateau"),
        ({"ignore_values": (0, -7), "kind": "classes"}, "--kind classes --ignore-value 0 --ignore-value -7"),
        ({"split": {"group": "a.", "seed": 3}, "from_model": "m"}, "--group a. --from m"),
        ({"set": ("weights.w0=5", "batch=2"), "compile": True}, "--set weights.w0=5 --set batch=2 --compile"),
    ],
)
def test_the_command_line_omits_defaults(values: dict[str, Any], words: str) -> None:
    assert command_line(_settings(**values)) == ["d", "--out", "r", *words.split()]


def test_only_place_and_hardware_may_differ_on_resume() -> None:
    changed = {"data": ("e",), "out": "s", "device": "cpu", "deterministic": True, "compile": True, "from_model": "m"}
    assert fixed_settings(_settings(**changed)) == fixed_settings(_settings())
    for values in (
        {"seed": 1},
        {"steps": 3},
        {"until_plateau": True},
        {"split": {"limit": 2}},
        {"precision": "float32"},
        {"axes": "ZYX"},
    ):
        assert fixed_settings(_settings(**values)) != fixed_settings(_settings())


def test_stored_settings_of_other_versions_are_read() -> None:
    asked = fixed_settings(_settings(steps=5, until_plateau=True, ignore_values=(0,)))
    old = {
        key: value for key, value in asked.items() if key not in ("precision", "until_plateau", "ignore_values", "axes")
    }
    old |= {"early_stop": True, "ignore": [0], "momentum": 0.5, "split": {"fold": None, "group": None, "strata": 2}}
    assert read_fixed_settings(old) == (asked, {"momentum": 0.5, "split.strata": 2})


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"epochs": 3}, {"early_stop": True}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        _settings(**wrong)
    with pytest.raises(UsageError, match="both --steps and --budget"):
        _settings(steps=5, budget_s=10)
    with pytest.raises(ValidationError, match="count from 1"):
        SplitSettings(fold=(0, 3))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("1h30m", 5400)])
def test_durations_are_parsed_and_formatted(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "0s", "1d", "-5m", "1h 30m"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration with its unit, such as 90s, 20m"):
        parse_duration(text)
    assert parse_duration("none") is None


def test_settings_are_imported_without_heavy_packages() -> None:
    code = "import sys, septum.training.settings; print(*({'torch', 'numpy', 'scipy', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_paths_are_kept(tmp_path: Path) -> None:
    settings = _settings(data=(tmp_path / "it's", Path("a b\n")), out=tmp_path)
    assert command_line(settings) == [str(tmp_path / "it's"), "a b\n", "--out", str(tmp_path)]
