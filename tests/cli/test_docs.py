"""The docs say what is true: help texts are the program's own, command lines exist, Python code runs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click import Context
from typer.core import TyperGroup
from typer.main import get_command

import septum
from septum.cli.main import COMMANDS, app, main
from septum.demo.synthetic_cells import generate
from septum.io.files import write_image

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "models").glob("*.md")),
    *sorted((ROOT / "src" / "septum" / "models").glob("*.md")),
]


def commands(group: TyperGroup, before: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the names of all commands, those of a group after the name of the group."""
    for name in COMMANDS if not before else group.commands:
        command = group.get_command(Context(group), name)
        if isinstance(command, TyperGroup):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name))


root = get_command(app)
assert isinstance(root, TyperGroup)
NAMES = tuple(commands(root))


def help_of(*arguments: str) -> tuple[int, str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), pytest.raises(SystemExit) as left:
        main([*arguments, "--help"])
    return int(left.value.code or 0), text.getvalue()


@pytest.mark.parametrize("command", NAMES)
def test_the_command_page_holds_the_help_as_it_is(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert f"## septum {command}\n" in page
    text = help_of(*command.split())[1].strip()
    assert f"```text\n{text}\n```" in page, f"copy `COLUMNS=80 septum {command} --help` there"


def command_lines() -> list[tuple[str, str]]:
    """Return the page and the text of each command: lines of code blocks, and code inside of sentences."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?:\$ |srun )?(septum [a-z][^\n#]*)|`(septum\s[a-z][^`#]*)`", text, re.MULTILINE):
            found.append((page.name, " ".join("".join(line).split())))
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_and_their_options_exist(page: str, line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if word not in ("...", "|", ">")]
    code, text = help_of(*words)
    assert code == 0, f"{page}: {line}\n{text}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_two_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for part in ("images", "masks"):
        (tmp_path / "cells" / part).mkdir(parents=True)
    image, labels = generate(0)
    for index in range(3):
        window = (slice(80 * index, 80 * index + 64), slice(0, 64))
        write_image(tmp_path / "cells" / "images" / f"{index}.png", image[0][window].astype(np.uint8), axes="YX")
        write_image(tmp_path / "cells" / "masks" / f"{index}.png", labels[window].astype(np.uint16), axes="YX")
    write_image(tmp_path / "new.png", image[0].astype(np.uint8), axes="YX")
    monkeypatch.chdir(tmp_path)
    short = {"steps": 2, "width": 2, "depth": 1, "tile": 48, "device": "cpu"}
    train = septum.train
    monkeypatch.setattr(septum, "train", lambda *data, **_: train(*data, **short), raising=False)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - our own page
    found = names["labels"]
    assert isinstance(found, np.ndarray)
    assert found.shape == image[0].shape
    assert found.dtype.kind == "u"
