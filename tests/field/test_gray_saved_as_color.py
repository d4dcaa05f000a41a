"""Gray images saved as color, and constant alpha channels: what training mends, prediction mends as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import septum
from septum.check.check import check
from septum.check.samples import load_samples
from septum.errors import ModelError, SeptumWarning
from septum.events import Warned
from septum.prediction.events import ImageDone, ImageFailed
from septum.prediction.model import Model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings

Cells = Callable[..., tuple[np.ndarray, np.ndarray]]
SMALL: dict[str, Any] = {"steps": 1, "width": 1, "depth": 1, "batch": 1, "device": "cpu", "verbose": False}


def color(gray: np.ndarray, alpha: int | None = None) -> np.ndarray:
    """Return ``(Y, X, C)`` with three equal channels, and alpha if it is given."""
    planes = [gray] * 3 + ([] if alpha is None else [np.full_like(gray, alpha)])
    return np.stack(planes, -1)


def make(folder: Path, cells: Cells, kinds: list[str]) -> Path:
    """Write one image of each kind with its mask."""
    for n, kind in enumerate(kinds):
        gray, ids = cells(n)
        image = {
            "gray": gray,
            "equal": color(gray),
            "equal and alpha": color(gray, 255),
            "color": np.stack([gray, 255 - gray, gray // 2], -1),
            "color and constant": np.stack([gray, 255 - gray, gray // 2, np.full_like(gray, 9)], -1),
        }[kind]
        for role, array in (("images", image), ("masks", ids.astype(np.uint16))):
            (folder / role).mkdir(parents=True, exist_ok=True)
            axes = "YX" if array.ndim == 2 else "YXC"
            tifffile.imwrite(folder / role / f"c{n}.tif", array, photometric="minisblack", metadata={"axes": axes})
    return folder


@pytest.fixture(scope="module")
def gray_model() -> Model:
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 40), np.uint8)
    mask[5:15, 5:15], mask[20:30, 20:30] = 1, 2
    images = [(60 * (mask > 0) + rng.integers(0, 50, mask.shape)).astype(np.uint8) for _ in range(3)]
    return septum.train(images, [mask] * 3, kind="objects", **SMALL)


@pytest.mark.parametrize("kinds", [["equal"] * 4, ["gray", "equal", "equal and alpha", "gray"]])
def test_gray_images_saved_as_color_are_trained_on_as_gray(tmp_path: Path, cells: Cells, kinds: list[str]) -> None:
    report = check([make(tmp_path, cells, kinds)])
    assert (report.rules.channels, report.rules.gray_as_color) == (1, False)
    (equal,) = [issue for issue in report.issues if issue.code == "channels-equal"]
    names = ", ".join(f"c{n}.tif" for n, kind in enumerate(kinds) if kind.startswith("equal"))
    number = sum(kind.startswith("equal") for kind in kinds)
    assert equal.line() == (
        f"{number} gray images saved in color, with three equal channels: {names}; one channel is read"
    )
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.image, cells(n)[0][None])


def test_gray_images_saved_as_color_among_color_ones_teach_the_model_gray(tmp_path: Path, cells: Cells) -> None:
    report = check([make(tmp_path, cells, ["color", "equal", "color"])])
    assert (report.rules.channels, report.rules.gray_as_color) == (3, True)
    assert report.issues == ()


@pytest.mark.parametrize("alpha", [None, 255])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_equal_channels_are_read_as_one_by_a_model_of_gray(
    tmp_path: Path, cells: Cells, gray_model: Model, alpha: int | None, suffix: str
) -> None:
    gray, _ = cells(7)
    expected = septum.predict(gray_model, gray)
    path = tmp_path / f"rgb{suffix}"
    if suffix == ".png":
        Image.fromarray(color(gray, alpha)).save(path)
    elif suffix == ".tif":
        tifffile.imwrite(path, color(gray, alpha), photometric="rgb")
    else:
        np.save(path, np.moveaxis(color(gray, alpha), -1, 0))
    with pytest.warns(SeptumWarning, match="of three equal channels one is read"):
        found = septum.predict(gray_model, path, axes="CYX" if suffix == ".npy" else None)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("alpha", [None, 7])
def test_equal_channels_of_an_array_are_read_as_one(cells: Cells, gray_model: Model, alpha: int | None) -> None:
    gray, _ = cells(7)
    with pytest.warns(SeptumWarning, match="^the image: of three equal channels one is read"):
        found = septum.predict(gray_model, np.moveaxis(color(gray, alpha), -1, 0))
    np.testing.assert_array_equal(found, septum.predict(gray_model, gray))


def test_channels_that_differ_are_refused_with_the_shape_of_the_array(cells: Cells, gray_model: Model) -> None:
    gray, _ = cells(7)
    image = np.stack([gray, gray, gray])
    image[2, 3, 4] += 1
    with pytest.raises(ModelError) as caught:
        septum.predict(gray_model, image)
    assert caught.value.given == f"the image: 3 channels, as an array {image.shape} is read by axes CYX"
    assert caught.value.expected == "1 channel, as in training"
    assert "--" not in caught.value.todo


def test_a_difference_beyond_the_compared_pixels_is_found(tmp_path: Path, gray_model: Model) -> None:
    """Of a large image some windows are compared first, each part again when it is read."""
    image = np.zeros((2200, 2000, 3), np.uint8)
    image[:, ::7] = 90
    image[600, 600, 1] = 17
    tifffile.imwrite(tmp_path / "large.tif", image, photometric="rgb")
    with pytest.warns(SeptumWarning), pytest.raises(ModelError, match="channels that are equal in some places only"):
        septum.predict(gray_model, tmp_path / "large.tif")


def test_files_of_the_command_line_warn_once(tmp_path: Path, cells: Cells) -> None:
    run = tmp_path / "run"
    septum.train(make(tmp_path / "set", cells, ["gray"] * 2), kind="objects", out=run, **SMALL)
    (tmp_path / "new").mkdir()
    for n in range(3):
        Image.fromarray(color(cells(n)[0])).save(tmp_path / f"new/n{n}.png")
    events = list(predict_files(PredictSettings(model=run, inputs=(str(tmp_path / "new"),), out=tmp_path / "out")))
    assert [e.text for e in events if isinstance(e, Warned) and "channels" in e.text] == [
        f"{tmp_path / 'new/n0.png'}: of three equal channels one is read"
    ]
    assert sum(isinstance(e, ImageDone) for e in events) == 3


def test_gray_for_a_model_of_color_is_refused_with_a_way_out(tmp_path: Path, cells: Cells) -> None:
    model = septum.train(make(tmp_path, cells, ["color"] * 2), kind="objects", **SMALL)
    with pytest.raises(ModelError) as caught:
        septum.predict(model, cells(0)[0])
    assert (caught.value.given, caught.value.expected, caught.value.todo) == (
        "the image: 1 channel",
        "3 channels, as in training",
        "save it in color if it was taken as the training images were; or train with some gray images too",
    )


def test_a_constant_last_channel_is_dropped_by_training_and_by_prediction(tmp_path: Path, cells: Cells) -> None:
    folder = make(tmp_path / "set", cells, ["color and constant"] * 2)
    run = tmp_path / "run"
    model = septum.train(folder, kind="objects", out=run, **SMALL)
    assert model.header.network.channels == 3
    settings = PredictSettings(model=run, inputs=(str(folder / "images"),), out=tmp_path / "out")
    events = list(predict_files(settings))
    assert not [e for e in events if isinstance(e, ImageFailed)]
    (said,) = [e.text for e in events if isinstance(e, Warned) and "channel" in e.text]
    assert said.endswith("c0.tif: the last channel, which has the same value everywhere, is dropped")
