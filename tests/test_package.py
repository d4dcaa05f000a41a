"""The wheel is complete, the lock names the versions that are tested here, and all files name the same versions."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from septum.version import __version__

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


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="only `make install` installs what the lock pins")
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


# Names of conda-forge where they are not those of PyPI.
_CONDA = {"torch": "pytorch"}


def _recipe() -> dict[str, Any]:
    text = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    recipe: dict[str, Any] = yaml.safe_load(text)
    return recipe


def _project(folder: Path = ROOT) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def test_the_recipe_of_conda_asks_for_what_the_wheel_asks_for() -> None:
    wheel = {_CONDA.get(need.name, need.name): need.specifier for need in map(Requirement, _project()["dependencies"])}
    recipe = [Requirement(text) for text in _recipe()["requirements"]["run"] if not text.startswith("python ")]
    assert {need.name: need.specifier for need in recipe} == wheel
    assert _project()["requires-python"] == f">={_recipe()['context']['python_min']}"


def test_without_a_release_no_page_offers_a_package_of_conda() -> None:
    """A sum of zeros says that there is no archive yet, so that the recipe installs nothing."""
    digest = _recipe()["source"]["sha256"]
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    offers = [
        p.name for p in pages if re.search(r"\b(conda|mamba|pixi) (install|add)\b", p.read_text(encoding="utf-8"))
    ]
    assert not offers or set(digest) != {"0"}


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    named = {
        "version.py": __version__,
        "CITATION.cff": citation["version"],
        "recipe.yaml": _recipe()["context"]["version"],
        "napari-septum": _project(ROOT / "napari-septum")["version"],
    }
    assert named == dict.fromkeys(named, _project()["version"])


@pytest.mark.parametrize("folder", ["src/septum", "tests"])
def test_what_is_imported_is_asked_for(folder: str) -> None:
    """No library is there only because another one happens to need it."""
    project = _project()
    texts = [*project["dependencies"], *(t for extra in project["optional-dependencies"].values() for t in extra)]
    asked = {canonicalize_name(Requirement(text).name) for text in texts}
    found = importlib.metadata.packages_distributions()
    missing = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in names} - {"septum", "distributed"} - sys.stdlib_module_names:
                owners = {canonicalize_name(name) for name in found.get(top, [])}
                if owners and not owners & asked:
                    missing.add(f"{top} in {path.name}")
    assert not missing


def test_the_plugin_takes_from_septum_what_is_there() -> None:
    """Its own tests need napari, which the tests of Septum do without."""
    missing = set()
    for path in (ROOT / "napari-septum" / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "septum":
                module = importlib.import_module(node.module or "")
                missing |= {f"{node.module}.{a.name} in {path.name}" for a in node.names if not hasattr(module, a.name)}
    assert not missing


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / "CITATION.cff"], ids=lambda path: path.name
)
def test_files_for_other_programs_are_yaml(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_workflows_run_targets_and_options_that_exist() -> None:
    make = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / ".github" / "workflows").glob("*.yml"))
    used = [target for line in re.findall(r"run: make (.*)", text) for target in line.split()]
    assert used and set(used) <= make
