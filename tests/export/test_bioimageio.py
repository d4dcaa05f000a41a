"""A bioimage.io package states what is in it, and its test is what a host computes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings, normalize, statistics
from septum.arrays.resample import Resampled
from septum.errors import DataError, ModelError
from septum.export.bioimageio import preprocess, preprocessing
from septum.export.model import export_model
from septum.export.model_settings import ExportSettings
from septum.io.files import read_image, write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import ModelHeader, open_model, save_model

pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")

NETWORKS = {
    "padded": UNetSettings(width=2, depths=(1, 1), padding="same"),
    "unpadded, three channels": UNetSettings(width=2, depths=(1, 2), channels=3, classes=3),
    "volumes": UNetSettings(width=2, depths=(1, 1, 1)),
}


def package(folder: Path, network: UNetSettings, normalization: NormalizeSettings, **options: Any) -> Path:
    kind = "objects" if network.classes == 2 else "classes"
    read = {name: options.pop(name) for name in ("scale", "read_axes", "read_channels") if name in options}
    header = ModelHeader(
        **read,
        network=network,
        normalization=normalization,
        kind=kind,
        class_values=tuple(range(network.classes)),
        objects=ObjectSettings(),
        pixel_size_um={"Y": 0.5, "X": 0.5},
        scores={"SEG": 0.75},
    )
    path = folder / "small.safetensors"
    save_model(path, UNet(network, seed=1), header)
    settings = ExportSettings(model=path, to="bioimageio", out=folder / "small.zip", license="CC-BY-4.0", **options)
    return export_model(open_model(path, "cpu"), path, settings).path


def content(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_package_holds_what_it_states(tmp_path: Path, name: str) -> None:
    network = NETWORKS[name]
    files = content(package(tmp_path, network, NormalizeSettings(limit=3.0), author=("A. Author", 'B: "Author"')))
    text = files["rdf.yaml"].decode()
    stated = dict(re.findall(r'source: "([^"]+)"\n\s+sha256: "([0-9a-f]{64})"', text))
    assert set(stated) == set(files) - {"rdf.yaml"}
    for source, digest in stated.items():
        assert hashlib.sha256(files[source]).hexdigest() == digest
    assert (
        'license: "CC-BY-4.0"' in text and 'name: "B: \\"Author\\""' in text and "10.1007/978-3-319-24574-4_28" in text
    )
    found, image = (np.load(io.BytesIO(files[f"{name}.npy"])) for name in ("output", "input"))
    rank = len(network.depths)
    assert image.shape == (1, network.channels, *image.shape[2:]) and found.shape[:2] == (1, network.classes)
    assert found.shape[2:] == network.geometry.output(image.shape[2:])
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    readme = files["README.md"].decode()
    assert "TorchScript" in readme and "SEG: 0.750" in readme
    assert ("label_objects(probabilities[0, 1]" in readme) == (network.classes == 2)
    halo = max(network.geometry.contexts) if network.padding == "same" else 0
    assert (f"halo: {halo}" in text) == (halo > 0) and text.count("unit:") == 4 and f'"{rank}d"' in text


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first = package(tmp_path, NETWORKS["padded"], NormalizeSettings()).read_bytes()
    assert package(tmp_path, NETWORKS["padded"], NormalizeSettings()).read_bytes() == first


@pytest.mark.parametrize(
    "settings",
    [
        NormalizeSettings(method="common", common=((100.0, 20.0), (50.0, 5.0))),
        NormalizeSettings(method="range"),
        NormalizeSettings(method="range", limit=0.7),
    ],
    ids=["common", "range", "limit"],
)
def test_words_of_the_format_compute_the_intensities_of_the_model(settings: NormalizeSettings) -> None:
    images = np.random.default_rng(0).normal(100, 30, (3, 2, 20, 30)).astype(np.float32)
    expected = np.stack([normalize(image, statistics(image, settings)) for image in images])
    np.testing.assert_allclose(preprocess(images, preprocessing(settings, 2)), expected, atol=1e-5)


def test_mean_and_deviation_of_the_format_are_those_of_all_pixels() -> None:
    images = np.random.default_rng(0).normal(100, 30, (2, 1, 40, 50))
    found = preprocess(images, preprocessing(NormalizeSettings(), 2))
    np.testing.assert_allclose((found.mean(axis=(2, 3)), found.std(axis=(2, 3))), ([[0]] * 2, [[1]] * 2), atol=1e-4)
    model = normalize(images[0], statistics(images[0], NormalizeSettings()))
    assert 0.98 < (found[0] / model).mean() < 1, "without hot pixels the difference is small"


def test_a_sample_is_the_test_and_the_cover(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (70, 90), np.uint16)
    write_image(tmp_path / "cells.tif", pixels, axes="YX")
    files = content(package(tmp_path, NETWORKS["padded"], NormalizeSettings(), sample=tmp_path / "cells.tif"))
    image = np.load(io.BytesIO(files["input.npy"]))[0, 0]
    assert image.shape == (70, 90), "sides that the network takes"
    np.testing.assert_array_equal(image, pixels)
    (tmp_path / "cover.png").write_bytes(files["cover.png"])
    assert read_image(tmp_path / "cover.png").array.shape == (3, 70, 180)
    assert "a part of cells.tif" in files["README.md"].decode()


def test_a_sample_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    write_image(tmp_path / "cells.tif", np.zeros((2, 40, 40), np.uint8), axes="CYX")
    with pytest.raises(
        ModelError, match=r"cells\.tif: 2 channels\nexpected: 1 channel, as in training\nto do: name an"
    ):
        package(tmp_path, NETWORKS["padded"], NormalizeSettings(), sample=tmp_path / "cells.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.tif", "small.safetensors"]


def test_a_sample_with_pixels_that_are_no_numbers_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(100, 20, (70, 90)).astype(np.float32)
    pixels[3, 4] = np.nan
    write_image(tmp_path / "cells.tif", pixels, axes="YX")
    with pytest.raises(DataError, match=r"cells\.tif: some pixels are NaN"):
        package(tmp_path, NETWORKS["padded"], NormalizeSettings(), sample=tmp_path / "cells.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.tif", "small.safetensors"]


def test_a_sample_is_read_as_prediction_reads_images(tmp_path: Path) -> None:
    """A gray picture as RGBA; the middle section, and a channel, by the axes and channels of the training."""
    pixels = np.random.default_rng(0).integers(1, 200, (5, 70, 90), np.uint8)
    Image.fromarray(np.dstack([pixels[2]] * 3 + [np.full_like(pixels[2], 255)])).save(tmp_path / "gray.png")
    np.save(tmp_path / "pages.npy", pixels)
    write_image(tmp_path / "two.tif", pixels[1:3], axes="CYX")
    for name, read in (
        ("gray.png", {}),
        ("pages.npy", {"read_axes": "TYX"}),
        ("two.tif", {"read_channels": ("2",)}),
    ):
        options = {"sample": tmp_path / name, **read}
        files = content(package(tmp_path, NETWORKS["padded"], NormalizeSettings(), **options))
        np.testing.assert_array_equal(np.load(io.BytesIO(files["input.npy"]))[0], pixels[2:3])


def test_axes_and_sample_of_a_package_are_on_the_grid_of_the_network(tmp_path: Path) -> None:
    """A model that saw its training images, of 0.5 micrometers per pixel, half as large."""
    pixels = np.random.default_rng(0).integers(0, 4000, (140, 180), np.uint16)
    write_image(tmp_path / "cells.tif", pixels, axes="YX")
    made = package(tmp_path, NETWORKS["padded"], NormalizeSettings(), sample=tmp_path / "cells.tif", scale=0.5)
    files = content(made)
    assert set(re.findall(r"scale: ([0-9.]+)", files["rdf.yaml"].decode())) == {"1.0"}
    half = Resampled(pixels[None], (70, 90))[:, :70, :90]
    np.testing.assert_array_equal(np.load(io.BytesIO(files["input.npy"]))[0], half)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_bioimageio_accepts_and_reproduces_the_package(tmp_path: Path, name: str) -> None:
    """``bioimageio test`` of bioimageio.core 0.11 in an environment of its own, which pins pydantic below 2.14."""
    program = os.environ.get("SEPTUM_BIOIMAGEIO") or shutil.which("bioimageio")
    if program is None:
        pytest.skip("no program bioimageio (pip install bioimageio.core 'pydantic<2.14' onnxruntime, in its own venv)")
    path = package(tmp_path, NETWORKS[name], NormalizeSettings(limit=3.0), author=("A. Author",))
    report = tmp_path / "report.json"
    alone = {**os.environ, "PYTHONPATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [program, "test", str(path), "--summary", str(report)], capture_output=True, text=True, env=alone, check=False
    )
    said = json.loads(report.read_text())
    assert said["status"] == "passed", done.stdout
