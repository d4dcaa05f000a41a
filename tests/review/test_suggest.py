"""Images to annotate next: an image unlike the training images is ranked first, with its region."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from septum.errors import FileError, SeptumError
from septum.experiments.seeds import train_seeds
from septum.io.files import write_image
from septum.prediction.events import ImageFailed
from septum.prediction.model import open_model
from septum.review.disagreement import mutual_information
from septum.review.settings import SuggestSettings
from septum.review.suggest import Judged, Suggested, suggest, votes
from septum.training.settings import TrainSettings


def like_training(seed: int, side: int = 44) -> np.ndarray:
    rng = np.random.default_rng(100 + seed)
    y, x = np.mgrid[:side, :side]
    cy, cx = rng.uniform(14, 28, 2)
    found = ((y - cy) ** 2 + (x - cx) ** 2 < 49) | ((y - cy) ** 2 + (x - cx - 14) ** 2 < 49)
    return (100.0 * found + rng.normal(50, 5, found.shape)).astype(np.float32)


def unlike(side: int = 44) -> np.ndarray:
    """Return noise that no training image has."""
    return np.random.default_rng(0).normal(90, 40, (side, side)).astype(np.float32)


@pytest.fixture(scope="module")
def run(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suggest") / "run"
    small = {"steps": 20, "width": 4, "depth": 1, "tile": 44, "batch": 2, "device": "cpu"}
    list(train_seeds(TrainSettings.model_validate({"data": (disks,), "out": out, **small}), 3))
    return out


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    for number in range(4):
        np.save(folder / f"{'adef'[number]}.npy", like_training(number))
    np.save(folder / "c-unlike.npy", unlike())
    return folder


def _suggested(model: Path, *inputs: Path, **changes: object) -> Suggested:
    given = {"model": model, "inputs": tuple(map(str, inputs)), "device": "cpu"}
    *_, last = suggest(SuggestSettings.model_validate(given | changes))
    assert isinstance(last, Suggested)
    return last


@pytest.mark.parametrize("model", ["model.safetensors", "seed-0/model.safetensors", "seed-1/model.safetensors"])
def test_an_image_unlike_the_training_images_is_ranked_first(run: Path, new: Path, model: str) -> None:
    found = _suggested(run / model, new)
    assert found.suggestions[0].path.name == "c-unlike.npy"
    scores = [one.disagreement for one in found.suggestions]
    assert scores == sorted(scores, reverse=True)
    assert (len(scores), found.judged, found.failed) == (5, 5, 0)
    words = "the 3 networks of the model" if model == "model.safetensors" else "8 rotated and mirrored versions"
    assert words in found.voters


def test_the_region_is_where_the_image_is_unlike(run: Path, tmp_path: Path) -> None:
    image = np.concatenate([like_training(0), like_training(1), like_training(2)], axis=1)
    image[:, 44:88] = unlike()
    np.save(tmp_path / "wide.npy", image)
    found = _suggested(run / "model.safetensors", tmp_path / "wide.npy", region=32)
    best = found.suggestions[0].regions[0]
    assert tuple(b - a for a, b in zip(best.start, best.stop, strict=True)) == (32, 32)
    assert 40 <= best.start[1] <= 60
    boxes = found.suggestions[0].regions
    assert [box.disagreement for box in boxes] == sorted((box.disagreement for box in boxes), reverse=True)


def test_votes_are_those_of_the_networks_or_of_rotated_versions(run: Path) -> None:
    model = open_model(run / "model.safetensors", "cpu")
    singles = [open_model(run / f"seed-{s}" / "model.safetensors", "cpu") for s in range(3)]
    image = like_training(7)[None]
    together = list(votes(model, image))
    assert len(together) == 3
    turned = list(votes(singles[0], image))
    assert len(turned) == 8
    np.testing.assert_allclose(turned[0], together[0], atol=2e-6)
    for vote in (*together, *turned):
        np.testing.assert_allclose(vote.sum(axis=0), 1, atol=1e-5)


def test_the_disagreement_is_that_of_the_votes(run: Path, new: Path) -> None:
    model = run / "model.safetensors"
    found = _suggested(model, new / "a.npy").suggestions[0]
    information, _ = mutual_information(votes(open_model(model, "cpu"), np.load(new / "a.npy")[None]))
    np.testing.assert_array_equal(found.information, information)


def test_frames_are_ranked_and_one_of_adjacent_ones_is_suggested(run: Path, tmp_path: Path) -> None:
    film = np.stack([like_training(0), unlike(), unlike() + 1, like_training(1), like_training(2), like_training(3)])
    write_image(tmp_path / "film.tif", film, axes="TYX")
    found = _suggested(run / "model.safetensors", tmp_path / "film.tif", number=2)
    places = [one.place["T"] for one in found.suggestions]
    assert places[0] in (1, 2)
    assert abs(places[1] - places[0]) > 1


def test_an_image_that_fails_is_reported_and_the_others_are_ranked(run: Path, new: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"no image")
    settings = SuggestSettings(
        model=run / "model.safetensors", inputs=(str(tmp_path / "bad.tif"), str(new)), number=2, device="cpu"
    )
    events = list(suggest(settings))
    assert [r.path.name for r in events if isinstance(r, ImageFailed)] == ["bad.tif"]
    assert sum(isinstance(r, Judged) for r in events) == 5
    assert isinstance(events[-1], Suggested)
    assert (len(events[-1].suggestions), events[-1].judged, events[-1].failed) == (2, 5, 1)
    with pytest.raises(FileError, match=r"bad\.tif"):
        list(suggest(settings.model_copy(update={"inputs": (str(tmp_path / "bad.tif"),)})))
    with pytest.raises(SeptumError):
        list(suggest(settings.model_copy(update={"inputs": ("nothing-here",)})))


def test_an_image_that_does_not_fit_into_memory_is_refused(
    run: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("septum.review.suggest.usual_limit", lambda: 0)
    with pytest.raises(SeptumError, match="ranking it takes"):
        list(suggest(SuggestSettings(model=run / "model.safetensors", inputs=(str(new),), device="cpu")))
