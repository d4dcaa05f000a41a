"""Photographs that are stored sideways or upside down with an orientation tag, and masks drawn on what viewers show."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from septum.check.check import check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.evaluation.evaluate import evaluate
from septum.evaluation.results import EvaluateSettings
from septum.io.files import open_image, read_image

TAGS = range(2, 9)


def blobs(seed: int, shape: tuple[int, int] = (40, 56)) -> NDArray[np.uint8]:
    """Return ids 1 to 6 of disks at random places."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    ids = np.zeros(shape, np.uint8)
    for k in range(1, 7):
        cy, cx = rng.uniform(5, shape[0] - 5), rng.uniform(5, shape[1] - 5)
        ids[(y - cy) ** 2 + (x - cx) ** 2 < 16] = k
    return ids


def photo(ids: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 4, ids.shape)
    return (60 + 120 * (ids > 0) + noise).clip(0, 255).astype(np.uint8)


def stored_as(shown: NDArray[Any], tag: int) -> NDArray[Any]:
    """Return the pixels to store so that a viewer that follows `tag` shows `shown`."""
    image = Image.fromarray(shown)
    if tag == 1:
        return shown
    for turn in Image.Transpose:
        exif = Image.Exif()
        exif[0x112] = tag
        turned = image.transpose(turn)
        turned.info["exif"] = exif.tobytes()
        if np.array_equal(np.asarray(ImageOps.exif_transpose(turned)), shown):
            return np.asarray(image.transpose(turn))
    raise AssertionError(tag)


def save(path: Path, shown: NDArray[Any], tag: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = stored_as(shown, tag)
    if path.suffix == ".tif":
        tifffile.imwrite(
            path,
            stored,
            photometric="minisblack" if stored.ndim == 2 else "rgb",
            extratags=[(274, "H", 1, tag, True)],
            metadata=None,
        )
    else:
        exif = Image.Exif()
        exif[0x112] = tag
        Image.fromarray(stored).save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "color.png", "color.tif"])
def test_pixels_lie_where_viewers_show_them(tmp_path: Path, name: str, tag: int) -> None:
    shown = photo(blobs(1))
    if "color" in name:
        shown = np.stack([shown, shown // 2, 255 - shown], axis=-1)
    path = save(tmp_path / name, shown, tag)
    image = read_image(path)
    np.testing.assert_array_equal(np.moveaxis(image.array, 0, -1).squeeze(), shown)
    assert image.orientation == tag
    with open_image(path) as lazy:
        part = np.moveaxis(lazy[:, 3:20, 10:41], 0, -1).squeeze()
    np.testing.assert_array_equal(part, shown[3:20, 10:41])


@pytest.mark.parametrize("tag", TAGS)
def test_a_jpeg_is_shown_as_pillow_shows_it(tmp_path: Path, tag: int) -> None:
    path = save(tmp_path / "a.jpg", photo(blobs(2)), tag)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path).array[0], np.asarray(ImageOps.exif_transpose(image)))


def test_color_of_sixteen_bits_is_turned(tmp_path: Path) -> None:
    shown = np.stack([photo(blobs(n)).astype(np.uint16) * 200 for n in range(3)], axis=-1)
    plain = imagecodecs.png_encode(shown[::-1, ::-1].copy())
    with Image.open(save(tmp_path / "small.png", photo(blobs(0)), 3)) as small:
        exif = small.info["exif"]
    data = exif.removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I4s", len(data), b"eXIf") + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    (tmp_path / "deep.png").write_bytes(plain[:33] + chunk + plain[33:])
    np.testing.assert_array_equal(np.moveaxis(read_image(tmp_path / "deep.png").array, 0, -1), shown)


def test_files_of_imagej_and_ome_are_read_as_stored(tmp_path: Path) -> None:
    """Both programs ignore the tag, so that masks drawn in them lie on the stored pixels."""
    stored = photo(blobs(3))
    tifffile.imwrite(tmp_path / "ij.tif", stored, imagej=True, extratags=[(274, "H", 1, 3, True)])
    image = read_image(tmp_path / "ij.tif")
    np.testing.assert_array_equal(image.array[0], stored)
    assert image.orientation == 1


def test_a_pixel_size_follows_its_axis(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        photo(blobs(3)),
        resolution=(20000, 40000),
        resolutionunit=3,
        metadata=None,
        extratags=[(274, "H", 1, 6, True)],
    )
    image = read_image(tmp_path / "a.tif")
    assert image.shape == (1, 56, 40)
    assert image.pixel_size_um == pytest.approx({"Y": 0.5, "X": 0.25})


@pytest.mark.parametrize(("suffix", "tag"), [(".jpg", 3), (".jpg", 6), (".png", 8), (".tif", 6)])
def test_sets_are_trained_on_as_shown(tmp_path: Path, suffix: str, tag: int) -> None:
    for n in range(3):
        save(tmp_path / "images" / f"c{n}{suffix}", photo(blobs(n), n), tag)
        save(tmp_path / "masks" / f"c{n}.png", blobs(n), 1)
    report = check([tmp_path])
    assert report.issues == ()
    assert "3 turned upright by their orientation tag" in report.lines()[1]
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, blobs(n))
        assert np.abs(sample.image[0] - photo(blobs(n), n)).mean() < 3


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_masks_drawn_on_the_stored_pixels_are_turned_with_their_photographs(tmp_path: Path, tag: int) -> None:
    """Fiji shows the stored pixels: its masks have the sides of these."""
    for n in range(3):
        save(tmp_path / "images" / f"c{n}.jpg", photo(blobs(n), n), tag)
        save(tmp_path / "masks" / f"c{n}.tif", stored_as(blobs(n), tag), 1)
    report = check([tmp_path])
    assert [(issue.code, len(issue.files)) for issue in report.issues] == [("mask-upright", 3)]
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, blobs(n))
    list(fix(report, tmp_path / "copy"))
    assert check([tmp_path / "copy"]).issues == ()
    np.testing.assert_array_equal(read_image(tmp_path / "copy/masks/c1.tif").array[0], blobs(1))


def test_scores_compare_what_is_shown(tmp_path: Path) -> None:
    for n in range(2):
        save(tmp_path / "truth" / f"c{n}.png", blobs(n), 6)
        save(tmp_path / "predicted" / f"c{n}.png", blobs(n), 1)
    result = evaluate(EvaluateSettings(predicted=(tmp_path / "predicted",), truth=tmp_path / "truth"))
    assert next(s.value for s in result.results[0].scores if s.name == "F1@0.50") == 1.0
