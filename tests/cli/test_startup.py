"""The command line answers at once: nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "torch",
    "scipy",
    "skimage",
    "numba",
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
from septum.cli.main import main
for arguments in (["--help"], ["train", "--help"], ["predict", "--help"], ["--version"]):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main(arguments)
    assert text.getvalue()
"""


@pytest.mark.parametrize("code", ["import septum", "import septum.cli.main", HELP], ids=["import", "cli", "help"])
def test_nothing_heavy_is_imported(code: str) -> None:
    look = LOOK.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", f"{code}\n{look}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


PREDICT = """
import numpy as np
from pathlib import Path
from septum.cli.main import main
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.io.files import write_image
from septum.prediction.model import ModelHeader, save_model
from septum.nn.unet import UNet, UNetSettings
folder = Path({folder!r})
settings = UNetSettings(width=2, depths=(1, 1))
plain = dict(network=settings, normalization=NormalizeSettings(), class_values=(0, 255))
save_model(folder / "m.safetensors", UNet(settings), ModelHeader(**plain, kind="classes", objects=ObjectSettings()))
write_image(folder / "image.png", np.arange(400, dtype=np.uint8).reshape(20, 20), axes="YX")
try:
    main(["predict", str(folder / "m.safetensors"), str(folder / "image.png"), "-o", str(folder / "out"), "--quiet"])
except SystemExit as left:
    assert not left.code
assert (folder / "out" / "image.png").exists()
"""


def test_a_prediction_imports_what_it_needs_and_no_other_format_or_picture(tmp_path: Path) -> None:
    unneeded = [
        "zarr",
        "tifffile",
        "imagecodecs",
        "nibabel",
        "skimage",
        "dask",
        "pandas",
        "numba",
        "sympy",
    ]
    code = PREDICT.format(folder=str(tmp_path)) + LOOK.format(heavy=unneeded)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_python_m_septum_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "septum", "--version"], capture_output=True, text=True, check=True)
    name, version = done.stdout.split()
    assert name == "septum"
    assert version.count(".") == 2


LEFT = """
import atexit, sys
from septum.cli.main import command
atexit.register(lambda: print("what was registered is done"))
sys.argv = ["septum", *{arguments!r}]
command()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["predict", "nothing.safetensors", "x"], 2)])
def test_the_program_is_left_quickly_with_its_code_and_all_that_was_said(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", LEFT.format(arguments=arguments)], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.endswith("what was registered is done\n")
    assert ("septum" in done.stdout) if code == 0 else ("error: " in done.stderr)


FOUND = """
import atexit, sys
from septum.cli import main as cli
cli.main = lambda: sys.exit(0)
{change}
cli.command()
"""
FULL = "sys.stdout = open('/dev/full', 'w'); atexit.register(lambda: print('said at last'))"


@pytest.mark.parametrize(("change", "code", "said"), [("sys.stdout = sys.stderr = None", 0, ""), (FULL, 2, "No space")])
def test_what_cannot_be_said_at_the_end_is_no_traceback(change: str, code: int, said: str) -> None:
    if "/dev/full" in change and not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    done = subprocess.run([sys.executable, "-c", FOUND.format(change=change)], capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stderr and "Traceback" not in done.stderr
