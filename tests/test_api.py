"""The functions of the package: the meaning of arrays, keywords, errors and warnings."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import septum
from septum.array_likes import write_pairs
from septum.cli.options import flag
from septum.errors import DataError, UnfamiliarImageWarning, UsageError
from septum.evaluation.results import EvaluateSettings
from septum.events import Event, Warned
from septum.experiments.settings import RunSettings
from septum.io.files import read_image, write_image
from septum.settings import options_of
from septum.training.settings import TrainSettings

SMALL: dict[str, Any] = {"steps": 1, "width": 1, "depth": 1, "batch": 1, "device": "cpu"}


def _pair(*shape: int, channels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros(shape, np.uint8)
    mask[..., 4:12, 3:9], mask[..., 4:12, 10:17] = 1, 2
    image = mask * 60.0 + np.random.default_rng(0).normal(100, 5, shape)
    return (np.stack([image + k for k in range(channels)]) if channels else image).astype(np.float32), mask


@pytest.mark.parametrize(
    ("shape", "channels", "rank"), [((20, 24), 0, 2), ((20, 24), 3, 2), ((20, 24), 2, 2), ((6, 20, 24), 0, 3)]
)
def test_rank_of_images_is_that_of_the_masks(shape: tuple[int, ...], channels: int, rank: int) -> None:
    image, mask = _pair(*shape, channels=channels)
    model = septum.train([image, image + 1], [mask, mask], kind="objects", **SMALL)
    assert model.rank == rank
    assert model.header.network.channels == max(1, channels)
    assert septum.predict(model, image).shape == shape
    assert septum.predict(model, image, output="probabilities").shape == shape


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(9, 11), (5, 9, 11)])
def test_arrays_become_files_that_name_their_axes(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    full = (channels, *shape) if channels else shape
    array = np.random.default_rng(0).normal(size=(2, *full)).astype(np.float32)
    folder, _ = write_pairs(array, np.zeros((2, *shape), np.uint8), tmp_path)
    for number in range(2):
        found = read_image(folder / f"image-{number:06d}.tif")
        assert found.axes == ("CYX" if len(shape) == 2 else "CZYX")
        np.testing.assert_array_equal(found.array, array[number] if channels else array[number][None])


def test_arrays_of_other_dimensions_are_refused() -> None:
    image, mask = _pair(20, 24)
    with pytest.raises(DataError, match="images: number 1 has 4 dimensions"):
        septum.train([image, image[None, None]], [mask, mask], **SMALL)


@pytest.mark.parametrize(
    ("wrong", "given", "expected"),
    [
        ({"steps": 0}, "steps 0", "greater than or equal to 1"),
        ({"folds": 1}, "folds 1", "greater than or equal to 2"),
        ({"group": "("}, "group '('", "a regular expression"),
        ({"preset": "best"}, "preset 'best'", "'auto', 'paper' or 'fiji'"),
        ({"ignore_values": ["a"]}, "ignore_values 'a'", "a valid integer"),
        ({"steps": 1, "budget_s": 5.0}, "both --steps and --budget", "one of them"),
    ],
)
def test_wrong_settings_are_a_usage_error_that_names_the_keyword(
    tmp_path: Path, wrong: dict[str, Any], given: str, expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        septum.train(tmp_path, **wrong)
    assert caught.value.given == given
    assert caught.value.expected.startswith(expected)


def test_keywords_of_train_are_the_options_of_the_command() -> None:
    options = {place[-1] for place, _, _ in options_of(RunSettings)}
    keywords = set(inspect.signature(septum.train).parameters)
    assert keywords - {"images", "masks", "verbose"} == options - {"data", "devices"}


def test_keywords_of_evaluate_are_the_options_of_the_command() -> None:
    options = {
        flag(place, option).removeprefix("--").replace("-", "_") for place, _, option in options_of(EvaluateSettings)
    }
    assert set(inspect.signature(septum.evaluate).parameters) == {name.lower() for name in options}


def test_train_passes_each_keyword_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[TrainSettings, int | None]] = []

    def run_training(settings: TrainSettings, *, folds: int | None, **_: object) -> Iterator[Event]:
        seen.append((settings, folds))
        yield Warned("nothing is trained")

    monkeypatch.setattr("septum.api.run_training", run_training)
    monkeypatch.setattr("septum.api.open_model", lambda *_: None)
    values: dict[str, Any] = {"preset": "paper", "seed": 7, "kind": "classes", "width": 16, "depth": 2, "tile": 188}
    values |= {"batch": 3, "until_plateau": True, "axes": "ZYX", "precision": "float32", "device": "cpu"}
    values |= {"deterministic": True, "compile": True}
    septum.train(tmp_path, budget_s=60, folds=3, ignore_values=[0, 255], set=["a=1"], group="p.", **values)
    settings, folds = seen[0]
    assert settings.model_dump(include=set(values)) == values
    assert (settings.budget_s, settings.steps, folds, settings.split.group) == (60, None, 3, "p.")
    assert (settings.ignore_values, settings.set, settings.data) == ((0, 255), ("a=1",), (tmp_path,))
    septum.train(tmp_path, steps=3)
    assert (seen[1][0].steps, seen[1][0].budget_s) == (3, None)
    septum.train(tmp_path)
    assert (seen[2][0].steps, seen[2][0].budget_s) == (None, 1800)
    septum.train(tmp_path, budget_s=float("inf"))
    assert seen[3][0].budget_s is None and seen[3][0].ends_at_plateau


def test_train_writes_the_report_that_the_command_writes(tmp_path: Path) -> None:
    image, mask = _pair(20, 24)
    model = septum.train([image, image + 1, image + 2], [mask] * 3, kind="objects", out=tmp_path / "run", **SMALL)
    assert {"model.safetensors", "report.html", "log.csv"} <= {path.name for path in (tmp_path / "run").iterdir()}
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        again = septum.open_model(path)
        np.testing.assert_array_equal(septum.predict(again, image), septum.predict(model, image))
    np.testing.assert_array_equal(septum.predict(tmp_path / "run", image), septum.predict(model, image))


def test_folds_train_a_model_of_several_networks(tmp_path: Path) -> None:
    image, mask = _pair(20, 24)
    model = septum.train([image, image + 1], [mask] * 2, kind="objects", out=tmp_path / "run", folds=2, **SMALL)
    assert model.header.members == 2
    assert (tmp_path / "run" / "fold-2" / "model.safetensors").exists()


def test_unknown_output_is_refused_with_the_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="output probs") as caught:
        septum.predict(tmp_path / "none.safetensors", np.zeros((4, 4)), output="probs")  # type: ignore[arg-type]
    assert caught.value.expected == "one of labels, classes, probabilities"


def test_evaluate_leaves_ignored_pixels_out(tmp_path: Path) -> None:
    _, mask = _pair(20, 24)
    wrong = np.where(mask == 2, 0, mask)
    for name, array in (("truth", mask), ("found", wrong), ("ignore", (mask == 2).astype(np.uint8))):
        write_image(tmp_path / f"{name}.tif", array, axes="YX")
    files = tmp_path / "found.tif", tmp_path / "truth.tif"

    def recall(**options: object) -> float:
        found = septum.evaluate(*files, metrics=["instances"], **options)
        return next(s.value for s in found.results[0].scores if s.name == "recall@0.50")

    assert recall() == 0.5
    assert recall(ignore_mask=tmp_path / "ignore.tif") == 1.0


def test_a_missing_attribute_is_named() -> None:
    with pytest.raises(AttributeError, match="fit"):
        septum.fit  # noqa: B018


def _warned_of(model: Any, *images: object) -> list[warnings.WarningMessage]:
    """Predict the images one after the other and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for image in images:
            septum.predict(model, image)
    return caught


