"""Objects that are wide for the network are learned and predicted on a coarser grid, in every part of the product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import septum
from septum.arrays.resample import Resampled
from septum.check.check import check
from septum.check.samples import open_sample
from septum.errors import UsageError
from septum.io.files import read_image, write_image
from septum.pairing.sample import Sample, on_grid
from septum.prediction.events import ImageDone
from septum.prediction.model import open_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.report.gallery import predicted_sample

SIDE = 256
NAMES = ("ant", "bee", "cow")  # no sequence
SMALL: dict[str, Any] = {"width": 2, "depth": 2, "tile": 64, "batch": 1, "from_model": "none", "verbose": False}
SMALL |= {"kind": "objects"}


def write_disks(folder: Path, *, diameter: int, images: int = 3) -> Path:
    """Write images of bright disks, four in each, and their masks."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    for name, shift in list(zip(NAMES, (-8, 0, 8), strict=True))[:images]:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for label, (cy, cx) in enumerate([(64, 64), (64, 190), (190, 64), (190, 190)], start=1):
            mask[(y - cy - shift) ** 2 + (x - cx + shift / 2) ** 2 < (diameter / 2) ** 2] = label
        image = 100 * (mask > 0) + rng.normal(50, 5, mask.shape)
        for kind, array in (("images", image.astype(np.float32)), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_image(folder / kind / f"{name}.tif", array, axes="YX")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two steps on disks of 110 pixels."""
    place = tmp_path_factory.mktemp("wide")
    septum.train(write_disks(place / "data", diameter=110), out=place / "run", steps=2, **SMALL)
    return place / "run"


def plan_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "plan.json").read_text()))


def test_wide_objects_are_seen_at_half_their_size_and_the_plan_says_so(run: Path) -> None:
    stored = plan_of(run)
    assert stored["plan"]["scale"] == 0.5
    assert "the network sees images at scale 0.5; pixels below are of that grid" in "\n".join(stored["reasons"])
    header = open_model(run, "cpu").header
    assert header.scale == 0.5
    assert header.domain is not None
    assert header.domain.object_px == pytest.approx(110, abs=2)


@pytest.mark.parametrize(
    ("diameter", "more"), [(60, {}), (110, {"preset": "paper", "tile": 188}), (110, {"set": ("scale=1",)})]
)
def test_narrow_objects_a_published_preset_and_a_request_keep_the_own_grid(
    tmp_path: Path, diameter: int, more: dict[str, Any]
) -> None:
    data = write_disks(tmp_path / "data", diameter=diameter, images=2)
    septum.train(data, out=tmp_path / "run", steps=1, **(SMALL | more))
    assert plan_of(tmp_path / "run")["plan"]["scale"] == 1.0
    assert open_model(tmp_path / "run", "cpu").header.scale == 1.0


@pytest.mark.parametrize("value", ["0.001", "20", "-1", "half"])
def test_a_scale_out_of_range_is_refused_and_leaves_no_run(tmp_path: Path, value: str) -> None:
    data = write_disks(tmp_path / "data", diameter=60, images=2)
    with pytest.raises(UsageError, match=f"scale={value}"):
        septum.train(data, out=tmp_path / "run", steps=1, **(SMALL | {"set": (f"scale={value}",)}))
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_model_to_start_from_does_not_decide_the_grid(run: Path, tmp_path: Path) -> None:
    data = write_disks(tmp_path / "data", diameter=60, images=2)
    more = {"from_model": run / "model.safetensors", "width": None, "depth": None}
    septum.train(data, out=tmp_path / "run", steps=1, **(SMALL | more))
    assert plan_of(tmp_path / "run")["plan"]["scale"] == 1.0


def test_results_are_on_the_grid_of_the_image_and_equal_those_of_the_report(run: Path) -> None:
    data = run.parent / "data"
    report = check((data,))
    model = open_model(run, "cpu")
    for name in NAMES:
        labels = septum.predict(model, data / "images" / f"{name}.tif", scale=1.0)
        assert labels.shape == (SIDE, SIDE)
        probabilities, shown = predicted_sample(model, open_sample(report, name))
        assert probabilities.shape == (1, SIDE // 2, SIDE // 2)
        np.testing.assert_array_equal(shown, labels)


def test_blocks_equal_the_whole_image(run: Path, tmp_path: Path) -> None:
    image = run.parent / "data" / "images" / "ant.tif"
    settings = PredictSettings(model=run, inputs=(str(image),), out=tmp_path, device="cpu", scale=1.0, in_blocks=True)
    (done,) = (event for event in predict_files(settings) if isinstance(event, ImageDone))
    whole = septum.predict(run, image, scale=1.0)
    np.testing.assert_array_equal(read_image(done.output).array.squeeze(), whole)


def test_folds_score_and_write_results_on_the_grid_of_the_image(tmp_path: Path) -> None:
    data = write_disks(tmp_path / "data", diameter=110)
    model = septum.train(data, out=tmp_path / "run", steps=2, folds=3, **SMALL)
    assert (model.header.scale, set(model.header.scores) >= {"AP50"}) == (0.5, True)
    assert read_image(tmp_path / "run" / "out-of-fold" / "ant.tif").array.shape == (1, SIDE, SIDE)


def test_a_sample_on_a_coarser_grid() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(2, 30, 41)).astype(np.float32)
    mask = rng.integers(-1, 5, (30, 41)).astype(np.int32)
    sample = Sample("a", "", 0, image, mask, mask + 1, (0.5, 0.25))
    half = on_grid(sample, 0.5)
    np.testing.assert_array_equal(half.image, Resampled(image, (15, 21))[:, :, :])
    rows, columns = 2 * np.arange(15) + 1, ((np.arange(21) + 0.5) * 41 / 21).astype(int)
    np.testing.assert_array_equal(half.mask, mask[np.ix_(rows, columns)])
    np.testing.assert_array_equal(half.gold, half.mask + 1)
    assert half.spacing_um == (1.0, 0.5)
    assert on_grid(sample, 1.0) is sample
