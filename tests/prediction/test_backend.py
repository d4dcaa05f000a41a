"""The code that computes a network: chosen by the written rule, verified, and overruled by the user."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from septum.api import predict
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.cpu import inference
from septum.cpu.inference import Engine
from septum.errors import UsageError
from septum.io.files import read_image, write_image
from septum.nn.device import Device, find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction import backend
from septum.prediction.backend import (
    LEAST_OPERATIONS,
    LEAST_WIDTH,
    VerifiedEngine,
    for_scores,
    select_backend,
    slower,
    verified_engine,
)
from septum.prediction.info import describe_model, installation
from septum.prediction.memory import operations, tile_bytes
from septum.prediction.model import Model, ModelHeader, open_model, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.prediction.tiled import image_probabilities

CPU = find_device("cpu")
SETTINGS = UNetSettings(width=8, depths=(2, 2))


@pytest.fixture(autouse=True)
def known_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the rule find a processor with AVX2, on every machine."""
    processor(monkeypatch, "x86_64", "AVX2")


def processor(monkeypatch: pytest.MonkeyPatch, machine: str, vectors: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)


def _network(**shape: Any) -> UNet:
    return for_prediction(UNet(SETTINGS.model_copy(update=shape), seed=1))


@pytest.mark.parametrize(
    ("machine", "vectors", "width", "faster"),
    [
        ("x86_64", "AVX512", 8, True),
        ("x86_64", "AVX512", 7, False),
        ("x86_64", "AVX2", 8, True),
        ("AMD64", "AVX2", 64, True),
        ("x86_64", "AVX2", 4, False),
        ("x86_64", "DEFAULT", 64, False),
        ("aarch64", "DEFAULT", 64, False),
        ("aarch64", "AVX2", 64, False),
    ],
)
def test_the_engine_is_used_on_measured_processors_from_the_least_width_on(
    monkeypatch: pytest.MonkeyPatch, machine: str, vectors: str, width: int, faster: bool
) -> None:
    processor(monkeypatch, machine, vectors)
    assert (slower(UNetSettings(width=width)) is None) is faster
    made = VerifiedEngine(_network(), 0.0)
    choice = select_backend(_network(width=width), CPU, make=lambda: made)
    assert choice.name == ("septum" if faster else "torch")
    assert ("width 8" in choice.why) is (vectors in LEAST_WIDTH and machine != "aarch64")


def test_for_little_work_the_engine_is_not_loaded() -> None:
    choice = select_backend(_network(), CPU, work=LEAST_OPERATIONS - 1)
    assert (choice.name, choice.why) == ("torch", "too little work to load Septum's engine")
    assert select_backend(_network(), CPU, work=LEAST_OPERATIONS).name == "septum"


def test_the_user_overrules_the_rule() -> None:
    network = _network()
    assert select_backend(network, CPU, wanted="torch").why == "asked for"
    assert select_backend(network, CPU, wanted="septum", work=1.0, room=1.0).name == "septum"
    assert select_backend(_network(width=4), CPU, wanted="septum").name == "septum"
    with pytest.raises(UsageError, match="--engine septum: PyTorch computes volumes without padding"):
        select_backend(_network(depths=(1, 1, 1), width=2), CPU, wanted="septum")


