"""Pages whose axis no file names: volumes, stacks that tifffile calls color, channels that NIfTI calls time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import septum
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.check.check import Report, check
from septum.check.samples import load_samples
from septum.errors import ModelError, SeptumWarning
from septum.evaluation.evaluate import evaluate
from septum.evaluation.results import EvaluateSettings
from septum.events import Warned
from septum.io.files import read_image, write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.review.suggest import SuggestSettings, suggest


def balls(seed: int, depth: int, side: int = 48, dtype: type = np.uint16) -> NDArray[np.generic]:
    """Return ids of tall balls Z Y X."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((depth, side, side))
    ids = np.zeros(z.shape, dtype)
    for k in range(1, 8):
        cz, cy, cx = rng.uniform(0, depth), rng.uniform(6, side - 6), rng.uniform(6, side - 6)
        ids[(4 * (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 36) & (ids == 0)] = k
    return ids


def signal(ids: NDArray[np.generic], seed: int = 0) -> NDArray[np.uint16]:
    return (100 + 400 * (ids > 0) + np.random.default_rng(seed).normal(0, 20, ids.shape)).astype(np.uint16)


def save(folder: Path, depth: int, *, suffix: str = ".tif", photometric: str = "minisblack", count: int = 4) -> Path:
    for n in range(count):
        ids = balls(n, depth)
        for role, array in (("images", signal(ids, n)), ("masks", ids)):
            (folder / role).mkdir(parents=True, exist_ok=True)
            path = folder / role / f"v{n}{suffix}"
            if suffix == ".npy":
                np.save(path, array)
            else:
                planar = {"planarconfig": "separate"} if photometric == "rgb" else {}
                tifffile.imwrite(path, array, photometric=photometric, **planar)
    return folder


def found(report: Report, code: str) -> tuple[str, ...]:
    return next((issue.details for issue in report.issues if issue.code == code), ())


def model(path: Path, *, channels: int = 1, depths: tuple[int, ...] = (1, 1), read_axes: str = "") -> Path:
    network = UNetSettings(channels=channels, classes=2, depths=depths, width=2)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(min_size_px=1),
        read_axes=read_axes,
    )
    save_model(path, UNet(network, seed=1), header)
    return path


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_stacks_of_lasting_objects_are_likely_volumes(tmp_path: Path, suffix: str) -> None:
    report = check([save(tmp_path, 9, suffix=suffix)])
    line = next(issue.line() for issue in report.warnings if issue.code == "volumes-likely")
    assert line.startswith("4 stacks whose neighboring pages show the same objects")
    assert "--axes ZYX if the pages are sections of volumes, or --axes TYX" in line
    assert "if they are sections of volumes: --axes ZYX" in report.lines()[1]
    assert not found(check([tmp_path], axes="TYX"), "volumes-likely")
    report = check([tmp_path], axes="ZYX")
    assert report.lines()[:2] == ["4 pairs (two folders)", "images: 9 x 48 x 48 pixels, 1 channel, uint16"]
    assert {len(pair.census[0].values) for pair in report.pairs} == {7}


def test_stacks_of_images_of_their_own_are_no_volumes(tmp_path: Path) -> None:
    for n in range(4):
        ids = np.concatenate([balls(10 * n + page, 1) for page in range(9)])
        for role, array in (("images", signal(ids, n)), ("masks", ids)):
            (tmp_path / role).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / role / f"v{n}.tif", array, photometric="minisblack")
    assert "volumes-likely" not in {issue.code for issue in check([tmp_path]).issues}


def test_frames_that_a_file_names_need_no_word(tmp_path: Path) -> None:
    for n in range(4):
        ids = balls(n, 9)
        for role, array in (("images", signal(ids, n)), ("masks", ids)):
            (tmp_path / role).mkdir(exist_ok=True)
            write_image(tmp_path / role / f"v{n}.tif", array, axes="TYX")
    report = check([tmp_path])
    assert "volumes-likely" not in {issue.code for issue in report.issues}
    assert "--axes" not in report.lines()[1]


@pytest.mark.parametrize("depth", [3, 4])
def test_slices_that_the_file_calls_color_are_pages(tmp_path: Path, depth: int) -> None:
    report = check([save(tmp_path, depth, photometric="rgb")])
    assert found(report, "planes-pages") == ("--axes TYX",) * 4
    assert report.rules.channels == 1
    samples = list(load_samples(report))
    assert len(samples) == 4 * depth
    np.testing.assert_array_equal(samples[depth - 1].mask > 0, balls(0, depth)[depth - 1] > 0)
    np.testing.assert_array_equal(samples[-1].image[0], signal(balls(3, depth), 3)[-1])
    report = check([tmp_path], axes="ZYX")
    assert report.rules.rank == 3
    np.testing.assert_array_equal(next(load_samples(report)).mask, balls(0, depth))