def test_unfamiliar_images_warn_once_for_each_cause(tmp_path: Path) -> None:
    image, mask = _pair(20, 24)
    for n in range(2):
        for role, array in (("images", image + n), ("masks", mask)):
            (tmp_path / role).mkdir(exist_ok=True)
            write_image(tmp_path / role / f"{n}.tif", array, axes="YX", pixel_size_um={"Y": 0.3, "X": 0.3})
    model = septum.train(tmp_path, out=tmp_path / "run", kind="objects", **SMALL)
    like = tmp_path / "images/0.tif"
    assert _warned_of(model, image, image + 1, like) == []
    write_image(tmp_path / "large.tif", image, axes="YX", pixel_size_um={"Y": 0.9, "X": 0.9})
    flat = (mask > 0).astype(np.uint8)
    # A warning that is made an error is told again, as the image was not predicted.
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnfamiliarImageWarning)
            with pytest.raises(UnfamiliarImageWarning, match="only 2 gray values"):
                septum.predict(model, flat)
    caught = _warned_of(model, flat, tmp_path / "large.tif", flat, like, tmp_path / "large.tif")
    assert [w.category for w in caught] == [UnfamiliarImageWarning, UnfamiliarImageWarning]
    assert {w.filename for w in caught} == {__file__}
    first, second = (str(w.message) for w in caught)
    assert first.startswith("the image: only 2 gray values, the training images have ")
    assert second.startswith(f"{tmp_path / 'large.tif'}: pixels are 3 times larger than in training")
    assert first.endswith("(reported once, also for other images of this kind)")
    # The same model from its file is the same model.
    assert _warned_of(tmp_path / "run/model.safetensors", flat, tmp_path / "large.tif") == []
