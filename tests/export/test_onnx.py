"""An exported network computes what the model computes, in tiles too; a file that does not is not left."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.learned import LearnedDecisions
from septum.arrays.normalize import NormalizeSettings
from septum.cli.main import main
from septum.errors import FileError, UsageError
from septum.export import model as job
from septum.export import onnx_check, onnx_file
from septum.export.exportable import left_out, model_name
from septum.export.model import ExportedModel, export_model
from septum.export.model_settings import ExportSettings
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import Model, ModelHeader, open_model, save_model
from septum.prediction.tiled import image_probabilities

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
onnx = pytest.importorskip("onnx", reason="the extra [export] is not installed")

STANDARDIZE = NormalizeSettings(limit=4.0, skip_constant=True)
COMMON = NormalizeSettings(method="common", common=((400.0, 120.0),))
FAMILY: dict[str, tuple[UNetSettings, NormalizeSettings, int]] = {
    "the paper's kind": (UNetSettings(width=2, depths=(2, 2)), STANDARDIZE, 1),
    "padded": (UNetSettings(width=2, depths=(2, 2), padding="same", batch_norm=True), NormalizeSettings(), 1),
    "leaky, three channels, four classes": (
        UNetSettings(width=2, depths=(1, 1), leak=0.1, channels=3, classes=4),
        NormalizeSettings(method="range"),
        1,
    ),
    "shallow in Y": (UNetSettings(width=2, depths=(1, 3), padding="same"), COMMON, 1),
    "volumes": (UNetSettings(width=2, depths=(1, 1, 1)), STANDARDIZE, 1),
    "thin volumes": (UNetSettings(width=2, depths=(0, 2, 2), padding="same"), NormalizeSettings(), 1),
    "ensemble": (UNetSettings(width=2, depths=(1, 1), batch_norm=True), STANDARDIZE, 3),
    "common with a limit": (
        UNetSettings(width=2, depths=(1, 1)),
        NormalizeSettings(method="common", common=((450.0, 100.0),), limit=1.5),
        1,
    ),
}


def saved(folder: Path, network: UNetSettings, normalization: NormalizeSettings, members: int, **more: Any) -> Path:
    """Write a model with weights that are not small, and offsets of batch normalization that are not 0."""
    networks = [UNet(network, seed=number) for number in range(members)]
    header = ModelHeader(
        network=network,
        members=members,
        normalization=normalization,
        **{"kind": "classes", "class_values": tuple(range(network.classes)), "objects": ObjectSettings(), **more},
    )
    path = folder / "small.safetensors"
    save_model(path, networks, header)
    return path


def exported(path: Path, **options: Any) -> tuple[ExportedModel, Model, Any]:
    model = open_model(path, "cpu")
    done = export_model(model, path, ExportSettings(model=path, to="onnx", out=path.with_suffix(".onnx"), **options))
    return done, model, onnx_check.open_session(done.path)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """Return the example as a module."""
    pytest.importorskip("tifffile")
    path = Path(__file__).parents[2] / "examples" / "predict_onnx.py"
    spec = importlib.util.spec_from_file_location("predict_onnx", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FAMILY)
def test_a_network_of_the_family_is_exported_and_its_tiles_equal_the_whole_image(
    tmp_path: Path, name: str, example: ModuleType
) -> None:
    network, normalization, members = FAMILY[name]
    done, model, session = exported(saved(tmp_path, network, normalization, members))
    assert done.comparison.difference <= 1e-5 and len(done.comparison.sides) == 3
    assert done.bytes == done.path.stat().st_size and [p.suffix for p in tmp_path.iterdir()].count(".onnx") == 1
    rank = len(network.depths)
    shape = (network.channels, *((61, 43) if rank == 2 else (7, 21, 18)))
    image = np.random.default_rng(1).normal(500, 90, shape).astype(np.float32).round()
    whole = image_probabilities(model.network, image, device=model.device, normalization=normalization)
    tiled = example.predict(session, image, cells=2)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    assert tiled.shape == whole.shape and whole.std() > 0.01, "a constant would prove nothing"


def test_names_shapes_and_facts_are_in_the_file(tmp_path: Path) -> None:
    network = UNetSettings(width=2, depths=(2, 2))
    done, _, session = exported(saved(tmp_path, network, STANDARDIZE, 1, kind="objects", scale=0.5))
    described = {one.name: one.shape for one in (*session.get_inputs(), *session.get_outputs())}
    assert described == {
        "image": ["batch", 1, "Y", "X"],
        "mean": ["images", 1, 1, 1],
        "std": ["images", 1, 1, 1],
        "probabilities": ["batch", 2, "Y_out", "X_out"],
    }
    facts = json.loads(session.get_modelmeta().custom_metadata_map["septum"])
    assert (facts["context"], facts["grid"], facts["smallest"]) == ([20, 20], [4, 4], [44, 44])
    assert facts["header"]["normalization"] == {
        "method": "standardize",
        "common": [],
        "limit": 4.0,
        "skip_constant": True,
    }
    assert facts["left_out"] == list(done.left_out)
    text = " ".join(done.left_out)
    for word in ("label_objects", "resizing: the image by 0.5", "black frame", "TorchScript"):
        assert word in text
    assert {entry.name for entry in onnx.load(done.path).graph.initializer} >= {
        "network1.down.0.0.weight",
        "network1.head.bias",
    }


def test_learned_decisions_and_repeated_gray_are_named(tmp_path: Path) -> None:
    learned = LearnedDecisions.model_construct()
    plain = {"network": UNetSettings(), "normalization": NormalizeSettings(), "class_values": (0, 1)}
    header = ModelHeader(**plain, kind="objects", objects=ObjectSettings(), gray_as_color=True)
    header = header.model_copy(update={"objects": ObjectSettings().model_copy(update={"learned": learned})})
    text = " ".join(left_out(header))
    assert "learned decisions" in text and "repeat it into all channels" in text
    assert not any("label_objects" in one for one in left_out(header.model_copy(update={"kind": "classes"})))


@pytest.mark.parametrize(("padding", "sides"), [("same", (18, 16)), ("valid", (44, 46)), ("valid", (28, 44))])
def test_sides_that_do_not_fit_are_refused_by_name(tmp_path: Path, padding: Any, sides: tuple[int, int]) -> None:
    network = UNetSettings(width=2, depths=(2, 2), padding=padding)
    _, _, session = exported(saved(tmp_path, network, COMMON, 1))
    with pytest.raises(Exception, match=r"side_[YX]_must_be_a_multiple_of_4"):
        session.run(None, {"image": np.zeros((1, 1, *sides), np.float32)})


def test_a_constant_image_gives_finite_probabilities(tmp_path: Path) -> None:
    _, _, session = exported(saved(tmp_path, UNetSettings(width=2, depths=(1, 1)), NormalizeSettings(), 1))
    one = np.ones((1, 1, 1, 1), np.float32)
    (found,) = session.run(None, {"image": np.full((1, 1, 18, 18), 7, np.float32), "mean": 7 * one, "std": 0 * one})
    assert np.isfinite(found).all()


def test_a_file_that_differs_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, UNetSettings(width=2, depths=(1, 1)), STANDARDIZE, 1)
    build = onnx_file.build_graph

    def wrong(networks: Any, normalization: Any, **named: Any) -> Any:
        networks[0].head.bias.data[0] += 0.01
        graph = build(networks, normalization, **named)
        networks[0].head.bias.data[0] -= 0.01
        return graph

    (tmp_path / "small.onnx").write_bytes(b"an older file")
    monkeypatch.setattr(onnx_file, "build_graph", wrong)
    with pytest.raises(FileError, match=r"differ by 0\.00\d+ from the model's; no file was left") as raised:
        exported(path)
    assert raised.value.given.startswith(f"{tmp_path / 'small.onnx'}: its probabilities"), "the name that was asked for"
    package = ExportSettings(model=path, to="bioimageio", out=tmp_path / "small.zip", license="MIT")
    with pytest.raises(FileError, match=r"small\.zip: its probabilities"):
        export_model(open_model(path, "cpu"), path, package)
    assert (tmp_path / "small.onnx").read_bytes() == b"an older file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.onnx", "small.safetensors"]


def test_a_file_that_cannot_be_opened_is_refused_in_words(tmp_path: Path) -> None:
    path = saved(tmp_path, UNetSettings(width=2, depths=(1, 1)), STANDARDIZE, 1)
    (tmp_path / "other.onnx").write_bytes(b"no graph")
    pair = onnx_check.TestPair(np.zeros((1, 1, 16, 16), np.float32), np.zeros((1, 1, 2, 8, 8), np.float32))
    with pytest.raises(FileError, match=r"other\.onnx: onnxruntime cannot run it"):
        onnx_check.compare(tmp_path / "other.onnx", open_model(path, "cpu").network, STANDARDIZE, pair)


def test_missing_libraries_are_named_with_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, UNetSettings(width=2, depths=(1, 1)), STANDARDIZE, 1)
    monkeypatch.setattr(job, "find_spec", lambda name: None if name == "onnx" else sys.modules)
    with pytest.raises(UsageError, match=r"onnx is not installed[\s\S]*pip install 'septum\[export\]'"):
        exported(path)


def test_the_command_says_what_it_wrote_and_what_is_not_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, UNetSettings(width=2, depths=(1, 1)), STANDARDIZE, 1, kind="objects").rename(
        tmp_path / "model.safetensors"
    )
    monkeypatch.chdir(tmp_path.parent)
    main_ended(["export", str(tmp_path), "--to", "onnx"])
    lines = capsys.readouterr().out.splitlines()
    name = f"{tmp_path.name}.onnx"
    assert lines[-1].startswith(f"{name}: 0.0 MB, inputs image, mean, std") and (tmp_path.parent / name).is_file()
    assert lines[0].startswith("not in the file: objects") and "onnxruntime" in lines[-2]
    main_ended(["export", str(tmp_path), "--to", "onnx", "--json"])
    assert json.loads(capsys.readouterr().out)["done"]["inputs"] == ["image", "mean", "std"]


def main_ended(arguments: list[str]) -> None:
    try:
        main(arguments)
    except SystemExit as left:
        assert not left.code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "onnx", "out": Path("a.pt")}, "a name that ends in .onnx"),
        ({"to": "onnx", "license": "MIT"}, "--license with --to onnx"),
        ({"to": "bioimageio"}, "without a license"),
        ({"to": "bioimageio", "license": "MIT", "out": Path("a.onnx")}, "a name that ends in .zip"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ExportSettings(model=Path("m"), **options)


def test_a_file_is_named_after_its_model(tmp_path: Path) -> None:
    assert model_name(Path("nuclei")) == "nuclei"
    assert model_name(Path("runs/cells/model.safetensors")) == "cells"
    assert model_name(Path("runs/cells")) == "cells"
    assert model_name(Path("best.safetensors")) == "best"
