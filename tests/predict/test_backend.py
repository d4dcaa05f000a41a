"""What computes a network is what is faster here, if it is right; and a person can say otherwise."""

from __future__ import annotations

import json
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
from septum.cpu import inference as engine_module
from septum.cpu._packed_weights import PackedWeights
from septum.cpu.inference import Engine
from septum.errors import UsageError
from septum.io.open import read_image
from septum.io.write import write_image
from septum.nn.device import Device, find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.predict import backend as engines
from septum.predict.backend import (
    Speed,
    VerifiedEngine,
    cache_file,
    for_scores,
    known_speed,
    known_speeds,
    select_backend,
    verified_engine,
)
from septum.predict.info import describe_model, installation
from septum.predict.model import ModelHeader, open_model, save_model
from septum.predict.network_memory import operations, tile_bytes
from septum.predict.predict import predict_files
from septum.predict.settings import PredictSettings
from septum.predict.tiled import image_probabilities

CPU = find_device("cpu")
SETTINGS = UNetSettings(width=8, depths=(2, 2))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _network(**shape: Any) -> UNet:
    return for_prediction(UNet(SETTINGS.model_copy(update=shape), seed=1))


def _measured(monkeypatch: pytest.MonkeyPatch, torch_s: float, engine_s: float) -> list[int]:
    """Let measurements give these seconds; return a list that grows by each."""
    calls: list[int] = []

    def measure(*_: object) -> Speed:
        calls.append(1)
        return Speed(torch_s, engine_s)

    monkeypatch.setattr(engines, "measure", measure)
    return calls


def test_the_faster_one_computes_and_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measured(monkeypatch, 3.0, 1.0)
    network = _network()
    for _ in range(2):
        choice = select_backend(network, CPU)
        assert (choice.name, choice.why) == ("septum", "measured here to be 3.0 times faster than PyTorch")
    assert len(calls) == 1
    assert known_speeds() == {"width 8, depth 2, padding valid": Speed(3.0, 1.0)}
    assert known_speed(SETTINGS) == Speed(3.0, 1.0) and known_speed(UNetSettings(width=9)) is None


def test_pytorch_computes_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measured(monkeypatch, 1.0, 1.5)
    network = _network()
    for _ in range(2):
        choice = select_backend(network, CPU)
        assert choice.name == "torch" and "1.5 times slower" in choice.why
    assert len(calls) == 1


def test_a_measurement_is_of_real_seconds() -> None:
    network = _network()
    speed = engines.measure(network, Engine(network))
    assert 0 < speed.torch_s < 10 and 0 < speed.engine_s < 10


def test_a_measurement_holds_for_its_threads_and_versions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measured(monkeypatch, 3.0, 1.0)
    select_backend(_network(), CPU)
    monkeypatch.setattr(engines, "_versions", lambda: "torch 99")
    assert known_speeds() == {}
    select_backend(_network(), CPU)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", '{"a": 1}', '{"MACHINE": {"width 8, depth 2, padding valid": WRONG}}', "\x00\xff"],
)
def test_a_damaged_cache_is_no_error(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measured(monkeypatch, 3.0, 1.0)
    cache_file().parent.mkdir(parents=True)
    for wrong in ("[]", '["a", "b"]', "[1.0]", "[NaN, 1.0]", "[0.0, 1.0]", "[-1.0, 1.0]", "[1e999, 1.0]", "{}"):
        cache_file().write_text(content.replace("WRONG", wrong).replace("MACHINE", engines._machine()))
        assert known_speeds() == {}
        assert select_backend(_network(), CPU).name == "septum"
    assert len(calls) == 8
    assert json.loads(cache_file().read_text())[engines._machine()]


@pytest.mark.parametrize("way", ["a file", "no right"])
def test_a_cache_that_cannot_be_written_is_no_error(way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _measured(monkeypatch, 3.0, 1.0)
    if way == "a file":
        (tmp_path / "cache").write_text("in the way")
    else:
        monkeypatch.setattr(Path, "mkdir", _refuse)
    assert select_backend(_network(), CPU).name == "septum"
    assert known_speeds() == {}


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "no")


def test_for_little_work_nothing_is_compiled_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measured(monkeypatch, 3.0, 1.0)
    choice = select_backend(_network(), CPU, work=1e12)
    assert choice.name == "torch" and "compiling" in choice.why
    assert select_backend(_network(), CPU, work=1e13).name == "septum"
    assert select_backend(_network(width=9), CPU, work=1e11).name == "septum"  # it is compiled now
    choice = select_backend(_network(width=10), CPU, work=1e7)
    assert choice.name == "torch" and "measuring" in choice.why
    assert select_backend(_network(), CPU, work=1.0).name == "septum"
    assert len(calls) == 2


def test_for_very_little_work_the_engine_is_not_even_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, 3.0, 1.0)
    select_backend(_network(), CPU)
    assert engines._loaded()
    monkeypatch.setattr(engines, "_loaded", lambda: False)
    measured = operations(SETTINGS, SETTINGS.geometry.input_for((96, 96)))
    choice = select_backend(_network(), CPU, work=0.2 * measured)  # 0.4 s less
    assert choice.name == "torch" and "loading" in choice.why
    assert select_backend(_network(), CPU, work=0.4 * measured).name == "septum"


def test_what_a_person_asks_for_is_done() -> None:
    network = _network()
    assert select_backend(network, CPU, wanted="torch").why == "asked for"
    assert select_backend(network, CPU, wanted="septum", work=1.0).name == "septum"
    with pytest.raises(UsageError, match="--engine septum: PyTorch computes volumes"):
        select_backend(_network(depths=(1, 1, 1), width=2), CPU, wanted="septum")