def test_slices_of_eight_bits_with_ids_are_pages(tmp_path: Path) -> None:
    for n in range(2):
        for role, array in (("images", signal(balls(n, 4)) // 4), ("masks", balls(n, 4))):
            (tmp_path / role).mkdir(exist_ok=True)
            eight = array.astype(np.uint8)
            tifffile.imwrite(tmp_path / role / f"v{n}.tif", eight, photometric="rgb", planarconfig="separate")
    assert found(check([tmp_path]), "planes-pages") == ("--axes TYX",) * 2


def test_planes_of_one_value_each_are_not_guessed(tmp_path: Path) -> None:
    save(tmp_path, 3, photometric="rgb")
    for n in range(4):
        classes = (balls(n, 3) > 0).astype(np.uint8) * 255
        tifffile.imwrite(tmp_path / f"masks/v{n}.tif", classes, photometric="rgb", planarconfig="separate")
    report = check([tmp_path])
    assert found(report, "planes-unclear") == ("3 planes",) * 4
    assert "--axes ZYX if the planes are sections" in report.errors[0].line()
    assert check([tmp_path], axes="TYX").rules.channels == 1
    assert check([tmp_path], axes="CYX").rules.channels == 3


def test_color_images_with_one_mask_stay_color(tmp_path: Path) -> None:
    save(tmp_path, 3, photometric="rgb")
    for n in range(4):
        tifffile.imwrite(tmp_path / f"masks/v{n}.tif", balls(n, 3).max(axis=0))
    assert check([tmp_path]).rules.channels == 3


def test_no_slice_is_dropped_as_alpha(tmp_path: Path) -> None:
    save(tmp_path, 4, photometric="rgb", count=1)
    assert read_image(tmp_path / "images/v0.tif").shape == (4, 48, 48)
    assert read_image(tmp_path / "images/v0.tif", axes="ZYX").shape == (1, 4, 48, 48)
    color = np.moveaxis(balls(0, 4, dtype=np.uint8), 0, -1)
    tifffile.imwrite(tmp_path / "rgba.tif", color, photometric="rgb", extrasamples=["unassalpha"])
    assert read_image(tmp_path / "rgba.tif").shape == (3, 48, 48)


def save_modalities(folder: Path, *, count: int = 3, suffix: str = ".nii.gz") -> Path:
    """Save volumes X Y Z M of two modalities with masks X Y Z, as the Medical Segmentation Decathlon does."""
    for role in ("imagesTr", "labelsTr"):
        (folder / role).mkdir(parents=True)
    for n in range(count):
        ids = balls(n, 6, 24)
        both = np.stack([signal(ids, n), 900 - signal(ids, n)], -1).astype(np.int16)
        for role, array in (("imagesTr", both.transpose(2, 1, 0, 3)), ("labelsTr", ids.astype(np.uint8).transpose())):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / role / f"b{n}{suffix}")
        (folder / "imagesTr" / f"._b{n}{suffix}").write_bytes(b"\0\5\x16\7" + bytes(200))
    return folder


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_modalities_of_nifti_are_channels(tmp_path: Path, suffix: str) -> None:
    report = check([save_modalities(tmp_path, suffix=suffix)])
    assert found(report, "pages-channels") == ("--axes XYZC",) * 3
    assert report.lines()[1] == "images: 6 x 24 x 24 pixels, 2 channels, int16"
    sample = next(load_samples(report))
    np.testing.assert_array_equal(sample.image[1], 900 - sample.image[0])
    assert report.rules.read_axes == "XYZC"


def test_volumes_whose_channels_a_tiff_calls_frames_are_read_as_channels(tmp_path: Path) -> None:
    for n in range(3):
        ids = balls(n, 6, 24)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_image(tmp_path / f"images/v{n}.tif", np.stack([signal(ids, n), 900 - signal(ids, n)]), axes="TZYX")
        write_image(tmp_path / f"masks/v{n}.tif", ids, axes="ZYX")
    report = check([tmp_path])
    assert found(report, "pages-channels") == ("--axes CZYX",) * 3
    assert (report.rules.channels, report.rules.rank) == (2, 3)


def files(folder: Path) -> Iterator[tuple[str, Path, dict[str, object]]]:
    """Yield axes of training, a file, and the shape of a model that takes the file by these axes only."""
    ids = balls(0, 6, 24)
    both = np.stack([signal(ids), 900 - signal(ids)], -1)
    nib.save(nib.Nifti1Image(both.transpose(2, 1, 0, 3), np.eye(4)), folder / "modalities.nii.gz")
    yield "XYZC", folder / "modalities.nii.gz", {"channels": 2, "depths": (0, 1, 1)}
    tifffile.imwrite(folder / "pages.tif", signal(balls(0, 5)), photometric="minisblack")
    yield "ZYX", folder / "pages.tif", {"depths": (0, 1, 1)}
    np.save(folder / "channels.npy", signal(balls(0, 2)))
    yield "CYX", folder / "channels.npy", {"channels": 2}
    tifffile.imwrite(folder / "planes.tif", signal(balls(0, 4)), photometric="rgb", planarconfig="separate")
    yield "TYX", folder / "planes.tif", {}
    yield "ZYX", folder / "planes.tif", {"depths": (0, 1, 1)}


@pytest.mark.parametrize("case", range(5))
def test_a_model_reads_files_as_its_training_images_were_read(tmp_path: Path, case: int) -> None:
    axes, path, shape = list(files(tmp_path))[case]
    learned, plain = (
        model(tmp_path / f"{a or 'plain'}.safetensors", read_axes=a, **shape)  # type: ignore[arg-type]
        for a in (axes, "")
    )
    with pytest.raises(ModelError, match=f"--axes {axes}"):
        list(predict_files(PredictSettings(model=plain, inputs=(str(path),), out=tmp_path / "out")))
    events = list(predict_files(PredictSettings(model=learned, inputs=(str(path),), out=tmp_path / "out")))
    assert [e.text for e in events if isinstance(e, Warned)] == [
        f"{path}: read with --axes {axes}, as the training images were"
    ]
    with pytest.warns(SeptumWarning, match=f"read with axes {axes}"):
        result = septum.predict(learned, path)
    np.testing.assert_array_equal(result, septum.predict(plain, path, axes=axes))
    list(suggest(SuggestSettings(model=learned, inputs=(str(path),), out=tmp_path / "next")))


def test_blocks_read_a_file_as_the_whole_image_was_read(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, signal(balls(0, 5)), photometric="minisblack")
    learned = model(tmp_path / "m.safetensors", read_axes="ZYX", depths=(0, 1, 1))
    for folder, blocks in (("whole", False), ("blocks", True)):
        settings = PredictSettings(model=learned, inputs=(str(path),), out=tmp_path / folder, in_blocks=blocks)
        list(predict_files(settings))
    whole, blocks = (read_image(tmp_path / folder / "pages.tif").array for folder in ("whole", "blocks"))
    np.testing.assert_array_equal(whole, blocks)


def test_axes_that_a_person_names_win(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "pages.tif", signal(balls(0, 2)), photometric="minisblack")
    learned = model(tmp_path / "m.safetensors", channels=2, read_axes="CYX")
    with pytest.raises(ModelError, match="1 channel"):
        septum.predict(learned, tmp_path / "pages.tif", axes="TYX")


def test_color_is_never_read_as_sections(tmp_path: Path) -> None:
    np.save(tmp_path / "color.npy", np.moveaxis(signal(balls(0, 3)), 0, -1))
    tifffile.imwrite(tmp_path / "color.tif", np.moveaxis(balls(0, 3, dtype=np.uint8), 0, -1), photometric="rgb")
    learned = model(tmp_path / "m.safetensors", depths=(0, 1, 1), read_axes="ZYX")
    with pytest.raises(ModelError, match="no Z"):
        septum.predict(learned, tmp_path / "color.tif")


def test_a_model_keeps_the_axes_of_its_training_images(tmp_path: Path) -> None:
    for n in range(4):
        for role, array in (("images", signal(balls(n, 2), n)), ("masks", balls(n, 2).max(axis=0))):
            (tmp_path / role).mkdir(exist_ok=True)
            np.save(tmp_path / role / f"v{n}.npy", array)
    trained = septum.train(tmp_path, steps=2, width=2, depth=1, tile=32, batch=1)
    assert trained.header.read_axes == "CYX"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeptumWarning)
        assert septum.predict(trained, tmp_path / "images/v0.npy").shape == (48, 48)


