"""Learning curve: trainings on nested parts of the images, a power law fitted to their scores, a cautious sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import DataError, UsageError
from septum.experiments import learning_curve
from septum.experiments.events import PartStarted, PartTrained
from septum.experiments.learning_curve import (
    describe_gain,
    fit_curve,
    fit_power_law,
    numbers_ahead,
    subsets,
    train_curve,
)
from septum.experiments.series import TimeBudget
from septum.metrics import isbi
from septum.metrics.contingency import table
from septum.prediction.model import open_model
from septum.report.curve import Curve
from septum.report.gallery import ScoredSample
from septum.report.summary import RunReport, metrics
from septum.training.events import Planned, Step, Trained
from septum.training.settings import TrainSettings

SIZES = [4, 8, 16, 32]
IMAGES = np.array([4.0, 8.0, 16.0, 32.0])


def _scored(number: int, seg: float) -> ScoredSample:
    """An image of ten objects of 100 pixels, each found with this IoU, above 0.5."""
    truth = np.repeat(np.arange(1, 11, dtype=np.int32), 100)
    predicted = np.where(np.arange(1000) % 100 < round(100 * seg), truth, 0)
    found = table(truth, predicted)
    return ScoredSample(f"{number}", "", (10, 100), 0.1, found, found, np.zeros((15, 3)))


def _curve(*means: float, images: int = 12, noise: float = 0.02) -> Curve:
    """Return the curve of models whose scores on single images scatter around `means`, alike for each image."""
    rng = np.random.default_rng(3)
    own = rng.normal(0, noise, images)
    scored = [[_scored(k, min(1.0, mean + own[k])) for k in range(images)] for mean in means]
    header: Any = SimpleNamespace(kind="objects", class_values=(0, 1))
    return fit_curve(SIZES, scored, header, seed=0)


def test_a_rising_curve_is_extrapolated_with_an_interval_that_holds_the_truth() -> None:
    found = _curve(*(0.9 - 0.6 * n**-0.7 for n in SIZES))
    n, value, low, high = found.ahead[-1]
    assert (n, found.score, found.clear) == (64, "SEG", True)
    assert value == pytest.approx(0.9 - 0.6 * 64**-0.7, abs=0.012)
    assert found.values[-1] < low <= value <= high < 0.93
    assert found.ahead[0][0] == 52
    assert found.words == (
        f"20 more images would raise SEG from {found.values[-1]:.2f} to about {found.ahead[0][1]:.2f} "
        f"({found.ahead[0][2]:.2f}-{found.ahead[0][3]:.2f})"
    )


def test_the_curve_of_areas_between_lines_is_of_v_rand() -> None:
    """Four areas are separated better and better, while the number of correct line pixels hardly changes."""
    truth = np.ones((32, 32), np.int32)
    truth[15:17], truth[:, 15:17] = 0, 0

    def scored(number: int, gaps: int) -> ScoredSample:
        predicted = truth.copy()
        for row, column in [(15, 2), (15, 30), (2, 15), (30, 15)][:gaps]:
            predicted[row : row + 2 if row == 15 else row + 1, column : column + 2 if column == 15 else column + 1] = 1
        both = table(truth, predicted)
        return ScoredSample(
            f"{number}", "", truth.shape, 0.1, both, both, np.zeros((15, 3)), isbi.areas(truth, predicted)
        )

    header: Any = SimpleNamespace(kind="classes", class_values=(0, 1))
    found = fit_curve(SIZES, [[scored(k, gaps) for k in range(4)] for gaps in (3, 2, 1, 0)], header, seed=0)
    assert found.score == "V_Rand"
    assert found.values[-1] == 1.0 and found.values[0] < 0.5
    assert list(found.values) == sorted(found.values)


def test_a_flat_curve_shows_no_gain() -> None:
    found = _curve(0.80, 0.79, 0.80, 0.79)
    assert not found.clear
    assert found.words.startswith("the curve does not show that 20 more images would help: SEG is 0.79")
    assert found.ahead[0][2] <= found.values[-1] <= found.ahead[0][3] + 0.01


def test_a_wide_interval_is_inconclusive() -> None:
    assert describe_gain("SEG", 4, 0.5, (6, 0.6, 0.3, 0.8)) == (
        False,
        "the curve is inconclusive: with 2 more images SEG could be anything from 0.30 to 0.80, now it is 0.50; a "
        "longer --budget or more held-out images would show more",
    )
    assert describe_gain("dice", 1, 0.5, (2, 0.6, 0.55, 0.62))[1] == (
        "1 more image would raise Dice from 0.50 to about 0.60 (0.55-0.62)"
    )
    assert not describe_gain("dice", 1, float("nan"), (2, 0.6, 0.55, 0.62))[0]


def test_a_curve_that_one_image_decides_has_no_interval() -> None:
    """Of three held-out images only one holds objects."""
    nothing = np.zeros((10, 100), np.int32)
    empty = ScoredSample("e", "", (10, 100), 0.1, *[table(nothing, nothing)] * 2, np.zeros((15, 3)))
    header: Any = SimpleNamespace(kind="objects", class_values=(0, 1))
    images = [[_scored(0, seg), empty, empty] for seg in (0.6, 0.7, 0.75, 0.78)]
    found = fit_curve(SIZES, images, header, seed=0)
    assert found.values == pytest.approx((0.6, 0.7, 0.75, 0.78)) and found.ahead[0][1] > 0.78
    assert np.isnan([*found.intervals, *(one[2:] for one in found.ahead)]).all()
    assert not found.clear and found.words.startswith("the curve is inconclusive: only one held-out image")


@pytest.mark.parametrize(("left", "scored"), [(None, 9), (8.0, 9), (2.9, 2)])
def test_held_out_images_are_scored_until_only_the_time_of_the_report_is_left(
    left: float | None, scored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report takes 3 s of a budget of 100 s; at least two images are scored."""
    budget = TimeBudget(None) if left is None else TimeBudget(100.0, earlier_s=100.0 - left)
    monkeypatch.setattr(learning_curve, "predicted_sample", lambda *_: (None, None))
    added: list[int] = []
    gallery: Any = SimpleNamespace(model=None, add=lambda sample, *_, **__: added.append(sample))
    samples: Any = list(range(9))
    list(learning_curve.predict_with_each([gallery, gallery], samples, budget))
    assert len(added) == 2 * scored and len(set(added)) == scored


