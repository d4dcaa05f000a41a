"""Each file is decoded once: by the check, whose arrays become those of training and of its report."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from septum.check.check import check
from septum.check.repair import fix
from septum.check.samples import load_data, load_samples, open_sample
from septum.experiments.events import ReportWritten
from septum.experiments.run import run_training
from septum.io import files as io_files
from septum.io.files import read_image, write_image
from septum.kept import Memory
from septum.training.settings import TrainSettings

SIDE = 48

# Folders whose image files are watched, with the number of times that each file was opened.
WATCHED: dict[Path, Counter[str]] = {}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each file is decoded, by its folder and name."""
    counts: Counter[str] = Counter()
    open_image = io_files.open_image

    def counted(path: Path, **options: Any) -> Any:
        counts[f"{Path(path).parent.name}/{Path(path).name}"] += 1
        return open_image(path, **options)

    monkeypatch.setattr(io_files, "open_image", counted)
    return counts


def make(folder: Path, count: int = 5, *, dtype: type = np.uint8, suffix: str = ".tif") -> Path:
    for number in range(count):
        rng = np.random.default_rng(number)
        labels = ndimage.label(ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 3) > 0.03)[0]
        image = 40 + 120 * (labels > 0) + rng.integers(0, 30, labels.shape)
        for role, array in (("images", image.astype(dtype)), ("masks", labels.astype(np.uint16))):
            (folder / role).mkdir(parents=True, exist_ok=True)
            write_image(folder / role / f"cell{number}{suffix}", array, axes="YX")
    return folder


@contextmanager
def opened_files(folder: Path) -> Iterator[Counter[str]]:
    """Count how often the operating system is asked to open each image file, by its folder and name."""
    _watch()
    WATCHED[folder] = Counter()
    try:
        yield WATCHED[folder]
    finally:
        del WATCHED[folder]


@cache
def _watch() -> None:
    """Begin to count once in a process: an audit hook cannot be removed."""
    sys.addaudithook(_count_open)


def _count_open(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED and event == "open" and isinstance(arguments[0], str | Path):
        path = Path(arguments[0])
        for folder, counts in WATCHED.items():
            if path.suffix and path.is_relative_to(folder):
                counts[f"{path.parent.name}/{path.name}"] += 1


def all_files(folder: Path) -> dict[str, int]:
    return {f"{role}/{path.name}": 1 for role in ("images", "masks") for path in (folder / role).iterdir()}


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_the_command_train_opens_training_and_held_out_files_as_often_as_one_reading(
    tmp_path: Path, decoded: Counter[str], suffix: str
) -> None:
    data = make(tmp_path / "data", suffix=suffix)
    with opened_files(data) as once:  # to find the format, and again by a library
        for path in data.rglob(f"*{suffix}"):
            read_image(path, labels=path.parent.name == "masks")
    decoded.clear()
    settings = TrainSettings(data=(data,), out=tmp_path / "run", steps=3, width=2, depth=1, batch=1, device="cpu")
    with opened_files(data) as reads:
        events = list(run_training(settings))
    assert any(isinstance(event, ReportWritten) for event in events)
    parts = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert parts["held_out"]
    assert decoded == all_files(data)
    assert reads == once
    assert set(reads) == set(all_files(data))


def test_a_copy_of_a_data_set_decodes_each_file_once(tmp_path: Path, decoded: Counter[str]) -> None:
    data = make(tmp_path / "data")
    for path in (data / "masks").iterdir():
        tifffile.imwrite(path, tifffile.imread(path).astype(np.float32))
    list(fix(check([data]), tmp_path / "copy"))
    assert decoded == all_files(data)


def test_pages_that_are_channels_and_near_duplicates_are_decoded_once(tmp_path: Path, decoded: Counter[str]) -> None:
    data = make(tmp_path / "data")
    for path in (data / "images").iterdir():
        image = tifffile.imread(path)
        path.unlink()
        np.save(path.with_suffix(".npy"), np.stack([image, image // 3]))
    np.save(data / "images/cell4.npy", np.clip(np.load(data / "images/cell0.npy") * 0.9, 0, 255).astype(np.uint8))
    report = check([data])
    assert {"pages-channels", "near-duplicate"} <= {issue.code for issue in report.issues}
    assert all(sample.image.shape == (2, SIDE, SIDE) for sample in load_samples(report))
    assert decoded == all_files(data)


def test_a_mask_of_one_file_per_object_and_a_field_of_view_are_decoded_once(
    tmp_path: Path, decoded: Counter[str]
) -> None:
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE)).astype(np.uint8)
        for role, array in (("images", image), ("1st_manual", 255 * (image > 128)), ("mask", np.full_like(image, 255))):
            (tmp_path / "eyes" / role).mkdir(parents=True, exist_ok=True)
            name = {"images": "training", "1st_manual": "manual1", "mask": "training_mask"}[role]
            suffix = ".png" if role == "images" else ".gif"
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / "eyes" / role / f"{21 + number}_{name}{suffix}")
        for place in range(3):
            spot = np.zeros((SIDE, SIDE), np.uint8)
            spot[5 + 10 * place : 12 + 10 * place, 5:20] = 255
            folder = tmp_path / "objects" / "masks" / f"cell{number}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(spot).save(folder / f"{number}{place}.png")
        (tmp_path / "objects" / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "objects" / "images" / f"cell{number}.png")
    for folder in ("eyes", "objects"):
        decoded.clear()
        assert len(load_data(check([tmp_path / folder])).samples) == 3
        assert set(decoded.values()) == {1}
        assert len(decoded) == len([p for p in (tmp_path / folder).rglob("*") if p.is_file()])


def test_samples_are_the_arrays_of_the_check_and_not_copies(tmp_path: Path) -> None:
    report = check([make(tmp_path, dtype=np.float32)])
    for pair, sample in zip(report.pairs, load_samples(check([tmp_path])), strict=True):
        image = report.files.image(pair.image)
        labels = report.files.labels(pair.mask, pair.grid)[0]
        np.testing.assert_array_equal(sample.image, image.array)
        own = next(s for s in load_samples(report) if s.name == sample.name)
        assert np.shares_memory(own.image, image.array)
        assert np.shares_memory(own.mask, labels.array)


def test_files_that_do_not_fit_into_memory_are_read_again(tmp_path: Path, decoded: Counter[str]) -> None:
    data = make(tmp_path)
    two_pairs = 2 * SIDE**2 * (1 + 2 + 4)  # uint8 image, uint16 mask, int32 labels
    samples = list(load_samples(check([data], memory=Memory(kept_bytes=two_pairs))))
    assert Counter(decoded.values()) == {1: 6, 2: 4}  # the first two pairs fit, and the latest is kept besides
    for sample, other in zip(samples, load_samples(check([data], memory=Memory(kept_bytes=0))), strict=True):
        np.testing.assert_array_equal(sample.image, other.image)
        np.testing.assert_array_equal(sample.mask, other.mask)


def test_held_samples_stay_in_memory_and_others_go(tmp_path: Path, decoded: Counter[str]) -> None:
    data = make(tmp_path)
    report = check([data])
    loaded = load_data(report)
    report.files.hold(["cell1"])
    del loaded
    assert list(report.files.samples) == ["cell1"]
    before = decoded.copy()
    assert open_sample(report, "cell1").name == "cell1"
    assert decoded == before
    assert open_sample(report, "cell2").name == "cell2"
    assert decoded["images/cell2.tif"] == decoded["masks/cell2.tif"] == 2