def test_what_the_engine_does_not_compute_is_said() -> None:
    gpu = replace(CPU, torch=torch.device("cuda"), name="a GPU")
    cases: list[tuple[UNet, Device, str]] = [
        (_network(depths=(1, 1, 1), width=2), CPU, "PyTorch computes volumes"),
        (_network(depths=(1, 2), width=2), CPU, "PyTorch computes networks whose depths differ"),
        (_network(), gpu, "PyTorch computes on a GPU"),
    ]
    for network, device, why in cases:
        choice = select_backend(network, device)
        assert (choice.name, choice.why) == ("torch", why)


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_an_engine_that_computes_wrongly_is_not_used(difference: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, 3.0, 1.0)
    network = _network()
    wrong = VerifiedEngine(Engine(network), difference)
    choice = select_backend(network, CPU, make=lambda: wrong)
    assert choice.name == "torch" and "differs from PyTorch" in choice.why
    with pytest.raises(UsageError, match="differs from PyTorch"):
        select_backend(network, CPU, wanted="septum", make=lambda: wrong)
    monkeypatch.setattr(engines, "verified_engine", lambda _: wrong)
    assert isinstance(for_scores(network, CPU), UNet)


def test_the_check_sees_a_wrong_weight() -> None:
    network = _network()
    assert verified_engine(network).difference < 3e-5
    made = engine_module.head

    def wrong(conv: torch.nn.Conv2d) -> PackedWeights:
        packed = made(conv)
        packed.weights[:] *= 1.001
        return packed

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(engine_module, "head", wrong)
        assert not verified_engine(network).right


def test_where_little_memory_is_left_the_engine_is_not_even_loaded() -> None:
    code = """
import subprocess
import sys
from septum.predict import backend as engines
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
engines.known_speed = lambda settings: engines.Speed(3.0, 1.0)
network, device = for_prediction(UNet(UNetSettings(width=2, depths=(1, 1)))), find_device("cpu")
made = lambda: engines.VerifiedEngine(network, 0.0)
print(engines.select_backend(network, device, room=250e6, make=made).name, "numba" in sys.modules)
print(engines.select_backend(network, device, room=400e6, make=made).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch", "False", "septum"]


def test_the_engine_stays_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, 3.0, 1.0)
    choice = select_backend(_network(), CPU, room=100_000)
    assert choice.name == "torch" and "memory" in choice.why


def test_scores_in_training_come_from_the_engine_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measured(monkeypatch, 1.0, 3.0)
    network = UNet(SETTINGS.model_copy(update={"batch_norm": True}))
    made = for_scores(network, CPU)
    assert isinstance(made, Engine) and not calls
    x = torch.randn(1, 1, 44, 44, generator=torch.Generator().manual_seed(1))
    again = for_scores(network, CPU)
    with torch.inference_mode():
        assert torch.equal(made(x), again(x))
    assert isinstance(for_scores(UNet(UNetSettings(width=4, depths=(2, 2))), CPU), UNet)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("shape", [(40, 61), (9, 33), (1, 1)])
def test_tiles_do_not_show(padding: str, shape: tuple[int, int]) -> None:
    engine = Engine(_network(padding=padding, channels=2))
    image = np.random.default_rng(3).integers(0, 255, (2, *shape)).astype(np.uint8)
    given = {"device": CPU, "normalization": NormalizeSettings()}
    whole = image_probabilities(engine, image, max_output=(64, 64), **given)  # type: ignore[arg-type]
    for side in (4, 20):
        tiled = image_probabilities(engine, image, max_output=(side, side), **given)  # type: ignore[arg-type]
        np.testing.assert_allclose(tiled, whole, atol=1e-4)


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


@pytest.mark.parametrize("blocks", [False, True])
def test_prediction_gives_the_same_with_either(model_file: Path, tmp_path: Path, blocks: bool) -> None:
    image = np.random.default_rng(1).integers(0, 4000, (70, 90)).astype(np.uint16)
    write_image(tmp_path / "a.tif", image, axes="YX")
    found = []
    for engine in ("torch", "septum"):
        given = {"model": model_file, "inputs": (str(tmp_path / "a.tif"),), "out": tmp_path / engine, "device": "cpu"}
        settings = {"engine": engine, "output": "probabilities", "tile": 40, "blocks": blocks}
        list(predict_files(PredictSettings.model_validate(given | settings)))
        found.append(read_image(tmp_path / engine / "a.tif").array)
    np.testing.assert_allclose(*found, atol=1e-4)
    assert not np.array_equal(*found)  # so both computed


def test_small_predictions_add_up_until_measuring_pays(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measured(monkeypatch, 3.0, 1.0)
    each = operations(SETTINGS, SETTINGS.geometry.input_for((100, 100)))
    monkeypatch.setattr(engines, "_WORTH_COMPILING", 30 * each)
    model = open_model(model_file, "cpu")
    image = np.zeros((100, 100), np.uint8)
    for _ in range(29):
        predict(model, image)
    assert not calls
    for _ in range(2):
        assert predict(model, image).shape == (100, 100)
        assert len(calls) == 1


def test_info_says_what_computes_a_model_and_why(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "`septum info MODEL` measures" in installation()["prediction on CPU"]
    _measured(monkeypatch, 3.0, 1.0)
    said = "measured here to be 3.0 times faster than PyTorch"
    assert describe_model(model_file)["computed_by"] == f"Septum's engine: {said}"
    assert f"width 8, depth 2, padding valid: {said}" in installation()["prediction on CPU"]


def test_operations_and_bytes_of_the_paper_network() -> None:
    paper = UNetSettings.paper()
    assert operations(paper, (572, 572)) == pytest.approx(301e9, rel=0.01)
    assert tile_bytes(paper, (572, 572), engine=True) < tile_bytes(paper, (572, 572)) / 2