def test_sizes_of_parts_and_of_extrapolation() -> None:
    assert subsets(26, 6) == [4, 7, 13, 26]
    assert subsets(4, 2) == [1, 2, 4]
    assert [numbers_ahead(n) for n in (4, 26, 64)] == [[6, 8], [46, 52], [114, 128]]


def test_too_few_images_are_refused(disks: Path, tmp_path: Path) -> None:
    settings = TrainSettings(data=(disks,), out=tmp_path / "run", steps=2, device="cpu")
    with pytest.raises(DataError, match="a learning curve with 4 images for training and 1 held out"):
        list(train_curve(settings))


@pytest.mark.parametrize(("number", "held_out"), [(8, 0), (15, 2)])
def test_images_that_alone_hold_a_class_are_not_counted_as_held_out(tmp_path: Path, number: int, held_out: int) -> None:
    """Of the first 9 images each has a class of its own; further ones have the class of the first."""
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(number):
        mask = np.full((24, 24), i if i < 9 else 0, np.uint8)
        np.save(tmp_path / "data" / "masks" / f"{'abcdefghijklmno'[i]}.npy", mask)
        np.save(tmp_path / "data" / "images" / f"{'abcdefghijklmno'[i]}.npy", rng.normal(50, 5, mask.shape))
    small = {"kind": "classes", "steps": 1, "device": "cpu", "width": 2, "depth": 1, "tile": 36, "batch": 2}
    asked = TrainSettings.model_validate({"data": (tmp_path / "data",), "out": tmp_path / "run", **small})
    if held_out < 2:
        with pytest.raises(DataError, match=f"{number - held_out} images for training and {held_out} held out"):
            list(train_curve(asked))
        return
    planned = [event.lines[0] for event in islice(train_curve(asked), 40) if isinstance(event, Planned)]
    assert planned[0].endswith(f"and {number - held_out} images, scored on the same {held_out}")
    assert planned[1].startswith(f"2 of {number - held_out} images for training, {held_out} held out")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainSettings, list[Any]]:
    folder = tmp_path_factory.mktemp("curve")
    y, x = np.mgrid[:44, :44]
    rng = np.random.default_rng(5)
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
    for number in range(8):
        cy, cx = rng.uniform(14, 28, 2)
        mask = ((y - cy) ** 2 + (x - cx) ** 2 < 80).astype(np.uint8)
        name = f"{'abcdefgh'[number]}.npy"
        np.save(folder / "data" / "masks" / name, mask)
        np.save(folder / "data" / "images" / name, (90.0 * mask + rng.normal(50, 5, mask.shape)).astype(np.float32))
    small = {"steps": 12, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}
    settings = TrainSettings.model_validate({"data": (folder / "data",), "out": folder / "run", **small})
    return settings, list(train_curve(settings))


