"""Prediction of files and arrays: axes, sizes, frames, channels, names, and refused inputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from septum.api import predict
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings, statistics
from septum.errors import DataError, FileError, ModelError, SeptumError, UsageError
from septum.events import Event
from septum.io.files import read_image, write_image
from septum.io.image import Image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import predict as module
from septum.prediction.events import ImageDone, ImageFailed, ImageStarted, Predicted, TileDone
from septum.prediction.frames import ImageFrame
from septum.prediction.in_memory import predict_image
from septum.prediction.model import Model, ModelHeader, open_model, save_model
from septum.prediction.outputs import result_files
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.prediction.tiled import TiledPredictor, image_probabilities, region_probabilities
from septum.prediction.tta import averaged_probabilities


def _save(path: Path, *, depths: tuple[int, ...] = (1, 1), **changes: object) -> Path:
    network = UNetSettings(
        channels=int(str(changes.pop("channels", 1))),
        classes=int(str(changes.pop("classes", 2))),
        depths=depths,
        width=2,
    )
    given: dict[str, object] = {
        "network": network,
        "normalization": NormalizeSettings(),
        "kind": "objects",
        "class_values": (0, 1),
        "objects": ObjectSettings(min_size_px=1),
    }
    save_model(path, UNet(network, seed=1), ModelHeader.model_validate(given | changes))
    return path


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("flat") / "model.safetensors")


@pytest.fixture(scope="module")
def solid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("solid") / "model.safetensors", depths=(0, 1, 1))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes with values of their own."""
    path = tmp_path_factory.mktemp("three") / "model.safetensors"
    return _save(path, classes=3, kind="classes", class_values=(5, 70, 300))


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)


def _image(array: np.ndarray, axes: str) -> Image:
    return Image.from_array(array, axes)


def _plain(model: Model, frame: np.ndarray) -> np.ndarray:
    """The probability of the second class, by the loop that validation uses."""
    return image_probabilities(model.network, frame, device=model.device, normalization=model.header.normalization)[1]


def _tiled(model: Model, frame: np.ndarray, side: int, *, tta: bool) -> np.ndarray:
    """All classes, by tiles of a side."""
    tiler = TiledPredictor(model.network, model.device, (side, side))
    whole = tuple(slice(0, n) for n in frame.shape[1:])
    predict = averaged_probabilities if tta else region_probabilities
    *_, (found, _) = predict(tiler, frame, statistics(frame, model.header.normalization), whole)
    return found


def _run(model: Path, inputs: list[Path], out: Path, **more: object) -> list[Event]:
    given = {"model": model, "inputs": tuple(map(str, inputs)), "out": out, "device": "cpu"}
    return list(predict_files(PredictSettings.model_validate(given | more)))


@pytest.mark.parametrize("model", ["nuclei", "run", "run/model.safetensors"])
def test_a_model_in_the_place_of_an_image_is_refused_with_the_right_order(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "images"):
        Path(folder).mkdir()
    shutil.copyfile(flat, "run/model.safetensors")
    write_image(Path("images/a.png"), np.zeros((20, 20), np.uint8), axes="YX")
    for image in ("images", "images/a.png"):
        with pytest.raises(UsageError) as raised:
            _run(Path(image), [Path(model)], Path("out"))
        assert raised.value.todo == f"swap them: {Path(model)} {Path(image)}"


def test_a_2d_model_predicts_each_frame_along_time_and_depth(flat: Path) -> None:
    model = open_model(flat, "cpu")
    array = _noise(2, 1, 3, 9, 11)
    found = predict_image(model, _image(array, "TCZYX"), output="probabilities")
    assert found.shape == array.shape
    for t in range(2):
        for z in range(3):
            np.testing.assert_allclose(found[t, 0, z], _plain(model, array[t, :, z]), atol=1e-6)
    assert np.abs(found[0, 0, 0] - found[1, 0, 2]).max() > 1e-3  # the frames differ, so their order was tested


