"""The simulated person finds the worst object, draws as a hand does, and works through the studio's own server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from septum.io.files import read_mask, write_image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("benchmarks are not part of a source package", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))
import annotator_person as person  # noqa: E402

SIDES = (96, 128)


def disks(*places: tuple[int, int, int]) -> NDArray[np.int32]:
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    labels = np.zeros(SIDES, np.int32)
    for number, (cy, cx, radius) in enumerate(places, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


TRUTH = disks((20, 20, 12), (20, 60, 8), (60, 30, 10), (60, 70, 14))


class Perfect:
    """A learner that shows the truth from the second object on."""

    def __init__(self) -> None:
        self.seconds, self.drawn = 0.0, 0
        self.made: NDArray[np.int32] = np.full(SIDES, -1, np.int32)

    def spend(self, seconds: float) -> None:
        self.seconds += seconds

    def labels(self, name: str) -> NDArray[np.int32]:
        return self.made

    def show(self, name: str) -> NDArray[np.int32] | None:
        return TRUTH if self.drawn > 1 else None

    def outline(self, name: str, points: NDArray[np.float64]) -> None:
        self.made[polygon2mask(SIDES, points - 0.5) & (self.made <= 0)] = self.drawn = self.drawn + 1

    def stroke(self, name: str, pixels: NDArray[np.bool_]) -> None:
        self.made[pixels] = 0

    def accept(self, name: str, at: tuple[int, int] | None) -> None:
        assert at is None
        self.made[self.made == -1] = TRUTH[self.made == -1]

    def complete(self, name: str) -> None:
        self.made[self.made == -1] = 0

    def model(self) -> Callable[[Path], NDArray[np.int32]] | None:
        return None


def test_the_largest_mistake_comes_first() -> None:
    shown = disks((20, 20, 12), (60, 70, 14), (80, 110, 9))  # two are missing, one is not there
    nothing = np.full(SIDES, -1, np.int32)
    wrong = person.worst_first(shown, TRUTH, nothing)
    assert [kind for kind, _ in wrong] == ["missing", "extra", "missing"]
    assert (wrong[0][1] == (TRUTH == 3)).all() and (wrong[2][1] == (TRUTH == 2)).all()
    annotated = np.where(TRUTH == 3, 1, np.where(shown == 3, 0, -1)).astype(np.int32)
    assert [kind for kind, _ in person.worst_first(shown, TRUTH, annotated)] == ["missing"]
    y, x = person.right_one(shown, TRUTH, nothing) or (0, 0)
    assert TRUTH[y, x] == 4
    assert person.right_one(shown, TRUTH, shown) is None


def test_an_outline_deviates_a_little_and_takes_the_same_time_at_any_size() -> None:
    robot = person.Person(Perfect(), {"a": TRUTH})
    times = []
    for number in (2, 4):
        points, seconds = robot.drawn(number == TRUTH)
        drawn = polygon2mask(SIDES, points - 0.5)
        shared, joined = (drawn & (number == TRUTH)).sum(), (drawn | (number == TRUTH)).sum()
        assert 0.8 < shared / joined < 1
        times.append(seconds)
    assert times == pytest.approx([6.2, 6.2], abs=0.5)


def test_an_image_is_begun_and_accepted_once_nothing_is_wrong() -> None:
    learner = Perfect()
    marks: list[float] = []
    robot = person.Person(learner, {"a": TRUTH}, watch=marks.append)
    robot.work(["a"], 300)
    assert robot.counts == {
        "open an image": 1,
        "outline an object": 2,
        "stroke in the background": 1,
        "accept all": 1,
    }
    assert robot.seconds == pytest.approx(learner.seconds) and marks[-1] == robot.seconds
    opening, all_of_them = person.COSTS_S["open an image"], person.COSTS_S["accept all"] + 4 * person.GLANCE_S
    drawing = robot.seconds - opening - all_of_them - person.COSTS_S["stroke in the background"]
    assert drawing == pytest.approx(12.4, abs=1)
    assert (learner.made >= 0).all()


def test_the_time_limit_ends_the_work() -> None:
    robot = person.Person(Perfect(), dict.fromkeys("abc", TRUTH))
    robot.work(list("abc"), 8)
    assert 8 <= robot.seconds < 20 and robot.counts["open an image"] == 1


def test_whole_images_cost_every_object() -> None:
    learner = Perfect()
    robot = person.Person(learner, {"a": TRUTH})
    robot.annotate_whole("a")
    assert robot.counts == {"open an image": 1, "outline an object": 4, "complete": 1}
    assert (learner.made >= 0).all() and set(np.unique(learner.made)) == {0, 1, 2, 3, 4}


@pytest.mark.slow  # the studio and its training begin in processes of their own
def test_the_person_works_in_the_studio(tmp_path: Path) -> None:
    from annotator_learners import Studio

    rng = np.random.default_rng(0)
    truth = {}
    for name in ("a.tif", "b.tif"):
        image = (2000 + 9000 * (TRUTH > 0) + rng.normal(0, 300, SIDES)).clip(0).astype(np.uint16)
        (tmp_path / "images").mkdir(exist_ok=True)
        write_image(tmp_path / "images" / name, image, axes="YX")
        truth[name] = TRUTH
    studio = Studio(tmp_path, "nothing", steps_per_s=0.5)
    try:
        found: list[Any] = []
        robot = person.Person(studio, truth)
        robot.work(["a.tif", "b.tif"], 30)
        model = studio.model()
        assert model is not None
        found.append(model(tmp_path / "images" / "b.tif"))
        labels = studio.labels("a.tif")
    finally:
        studio.close()
    assert robot.counts["outline an object"] >= 2 and robot.counts["stroke in the background"] >= 1
    assert studio.steps >= 0.5 * (robot.seconds - 30) and found[0].shape == SIDES
    assert np.array_equal(read_mask(tmp_path / "masks" / "a.tif").array.squeeze(), labels)
    overlap = person.overlaps(TRUTH, labels)
    assert sum(iou > 0.7 for _, iou in overlap.values()) >= 2
