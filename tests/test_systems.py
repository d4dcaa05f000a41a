"""What Windows and macOS do otherwise, as far as it shows on Linux: encodings, names, locks, processes, homes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from septum.io.atomic import rename
from septum.io.formats import local_path

SOURCE = Path(__file__).parents[1] / "src" / "septum"
MODULES = sorted(SOURCE.rglob("*.py"))
POSIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog"}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def opens_text(call: ast.Call) -> bool:
    """Return True for `open`, `Path.open`, `read_text` and `write_text` that read or write text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return True
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name != "open" or owner in ("os", "gzip", "webbrowser", "PIL", "Image", "self", "share", "archive"):
        return False
    place = 1 if owner == "" else 0
    given = [a.value for a in call.args[place:] if isinstance(a, ast.Constant)]
    given += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    mode = next((m for m in given if isinstance(m, str)), "r")
    return "b" not in mode and (not call.args or bool(given) or owner != "")


@pytest.mark.parametrize("room", sorted({p.parent.relative_to(SOURCE).as_posix() for p in MODULES}))
def test_text_files_have_one_encoding_on_every_system(room: str) -> None:
    wrong = []
    for path in (SOURCE / room).glob("*.py"):
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            if opens_text(call) and not any(k.arg == "encoding" for k in call.keywords):
                text = ast.unparse(call)
                if "project.open" not in text and "image.open" not in text.lower():
                    wrong.append(f"{path.name}:{call.lineno}: {text}")
    assert not wrong


def test_modules_that_windows_lacks_are_imported_inside_of_functions_only() -> None:
    wrong = []
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path.name}: {name}" for name in names if name.split(".")[0] in POSIX_ONLY]
    assert not wrong


def test_no_process_is_forked() -> None:
    forks = {"os.fork", "os.forkpty", "multiprocessing.Pool", "multiprocessing.Process"}
    used = {ast.unparse(call.func) for path in MODULES for call in calls(ast.parse(path.read_text(encoding="utf-8")))}
    assert not forks & used


def test_all_renames_are_those_that_windows_lets_pass() -> None:
    wrong = []
    for path in MODULES:
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            if ast.unparse(call.func).endswith((".rename", "os.replace", "os.renames")):
                wrong.append(f"{path.name}:{call.lineno}: {ast.unparse(call)}")
    assert not wrong


def test_a_rename_that_windows_refuses_for_a_moment_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    refused = iter([True, True, False])
    replace = Path.replace

    def sometimes(path: Path, target: Path) -> Path:
        if next(refused):
            raise PermissionError(13, "The process cannot access the file because it is used by another process")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", sometimes)
    rename(tmp_path / "new", tmp_path / "old", waits_s=(0, 0))
    assert (tmp_path / "old").read_bytes() == b"new"


def test_a_rename_that_is_refused_for_good_ends_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(path: Path, target: Path) -> Path:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "replace", never)
    with pytest.raises(PermissionError):
        rename(tmp_path / "new", tmp_path / "old", waits_s=(0, 0))


def test_the_url_of_a_local_file_keeps_its_root() -> None:
    assert local_path("file:///data/a.tif") == Path("/data/a.tif")


FLOW = """
import os
from septum.cli.main import main
def septum(*arguments):
    try:
        main([os.fsdecode(argument.encode()) for argument in arguments])  # as the shell hands them over
    except SystemExit as left:
        assert not left.code, (arguments, left.code)
septum("check", "daten für zellen")
small = ("--steps", "2", "--width", "2", "--depth", "1", "--from", "none")
septum("train", "daten für zellen", "-o", "läufe/erster", *small)
septum("predict", "läufe/erster", "daten für zellen/images", "-o", "ergebnis ☃", "--in-blocks", "--format", "ome.zarr")
septum("evaluate", "ergebnis ☃", "daten für zellen/masks")
septum("info", "läufe/erster")
"""


def flow(folder: Path, disks: Path, **changed: str) -> subprocess.CompletedProcess[bytes]:
    """Run the usual commands in a folder whose names have spaces and letters beyond ASCII."""
    data = folder / "daten für zellen"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
        for path in (disks / kind).iterdir():
            (data / kind / f"zelle {path.stem} übung.npy").write_bytes(path.read_bytes())
    (folder / "flow.py").write_text(FLOW, encoding="utf-8")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **changed}
    command = [sys.executable, "flow.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=900)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": "C"},
        {"PYTHONIOENCODING": "cp1252"},  # as Windows prints into pipes
        {"HOME": "/proc", "XDG_CACHE_HOME": "/proc", "XDG_CONFIG_HOME": "/proc"},  # where even root cannot write
    ],
    ids=["C locale", "cp1252", "read-only home"],
)
def test_the_commands_run_with_other_encodings_and_homes(tmp_path: Path, disks: Path, changed: dict[str, str]) -> None:
    folder = tmp_path / "ein ordner"
    folder.mkdir()
    done = flow(folder, disks, **changed)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    results = sorted((folder / "ergebnis ☃").glob("*.ome.zarr"))
    assert [path.name for path in results] == [f"zelle {name} übung.ome.zarr" for name in "abcde"]
    assert np.load(folder / "daten für zellen" / "masks" / "zelle a übung.npy").max() > 0