def test_a_3d_model_predicts_each_volume_along_time(solid: Path) -> None:
    model = open_model(solid, "cpu")
    array = _noise(2, 1, 4, 7, 6)
    found = predict_image(model, _image(array, "TCZYX"), output="probabilities")
    for t in range(2):
        np.testing.assert_allclose(found[t, 0], _plain(model, array[t]), atol=1e-6)


def test_a_3d_model_refuses_a_2d_image(solid: Path) -> None:
    with pytest.raises(ModelError, match="no Z"):
        predict_image(open_model(solid, "cpu"), _image(_noise(1, 9, 9), "CYX"))


def test_tta_is_the_mean_over_rotated_and_mirrored_versions(flat: Path) -> None:
    model = open_model(flat, "cpu")
    frame = _noise(1, 13, 21)
    averaged = _tiled(model, frame, 8, tta=True)
    expected = np.zeros(frame.shape[1:])
    for quarters in range(4):
        for mirrored in (False, True):
            seen = np.rot90(frame, quarters, axes=(1, 2))
            found = _plain(model, np.ascontiguousarray(seen[..., ::-1] if mirrored else seen))
            expected += np.rot90(found[:, ::-1] if mirrored else found, -quarters) / 8
    np.testing.assert_allclose(averaged[1], expected, atol=1e-5)
    np.testing.assert_allclose(averaged.sum(axis=0), 1, atol=1e-5)
    plain = _tiled(model, frame, 8, tta=False)
    assert np.abs(averaged - plain).max() > 1e-3


def test_tta_of_a_rotated_image_gives_the_rotated_result(flat: Path) -> None:
    model = open_model(flat, "cpu")
    frame = _noise(1, 12, 18)
    first = _tiled(model, frame, 16, tta=True)
    turned = _tiled(model, np.rot90(frame, 1, axes=(1, 2)), 16, tta=True)
    np.testing.assert_allclose(turned, np.rot90(first, 1, axes=(1, 2)), atol=1e-5)


def test_axes_pixel_size_and_shape_are_kept_in_tiff(flat: Path, solid: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", _noise(3, 9, 11), axes="ZYX", pixel_size_um={"Z": 2.0, "Y": 0.5, "X": 0.25})
    for model in (flat, solid):
        out = tmp_path / model.parent.name
        _run(model, [tmp_path / "a.tif"], out)
        found = read_image(out / "a.tif")
        assert (found.file_axes, found.array.shape) == ("ZYX", (1, 3, 9, 11))
        assert dict(found.pixel_size_um) == pytest.approx({"Z": 2.0, "Y": 0.5, "X": 0.25})
        assert found.array.dtype == np.uint8


def test_affine_and_pixel_size_are_kept_in_nifti(solid: Path, tmp_path: Path) -> None:
    affine = ((0.0, -0.5, 0.0, 3.0), (0.5, 0.0, 0.0, -7.0), (0.0, 0.0, 2.0, 11.0), (0.0, 0.0, 0.0, 1.0))
    write_image(tmp_path / "a.nii.gz", _noise(4, 9, 7).astype(np.int16), axes="ZYX", affine=affine)
    before = read_image(tmp_path / "a.nii.gz")
    _run(solid, [tmp_path / "a.nii.gz"], tmp_path / "out")
    after = read_image(tmp_path / "out" / "a.nii.gz")
    assert (after.axes, after.array.shape) == (before.axes, before.array.shape)
    assert dict(after.pixel_size_um) == pytest.approx(dict(before.pixel_size_um))
    np.testing.assert_allclose(np.asarray(after.affine), np.asarray(before.affine), atol=1e-6)


def test_npy_results_have_the_dimensions_of_the_image(flat: Path, three: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _noise(9, 11))
    _run(flat, [tmp_path / "a.npy"], tmp_path / "one")
    assert np.load(tmp_path / "one" / "a.npy").shape == (9, 11)
    _run(three, [tmp_path / "a.npy"], tmp_path / "many", output="probabilities")
    found = np.load(tmp_path / "many" / "a.npy")
    assert (found.shape, found.dtype) == ((3, 9, 11), np.float32)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_classes_are_written_with_the_values_of_the_training_masks(three: Path) -> None:
    model = open_model(three, "cpu")
    frame = _noise(1, 15, 15)
    probabilities = predict_image(model, _image(frame, "CYX"), output="probabilities")
    found = predict_image(model, _image(frame, "CYX"))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[0], np.array([5, 70, 300])[probabilities.argmax(axis=0)])
    assert len(np.unique(found)) > 1
    with pytest.raises(UsageError, match="3 classes"):
        predict_image(model, _image(frame, "CYX"), output="labels")