def score(folder: Path, **kwargs: object) -> tuple[float, tuple[str, ...]]:
    settings = EvaluateSettings(
        predicted=(folder / "predicted",),
        truth=folder / "truth",
        metrics=("instances",),
        **kwargs,  # type: ignore[arg-type]
    )
    result = evaluate(settings)
    return next(s.value for s in result.results[0].scores if s.name == "F1@0.50"), result.notes


def test_scores_of_pages_name_the_axes_and_take_them(tmp_path: Path) -> None:
    for folder in ("predicted", "truth"):
        (tmp_path / folder).mkdir()
        for n in range(2):
            tifffile.imwrite(tmp_path / folder / f"v{n}.tif", balls(n, 5), photometric="minisblack")
    value, notes = score(tmp_path)
    assert value == 1.0
    assert any("if pages are sections of volumes: --axes ZYX" in note for note in notes)
    assert not any("--axes" in note for note in score(tmp_path, axes="ZYX")[1])


def test_scores_read_planes_as_the_pages_of_the_prediction(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / "predicted").mkdir(exist_ok=True)
        (tmp_path / "truth").mkdir(exist_ok=True)
        write_image(tmp_path / f"predicted/v{n}.tif", balls(n, 4), axes="ZYX")
        tifffile.imwrite(tmp_path / f"truth/v{n}.tif", balls(n, 4), photometric="rgb", planarconfig="separate")
    assert score(tmp_path)[0] == 1.0
