"""Texts of options become values, or sentences that say what is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import typer
from pydantic import Field

from septum.cli.options import duration_s, run_folder, settings_of
from septum.errors import UsageError
from septum.settings import Settings


class Small(Settings):
    width: int = Field(default=8, ge=2)
    budget_s: float | None = None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("20m", 1200.0),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("0.5s", 0.5),
        ("2m05s", 125.0),
        ("none", math.inf),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["20 minutes", "30", "", "m", "-5m", "0s", "0m0s", "5m x", "1,5h", "10 m", "5d", "nan"]
)
def test_wrong_durations_say_how_to_write_one(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"write 90s, 20m, 1\.5h or none"):
        duration_s(text)


def test_settings_of_names_the_option() -> None:
    assert settings_of(Small, width=3).width == 3
    with pytest.raises(UsageError, match=r"^--width 1\n") as caught:
        settings_of(Small, width=1)
    assert caught.value.expected == "input should be greater than or equal to 2"


def test_run_folder_depends_on_the_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = tmp_path / "cells"
    (cells / "images").mkdir(parents=True)
    (cells / "stack.tif").touch()
    assert run_folder([cells]) == Path("runs/cells")
    assert run_folder([cells / "images", cells / "masks"]) == Path("runs/cells")
    assert run_folder([cells / "stack.tif", cells / "labels.tif"]) == Path("runs/cells")
    monkeypatch.chdir(cells)
    assert run_folder([Path()]) == Path("runs/cells")
    assert run_folder([Path("/")]) == Path("runs/data")