def test_a_run_trains_on_nested_parts_and_keeps_the_model_of_all_images(run: tuple[TrainSettings, list[Any]]) -> None:
    settings, events = run
    assert [r.title for r in events if isinstance(r, PartStarted)] == [f"{n} of 6 images" for n in (1, 2, 3, 6)]
    assert next(r for r in events if isinstance(r, Planned)).lines == (
        "4 trainings on 1, 2, 3 and 6 images, scored on the same 2",
    )
    plans = [json.loads((settings.out / f"images-{n}" / "plan.json").read_text()) for n in (1, 2, 3, 6)]
    assert all(plan["held_out"] == plans[0]["held_out"] for plan in plans)
    last, whole = events[-1], [r.trained for r in events if isinstance(r, PartTrained)][-1]
    assert isinstance(last, Trained)
    assert (last.model, last.scores, last.steps) == (settings.out / "model.safetensors", whole.scores, 12)
    assert last.model.read_bytes() == whole.model.read_bytes()
    assert open_model(last.model, "cpu").header.members == 1


def test_the_curve_is_in_the_report_and_in_a_file(run: tuple[TrainSettings, list[Any]]) -> None:
    from septum.report.page import page

    settings, events = run
    found = next(r for r in events if isinstance(r, Curve))
    assert (found.score, found.images) == ("dice", (1, 2, 3, 6))
    parts = [r.trained.scores["dice"] for r in events if isinstance(r, PartTrained)]
    assert found.values == pytest.approx(parts, abs=1e-3)  # a pixel may round to the other side
    written = json.loads((settings.out / "curve.json").read_text())
    assert (written["values"], written["words"]) == (list(found.values), found.words)
    report = [r for r in events if isinstance(r, RunReport)][-1]
    assert metrics(report)["learning_curve"]["ahead"][0][1] == found.ahead[0][1]
    text = page(report)
    assert found.words[1:] in text
    plot = text[text.index('<section id="more">') :]
    plot = plot[: plot.index("</figure>")]
    assert (plot.count('class="dot c0"'), plot.count('class="ci"'), plot.count('path class="band"')) == (4, 4, 1)
    bare = replace(found, ahead=tuple((*one[:2], np.nan, np.nan) for one in found.ahead))
    assert page(replace(report, curve=bare)).count("no interval") == text.count("no interval") + len(found.ahead)


def test_a_finished_run_returns_the_curve_without_training(run: tuple[TrainSettings, list[Any]]) -> None:
    settings, events = run
    for folder in (".", "images-1", "images-2", "images-3", "images-6"):
        for name in ("report.html", "metrics.json"):
            (settings.out / folder / name).write_text("{}")
    again = list(train_curve(settings))
    assert not any(isinstance(r, Step | RunReport) for r in again)
    assert [r for r in again if isinstance(r, Curve)] == [r for r in events if isinstance(r, Curve)]
    stored = json.loads((settings.out / "curve.json").read_text())
    stored["ahead"] = [[n, value, None, None] for n, value, *_ in stored["ahead"]]
    (settings.out / "curve.json").write_text(json.dumps(stored))
    again = list(train_curve(settings))
    assert not any(isinstance(r, Step | RunReport) for r in again), "a curve without intervals is complete"
    assert np.isnan(next(r for r in again if isinstance(r, Curve)).ahead[0][2])
    with pytest.raises(UsageError, match="steps: 12 -> 13"):
        list(train_curve(settings.model_copy(update={"steps": 13})))


@given(st.floats(0.5, 1.0), st.floats(0.1, 1.0), st.floats(0.15, 1.8))
def test_a_power_law_is_found_and_extrapolated(a: float, b: float, c: float) -> None:
    law = fit_power_law(IMAGES, (a - b * IMAGES**-c)[None])
    assert law.c[0] == pytest.approx(c, rel=0.03)
    more = np.array([48.0, 64.0])
    np.testing.assert_allclose(law.at(more)[0], a - b * more**-c, atol=2e-3)


def test_a_case_worked_by_hand() -> None:
    # n^-1 at 1, 2, 4: 1, 1/2, 1/4, so 0.9 - 0.4 / n.
    law = fit_power_law(np.array([1.0, 2.0, 4.0]), np.array([[0.5, 0.7, 0.8]]))
    assert law.c[0] == pytest.approx(1, rel=0.03)
    assert law.at(np.array([8.0]))[0, 0] == pytest.approx(0.85, abs=2e-3)


def test_scores_that_stay_or_fall_give_no_gain() -> None:
    law = fit_power_law(IMAGES, np.array([[0.7, 0.7, 0.7, 0.7], [0.8, 0.75, 0.72, 0.7]]))
    gain = law.at(np.array([64.0]))[:, 0] - law.at(np.array([32.0]))[:, 0]
    assert gain[0] == pytest.approx(0, abs=1e-12)
    assert gain[1] < 0


def test_weights_count_as_repeated_points() -> None:
    scores = np.array([0.4, 0.65, 0.6, 0.8])
    twice = fit_power_law(np.append(IMAGES, IMAGES[1]), np.append(scores, scores[1])[None])
    weighted = fit_power_law(IMAGES, scores[None], np.array([[1.0, 2.0, 1.0, 1.0]]))
    np.testing.assert_allclose(twice.at(IMAGES), weighted.at(IMAGES), atol=1e-12)
