"""The command line answers at once: nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = [
    "torch",
    "scipy",
    "skimage",
    "numba",
    "matplotlib",
    "PIL",
    "tifffile",
    "imagecodecs",
    "nibabel",
    "cc3d",
    "edt",
    "pandas",
    "safetensors",
    "rich",
]
LOOK = "import json, sys; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
HELP = """
import contextlib, io
from septum.app.cli import main
for arguments in (["--help"], ["train", "--help"], ["predict", "--help"], ["--version"]):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main(arguments)
    assert text.getvalue()
"""


@pytest.mark.parametrize("code", ["import septum", "import septum.app.cli", HELP], ids=["import", "cli", "help"])
def test_nothing_heavy_is_imported(code: str) -> None:
    look = LOOK.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", f"{code}\n{look}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_python_m_septum_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "septum", "--version"], capture_output=True, text=True, check=True)
    name, version = done.stdout.split()
    assert name == "septum"
    assert version.count(".") == 2