def test_pytorch_computes_networks_and_devices_that_the_engine_does_not_support() -> None:
    gpu = replace(CPU, torch=torch.device("cuda"), name="a GPU")
    cases: list[tuple[UNet, Device, str]] = [
        (_network(depths=(1, 1, 1), width=2), CPU, "PyTorch computes volumes without padding"),
        (_network(depths=(1, 2), width=2), CPU, "PyTorch computes networks with unequal depths"),
        (_network(depths=(2, 1, 1), width=2, padding="same"), CPU, "PyTorch computes networks with unequal depths"),
        (_network(), gpu, "PyTorch computes on a GPU"),
    ]
    for network, device, why in cases:
        choice = select_backend(network, device)
        assert (choice.name, choice.why) == ("torch", why)


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_an_engine_that_differs_from_pytorch_is_not_used(difference: float, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network()
    wrong = VerifiedEngine(Engine(network), difference)
    choice = select_backend(network, CPU, make=lambda: wrong)
    assert choice.name == "torch" and "differs from PyTorch" in choice.why
    with pytest.raises(UsageError, match="differs from PyTorch"):
        select_backend(network, CPU, wanted="septum", make=lambda: wrong)
    monkeypatch.setattr(backend, "verified_engine", lambda _: wrong)
    assert isinstance(for_scores(network, CPU), UNet)


def test_verification_detects_wrong_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network()
    assert verified_engine(network).difference < 3e-5
    pack = inference.head

    def wrong(*weights: Any) -> Any:
        packed = pack(*weights)
        packed.weights[:] *= 1.001
        return packed

    monkeypatch.setattr(inference, "head", wrong)
    assert not verified_engine(network).right


def test_the_engine_is_not_loaded_if_little_memory_is_left() -> None:
    code = """
import platform
import sys
import torch
from septum.prediction.backend import VerifiedEngine, select_backend
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
platform.machine = lambda: "x86_64"
torch.backends.cpu.get_cpu_capability = lambda: "AVX2"
network, device = for_prediction(UNet(UNetSettings(width=8, depths=(1, 1)))), find_device("cpu")
make = lambda: VerifiedEngine(network, 0.0)
print(select_backend(network, device, room=250e6, make=make).name, "numba" in sys.modules)
print(select_backend(network, device, room=400e6, make=make).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch", "False", "septum"]


def test_the_engine_is_not_used_if_its_weights_exceed_the_memory() -> None:
    choice = select_backend(_network(), CPU, room=100_000)
    assert choice.name == "torch" and "memory" in choice.why


def test_validation_scores_are_computed_by_the_engine_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    network = UNet(SETTINGS.model_copy(update={"batch_norm": True}))
    first, again = for_scores(network, CPU), for_scores(network, CPU)
    assert isinstance(first, Engine)
    x = torch.randn(1, 1, 44, 44, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(first(x), again(x))
    assert isinstance(for_scores(UNet(UNetSettings(width=8, depths=(1, 1, 1), padding="same")), CPU), Engine)
    assert isinstance(for_scores(UNet(UNetSettings(width=4, depths=(2, 2))), CPU), UNet)
    processor(monkeypatch, "aarch64", "DEFAULT")
    assert isinstance(for_scores(network, CPU), UNet)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("shape", [(40, 61), (9, 33), (1, 1)])
def test_tiles_of_the_engine_equal_the_whole(padding: str, shape: tuple[int, int]) -> None:
    engine = Engine(_network(padding=padding, channels=2))
    image = np.random.default_rng(3).integers(0, 255, (2, *shape)).astype(np.uint8)
    given = {"device": CPU, "normalization": NormalizeSettings()}
    whole = image_probabilities(engine, image, max_output=(64, 64), **given)  # type: ignore[arg-type]
    for side in (4, 20):
        tiled = image_probabilities(engine, image, max_output=(side, side), **given)  # type: ignore[arg-type]
        np.testing.assert_allclose(tiled, whole, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 30, 17), (16, 9, 33), (1, 1, 1)])
@pytest.mark.parametrize("depths", [(2, 2, 2), (0, 2, 2)])
def test_tiles_of_volumes_equal_the_whole(shape: tuple[int, int, int], depths: tuple[int, int, int]) -> None:
    network = _network(padding="same", depths=depths)
    choice = select_backend(network, CPU)
    assert (choice.name, choice.why) == ("septum", "faster from width 8 on")
    image = np.random.default_rng(3).integers(0, 255, (1, *shape)).astype(np.uint8)
    given = {"device": CPU, "normalization": NormalizeSettings()}
    found = [
        image_probabilities(code, image, max_output=(side,) * 3, **given)  # type: ignore[arg-type]
        for code, side in ((network, 48), (Engine(network), 48), (Engine(network), 8))
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)
    np.testing.assert_allclose(found[2], found[0], atol=1e-4)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    header = ModelHeader(
        network=SETTINGS.model_copy(update={"batch_norm": True}),
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(min_size_px=1),
    )
    save_model(path, UNet(header.network, seed=1), header)
    return path


@pytest.mark.parametrize("in_blocks", [False, True])
def test_predictions_of_the_engine_and_pytorch_agree(model_file: Path, tmp_path: Path, in_blocks: bool) -> None:
    image = np.random.default_rng(1).integers(0, 4000, (70, 90)).astype(np.uint16)
    write_image(tmp_path / "a.tif", image, axes="YX")
    found = []
    for engine in ("torch", "septum"):
        given = {"model": model_file, "inputs": (str(tmp_path / "a.tif"),), "out": tmp_path / engine, "device": "cpu"}
        settings = {"engine": engine, "output": "probabilities", "tile": 40, "in_blocks": in_blocks}
        list(predict_files(PredictSettings.model_validate(given | settings)))
        found.append(read_image(tmp_path / engine / "a.tif").array)
    np.testing.assert_allclose(*found, atol=1e-4)
    assert not np.array_equal(*found)  # so both computed


def test_the_work_of_small_images_adds_up_until_the_engine_pays_off(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = operations(SETTINGS, SETTINGS.geometry.input_for((100, 100)))
    monkeypatch.setattr(backend, "LEAST_OPERATIONS", 3 * each)
    model = open_model(model_file, "cpu")
    chosen: list[str] = []
    real = Model.choose

    def choose(self: Model, *given: Any, **more: Any) -> backend.Choice:
        choice = real(self, *given, **more)
        chosen.append(choice.name)
        return choice

    monkeypatch.setattr(Model, "choose", choose)
    for _ in range(4):
        assert predict(model, np.zeros((100, 100), np.uint8)).shape == (100, 100)
    assert chosen == ["torch", "torch", "septum", "septum"]


def test_info_names_the_code_that_computes_and_writes_nothing(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    words = "Septum's engine for images and padded volumes from width 8 on"
    assert installation()["prediction on CPU"].startswith(words)
    assert describe_model(model_file)["computed_by"] == "Septum's engine: faster from width 8 on"
    processor(monkeypatch, "aarch64", "DEFAULT")
    assert installation()["prediction on CPU"].startswith("PyTorch")
    assert str(describe_model(model_file)["computed_by"]).startswith("PyTorch: ")
    assert not list(tmp_path.iterdir())


def test_operations_and_bytes_of_the_network_of_the_paper() -> None:
    paper = UNetSettings.paper()
    assert operations(paper, (572, 572)) == pytest.approx(301e9, rel=0.01)
    assert tile_bytes(paper, (572, 572), engine=True) < tile_bytes(paper, (572, 572)) / 2
