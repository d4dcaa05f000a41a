"""Tensors, Pillow images, nested lists, generators and paths; lists of unequal length; words that nobody knows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

import septum
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import DataError, FileError, ModelError, SeptumError, SeptumWarning, UsageError
from septum.io.files import write_image
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.model import Model, ModelHeader

Cells = Callable[..., tuple[np.ndarray, np.ndarray]]
SMALL: dict[str, Any] = {"steps": 1, "width": 1, "depth": 1, "batch": 1, "device": "cpu", "verbose": False}


@pytest.fixture(scope="module")
def pairs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    mask = np.zeros((20, 24), np.uint8)
    mask[4:12, 3:9], mask[4:12, 10:17] = 1, 2
    rng = np.random.default_rng(0)
    images = [(mask * 60 + rng.integers(90, 110, mask.shape)).astype(np.uint8) for _ in range(3)]
    return images, [mask] * 3


@pytest.fixture(scope="module")
def model(pairs: tuple[list[np.ndarray], list[np.ndarray]]) -> Model:
    return septum.train(*pairs, kind="objects", **SMALL)


def told(error: SeptumError) -> tuple[str, str, str]:
    return error.given, error.expected, error.todo


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor": lambda a: torch.from_numpy(a.astype(np.float32)).requires_grad_(),
    "bfloat16": lambda a: torch.from_numpy(a).bfloat16(),
    "Pillow": Image.fromarray,
    "nested list": lambda a: a.tolist(),
    "zarr": lambda a: zarr.array(a),
    "unmasked": lambda a: np.ma.array(a),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS.keys())
def test_predict_takes_what_numpy_understands(
    model: Model, pairs: tuple[list[np.ndarray], list[np.ndarray]], make: Callable[[np.ndarray], Any]
) -> None:
    image = pairs[0][0]
    np.testing.assert_array_equal(septum.predict(model, make(image)), septum.predict(model, image))


def each(make: Callable[[np.ndarray], Any]) -> Callable[[list[np.ndarray]], Any]:
    return lambda arrays: [make(array) for array in arrays]


FORMS: dict[str, Callable[[list[np.ndarray]], Any]] = {
    **{name: each(make) for name, make in ARRAYS.items()},
    "generator": lambda arrays: (a for a in arrays),
    "tuple": tuple,
    "one array": np.stack,
    "one tensor": lambda arrays: torch.from_numpy(np.stack(arrays)),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS.keys())
def test_train_takes_lists_and_iterables_of_them(
    model: Model, pairs: tuple[list[np.ndarray], list[np.ndarray]], make: Callable[[list[np.ndarray]], Any]
) -> None:
    made = septum.train(make(pairs[0]), make([m.astype(np.int32) for m in pairs[1]]), kind="objects", **SMALL)
    assert made.header.training["data_fingerprint"] == model.header.training["data_fingerprint"]


def test_lists_of_paths_belong_together_by_their_order(
    tmp_path: Path, pairs: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    images, masks = [], []
    for n, (image, mask) in enumerate(zip(*pairs, strict=True)):
        for folder, array, paths in (("day1", image, images), ("drawn", mask, masks)):
            path = tmp_path / folder / f"{'cell' if folder == 'day1' else 'x'}{n}.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, array)
            paths.append(path)
    run = tmp_path / "run"
    septum.train(images, [str(path) for path in masks], kind="objects", out=run, **SMALL)
    assert '"cell0"' in (run / "settings.json").read_text()
    with pytest.raises(UsageError, match=r"absent\.tif does not exist"):
        septum.train([tmp_path / "absent.tif"], masks[:1], **SMALL)


def test_lists_of_different_lengths_are_refused_before_anything_is_trained(
    tmp_path: Path, pairs: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    with pytest.raises(DataError) as caught:
        septum.train(np.stack(pairs[0]), np.stack(pairs[1][1:]), out=tmp_path / "run", **SMALL)
    assert told(caught.value) == (
        "3 images, 2 masks",
        "one mask for each image, in the same order",
        "add what is missing; an image without objects has a mask of zeros",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("images", "masks", "given"),
    [
        ([], [], "images: nothing in it"),
        (None, None, "images, but no masks"),
        (None, [1], "images: None"),
        (5, [1], "images: an object of type int"),
        ({"a": 1}, [1], "images: an object of type dict"),
        (["a.tif"], None, "images, but no masks"),
        (np.zeros((9, 9)), np.zeros((9, 9)), "images: a single image"),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], "images: a single image"),
        (np.zeros((2, 9, 9), complex), np.zeros((2, 9, 9)), "images: an object of type ndarray of complex128 values"),
        ([np.zeros((9, 9)), None], np.zeros((2, 9, 9)), "images: number 1: None"),
        ([np.zeros((9, 9)), np.zeros(0)], np.zeros((2, 9, 9)), "images: number 1: an array without pixels, (0,)"),
        ([[[1, 2], [3]]], np.zeros((1, 9, 9)), "images: number 0: an object of type list (setting an array element"),
        (np.ma.masked_less(np.arange(8).reshape(2, 2, 2), 3), np.zeros((2, 2, 2)), "images: a masked array, whose"),
        ("folder", np.zeros((2, 9, 9)), "images as a path, masks as arrays"),
        (np.zeros((2, 9, 9)), "folder", "images as arrays, masks as a path"),
        (["a.tif"], [np.zeros((9, 9))], "images and masks: both paths and arrays"),
        (np.zeros((1, 2, 3, 4, 5)), np.zeros((1, 2, 3, 4, 5)), "masks of 4 dimensions"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_words(images: Any, masks: Any, given: str) -> None:
    with pytest.raises((DataError, UsageError)) as caught:
        septum.train(images, masks, **SMALL)
    assert caught.value.given.startswith(given)
    assert caught.value.expected and caught.value.todo


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (None, "image: None"),
        ("", ": is a folder"),
        ([["a", "b"]], "image: an object of type list of <U1 values"),
        (["a.tif", "b.tif"], "image: a list of 2 images"),
        ([np.zeros((20, 24))] * 3, "image: a list of 3 images"),
        ((a for a in "ab"), "image: a list of images"),
        (np.zeros((2, 2, 2, 2)), "an array of 4 dimensions"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_words(model: Model, image: Any, given: str) -> None:
    with pytest.raises((DataError, FileError)) as caught:
        septum.predict(model, image)
    assert given in caught.value.given
    assert caught.value.expected and caught.value.todo


@pytest.mark.parametrize("output", ["probs", "mask", "label", "PROBABILITIES", 5])
def test_an_unknown_output_is_refused_with_the_known_words(model: Model, output: Any) -> None:
    with pytest.raises(UsageError) as caught:
        septum.predict(model, np.zeros((20, 24)), output=output)
    assert told(caught.value) == (
        "output=5" if output == 5 else f"output {output}",
        "one of labels, classes, probabilities",
        "leave it out for what the training masks held",
    )


@pytest.mark.parametrize("wrong", [None, 5, b"model"])
def test_what_is_no_model_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(UsageError, match=f"model: an object of type {type(wrong).__name__}"):
        septum.predict(wrong, np.zeros((20, 24)))


def test_one_word_stands_for_a_list_of_one(pairs: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    model = septum.train(*pairs, set="weights.w0=5", ignore_values=2, kind="classes", **SMALL)
    assert model.header.training["plan"]["weights"]["w0"] == 5
    found = septum.evaluate(pairs[1][0], pairs[1][0], metrics="instances,pixels")
    assert found.metrics == ("instances", "pixels")


def test_a_duration_as_text_is_refused(pairs: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    with pytest.raises(UsageError) as caught:
        septum.train(*pairs, budget_s="30m")  # type: ignore[arg-type]
    assert told(caught.value)[:2] == ("budget_s '30m'", "a valid number")


def test_arrays_are_evaluated(pairs: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    mask = pairs[1][0]
    other = np.where(mask == 2, 0, mask)
    found = septum.evaluate([mask, other], [torch.from_numpy(mask), mask.tolist()], metrics=["instances"])
    assert {s.name: s.value for s in found.results[0].scores}["AP@0.50"] == 0.75
    with pytest.raises(DataError, match="2 predictions, 1 truth"):
        septum.evaluate([mask, mask], mask)
    with pytest.raises(UsageError, match="predictions as arrays, truth as a path"):
        septum.evaluate(mask, "truth.tif")


def test_findings_are_shown_or_are_warnings_never_both(
    tmp_path: Path, pairs: tuple[list[np.ndarray], list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    masks = [pairs[1][0], pairs[1][1], np.zeros_like(pairs[1][0])]
    text = (
        "1 mask with background only: image-000002.tif; each is learned as an image without objects; "
        "remove a pair whose objects were not drawn"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        septum.train(pairs[0], masks, kind="objects", **SMALL | {"verbose": True})
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines().count(f"warning: {text}") == 1
    assert "1/1 step" in shown.err
    assert "masks hold object ids, 0 to 2 per image (as asked)" in shown.err or "per image (as asked)" in shown.err
    with pytest.warns(SeptumWarning) as caught:
        septum.train(pairs[0], masks, kind="objects", **SMALL)
    assert [str(w.message) for w in caught].count(text) == 1
    assert capsys.readouterr().err == ""


def test_files_that_cannot_be_scored_are_warnings(
    tmp_path: Path, pairs: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    for folder in ("pred", "truth"):
        (tmp_path / folder).mkdir()
        for n in range(2):
            tifffile.imwrite(tmp_path / folder / f"c{n}.tif", pairs[1][0])
    (tmp_path / "pred/c1.tif").unlink()
    with pytest.warns(SeptumWarning, match="not scored: c1.tif: no prediction in .*pred; the scores are of the other"):
        septum.evaluate(tmp_path / "pred", tmp_path / "truth")


def untrained(**shape: Any) -> Model:
    """Return a model of random weights."""
    settings = UNetSettings(**{"padding": "same", "depths": (1, 1), "width": 2, **shape})
    header = ModelHeader(
        network=settings,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=tuple(range(settings.classes)),
        objects=ObjectSettings(),
    )
    return Model(header, for_prediction(UNet(settings, seed=1)), find_device("cpu"))


def test_letters_name_the_dimensions_of_an_array() -> None:
    array = np.random.default_rng(0).normal(100, 20, (5, 12, 16))

    def probabilities(model: Model, image: Any, axes: str | None = None) -> np.ndarray:
        return septum.predict(model, image, output="probabilities", axes=axes)

    volumes, colors, images = untrained(depths=(1, 1, 1)), untrained(channels=5), untrained()
    for model, letters in ((volumes, "ZYX"), (colors, "CYX")):
        usual = probabilities(model, array)
        for order in ((1, 2, 0), (2, 1, 0), (0, 2, 1)):
            axes = "".join(letters[k] for k in order)
            np.testing.assert_array_equal(probabilities(model, array.transpose(order), axes.lower()), usual)
    for axes in ("TYX", "ZYX"):
        found = probabilities(images, np.moveaxis(array, 0, -1), axes[1:] + axes[0])
        np.testing.assert_array_equal(found, np.stack([probabilities(images, page) for page in array]))


@pytest.mark.parametrize(
    ("image", "axes", "given"),
    [
        (np.zeros((9, 9)), "ZYX", "axes 'ZYX' for the image, which has 2 dimensions: (9, 9)"),
        (np.zeros((9, 9)), "AB", "axes 'AB'"),
        (Image.new("RGB", (9, 9)), "YXC", "axes 'YXC' with a Pillow image"),
    ],
)
def test_letters_that_do_not_fit_an_array_are_refused(image: Any, axes: str, given: str) -> None:
    with pytest.raises(UsageError) as caught:
        septum.predict(untrained(), image, axes=axes)
    assert caught.value.given == given
    assert caught.value.todo


@pytest.mark.parametrize(
    ("channels", "shape", "given", "todo"),
    [
        (
            1,
            (40, 56, 2),
            "the image: 40 channels, as an array (40, 56, 2) is read by axes CYX",
            "array[0] or array[..., 0]",
        ),
        (
            3,
            (40, 56, 5),
            "the image: 40 channels, as an array (40, 56, 5) is read by axes CYX",
            "array[0] or array[..., 0]",
        ),
        (
            1,
            (4, 40, 56),
            "the image: 4 channels, as an array (4, 40, 56) is read by axes CYX",
            "array[0] or array[..., 0]",
        ),
        (3, (40, 56), "the image: 1 channel", "save it in color"),
    ],
)
def test_channels_that_do_not_fit_are_told_with_the_shape_of_the_array(
    channels: int, shape: tuple[int, ...], given: str, todo: str
) -> None:
    array = np.random.default_rng(0).integers(0, 99, shape, np.uint8)
    with pytest.raises(ModelError) as caught:
        septum.predict(untrained(channels=channels), array)
    assert caught.value.given == given
    assert todo in caught.value.todo
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"scale": 0}, "scale=0"),
        ({"axes": "Z"}, "axes 'Z'"),
        ({"object_size": -5}, "object_size=-5"),
        ({"level": 0}, "level=0 with an array"),
        ({"channel": 2}, "channel=2 with an array"),
        ({"engine": "numpy"}, "engine numpy"),
    ],
)
def test_errors_of_predict_name_its_keywords(options: dict[str, Any], given: str) -> None:
    with pytest.raises(UsageError) as caught:
        septum.predict(untrained(), np.zeros((20, 24)), **options)
    assert caught.value.given == given
    assert "--" not in str(caught.value)


def test_predict_reads_the_channel_that_is_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 99, (2, 20, 24), np.uint8)
    write_image(tmp_path / "two.tif", pixels, axes="CYX")
    found = septum.predict(untrained(), tmp_path / "two.tif", output="probabilities", channel="2")
    np.testing.assert_array_equal(found, septum.predict(untrained(), pixels[1], output="probabilities"))


def test_the_engine_is_chosen_for_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise Septum's engine computes as soon as enough work has added up, and the last bits change."""
    model, image = untrained(width=8), np.random.default_rng(0).normal(size=(24, 32))
    monkeypatch.setattr("septum.prediction.backend.LEAST_OPERATIONS", 0)

    def probabilities(engine: Any) -> np.ndarray:
        return septum.predict(model, image, output="probabilities", engine=engine)

    by_torch, by_engine = probabilities("torch"), probabilities("septum")
    assert 0 < np.abs(by_torch - by_engine).max() < 1e-4
    assert model.engine == "auto"
    usual = by_engine if model.choose().name == "septum" else by_torch
    np.testing.assert_array_equal(probabilities("auto"), usual)
    np.testing.assert_array_equal(probabilities("torch"), by_torch)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.7e308, 1e39])
def test_pixels_that_are_not_finite_in_float32_are_refused(value: float) -> None:
    image = np.random.default_rng(0).normal(100, 20, (20, 24))
    image[3, 4] = value
    for output in ("labels", "probabilities"):
        with pytest.raises(DataError, match=r"the image: some pixels are NaN or infinite, or larger than 3\.4e38"):
            septum.predict(untrained(), image, output=output)
