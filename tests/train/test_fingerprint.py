"""The fingerprint of a data set: figures that can be counted by hand, and the words for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from septum.check.samples import Sample
from septum.train.events import Planned
from septum.train.fingerprint import data_facts, fixed_orientation, lines_between, touching_ids
from septum.train.loop import train
from septum.train.settings import TrainSettings


def _sample(mask: np.ndarray, *, low: float = 0.0, high: float = 100.0) -> Sample:
    image = np.linspace(low, high, mask.size, dtype=np.float32).reshape(1, *mask.shape)
    return Sample("a", "", 0, image, mask.astype(np.int32), None, (0.5, 0.5))


def test_objects_are_counted_measured_and_their_neighbors_found() -> None:
    mask = np.zeros((40, 50), int)
    mask[2:12, 2:12], mask[2:12, 12:22], mask[20:30, 20:30] = 1, 5, 7
    mask[12, 22] = 9  # touches 5 at a corner only
    mask[:, 40:] = -1
    assert touching_ids(mask.astype(np.int32)).tolist() == [1, 5]
    facts = data_facts([_sample(mask), _sample(np.zeros((60, 30)), high=1000.0)], "objects", classes=2)
    assert (facts.images, facts.objects, facts.sides) == (2, 4, ((40, 60), (30, 50)))
    assert facts.touching == 0.5
    assert facts.object_px[1] == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert facts.shares == pytest.approx((1 - 301 / 3400, 301 / 3400))
    assert facts.annotated == pytest.approx(3400 / 3800)
    assert facts.contrast == pytest.approx(10.0, rel=0.01)
    text = "\n".join(facts.lines())
    assert "2 images of 40..60 x 30..50 pixels, 0.5 x 0.5 um each" in text
    assert "contrast 10 times as high in one as in another" in text
    assert "4 objects" in text
    assert "50% touch another" in text
    assert "89.5% of the pixels are annotated" in text


def test_classes_have_shares() -> None:
    mask = np.zeros((20, 20), int)
    mask[:4], mask[4:5] = 1, 2
    facts = data_facts([_sample(mask)], "classes", classes=3)
    assert facts.shares == pytest.approx((0.75, 0.2, 0.05))
    assert "classes fill 75.0%, 20.0%, 5.0% of the pixels" in facts.lines()
    assert json.loads(json.dumps(facts.as_dict()))["objects"] == 0


def test_the_plan_is_said_and_kept_with_its_reasons_and_the_data(disks: Path, tmp_path: Path) -> None:
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
    said = json.loads((tmp_path / "plan.json").read_text())
    assert said["reasons"] == list(lines[1:-1])
    assert said["plan"]["weights"]["w0"] == 0


def _arranged(direction: np.ndarray) -> Sample:
    """Two disks of classes 1 and 2, the second from the first in a direction."""
    place = np.indices((60, 60)) - 30.0
    mask = np.zeros((60, 60), int)
    for value, side in ((1, -10), (2, 10)):
        mask[np.linalg.norm(place - side * direction[:, None, None], axis=0) < 8] = value
    return _sample(mask)


def test_classes_that_lie_the_same_way_around_are_told_from_those_that_lie_anyhow() -> None:
    rng = np.random.default_rng(1)
    angles = rng.uniform(0, 2 * np.pi, 12)
    anyhow = [_arranged(np.array([np.sin(a), np.cos(a)])) for a in angles]
    alike = [_arranged(np.array([np.sin(a), np.cos(a)])) for a in 0.5 + 0.1 * rng.standard_normal(12)]
    around = [_sample(np.where((d := np.hypot(*(np.indices((60, 60)) - c))) < 5, 2, d < 12)) for c in range(20, 40, 2)]
    assert fixed_orientation(alike, classes=3)
    assert not fixed_orientation(anyhow, classes=3)
    assert not fixed_orientation(around, classes=3)  # a nucleus in its cell
    assert not fixed_orientation(alike[:4], classes=3)  # too few to say
    assert not fixed_orientation([], classes=2)


def test_lines_between_areas_are_a_background_that_is_the_rarer_class() -> None:
    cells = np.ones((20, 20), int)
    cells[::5], cells[:, ::7] = 0, 0
    assert lines_between([_sample(cells), _sample(cells)])
    assert not lines_between([_sample(1 - cells)])
    y, x = np.indices((100, 100))
    for wide in ((y + x < 120), (x > 20), (abs(x - 50) > 10), (np.hypot(y - 50, x - 50) < 43), (x >= 0)):
        assert not lines_between([_sample(wide.astype(int))])
    far = ((y % 25 < 19) & (x % 25 < 19)).astype(int)  # 58 % of the image in 16 areas, 6 pixels apart
    assert lines_between([_sample(far)])
    parted = ((y % 22 < 20) & (x % 22 < 20) & (y < 88) & (x < 88)).astype(int)
    assert parted.mean() == 0.64
    assert lines_between([_sample(parted[:88, :88])])
    assert not lines_between([_sample(parted)])  # a wide margin around, which is most of the background
    strips = (y % 50 < 36).astype(int)
    assert not lines_between([_sample(strips)])  # two areas are too few to tell
    for cell, line in ((4, 1), (12, 4), (20, 3)):
        assert lines_between([_sample(((y % (cell + line) < cell) & (x % (cell + line) < cell)).astype(int))])
    scribbles = np.full((20, 20), -1)
    scribbles[3], scribbles[9:11] = 0, 1
    assert not lines_between([_sample(scribbles)])  # of strokes nobody knows