def test_gray_images_are_repeated_into_channels_only_if_training_did_so(tmp_path: Path) -> None:
    gray = _noise(1, 10, 12)
    color = np.repeat(gray, 3, axis=0)
    yes = open_model(_save(tmp_path / "yes.safetensors", channels=3, gray_as_color=True), "cpu")
    no = open_model(_save(tmp_path / "no.safetensors", channels=3), "cpu")
    expected = predict(no, color, output="probabilities")
    np.testing.assert_array_equal(predict(yes, gray, output="probabilities"), expected)
    np.testing.assert_array_equal(predict(yes, gray[0], output="probabilities"), expected)
    for model, channels in ((no, 1), (yes, 2), (no, 4)):
        with pytest.raises(ModelError, match=f"{channels} channel"):
            predict(model, np.repeat(gray, channels, axis=0))


def test_nan_is_refused_with_the_name_of_the_file(flat: Path, tmp_path: Path) -> None:
    image = _noise(8, 8).astype(np.float32)
    image[3, 3] = np.nan
    np.save(tmp_path / "nan.npy", image)
    with pytest.raises(DataError, match=r"nan\.npy: some pixels are NaN"):
        _run(flat, [tmp_path / "nan.npy"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_events_count_images_and_tiles(flat: Path, tmp_path: Path) -> None:
    for name in ("t2.npy", "t10.npy"):
        np.save(tmp_path / name, _noise(10, 20))
    events = _run(flat, [tmp_path], tmp_path / "out", tile=8, tta=True)
    starts = [r for r in events if isinstance(r, ImageStarted)]
    assert [(r.path.name, r.index, r.count, r.tiles) for r in starts] == [("t2.npy", 0, 2, 48), ("t10.npy", 1, 2, 48)]
    assert [r.tile for r in events if isinstance(r, TileDone)] == [*range(1, 49)] * 2
    done = [r for r in events if isinstance(r, ImageDone)]
    assert [r.objects for r in done] == [int(np.load(r.output).max()) for r in done]
    last = events[-1]
    assert isinstance(last, Predicted)
    assert (last.done, last.failed) == (2, 0)
    assert 50 << 20 < last.peak_bytes < 8 << 30


@pytest.mark.parametrize(
    ("name", "output", "form", "written"),
    [
        ("a.png", None, None, "a.png"),
        ("a.png", "probabilities", None, "a.tif"),
        ("a.jpg", None, None, "a.png"),
        ("a.b.JPEG", None, None, "a.b.png"),
        ("a.gif", None, None, "a.png"),
        ("a.tiff", None, None, "a.tif"),
        ("A.TIF", None, None, "A.tif"),
        ("a.ome.tif", None, None, "a.ome.tif"),
        ("a.ome.tif", None, "png", "a.png"),
        ("a.npy", None, "tif", "a.tif"),
        ("a.NII.GZ", None, None, "a.nii.gz"),
    ],
)
def test_names_of_results(
    flat: Path, tmp_path: Path, name: str, output: str | None, form: str | None, written: str
) -> None:
    settings = PredictSettings.model_validate(
        {"model": flat, "inputs": (str(tmp_path / name),), "out": tmp_path / "out", "output": output, "format": form}
    )
    (tmp_path / name).touch()
    assert [target.name for _, target in result_files(settings)] == [written]


def test_a_gif_is_predicted(flat: Path, tmp_path: Path) -> None:
    from PIL import Image as Pillow

    Pillow.fromarray(_noise(9, 12).astype(np.uint8)).save(tmp_path / "a.gif")
    _run(_save(tmp_path / "rgb.safetensors", channels=3), [tmp_path / "a.gif"], tmp_path / "out")
    assert read_image(tmp_path / "out" / "a.png", labels=True).array.shape == (1, 9, 12)


def test_two_results_of_the_same_name_are_refused_before_anything_is_written(flat: Path, tmp_path: Path) -> None:
    for suffix in ("bmp", "gif"):
        PIL.Image.fromarray(_noise(8, 8).astype(np.uint8)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(UsageError, match="both be written"):
        _run(flat, [tmp_path / "a.bmp", tmp_path / "a.gif"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_that_leads_nowhere_fails_alone(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", _noise(8, 8))
    (tmp_path / "in" / "b.npy").symlink_to("../.git/annex/objects/nothing.npy")
    events = _run(flat, [tmp_path / "in"], tmp_path / "out")
    (failed,) = [event for event in events if isinstance(event, ImageFailed)]
    assert failed.path.name == "b.npy"
    assert "a link that leads nowhere" in failed.message
    assert [path.stem for path in (tmp_path / "out").iterdir()] == ["a"]


def test_an_input_is_never_overwritten(flat: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _noise(8, 8))
    before = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link", tmp_path / "link" / ".." / tmp_path.name):
        with pytest.raises(UsageError, match="overwrite"):
            _run(flat, [tmp_path / "a.npy"], out)
    assert (tmp_path / "a.npy").read_bytes() == before
    _run(flat, [tmp_path / "a.npy"], tmp_path, format="tif")
    assert (tmp_path / "a.npy").read_bytes() == before


def test_contradicting_options_are_refused_before_anything_is_written(flat: Path, three: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _noise(8, 8))
    with pytest.raises(UsageError, match="png"):
        _run(flat, [tmp_path / "a.npy"], tmp_path / "out", output="probabilities", format="png")
    with pytest.raises(UsageError, match="--output labels"):
        _run(three, [tmp_path / "a.npy"], tmp_path / "out", output="labels")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(flat: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _noise(8, 8))
    (tmp_path / "out").write_text("")
    with pytest.raises(FileError, match="out"):
        _run(flat, [tmp_path / "a.npy"], tmp_path / "out")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_image_too_large_for_the_memory_does_not_stop_the_others(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    np.save(tmp_path / "big.npy", _noise(30, 30))
    np.save(tmp_path / "small.npy", _noise(8, 8))
    real = module.split_frames

    def limited(source: Image, model: Model) -> list[ImageFrame]:
        if source.shape[-1] > 10:
            raise error
        return real(source, model)

    monkeypatch.setattr(module, "split_frames", limited)
    events = _run(flat, [tmp_path], tmp_path / "out")
    (failed,) = [r for r in events if isinstance(r, ImageFailed)]
    assert failed.path.name == "big.npy"
    assert "memory" in failed.message
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["small.npy"]
    with pytest.raises(SeptumError, match="memory"):
        _run(flat, [tmp_path / "big.npy"], tmp_path / "out")


def test_a_misspelled_model_is_not_taken_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of images may have the name of a model that comes with Septum."""
    monkeypatch.chdir(tmp_path)
    Path("cells").mkdir()
    write_image(Path("cells/a.png"), np.zeros((20, 20), np.uint8), axes="YX")
    with pytest.raises(ModelError, match="absent"):
        _run(Path("absent/model.safetensors"), [Path("cells")], Path("out"))
    assert not Path("out").exists()
