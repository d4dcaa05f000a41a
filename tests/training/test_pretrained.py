"""Training from a trained model: kept and new layers, and refused settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from septum.errors import UsageError
from septum.events import Event
from septum.io.files import write_image
from septum.io.tensors import read_model
from septum.models.named import Release, file_of
from septum.nn.unet import UNet
from septum.pairing.sample import Sample
from septum.prediction.model import open_model
from septum.training.events import Planned, Step
from septum.training.loop import train
from septum.training.pretrained import Pretrained, image_hash, read_pretrained
from septum.training.run_folder import read_plan_file
from septum.training.settings import TrainSettings


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    values = {"data": (data,), "out": out, "steps": 6, "tile": 36, "batch": 2, "device": "cpu"}
    return TrainSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def first(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "run"
    list(train(_settings(disks, out, steps=40, width=3, depth=1)))
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def colors(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the disks in three channels, as three classes."""
    folder = tmp_path_factory.mktemp("colors")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for file in (disks / "images").iterdir():
        mask = np.load(disks / "masks" / file.name)
        image, classes = (
            np.load(file) * np.array([[[1]], [[0.9]], [[0.8]]], np.float32),
            np.where(mask > 0, 1 + (mask % 10 == 2), 0),
        )
        write_image(folder / "images" / f"{file.stem}.tif", image, axes="CYX")
        write_image(folder / "masks" / f"{file.stem}.tif", classes.astype(np.uint8), axes="YX")
    return folder


def _lines(events: list[Event]) -> str:
    return "\n".join(line for r in events if isinstance(r, Planned) for line in r.lines)


def test_a_training_from_a_model_begins_with_its_loss(disks: Path, first: Path, tmp_path: Path) -> None:
    events = list(train(_settings(disks, tmp_path / "run", from_model=first)))
    anew = list(train(_settings(disks, tmp_path / "anew", width=3, depth=1)))
    losses, before = ([r.loss for r in events if isinstance(r, Step)] for events in (events, anew))
    assert losses[0] < 0.9 * before[0]
    assert f"starts from {first}: its network and normalization" in _lines(events)
    header = open_model(tmp_path / "run" / "model.safetensors", "cpu").header
    assert (header.network.width, header.network.depths) == (3, (1, 1))
    origin = header.training["from"]
    assert (origin["file"], origin["steps"]) == ("model.safetensors", 40)
    assert origin["fingerprint"] == read_pretrained(first).fingerprint == read_pretrained(first.parent).fingerprint
    # The origin of that model is kept as well.
    list(train(_settings(disks, tmp_path / "third", from_model=tmp_path / "run" / "model.safetensors")))
    third = open_model(tmp_path / "third" / "model.safetensors", "cpu").header
    assert third.training["from"]["from"] == origin


def test_other_channels_are_averaged_and_other_classes_get_a_new_head(
    colors: Path, first: Path, tmp_path: Path
) -> None:
    events = list(train(_settings(colors, tmp_path / "run", steps=1, from_model=first, kind="classes")))
    text = _lines(events)
    assert "first layer: 1 channel averaged for 3" in text
    assert "last layer: new, for 3 classes instead of 2" in text
    start = read_pretrained(first)
    network = UNet(start.network_for(3, 3), seed=5)
    head = network.head.weight.clone()
    start.fill(network, keep_head=False)
    assert torch.equal(network.head.weight, head)
    gray = UNet(start.header.network)
    gray.load_state_dict(start.weights)
    x = torch.rand(2, 1, 36, 36)
    for one in (gray, network):
        one.eval()
        one.head = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        assert torch.allclose(network(x.expand(-1, 3, -1, -1)), gray(x), atol=1e-5)


