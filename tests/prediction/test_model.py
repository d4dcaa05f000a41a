from __future__ import annotations

import math
import pickle
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import septum
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import ModelError, UsageError
from septum.io.tensors import read_model, write_model
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.info import describe_model, installation
from septum.prediction.model import Model, ModelHeader, model_file, open_model, save_model, trained_networks

SETTINGS = UNetSettings(depths=(1, 1), width=2, batch_norm=True)


def _header(**changes: object) -> ModelHeader:
    given: dict[str, object] = {
        "network": SETTINGS,
        "normalization": NormalizeSettings(),
        "kind": "objects",
        "class_values": (0, 1),
        "objects": ObjectSettings(threshold=0.4),
        "scores": {"SEG": 0.5},
    }
    return ModelHeader.model_validate(given | changes)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, UNet(SETTINGS, seed=4), _header())
    return path


def test_a_saved_model_opens_unchanged(model: Path) -> None:
    opened = open_model(model, "cpu")
    assert opened.header == _header()
    x = torch.randn(1, 1, 24, 20)
    with torch.no_grad():
        torch.testing.assert_close(opened.network(x), for_prediction(UNet(SETTINGS, seed=4))(x))


def test_half_precision_halves_the_file_and_changes_little(model: Path, tmp_path: Path) -> None:
    network, half = UNet(SETTINGS, seed=4), tmp_path / "half.safetensors"
    save_model(half, network, _header(), half=True)
    full, small = (read_model(path)[0] for path in (model, half))
    assert {n: v.astype(np.float16).tobytes() for n, v in full.items() if n.startswith("network.") and v.ndim} == {
        n: v.tobytes() for n, v in small.items() if n.startswith("network.") and v.ndim
    }
    opened = open_model(half, "cpu")
    x = torch.randn(1, 1, 24, 20)
    with torch.no_grad():
        for name, value in opened.network.state_dict().items():
            assert value.dtype == torch.float32, name
        torch.testing.assert_close(opened.network(x), for_prediction(network)(x), rtol=0, atol=0.01)
    with torch.no_grad():
        network.head.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match="half precision"):
        save_model(tmp_path / "large.safetensors", network, _header(), half=True)
    assert not (tmp_path / "large.safetensors").exists()


def test_a_changed_weight_or_byte_is_refused(model: Path, tmp_path: Path) -> None:
    raw = bytearray(model.read_bytes())
    raw[len(raw) // 2] ^= 1
    tampered = tmp_path / "tampered.safetensors"
    tampered.write_bytes(raw)
    with pytest.raises(ModelError, match="tampered"):
        open_model(tampered, "cpu")


def test_weights_that_do_not_reproduce_the_test_pair_are_refused(model: Path, tmp_path: Path) -> None:
    tensors, header = read_model(model)
    name = next(n for n in tensors if n.endswith("head.weight"))
    tensors[name] = tensors[name] + np.float32(0.1)
    wrong = tmp_path / "wrong.safetensors"
    write_model(wrong, tensors, header)  # a whole file with a right checksum, made by a wrong program
    with pytest.raises(ModelError, match="test output"):
        open_model(wrong, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "cells"},
        {"surprise": 1},
        {"network": {"depths": [9, 9]}},
        {"class_values": [0, 1, 2]},
        {"class_values": [0]},
        {"class_values": []},
        {"class_names": ["background"]},
        {"normalization": {"method": "common", "common": [[0, 1], [0, 1]]}},
        {"normalization": {"method": "common", "common": [[0, math.inf]]}},
        {"normalization": {"method": "common", "common": [[math.nan, 1]]}},
        {"scale": math.inf},
    ],
)
def test_a_header_that_does_not_fit_is_refused(model: Path, tmp_path: Path, change: dict[str, object]) -> None:
    tensors, header = read_model(model)
    other = tmp_path / "other.safetensors"
    write_model(other, tensors, {**header, **change})
    with pytest.raises(ModelError, match=rf"the header does not fit this version of Septum \({next(iter(change))}"):
        open_model(other, "cpu")


@pytest.mark.parametrize("path", [None, 5, b"model"])
def test_what_is_no_path_or_device_is_refused_in_words(model: Path, path: Any) -> None:
    with pytest.raises(UsageError, match=f"model: an object of type {type(path).__name__}"):
        open_model(path, "cpu")
    with pytest.raises(UsageError, match="device "):
        open_model(model, path)


