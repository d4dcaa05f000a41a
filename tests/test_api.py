"""The verbs as seen from Python: what arrays mean."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import septum
from septum.api import _as_folder
from septum.errors import DataError, UnfamiliarImageWarning, UsageError
from septum.io.files import read_image, write_image

SMALL = {"steps": 1, "width": 1, "depth": 1, "batch": 1, "device": "cpu"}


def _pair(*shape: int, channels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros(shape, np.uint8)
    mask[..., 4:12, 3:9], mask[..., 4:12, 10:17] = 1, 2
    image = mask * 60.0 + np.random.default_rng(0).normal(100, 5, shape)
    return (np.stack([image + k for k in range(channels)]) if channels else image).astype(np.float32), mask


@pytest.mark.parametrize(
    ("shape", "channels", "rank"), [((20, 24), 0, 2), ((20, 24), 3, 2), ((20, 24), 2, 2), ((6, 20, 24), 0, 3)]
)
def test_dimensions_of_the_masks_say_what_those_of_the_images_are(
    shape: tuple[int, ...], channels: int, rank: int
) -> None:
    image, mask = _pair(*shape, channels=channels)
    model = septum.train([image, image + 1], [mask, mask], kind="objects", **SMALL)
    assert model.rank == rank
    assert model.header.network.channels == max(1, channels)
    assert septum.predict(model, image).shape == shape
    assert septum.predict(model, image, output="probabilities").shape == shape


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(9, 11), (5, 9, 11)])
def test_arrays_become_files_that_say_their_axes(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    full = (channels, *shape) if channels else shape
    array = np.random.default_rng(0).normal(size=(2, *full)).astype(np.float32)
    folder = _as_folder(array, tmp_path / "images", len(shape))
    for number in range(2):
        found = read_image(folder / f"image-{number:06d}.tif")
        assert found.axes == ("CYX" if len(shape) == 2 else "CZYX")
        np.testing.assert_array_equal(found.array, array[number] if channels else array[number][None])


def test_arrays_of_other_dimensions_are_refused() -> None:
    image, mask = _pair(20, 24)
    with pytest.raises(DataError, match="array 1 has 4 dimensions"):
        septum.train([image, image[None, None]], [mask, mask], **SMALL)


@pytest.mark.parametrize("wrong", [{"epochs": 3}, {"steps": 0}, {"steps": 1, "budget_s": 5.0}])
def test_wrong_settings_are_an_error_in_words(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        septum.train(tmp_path, **wrong)
    assert next(iter(wrong)) in str(caught.value)


def test_an_attribute_that_is_none_is_named() -> None:
    with pytest.raises(AttributeError, match="fit"):
        septum.fit  # noqa: B018


def _told(model: object, *images: object) -> list[warnings.WarningMessage]:
    """Predict the images one after the other and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for image in images:
            septum.predict(model, image)
    return caught


def test_images_unlike_those_of_the_training_are_told_once_a_kind(tmp_path: Path) -> None:
    image, mask = _pair(20, 24)
    for n in range(2):
        for role, array in (("images", image + n), ("masks", mask)):
            (tmp_path / role).mkdir(exist_ok=True)
            write_image(tmp_path / role / f"{n}.tif", array, axes="YX", pixel_size_um={"Y": 0.3, "X": 0.3})
    model = septum.train(tmp_path, out=tmp_path / "run", kind="objects", **SMALL)
    like = tmp_path / "images/0.tif"
    assert _told(model, image, image + 1, like) == []
    write_image(tmp_path / "large.tif", image, axes="YX", pixel_size_um={"Y": 0.9, "X": 0.9})
    flat = (mask > 0).astype(np.uint8)
    # A warning that is made an error is told again, as the image was not predicted.
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnfamiliarImageWarning)
            with pytest.raises(UnfamiliarImageWarning, match="only 2 gray values"):
                septum.predict(model, flat)
    caught = _told(model, flat, tmp_path / "large.tif", flat, like, tmp_path / "large.tif")
    assert [w.category for w in caught] == [UnfamiliarImageWarning, UnfamiliarImageWarning]
    assert {w.filename for w in caught} == {__file__}
    first, second = (str(w.message) for w in caught)
    assert first.startswith("the image: only 2 gray values, the training images have ")
    assert second.startswith(f"{tmp_path / 'large.tif'}: pixels are 3 times larger than in training")
    assert first.endswith("(said once, also for other images of this kind)")
    # The same model from its file is the same model.
    assert _told(tmp_path / "run/model.safetensors", flat, tmp_path / "large.tif") == []


def test_predictions_are_scored_with_named_metrics_and_an_ignore_mask(tmp_path: Path) -> None:
    _, mask = _pair(20, 24)
    for name, array in (("truth.tif", mask), ("found.tif", np.where(mask == 2, 0, mask)), ("hidden.tif", mask == 2)):
        write_image(tmp_path / name, array.astype(np.uint8), axes="YX")
    given = tmp_path / "found.tif", tmp_path / "truth.tif"
    found = septum.evaluate(*given, metrics=("instances",))
    assert {s.name: s.value for s in found.results[0].scores}["AP"] == 0.5
    hidden = septum.evaluate(*given, metrics=("instances",), ignore_mask=tmp_path / "hidden.tif")
    assert {s.name: s.value for s in hidden.results[0].scores}["AP"] == 1
    with pytest.raises(UsageError, match="metrics"):
        septum.evaluate(*given, metrics=("best",))
