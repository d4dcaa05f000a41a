"""Options of commands are made from settings; errors name the option; headings, common options and completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from septum.check.settings import CheckSettings
from septum.cli.main import COMMANDS, main
from septum.cli.options import command, flag, make_settings, parameters
from septum.errors import UsageError
from septum.evaluation.results import EvaluateSettings
from septum.experiments.settings import RunSettings
from septum.export.settings import PredictAndExportSettings
from septum.progress import Display
from septum.review.settings import SuggestSettings
from septum.settings import Option, Settings, expectation, options_of
from septum.training.settings import TrainSettings

Help = Callable[..., str]
ALL_COMMANDS = [
    *([name] for name in COMMANDS if name != "experiment"),
    ["experiment", "seeds"],
    ["experiment", "learning-curve"],
]


def parse_dots(text: str) -> int:
    if set(text) != {"."}:
        raise ValueError("dots only")
    return len(text)


class Inner(Settings):
    """Settings within settings."""

    limit: Annotated[int | None, Field(ge=1), Option(help="A limit.", heading="Inner", default="no limit")] = None
    hidden: int = 7


class Toy(Settings):
    """One option of each kind."""

    data: Annotated[tuple[Path, ...], Option(help="Files.", argument=True)]
    out: Annotated[Path, Option(help="Folder.", flags=("--out", "-o"), metavar="OUT", default="named after the data")]
    mode: Annotated[Literal["fast", "slow"], Option(help="How.")] = "fast"
    values: Annotated[tuple[int, ...], Option(help="Values.", flags=("--value",), metavar="V")] = ()
    dots: Annotated[int | None, Option(help="Dots.", heading="Text", parse=parse_dots)] = None
    rate: Annotated[float, Field(gt=0), Option(help="Rate.", heading="Text", metavar="R")] = 0.5
    dry_run: Annotated[bool, Option(help="Only print.", heading="Text")] = False
    inner: Inner = Inner()
    hidden: int = 3

    @model_validator(mode="before")
    @classmethod
    def _name_out(cls, values: dict[str, object]) -> dict[str, object]:
        return {"out": "of the data", **values}

    @model_validator(mode="after")
    def _fit(self) -> Toy:
        if self.mode == "slow" and self.dry_run:
            raise ValueError("dry runs are fast")
        return self


@pytest.fixture
def toy(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Toy, Display]]:
    """Run a command with the options of `Toy`; return its settings and display."""
    seen: list[tuple[Toy, Display]] = []

    def play(settings: Toy, display: Display) -> None:
        """Play.

        Example: septum play
        """
        seen.append((settings, display))

    made = command(play, Toy)

    def run(*words: str) -> tuple[Toy, Display]:
        made(list(words), standalone_mode=False)
        return seen.pop()

    return run


def test_options_become_settings(toy: Callable[..., tuple[Toy, Display]]) -> None:
    words = "a b -o c --mode slow --value 1 --value -2 --dots ... --rate 2 --limit 4 --json -v"
    settings, display = toy(*words.split())
    assert settings == Toy(
        data=(Path("a"), Path("b")), out=Path("c"), mode="slow", values=(1, -2), dots=3, rate=2.0, inner=Inner(limit=4)
    )
    assert display == Display(quiet=False, verbose=True, json=True)


def test_defaults_are_those_of_the_settings(toy: Callable[..., tuple[Toy, Display]]) -> None:
    settings, display = toy("a")
    assert settings == Toy(data=(Path("a"),))
    assert (settings.out, settings.hidden, display) == (Path("of the data"), 3, Display())
    assert toy("a", "--dry-run", "-q") == (Toy(data=(Path("a"),), dry_run=True), Display(quiet=True))


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        ("a --mode quick", "--mode quick", "'fast' or 'slow'"),
        ("a --value 1 --value x", "--value x", "a valid integer"),
        ("a --dots ,,", "--dots ,,", "dots only"),
        ("a --rate 0", "--rate 0", "greater than 0"),
        ("a --limit 0", "--limit 0", "greater than or equal to 1"),
        ("a --mode slow --dry-run", "the options", "dry runs are fast"),
    ],
)
def test_errors_name_the_option(toy: Callable[..., tuple[Toy, Display]], words: str, given: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        toy(*words.split())
    assert (caught.value.given, caught.value.expected) == (given, expected)


def test_help_lists_defaults_and_choices(capsys: pytest.CaptureFixture[str], toy: Callable[..., object]) -> None:
    with pytest.raises(IndexError):
        toy("--help")
    text = capsys.readouterr().out
    assert _headings(text) == ["Options", "Text", "Inner", "Output"]
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "-o, --out OUT Folder. [default: (named after the data)]" in lines
    assert "--mode fast|slow How. [default: fast]" in lines
    assert "--value V Values." in lines
    assert "--rate R Rate. [default: 0.5]" in lines
    assert "--dry-run Only print." in lines
    assert "--limit LIMIT A limit. [default: (no limit)]" in lines
    assert "hidden" not in text


def test_parameters_are_named_by_their_place() -> None:
    named = {parameter.name: parameter for parameter in parameters(Toy)}
    assert list(named) == ["data", "out", "mode", "values", "dots", "rate", "dry_run", "inner__limit"]
    assert [name for name, one in named.items() if one.default is one.empty] == ["data"]
    flags = {place: flag(place, option) for place, _, option in options_of(Toy)}
    assert flags[("data",)] == "DATA"
    assert (flags[("out",)], flags[("values",)], flags[("inner", "limit")]) == ("--out", "--value", "--limit")


def test_make_settings_leaves_values_that_are_not_given_to_the_settings() -> None:
    values = dict.fromkeys((parameter.name for parameter in parameters(Toy)), None)
    assert make_settings(Toy, values | {"data": ["x"], "dry_run": False}) == Toy(data=(Path("x"),))


def test_expectation_drops_the_words_of_the_validator() -> None:
    with pytest.raises(ValidationError) as caught:
        Toy(data=(), rate="fast")
    assert expectation(caught.value) == "a valid number"


def _headings(text: str) -> list[str]:
    return [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]


@pytest.fixture
def help_of(capsys: pytest.CaptureFixture[str]) -> Help:
    """Return the help text of a command."""

    def show(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main([*words, "--help"])
        assert not left.value.code
        return capsys.readouterr().out

    return show


def test_options_stand_under_headings(help_of: Help) -> None:
    assert _headings(help_of("train")) == ["Options", "Time", "Data", "Network", "Hardware", "Logging", "Output"]
    assert _headings(help_of("predict")) == ["Results", "Scale", "Input", "Memory and speed", "Cluster", "Output"]
    first = help_of("train").partition("Options:")[2].partition("Time:")[0]
    assert [word for word in first.split() if word.startswith("--")] == [
        "--out",
        "--budget",
        "--preset",
        "--seed",
        "--folds",
    ]


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_every_command_has_the_common_options(help_of: Help, words: list[str]) -> None:
    text = help_of(*words)
    for option in ("-q, --quiet", "-v, --verbose", "--json", "-h, --help"):
        assert option in text
    assert ("--device NAME" in text) == (words[0] not in ("check", "evaluate", "fetch", "convert", "export"))
    reads_images = ("studio", "check", "train", "predict", "evaluate", "suggest", "experiment", "convert")
    assert ("--axes AXES" in text) == (words[0] in reads_images)


def test_one_name_has_one_meaning_in_all_commands() -> None:
    seen: dict[str, set[tuple[str, ...]]] = {}
    for settings in (RunSettings, PredictAndExportSettings, CheckSettings, EvaluateSettings, SuggestSettings):
        for place, _, option in options_of(settings):
            for name in option.flags or (flag(place, option),):
                seen.setdefault(name, set()).add(place[-1:])
    assert {name: places for name, places in seen.items() if len(places) > 1} == {}


def test_no_option_is_given_twice_by_one_command() -> None:
    for settings in (RunSettings, PredictAndExportSettings, CheckSettings, EvaluateSettings, SuggestSettings):
        flags = [name for place, _, option in options_of(settings) for name in option.flags or (flag(place, option),)]
        assert len(flags) == len(set(flags))


def test_only_settings_that_change_nothing_are_free_on_resume() -> None:
    free = {place[-1] for place, _, option in options_of(TrainSettings) if option.free}
    assert free == {"data", "out", "from_model", "device", "deterministic", "compile", "max_memory"}


def _complete(words: str, shell: str) -> list[str]:
    """Return what a shell offers for the last of some words."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}  # bash
    asked |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}  # zsh, fish
    done = subprocess.run(
        [sys.executable, "-c", "from septum.cli.main import command; command()"],
        env=os.environ | asked | {"_SEPTUM_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("septum tr", "train"),
        ("septum train --bud", "--budget"),
        ("septum train x --preset pa", "paper"),
        ("septum experiment se", "seeds"),
        ("septum predict --out", "--output"),
    ],
)
def test_shells_complete_commands_options_and_choices(shell: str, words: str, offered: str) -> None:
    found = " ".join(_complete(words, shell))
    assert offered in found
    assert "suggest" not in found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_show_completion_prints_a_script(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from septum.cli.main import command; command()", "--show-completion", shell],
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "_SEPTUM_COMPLETE" in done.stdout) == (0, True), done.stderr