def test_a_model_whose_engine_is_loaded_can_be_copied(tmp_path: Path) -> None:
    path, settings = tmp_path / "model.safetensors", UNetSettings(depths=(1, 1), width=8, padding="same")
    save_model(path, UNet(settings, seed=4), _header(network=settings))
    opened, image = open_model(path, "cpu"), np.random.default_rng(0).normal(size=(24, 32))
    if opened.choose().name != "septum":
        pytest.skip("Septum's engine does not compute on this processor")

    def probabilities(model: Model) -> np.ndarray:
        model.choose()
        return septum.predict(model, image, output="probabilities")

    expected = probabilities(opened)
    for copy in (pickle.loads(pickle.dumps(opened)), deepcopy(opened)):
        assert copy.header == opened.header
        np.testing.assert_array_equal(probabilities(copy), expected)


def test_weights_of_another_network_are_refused(model: Path, tmp_path: Path) -> None:
    tensors, header = read_model(model)
    other = tmp_path / "other.safetensors"
    network = SETTINGS.model_copy(update={"width": 3}).model_dump(mode="json")
    write_model(other, tensors, {**header, "network": network})
    with pytest.raises(ModelError, match="weights do not fit"):
        open_model(other, "cpu")


def test_info_describes_the_model(model: Path) -> None:
    description = describe_model(model)
    assert description["parameters"] == sum(p.numel() for p in for_prediction(UNet(SETTINGS)).parameters())
    assert description["context_px"] == [8, 8]
    assert description["scores"] == {"SEG": 0.5}
    assert installation()["torch"] == torch.__version__


@pytest.mark.parametrize(
    "change", [{"width": 10**6}, {"channels": 10**9}, {"depths": (8, 8), "width": 4096}, {"classes": 255}]
)
def test_a_header_without_weights_allocates_no_network(model: Path, tmp_path: Path, change: dict[str, object]) -> None:
    tensors, header = read_model(model)
    other = tmp_path / "other.safetensors"
    network = SETTINGS.model_copy(update=change).model_dump(mode="json")
    write_model(other, tensors, {**header, "network": network, "class_values": list(range(network["classes"]))})
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="weights do not fit"):
            open_model(other, "cpu")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"test.input": np.zeros((1, 1, 3, 3), np.float32)}),
        lambda t: t.update({"test.input": np.zeros((2, 5), np.float32)}),
        lambda t: t.update({"test.input": np.zeros((1, 7, 20, 20), np.float32)}),
        lambda t: t.update({"test.output": np.zeros((1, 1, 1, 99), np.float32)}),
        lambda t: t.update({"test.input": t["test.input"].astype(np.int8)}),
        lambda t: t.update({"test.output": np.full_like(t["test.output"], np.nan)}),
        lambda t: t.pop("test.output"),
        lambda t: t.pop("network.head.weight"),
        lambda t: t.update({"network.more": np.zeros(3)}),
        lambda t: t.update({"network.head.weight": np.zeros((2, 2), np.float32)}),
        lambda t: t.clear(),
    ],
)
def test_forged_tensors_with_a_valid_checksum_are_refused(
    model: Path, tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object]
) -> None:
    tensors, header = read_model(model)
    change(tensors)
    other = tmp_path / "other.safetensors"
    write_model(other, tensors, header)
    with pytest.raises(ModelError):
        open_model(other, "cpu")


def test_a_run_folder_stands_for_its_model(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model.rename(run / "model.safetensors")
    assert model_file(run) == run / "model.safetensors" == model_file(run / "model.safetensors")
    assert open_model(run, "cpu").header == open_model(str(run), "cpu").header == _header()
    assert describe_model(run)["scores"] == {"SEG": 0.5}
    assert len(trained_networks(run)) == 1


def test_a_run_that_has_not_ended_is_refused_with_advice(model: Path, tmp_path: Path) -> None:
    run, parts = tmp_path / "run", tmp_path / "parts"
    run.mkdir()
    with pytest.raises(ModelError, match=r"run: a folder without a model[\s\S]*check the name"):
        open_model(run, "cpu")
    (run / "settings.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has not ended[\s\S]*same septum train command again"):
        open_model(run, "cpu")
    (parts / "fold-1").mkdir(parents=True)
    model.rename(parts / "fold-1/model.safetensors")
    with pytest.raises(ModelError, match=r"name one of the runs in it: fold-1"):
        open_model(parts, "cpu")
    (parts / "settings.json").write_text("{}")
    with pytest.raises(ModelError, match=r"or name a training that has ended: .*fold-1"):
        open_model(parts, "cpu")
