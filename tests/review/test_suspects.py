"""Suspicious labels: errors that were planted in the masks are named first, by image and place."""

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
from septum.io.write import write_image
from septum.review.suspects import LabelIssues, find_label_issues
from septum.train.loop import train
from septum.train.settings import TrainSettings

SIDE = 64


def _scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four bright squares, one in each quarter."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(4):
        y, x = rng.integers(4, 12, 2) + 32 * np.array([number // 2, number % 2])
        labels[y : y + 14, x : x + 14] = 10 * seed + number + 1
    return (60.0 * (labels > 0) + rng.normal(60, 6, labels.shape)).astype(np.float32), labels


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data with an object removed from b and one added to e, and a run of folds on them."""
    folder = tmp_path_factory.mktemp("planted")
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
    for seed, name in enumerate("abcdef"):
        image, labels = _scene(seed)
        if name == "b":
            labels[labels == 13] = 0
        if name == "e":
            image[labels == 42] -= 60
        np.save(folder / "data" / "images" / f"{name}.npy", image)
        np.save(folder / "data" / "masks" / f"{name}.npy", labels)
    small = {"steps": 100, "width": 4, "depth": 2, "tile": 64, "batch": 2, "device": "cpu"}
    settings = TrainSettings.model_validate({"data": (folder / "data",), "out": folder / "run", **small})
    list(train_folds(settings, 2))
    return folder / "data", folder / "run"


def _found(data: Path, run: Path) -> LabelIssues:
    *_, last = find_label_issues(check([data]), run, device="cpu")
    assert isinstance(last, LabelIssues)
    return last


def test_planted_errors_come_first(planted: tuple[Path, Path]) -> None:
    data, run = planted
    found = _found(data, run)
    assert (found.judged, found.unseen) == (6, 0)
    first = {(s.image, s.doubt.kind) for s in found.found[:2]}
    assert first == {("b", "missing"), ("e", "extra")}
    for suspect in found.found[:2]:
        doubt = suspect.doubt
        true = _scene({"b": 1, "e": 4}[suspect.image])[1] == {"b": 13, "e": 42}[suspect.image]
        box = tuple(slice(a, b) for a, b in zip(doubt.start, doubt.stop, strict=True))
        assert true[box].sum() > 0.8 * true.sum()
        assert doubt.confidence > 0.7
        assert suspect.mask == data / "masks" / f"{suspect.image}.npy"
    strengths = [s.doubt.strength for s in found.found]
    assert strengths == sorted(strengths, reverse=True)


def test_what_was_not_kept_is_predicted_again_by_the_network_that_has_not_seen_it(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = planted
    shutil.copytree(run, tmp_path / "run")
    kept = tmp_path / "run" / "out-of-fold" / "probabilities"
    write_image(kept / "a.tif", np.zeros((SIDE, SIDE), np.float32), axes="YX")
    assert [s.image for s in _found(data, tmp_path / "run").found[:4]] == list("aaaa")  # what is kept is judged
    shutil.rmtree(kept.parent)
    assert _found(data, tmp_path / "run") == _found(data, run)


def test_the_command_names_them(planted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, run = planted
    with pytest.raises(SystemExit):
        main(["check", str(data), "--run", str(run), "--json"])
    said = json.loads(capsys.readouterr().out)["suspects"]
    assert {one["image"] for one in said["labels"][:2]} == {"b", "e"}
    with pytest.raises(SystemExit):
        main(["check", str(data), "--run", str(run)])
    lines = capsys.readouterr().out.splitlines()
    assert any("b  " in line and "an object that the mask lacks" in line for line in lines)
    assert any("e  " in line and "no object where the mask has number 42" in line for line in lines)
    assert lines[-1].endswith(f"in 6 images that {run} had not seen")


def test_of_a_single_training_the_held_out_images_are_judged(disks: Path, tmp_path: Path) -> None:
    small = {"steps": 2, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}
    list(train(TrainSettings.model_validate({"data": (disks,), "out": tmp_path / "run", **small})))
    found = _found(disks, tmp_path / "run")
    assert (found.judged, found.unseen) == (1, 4)


def test_what_cannot_be_judged_is_refused(planted: tuple[Path, Path], disks: Path, tmp_path: Path) -> None:
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
