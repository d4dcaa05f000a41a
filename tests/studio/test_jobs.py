"""Jobs are those of the command line, and tell the page what they do."""

from __future__ import annotations

import io
import queue
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import SeptumError
from septum.experiments import run
from septum.export.settings import PredictAndExportSettings
from septum.io.files import read_mask
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import ModelHeader, save_model
from septum.settings import Settings, flag_of, options_of
from septum.studio.jobs import run_job
from septum.studio.label_store import LabelStore
from septum.studio.processes.messages import read_message
from septum.studio.processes.worker import Channel
from septum.studio.project import Project
from septum.studio.server import STATIC
from septum.studio.settings import FIELDS
from septum.studio.tile_grid import SIDE, empty_tile
from septum.training.settings import TrainSettings


class Wire:
    """Stands for the server."""

    def __init__(self) -> None:
        self.commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        self.messages.append(message)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    settings = UNetSettings(width=2, depths=(1, 1))
    plain = {"network": settings, "normalization": NormalizeSettings(), "class_values": (0, 1), "kind": "objects"}
    save_model(path, UNet(settings), ModelHeader(**plain, objects=ObjectSettings()))
    return path


def inputs(folder: Path) -> list[str]:
    return [str(folder / "images" / name) for name in ("a.tif", "b.png")]


def test_all_images_are_predicted_into_a_folder(folder: Path, model: Path) -> None:
    wire, out = Wire(), folder / "predictions"
    task = {"task": "predict", "model": str(model), "inputs": inputs(folder), "out": str(out)}
    run_job({**task, "also": ["tables"], "axes": None, "device": "cpu"}, wire)
    assert sorted(p.name for p in out.iterdir() if p.suffix != ".parquet") == ["a.tif", "b.png", "objects.csv"]
    last = wire.messages[-1]
    assert last["topic"] == "job" and last["done"] == 2
    shares = [m["share"] for m in wire.messages]
    assert shares == sorted(shares) and shares[-1] == 1


@pytest.mark.parametrize(
    ("kind", "written", "background"), [("objects", True, 0), ("objects", False, None), ("classes", True, None)]
)
def test_what_is_not_annotated_is_no_background(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, written: bool, background: int | None
) -> None:
    asked: list[TrainSettings] = []
    monkeypatch.setattr(run, "run_training", lambda settings, stop: asked.append(settings) or [])
    task = {"task": "train", "data": [str(folder)], "out": str(folder / "runs"), "budget_s": 60.0, "kind": kind}
    run_job({**task, "written": written, "axes": None, "device": "cpu"}, Wire())
    assert [settings.background for settings in asked] == [background]


def test_images_are_ranked(folder: Path, model: Path) -> None:
    wire = Wire()
    task = {"task": "suggest", "model": str(model), "inputs": inputs(folder), "axes": None, "device": "cpu"}
    run_job(task, wire)
    found = wire.messages[-1]["suggested"]
    assert {Path(one["path"]).name for one in found} == {"a.tif", "b.png"}
    assert found[0]["disagreement"] >= found[1]["disagreement"]


def test_a_job_that_cannot_begin_says_why(folder: Path, tmp_path: Path) -> None:
    task = {"task": "predict", "model": str(tmp_path / "none.safetensors"), "inputs": inputs(folder)}
    with pytest.raises(SeptumError, match=r"none\.safetensors"):
        run_job({**task, "out": str(folder / "predictions"), "also": [], "axes": None, "device": "cpu"}, Wire())


def test_what_a_child_process_says_names_the_fields_of_the_page() -> None:
    out = io.BytesIO()
    said = {"text": "read as objects; if wrong, add --kind classes", "failures": ["a.tif: --kind"], "path": "--kind"}
    Channel(io.BytesIO(), out).send(said)
    message, _ = read_message(io.BytesIO(out.getvalue())) or ({}, b"")
    assert message == {
        "text": 'read as objects; if wrong, add "labels are" classes',
        "failures": ['a.tif: "labels are"'],
        "path": "--kind",
    }


def test_the_fields_of_the_page_are_options_and_stand_on_the_page() -> None:
    classes: tuple[type[Settings], ...] = (TrainSettings, PredictAndExportSettings)
    flags = {flag_of(place, option) for settings in classes for place, _, option in options_of(settings)}
    page = STATIC.joinpath("index.html").read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert flags >= FIELDS.keys()
    assert all(part in text for name in FIELDS.values() for part in name.split(", "))


@pytest.mark.slow
def test_a_model_is_trained_on_what_was_annotated_though_other_images_have_no_mask(folder: Path) -> None:
    from septum.studio import masks
    from septum.studio.pyramid import Pyramid

    project = Project(folder)
    store = LabelStore(project.work / "labels.sqlite")
    tile = empty_tile()
    y, x = np.mgrid[:SIDE, :SIDE]
    tile[:96, :128] = 0
    for number, (cy, cx) in enumerate(((20, 20), (20, 60), (20, 100), (60, 60)), start=1):
        tile[(y - cy) ** 2 + (x - cx) ** 2 <= 100] = number
    store.write(store.plane("a.tif", 0, 0, (96, 128)), "brush", {(0, 0): tile})
    entry = next(e for e in project.entries.values() if e.name == "a.tif")
    masks.write_mask(project, store, entry, Pyramid(project).shown(entry))
    assert read_mask(folder / "masks" / "a.tif").array.max() == 4
    wire, out = Wire(), folder / "runs" / "studio-1"
    data = [str(project.images), str(project.masks)]
    task = {"task": "train", "data": data, "out": str(out), "budget_s": 10.0, "kind": "objects", "written": True}
    run_job({**task, "axes": None, "device": "cpu"}, wire)
    last = wire.messages[-1]
    assert last["share"] == 1 and last["model"] == str(out / "model.safetensors")
    assert Path(last["report"]).is_file()
