"""The wheel is complete, and the lock names the versions that are tested here."""

from __future__ import annotations

import importlib.metadata
import re
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def _locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in lines)  # no host, index or path
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def test_the_wheel_holds_every_file_of_the_source(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        packed = {n: archive.read(n) for n in archive.namelist() if ".dist-info/" not in n}
    source = ROOT / "src"
    files = [p for p in source.rglob("*") if p.is_file() and p.suffix != ".pyc" and "__pycache__" not in p.parts]
    assert packed == {p.relative_to(source).as_posix(): p.read_bytes() for p in files}
    assert {Path(n).suffix for n in packed} >= {".py", ".html", ".css", ".js"}


def test_the_source_archive_makes_the_same_wheel(tmp_path: Path) -> None:
    import tarfile

    (archive,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    wheels = [
        next(WheelBuilder(str(root)).build(directory=str(tmp_path / n), versions=["standard"]))
        for root, n in ((ROOT, "here"), (folder, "there"))
    ]
    assert Path(wheels[0]).read_bytes() == Path(wheels[1]).read_bytes()


def test_the_lock_pins_all_dependencies_at_the_installed_versions() -> None:
    locked, seen, left = _locked(), set(), [Requirement("septum[dev,cluster]")]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name != "septum":
            assert name in locked, f"{wanted} is not in requirements.lock"
            assert locked[name] in wanted.specifier
            here = Version(importlib.metadata.version(name))
            assert here.public == locked[name].public, name
        for text in importlib.metadata.requires(name) or []:
            need = Requirement(text)
            extras = wanted.extras or {""}
            if (name, text) not in seen and any(
                need.marker is None or need.marker.evaluate({"extra": e}) for e in extras
            ):
                seen.add((name, text))
                left.append(need)


@pytest.mark.parametrize("name", ["torch", "numpy", "zarr"])
def test_dependencies_are_ranges(name: str) -> None:
    needs = [Requirement(t) for t in importlib.metadata.requires("septum") or []]
    (need,) = (n for n in needs if n.name == name and n.marker is None)
    assert {s.operator for s in need.specifier} == {">="}
