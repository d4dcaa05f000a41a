"""Label errors: disagreement of masks and predictions, and planted errors that are found in a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from septum.check.check import check
from septum.cli.main import main
from septum.errors import SeptumError, UsageError
from septum.experiments.cross_validation import train_folds
from septum.io.files import write_image
from septum.review.label_issues import LabelIssues, class_disagreements, find_label_issues, object_disagreements
from septum.training.loop import train
from septum.training.settings import TrainSettings


def _scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mask, prediction and probability of six squares of 100 pixels: equal, with a confidence of 0.9."""
    labels = np.zeros((60, 90), np.int32)
    for number in range(6):
        y, x = 5 + 30 * (number // 3), 5 + 30 * (number % 3)
        labels[y : y + 10, x : x + 10] = number + 1
    return labels, labels.copy(), np.where(labels > 0, 0.9, 0.1).astype(np.float32)


def test_equal_masks_have_no_disagreement() -> None:
    truth, predicted, foreground = _scene()
    assert object_disagreements(truth, predicted, foreground, typical_px=100) == []


def test_removed_added_and_shifted_objects_are_found_by_kind_and_place() -> None:
    truth, predicted, foreground = _scene()
    truth[truth == 2] = 0  # missing in the mask
    truth[20:28, 70:80] = 9  # nothing is there
    truth[truth == 5] = 0
    truth[35:45, 39:49] = 5  # 4 pixels off
    foreground[predicted == 2] = 0.99
    removed, added, moved = object_disagreements(truth, predicted, foreground, typical_px=100)
    assert (removed.kind, removed.label, removed.predicted) == ("missing", 0, 2)
    assert (removed.start, removed.stop, removed.area_px) == ((5, 35), (15, 45), 100)
    assert (removed.confidence, removed.strength) == (pytest.approx(0.99), pytest.approx(0.98))
    assert (added.kind, added.label, added.predicted) == ("extra", 9, 0)
    assert (added.start, added.stop, added.area_px) == ((20, 70), (28, 80), 80)
    assert (added.confidence, added.strength) == (pytest.approx(0.9), pytest.approx(0.8 * 0.8))
    assert (moved.kind, moved.label, moved.predicted) == ("outline", 5, 5)
    assert (moved.area_px, moved.strength) == (80, pytest.approx(0.8 * 0.8))


def test_unsure_predictions_and_unknown_pixels_are_no_issue() -> None:
    truth, predicted, foreground = _scene()
    truth[truth == 2] = 0
    foreground[predicted == 2] = 0.5
    assert object_disagreements(truth, predicted, foreground, typical_px=100)[0].strength == 0
    truth[predicted == 2] = -1
    assert object_disagreements(truth, predicted, foreground, typical_px=100) == []


def test_a_different_division_of_objects_is_not_judged() -> None:
    truth, predicted, foreground = _scene()
    truth[5:15, 10:15] = np.where(truth[5:15, 10:15] == 1, 11, 0)
    predicted[35:45, 10:15] = np.where(predicted[35:45, 10:15] == 4, 14, 0)
    assert object_disagreements(truth, predicted, foreground, typical_px=100) == []


def test_pixels_that_a_large_prediction_adds_count_for_one_object_only() -> None:
    truth, predicted, foreground = _scene()
    predicted[5:15, 5:45] = 1  # over the first two, and the 20 pixels between them
    foreground[5:15, 5:45] = 0.9
    (found,) = object_disagreements(truth, predicted, foreground, typical_px=100)
    assert (found.kind, found.label, found.predicted, found.area_px) == ("outline", 1, 1, 200)


def test_volumes_are_compared_in_the_same_way() -> None:
    truth, predicted, foreground = (np.repeat(a[None], 4, axis=0) for a in _scene())
    truth[truth == 2] = 0
    (found,) = object_disagreements(truth, predicted, foreground, typical_px=400)
    assert (found.start, found.stop, found.area_px) == ((0, 5, 35), (4, 15, 45), 400)


def test_classes_are_compared_by_pieces_without_thin_rims() -> None:
    truth = np.zeros((40, 50), np.int32)
    truth[5:25, 5:25] = 1
    truth[30:38, 30:45] = 2
    predicted = truth.copy()
    predicted[5:25, 25] = 1  # a rim of one pixel
    predicted[10:20, 35:45] = 2  # missing in the mask
    predicted[30:38, 30:45] = 1  # another class
    probabilities = np.full((3, 40, 50), 0.05, np.float32)
    np.put_along_axis(probabilities, predicted[None], 0.9, axis=0)
    probabilities[2, 10:20, 35:45] = 0.95
    first, second = class_disagreements(truth, predicted, probabilities, typical_px=200)
    assert (first.label, first.predicted, first.start, first.stop) == (2, 1, (30, 30), (38, 45))
    assert (first.area_px, first.strength) == (120, pytest.approx(0.8 * 0.6, rel=1e-5))
    assert (second.label, second.predicted, second.area_px) == (0, 2, 100)
    assert second.strength == pytest.approx(0.9 * 0.5, rel=1e-5)


def test_two_classes_take_one_probability() -> None:
    truth = np.zeros((20, 20), np.int32)
    predicted = np.zeros((20, 20), np.int32)
    predicted[4:14, 4:14] = 1
    probability = np.where(predicted == 1, 0.8, 0.3).astype(np.float32)[None]
    (found,) = class_disagreements(truth, predicted, probability, typical_px=100)
    assert (found.confidence, found.area_px) == (pytest.approx(0.8), 100)


SIDE = 64


def _squares(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four bright squares, one in each quarter."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(4):
        y, x = rng.integers(4, 12, 2) + 32 * np.array([number // 2, number % 2])
        labels[y : y + 14, x : x + 14] = 10 * seed + number + 1
    return (60.0 * (labels > 0) + rng.normal(60, 6, labels.shape)).astype(np.float32), labels


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return data with an object removed from mask b and one added to mask e, and a run of folds on them."""
    folder = tmp_path_factory.mktemp("planted")
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
    for seed, name in enumerate("abcdef"):
        image, labels = _squares(seed)
        if name == "b":
            labels[labels == 13] = 0
        if name == "e":
            image[labels == 42] -= 60
        np.save(folder / "data" / "images" / f"{name}.npy", image)
        np.save(folder / "data" / "masks" / f"{name}.npy", labels)
    small = {"steps": 60, "width": 4, "depth": 2, "tile": 64, "batch": 2, "device": "cpu"}
    settings = TrainSettings.model_validate({"data": (folder / "data",), "out": folder / "run", **small})
    list(train_folds(settings, 2))
    return folder / "data", folder / "run"


def _issues(data: Path, run: Path) -> LabelIssues:
    *_, last = find_label_issues(check([data]), run, device="cpu")
    assert isinstance(last, LabelIssues)
    return last


def test_planted_errors_are_ranked_first(planted: tuple[Path, Path]) -> None:
    data, run = planted
    found = _issues(data, run)
    assert (found.judged, found.unseen) == (6, 0)
    first = {(s.image, s.disagreement.kind) for s in found.issues[:2]}
    assert first == {("b", "missing"), ("e", "extra")}
    for issue in found.issues[:2]:
        place = issue.disagreement
        true = _squares({"b": 1, "e": 4}[issue.image])[1] == {"b": 13, "e": 42}[issue.image]
        box = tuple(slice(a, b) for a, b in zip(place.start, place.stop, strict=True))
        assert true[box].sum() > 0.8 * true.sum()
        assert place.confidence > 0.7
        assert issue.mask == data / "masks" / f"{issue.image}.npy"
    strengths = [s.disagreement.strength for s in found.issues]
    assert strengths == sorted(strengths, reverse=True)


def test_missing_predictions_are_made_by_the_network_that_was_not_trained_on_the_image(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = planted
    shutil.copytree(run, tmp_path / "run")
    kept = tmp_path / "run" / "out-of-fold" / "probabilities"
    write_image(kept / "a.tif", np.zeros((SIDE, SIDE), np.float32), axes="YX")
    # The predictions in the run folder are used.
    assert [s.image for s in _issues(data, tmp_path / "run").issues[:4]] == list("aaaa")
    shutil.rmtree(kept.parent)
    assert _issues(data, tmp_path / "run") == _issues(data, run)


def test_the_command_lists_the_planted_errors(planted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, run = planted
    with pytest.raises(SystemExit):
        main(["review", str(run), str(data), "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert {one["image"] for one in listed["labels"][:2]} == {"b", "e"}
    with pytest.raises(SystemExit):
        main(["review", str(run), str(data)])
    lines = capsys.readouterr().out.splitlines()
    assert any("b  " in line and "an object that the mask lacks" in line for line in lines)
    assert any("e  " in line and "no object where the mask has number 42" in line for line in lines)
    assert lines[-1].endswith(f"in 6 images that {run} had not seen")


def test_the_held_out_images_of_a_single_training_are_judged(disks: Path, tmp_path: Path) -> None:
    small = {"steps": 2, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}
    list(train(TrainSettings.model_validate({"data": (disks,), "out": tmp_path / "run", **small})))
    found = _issues(disks, tmp_path / "run")
    assert (found.judged, found.unseen) == (1, 4)


def test_data_of_another_run_are_refused(planted: tuple[Path, Path], disks: Path, tmp_path: Path) -> None:
    data, run = planted
    other = tmp_path / "other"
    for kind in ("images", "masks"):
        (other / kind).mkdir(parents=True)
        for file in (data / kind).iterdir():
            shutil.copy(file, other / kind / f"new-{file.name}")
    with pytest.raises(UsageError, match="none of these images was held out there"):
        list(find_label_issues(check([other]), run, device="cpu"))
    with pytest.raises(UsageError, match="was trained on objects"):
        list(find_label_issues(check([data], kind="classes"), run, device="cpu"))
    with pytest.raises(SeptumError):
        list(find_label_issues(check([data]), tmp_path / "no-run", device="cpu"))
