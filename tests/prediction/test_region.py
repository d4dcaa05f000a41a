"""``--in MASK``: inside the mask as for the whole image; outside background, and no tile is computed there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import DataError, UsageError
from septum.io.files import open_image, read_image, write_image
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import tiled
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.prediction.tiled import Inside, TiledPredictor

SIDES = (70, 90)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model, two images and a mask of each."""
    network = UNetSettings(width=2, depths=(1, 1), classes=3)
    plain: dict[str, Any] = {"normalization": NormalizeSettings(), "objects": ObjectSettings()}
    header = ModelHeader(network=network, kind="classes", class_values=(0, 5, 9), **plain)
    save_model(tmp_path / "m.safetensors", UNet(network, seed=3), header)
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "where").mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 4000, SIDES, np.uint16)
        write_image(tmp_path / "images" / f"{name}.tif", pixels, axes="YX")
        write_image(tmp_path / "where" / f"{name}.png", mask(), axes="YX")
    return tmp_path


def mask() -> np.ndarray:
    inside = np.zeros(SIDES, np.uint8)
    inside[10:40, 20:33] = 255
    inside[45, 80] = 1
    return inside


def predicted(folder: Path, **options: Any) -> np.ndarray:
    out = folder / "out"
    given = {"inputs": (str(folder / "images"),), **options}
    settings = PredictSettings(model=folder / "m.safetensors", out=out, **given)
    list(predict_files(settings))
    return read_image(out / "b.tif").array


@pytest.mark.parametrize("options", [{}, {"in_blocks": True}, {"tile": 16}, {"scale": 0.5}], ids=str)
def test_inside_equals_the_whole_image_and_outside_is_background(folder: Path, options: dict[str, Any]) -> None:
    whole = predicted(folder, output="probabilities", **options)
    part = predicted(folder, output="probabilities", region=folder / "where", **options)
    inside = mask() > 0
    if "scale" in options:  # the region has the pixels of the grid of the network; near its edge they are mixed
        np.testing.assert_allclose(part[:, 14:36, 24:29], whole[:, 14:36, 24:29], atol=1e-6)
        assert (part[0][60:] == 1).all() and (part[1:, 60:] == 0).all()
        return
    np.testing.assert_allclose(part[:, inside], whole[:, inside], atol=1e-6)
    assert (part[0][~inside] == 1).all() and (part[1:, ~inside] == 0).all()
    classes = predicted(folder, region=folder / "where", **options)[0]
    np.testing.assert_array_equal(classes, np.where(inside, np.array([0, 5, 9])[whole.argmax(axis=0)], 0))


def test_tiles_without_a_pixel_of_the_region_are_not_computed() -> None:
    network = UNet(UNetSettings(width=2, depths=(1, 1)), seed=0).eval()
    computed = []
    network.register_forward_hook(lambda *_: computed.append(1))
    inside = Inside(mask()[None], SIDES)
    tiler = TiledPredictor(network, find_device("cpu"), (16, 16), inside=inside)
    image = np.ones((1, *SIDES), np.float32)
    stats = np.array([[0, 1, np.inf]], np.float32)
    tiles = list(tiler.tiles(image, stats, (slice(0, 70), slice(0, 90))))
    wanted = sum(bool(mask()[write].any()) for write, _, _ in tiles)
    assert len(computed) == wanted < len(tiles) / 2


def test_masks_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"a.png for 2 images"):
        predicted(folder, region=folder / "where" / "a.png")
    (folder / "where" / "b.png").unlink()
    with pytest.raises(UsageError, match=r"no mask for b.tif"):
        predicted(folder, region=folder / "where")
    write_image(folder / "other.png", np.ones((70, 80), np.uint8), axes="YX")
    one = {"inputs": (str(folder / "images" / "b.tif"),)}
    with pytest.raises(DataError, match=r"1 x 70 x 80 \(CYX\)\nexpected: one channel of 70 x 90 pixels"):
        predicted(folder, region=folder / "other.png", **one)
    with pytest.raises(UsageError, match="--in with --tta"):
        predicted(folder, region=folder / "where", tta=True)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
@pytest.mark.parametrize("options", [{}, {"in_blocks": True}], ids=str)
def test_the_mask_is_closed_when_its_image_is_done(
    folder: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def keep(*given: Any, **named: Any) -> Any:
        opened.append(open_image(*given, **named))  # held, so that nothing else closes it
        return opened[-1]

    monkeypatch.setattr(tiled, "open_image", keep)
    for name in "ab":
        write_image(folder / "where" / f"{name}.tif", mask(), axes="YX")
        (folder / "where" / f"{name}.png").unlink()
    predicted(folder, region=folder / "where", **options)
    held = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    assert len(opened) == 2 and not [one for one in held if folder / "where" in one.parents]
