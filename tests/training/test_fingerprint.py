"""The fingerprint of a data set, compared with values counted by hand, and its description."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.boundaries import touching_ids
from septum.pairing.sample import Sample
from septum.training.events import Planned
from septum.training.fingerprint import compute_fingerprint, has_boundary_lines, has_fixed_orientation
from septum.training.loop import train
from septum.training.settings import TrainSettings


def _sample(mask: np.ndarray, *, low: float = 0.0, high: float = 100.0) -> Sample:
    image = np.linspace(low, high, mask.size, dtype=np.float32).reshape(1, *mask.shape)
    return Sample("a", "", 0, image, mask.astype(np.int32), None, (0.5, 0.5))


def test_objects_are_counted_and_measured() -> None:
    mask = np.zeros((40, 50), int)
    mask[2:12, 2:12], mask[2:12, 12:22], mask[20:30, 20:30] = 1, 5, 7
    mask[12, 22] = 9  # touches 5 at a corner only
    mask[:, 40:] = -1
    assert touching_ids(mask.astype(np.int32)).tolist() == [1, 5]
    found = compute_fingerprint([_sample(mask), _sample(np.zeros((60, 30)), high=1000.0)], "objects", classes=2)
    assert (found.images, found.objects, found.side_range) == (2, 4, ((40, 60), (30, 50)))
    assert (found.sides, found.channels, found.classes, found.anisotropy) == ((50, 40), 1, 2, (1.0, 1.0))
    assert found.touching == 0.5
    assert found.object_px == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert found.shares == pytest.approx((1 - 301 / 3400, 301 / 3400))
    assert found.annotated == pytest.approx(3400 / 3800)
    assert found.contrast == pytest.approx(10.0, rel=0.01)
    text = "\n".join(found.describe())
    assert "2 images of 40..60 x 30..50 pixels, 0.5 x 0.5 um each" in text
    assert "contrast 10 times as high in one image as in another" in text
    assert "4 objects" in text
    assert "50% touch another" in text
    assert "89.5% of the pixels are annotated" in text


@pytest.mark.parametrize(("pierced", "holes", "solid"), [(0, 0.0, True), (1, 0.01, True), (2, 0.02, False)])
def test_objects_with_holes_are_counted(pierced: int, holes: float, *, solid: bool) -> None:
    mask = np.zeros((60, 60), int)
    for number in range(100):
        y, x = 6 * (number // 10), 6 * (number % 10)
        mask[y : y + 5, x : x + 5] = number + 1
        mask[y + 1 : y + 4 : 2, x + 2] = 0 if number < pierced else number + 1  # two holes are one object with holes
    mask[57, 57] = -1  # not annotated: no hole
    found = compute_fingerprint([_sample(mask)], "objects", classes=2)
    assert (found.objects, found.holes, found.solid_objects) == (100, holes, solid)
    assert not compute_fingerprint([_sample(mask > 0)], "classes", classes=2).solid_objects


def test_shares_of_classes() -> None:
    mask = np.zeros((20, 20), int)
    mask[:4], mask[4:5] = 1, 2
    found = compute_fingerprint([_sample(mask)], "classes", classes=3)
    assert found.shares == pytest.approx((0.75, 0.2, 0.05))
    assert "classes fill 75.0%, 20.0%, 5.0% of the pixels" in found.describe()
    assert (found.objects, found.object_px, found.object_range_px) == (0, None, None)


def test_gray_values_are_compared_as_they_are_and_standardized_by_image() -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(6):
        mask = np.zeros((40, 40), np.int32)
        mask[:5] = 1
        mask[20:, : 6 * number + 4] = 2  # a class of any size: it decides mean and deviation of the image
        image = np.array([10.0, 80.0, 200.0])[mask] + rng.normal(0, 4, mask.shape)
        samples.append(Sample(f"{number}", "", 0, image[None].astype(np.float32), mask, None, None))
    found = compute_fingerprint(samples, "classes", classes=3)
    assert found.gray_values is not None
    assert found.gray_values.common > 0.99
    assert found.gray_values.each < 0.9
    whole = np.concatenate([s.image.ravel() for s in samples])
    assert found.common[0] == pytest.approx((whole.mean(), whole.std()), rel=0.02)
    assert compute_fingerprint(samples, "objects", classes=2).gray_values is None


def test_plan_reasons_and_data_are_reported_and_stored(disks: Path, tmp_path: Path) -> None:
    settings = TrainSettings(data=(disks,), out=tmp_path, steps=1, width=2, depth=1, tile=36, set=("weights.w0=0",))
    (lines,) = [r.lines for r in train(settings) if isinstance(r, Planned)]
    text = "\n".join(lines)
    for words in (
        "data: 5 images of 44 x 44 pixels; intensities mostly 38.63 to 157.1",
        "10 objects, mostly 13 to 14 px wide",
        "width 2: asked for",
        "loss: no border weight",
        "augmentation: rotate, mirror, scale 0.8 to 1.25, deform by 10 px, gray values",
        "adamw, rate 0.001, cosine",
    ):
        assert words in text, text
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert stored["reasons"] == list(lines[1:-1])
    assert stored["plan"]["weights"]["w0"] == 0


def _arranged(direction: np.ndarray) -> Sample:
    """Return two disks of classes 1 and 2; `direction` points from the first to the second."""
    place = np.indices((60, 60)) - 30.0
    mask = np.zeros((60, 60), int)
    for value, side in ((1, -10), (2, 10)):
        mask[np.linalg.norm(place - side * direction[:, None, None], axis=0) < 8] = value
    return _sample(mask)


def test_classes_of_fixed_orientation_are_recognized() -> None:
    rng = np.random.default_rng(1)
    angles = rng.uniform(0, 2 * np.pi, 12)
    anyhow = [_arranged(np.array([np.sin(a), np.cos(a)])) for a in angles]
    alike = [_arranged(np.array([np.sin(a), np.cos(a)])) for a in 0.5 + 0.1 * rng.standard_normal(12)]
    around = [_sample(np.where((d := np.hypot(*(np.indices((60, 60)) - c))) < 5, 2, d < 12)) for c in range(20, 40, 2)]
    assert has_fixed_orientation(alike, classes=3)
    assert not has_fixed_orientation(anyhow, classes=3)
    assert not has_fixed_orientation(around, classes=3)  # nuclei in cells
    assert not has_fixed_orientation(alike[:4], classes=3)  # too few images
    assert not has_fixed_orientation([], classes=2)


def test_boundary_lines_are_a_rare_background_between_areas() -> None:
    cells = np.ones((20, 20), int)
    cells[::5], cells[:, ::7] = 0, 0
    assert has_boundary_lines([_sample(cells), _sample(cells)])
    assert not has_boundary_lines([_sample(1 - cells)])
    y, x = np.indices((100, 100))
    for wide in ((y + x < 120), (x > 20), (abs(x - 50) > 10), (np.hypot(y - 50, x - 50) < 43), (x >= 0)):
        assert not has_boundary_lines([_sample(wide.astype(int))])
    far = ((y % 25 < 19) & (x % 25 < 19)).astype(int)  # 58 % of the image in 16 areas, 6 pixels apart
    assert has_boundary_lines([_sample(far)])
    parted = ((y % 22 < 20) & (x % 22 < 20) & (y < 88) & (x < 88)).astype(int)
    assert parted.mean() == 0.64
    assert has_boundary_lines([_sample(parted[:88, :88])])
    assert not has_boundary_lines([_sample(parted)])  # most of the background is a wide margin
    strips = (y % 50 < 36).astype(int)
    assert not has_boundary_lines([_sample(strips)])  # two areas are too few
    for cell, line in ((4, 1), (12, 4), (20, 3)):
        assert has_boundary_lines([_sample(((y % (cell + line) < cell) & (x % (cell + line) < cell)).astype(int))])
    scribbles = np.full((20, 20), -1)
    scribbles[3], scribbles[9:11] = 0, 1
    assert not has_boundary_lines([_sample(scribbles)])  # unknown between strokes