def test_color_weights_give_gray_images_the_result_of_repeated_gray(first: Path) -> None:
    start = read_pretrained(first)
    weights = dict(start.weights) | {"down.0.0.weight": torch.randn(3, 3, 3, 3)}
    shape = start.header.network.model_copy(update={"channels": 3})
    color, gray = UNet(shape), UNet(start.header.network)
    color.load_state_dict(weights)
    replace(start, weights=weights).fill(gray, keep_head=True)
    x = torch.rand(1, 1, 36, 36)
    with torch.no_grad():
        assert torch.allclose(gray.eval()(x), color.eval()(x.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize(
    "asked", [{"width": 4}, {"depth": 2}, {"set": ("network.padding=valid",)}, {"set": ("normalization.method=range",)}]
)
def test_another_network_than_that_of_the_model_is_refused_and_creates_no_run(
    disks: Path, first: Path, tmp_path: Path, asked: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match=r"width 3, depth 1 x 1, padding same"):
        list(train(_settings(disks, tmp_path / "run", from_model=first, **asked)))
    assert not (tmp_path / "run" / "settings.json").exists()
    list(train(_settings(disks, tmp_path / "run", from_model=first, width=3, depth=1, steps=1)))


def test_a_stopped_run_from_a_model_ends_bit_identical_but_refuses_a_changed_model(
    disks: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from septum.training import loop as train_module

    monkeypatch.setattr(train_module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(train_module, "KEEP_STEPS", 1)
    list(train(_settings(disks, tmp_path / "whole", from_model=first)))
    for event in train(_settings(disks, tmp_path / "run", from_model=first)):
        if isinstance(event, Step) and event.step == 4:
            break
    with pytest.raises(UsageError, match="from: "):
        list(train(_settings(disks, tmp_path / "run", from_model=tmp_path / "whole" / "model.safetensors")))
    with pytest.raises(UsageError, match="from: "):
        list(train(_settings(disks, tmp_path / "run", width=3, depth=1)))
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(first.read_bytes())
    made = _settings(disks, tmp_path / "run", from_model=first)
    list(train(made))
    one, other = (read_model(tmp_path / name / "model.safetensors")[0] for name in ("whole", "run"))
    assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


def test_a_model_of_images_does_not_start_a_training_of_volumes(first: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for n in range(2):
        volume = rng.normal(size=(20, 20, 20)).astype(np.float32)
        write_image(tmp_path / "data" / "images" / f"{n}.tif", volume, axes="ZYX")
        write_image(tmp_path / "data" / "masks" / f"{n}.tif", (volume > 0).astype(np.uint8), axes="ZYX")
    with pytest.raises(UsageError, match="a model of images, and the data are volumes"):
        list(train(_settings(tmp_path / "data", tmp_path / "run", from_model=first)))


def _short(data: Path, out: Path, **changes: object) -> TrainSettings:
    values = {"data": (data,), "out": out, "steps": 2, "tile": 64, "batch": 1, "device": "cpu"}
    return TrainSettings.model_validate(values | changes)


def test_a_training_starts_from_the_model_that_finds_its_objects(nuclei: Path, tmp_path: Path) -> None:
    events = list(train(_short(nuclei, tmp_path / "run")))
    text = _lines(events)
    score = float(text.partition("started from nuclei: held-out AP50 ")[2].partition(" before the first step")[0])
    assert score > 0.5
    assert "starts from nuclei: its network and normalization" in text
    header = open_model(tmp_path / "run", "cpu").header
    assert header.training["from"]["file"] == "nuclei.safetensors"
    assert header.release is None
    assert read_plan_file(tmp_path / "run")["start"] == "nuclei"
    refused = list(train(_short(nuclei, tmp_path / "none", from_model="none")))
    assert "start" not in _lines(refused)
    assert "from" not in open_model(tmp_path / "none", "cpu").header.training
    first, anew = (next(e.loss for e in done if isinstance(e, Step)) for done in (events, refused))
    assert first < 0.7 * anew
    named = list(train(_short(nuclei, tmp_path / "named", from_model="nuclei")))
    assert next(e.loss for e in named if isinstance(e, Step)) == first


def test_a_stopped_run_from_a_start_ends_bit_identical_without_another_trial(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from septum.training import loop as train_module

    monkeypatch.setattr(train_module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(train_module, "KEEP_STEPS", 1)
    list(train(_short(nuclei, tmp_path / "whole")))
    for event in train(_short(nuclei, tmp_path / "run")):
        if isinstance(event, Step):
            break
    with pytest.raises(UsageError, match="from: "):
        list(train(_short(nuclei, tmp_path / "run", from_model="none")))
    monkeypatch.setattr(Pretrained, "score", None)
    list(train(_short(nuclei, tmp_path / "run")))
    one, other = (read_model(tmp_path / name / "model.safetensors")[0] for name in ("whole", "run"))
    assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


@pytest.mark.parametrize("asked", [{"preset": "paper"}, {"preset": "fiji"}, {"width": 4}, {"depth": 2}])
def test_no_start_is_tried_for_another_network(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]
) -> None:
    monkeypatch.setattr(Pretrained, "score", None)
    settings = _short(nuclei, tmp_path / "run", **{"width": 4, "depth": 1} | asked, steps=1)
    assert "started from" not in _lines(list(train(settings)))


def test_a_training_on_other_images_starts_from_no_model_and_states_the_scores(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pretrained, "score", lambda start, *_, **__: {"nuclei": 0.04, "cells": 0.01}[start.name])
    text = _lines(list(train(_short(nuclei, tmp_path / "run", steps=1))))
    assert "started from no model: held-out AP50 before the first step is 0.04 from nuclei, 0.01 from cells" in text
    assert "from" not in open_model(tmp_path / "run", "cpu").header.training


def test_a_start_that_has_seen_an_image_is_not_tried(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(1, 40, 40)).astype(np.float32) for _ in range(3)]
    start = read_pretrained(file_of("nuclei"))
    samples = [Sample(f"{n}", "", 0, image, np.zeros((40, 40), np.int32), None, None) for n, image in enumerate(images)]
    assert start.count_seen(samples) == 0
    seen = Release(purpose="disks", data="made", images=(image_hash(images[1]),))
    known = replace(start, header=start.header.model_copy(update={"release": seen}))
    assert known.count_seen(samples) == 1
    monkeypatch.setattr(Pretrained, "count_seen", lambda self, samples: 2 if self.name == "nuclei" else 0)
    text = _lines(list(train(_short(nuclei, tmp_path / "run", steps=1))))
    assert "not started from nuclei: 2 of these images, or of their sequence, trained it" in text
