"""A simulated person who annotates: what each action costs in seconds, and what is done next.

The person knows the true objects, and sees what a learner shows. Seconds are those of the keystroke-level model (S. K.
Card, T. P. Moran, A. Newell. The keystroke-level model for user performance time with interactive systems.
Communications of the ACM 23, 396-410, 1980): a key 0.2 s, a press or release of a button 0.1 s, pointing 1.1 s, a
decision 1.35 s. Drawing follows the steering law (J. Accot, S. Zhai. Beyond Fitts' law: models for trajectory-based HCI
tasks. CHI 1997), a time that is proportional to length / tolerance; 0.1 s for each unit, the order of mice. An object
is traced within 5 % of its width on each side, so that a disk takes 3.1 s of drawing, at any magnification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]

KEY_S, BUTTON_S, POINT_S, DECIDE_S = 0.2, 0.1, 1.1, 1.35
STEER_S, TOLERANCE = 0.1, 0.1  # seconds for each length / tolerance; tolerance as a share of the width of an object
GLANCE_S = 0.25  # a fixation of the eyes, on each object that is accepted unseen otherwise
COSTS_S = {
    "open an image": DECIDE_S + KEY_S + 2.0,  # two seconds to look at it
    "stroke in the background": DECIDE_S + POINT_S + 2 * BUTTON_S + 1.0,  # nothing to follow: a second of drawing
    "accept an object": DECIDE_S + POINT_S + KEY_S,
    "accept all": DECIDE_S + KEY_S,  # and a glance at each
    "complete": DECIDE_S + KEY_S,
}
RIGHT, EXTRA = 0.7, 0.5  # IoU of an object that is right; share of a predicted object on background that is wrong
ROUNDS, FEW = 4, 3  # rounds on an image; errors that are all mended so that the image can be accepted whole


def outline_s(perimeter: float, width: float) -> float:
    """Return the seconds of drawing an object of this perimeter and width, in pixels."""
    return DECIDE_S + POINT_S + 2 * BUTTON_S + STEER_S * perimeter / (TOLERANCE * width)


class Learner(Protocol):
    """What the person works with."""

    def spend(self, seconds: float) -> None:
        """Learn for as long as the person is busy."""

    def labels(self, name: str) -> Labels:
        """Return what is annotated: ``(Y, X)`` int32, ids of 1 and more, 0 background, -1 not annotated."""

    def show(self, name: str) -> Labels | None:
        """Return predicted objects, ``(Y, X)`` int32, -1 where nothing is predicted; None before learning begins."""

    def outline(self, name: str, points: NDArray[np.float64]) -> None:
        """Make a new object of the pixels inside (y, x) points."""

    def stroke(self, name: str, pixels: NDArray[np.bool_]) -> None:
        """Paint background."""

    def accept(self, name: str, at: tuple[int, int] | None) -> None:
        """Accept the predicted object at a pixel; None: everything that is shown."""

    def complete(self, name: str) -> None:
        """Make the rest background."""

    def model(self) -> Callable[[Path], Labels]:
        """Return what segments files that were never opened, as it is now: ``(Y, X)`` int32 objects of a file."""


@dataclass
class Person:
    """Annotates images until the time is over.

    Parameters
    ----------
    learner
        What learns.
    truth
        True objects of each image: ``(Y, X)`` int32, 0 background.
    seed
        Of the deviations of drawn outlines from the true ones.
    watch
        Is called after each action with the seconds so far.
    """

    learner: Learner
    truth: dict[str, Labels]
    seed: int = 0
    watch: Callable[[float], None] = lambda seconds: None
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def act(self, action: str, seconds: float, do: Callable[[], None]) -> None:
        """Do something that takes seconds; learning goes on meanwhile."""
        self.learner.spend(seconds)
        do()
        self.seconds += seconds
        self.counts[action] = self.counts.get(action, 0) + 1
        self.watch(self.seconds)

    def work(self, names: list[str], limit_s: float) -> None:
        """Go through the images with the learner, again from the first one after the last."""
        done: set[str] = set()
        while self.seconds < limit_s and len(done) < len(names):
            for name in names:
                if name not in done and self.seconds < limit_s and self.visit(name, limit_s):
                    done.add(name)

    def visit(self, name: str, limit_s: float) -> bool:
        """Mend the worst objects of an image in rounds; return True if it is annotated whole."""
        learner, truth = self.learner, self.truth[name]
        self.act("open an image", COSTS_S["open an image"], lambda: None)
        if learner.show(name) is None:
            self.begin(name)
        for _ in range(ROUNDS):
            shown = learner.show(name)
            if self.seconds >= limit_s or shown is None:
                return False
            labels = learner.labels(name)
            wrong = worst_first(shown, truth, labels)
            if len(wrong) <= FEW:
                for mistake in wrong:
                    self.mend(name, *mistake)
                if (shown < 0).any():
                    return True  # no more than a part is shown: the rest is left
                number = len(np.unique(shown)) - 1
                self.act("accept all", COSTS_S["accept all"] + GLANCE_S * number, lambda: learner.accept(name, None))
                return True
            self.mend(name, *wrong[0])
            at = right_one(shown, truth, labels)
            if at is not None:
                self.act("accept an object", COSTS_S["accept an object"], lambda at=at: learner.accept(name, at))
        return False

    def begin(self, name: str) -> None:
        """Draw the first two objects, of middle size, and some background."""
        truth = self.truth[name]
        ids, sizes = np.unique(truth[truth > 0], return_counts=True)
        for number in ids[np.argsort(np.abs(sizes - np.median(sizes)), kind="stable")][:2]:
            self.mend(name, "missing", truth == number)
        self.mend(name, "extra", background_band(truth))

    def mend(self, name: str, kind: str, region: NDArray[np.bool_]) -> None:
        """Draw an object that is missing or wrong, or paint background over one that is not there."""
        learner = self.learner
        if kind == "extra":
            cost = COSTS_S["stroke in the background"]
            self.act("stroke in the background", cost, lambda: learner.stroke(name, region & (self.truth[name] == 0)))
            return
        points, seconds = self.drawn(region)
        self.act("outline an object", seconds, lambda: learner.outline(name, points))

    def annotate_whole(self, name: str) -> None:
        """Draw every object of an image, without looking at what a learner shows."""
        truth = self.truth[name]
        self.act("open an image", COSTS_S["open an image"], lambda: None)
        for number in np.unique(truth[truth > 0]):
            self.mend(name, "missing", truth == number)
        self.act("complete", COSTS_S["complete"], lambda: self.learner.complete(name))

    def drawn(self, region: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
        """Return the outline of an object as a hand draws it, (y, x) points from the corner, and its seconds."""
        from skimage.measure import find_contours

        y, x = np.nonzero(region)
        y0, x0 = y.min() - 2, x.min() - 2
        part = np.zeros((y.max() - y0 + 3, x.max() - x0 + 3))
        part[y - y0, x - x0] = 1
        points = max(find_contours(part, 0.5), key=len)[:-1]
        steps = np.linalg.norm(np.diff(points, axis=0, append=points[:1]), axis=1)
        width = 4 * len(y) / max(steps.sum(), 1e-9)  # of a disk its diameter
        # The hand wavers slowly around the outline, by 2 % of the width.
        waves = np.arange(1, 5)
        angle = 2 * np.pi * np.cumsum(steps) / max(steps.sum(), 1e-9)
        phases, heights = self._random.uniform(0, 2 * np.pi, (2, 4)), self._random.normal(0, 0.01 * width, (2, 4))
        wavers = [
            (h[:, None] * np.sin(waves[:, None] * angle + p[:, None])).sum(0)
            for h, p in zip(heights, phases, strict=True)
        ]
        return points + 0.5 + [y0, x0] + np.stack(wavers, axis=1), outline_s(float(steps.sum()), width)


def worst_first(shown: Labels, truth: Labels, labels: Labels) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return what is wrong in a prediction, the largest objects first.

    True objects that are annotated, or cut off by the border of what is shown, are not looked at.

    Returns
    -------
    list of tuples
        ``"missing"`` and the pixels of a true object that no predicted one covers with an IoU of `RIGHT`; or
        ``"extra"`` and the pixels of a predicted object of which most is background that was not annotated.
    """
    found: list[tuple[int, str, NDArray[np.bool_]]] = []
    matched = overlaps(truth, shown)
    for number in np.unique(truth[truth > 0]):
        region = truth == number
        annotated = (labels[region] > 0).mean() > 0.5
        if not annotated and (shown[region] >= 0).all() and matched.get(int(number), (0, 0.0))[1] < RIGHT:
            found.append((int(region.sum()), "missing", region))
    for number in np.unique(shown[shown > 0]):
        region = shown == number
        outside = region & (truth == 0)
        if outside.sum() > EXTRA * region.sum() and (labels[outside] == -1).any():
            found.append((int(region.sum()), "extra", region))
    return [(kind, region) for _, kind, region in sorted(found, key=lambda one: -one[0])]


def right_one(shown: Labels, truth: Labels, labels: Labels) -> tuple[int, int] | None:
    """Return a pixel of the largest predicted object that is right and not annotated; None without one."""
    best, place = 0, None
    for number, (predicted, iou) in overlaps(truth, shown).items():
        region = (shown == predicted) & (truth == number)
        if iou >= RIGHT and region.sum() > best and (labels[region] > 0).mean() < 0.5 and not at_edge(shown, predicted):
            best, y, x = int(region.sum()), *np.nonzero(region)
            place = int(y[len(y) // 2]), int(x[len(x) // 2])
    return place


def at_edge(shown: Labels, number: int) -> bool:
    """Return True if an object lies next to pixels that are not predicted."""
    from scipy.ndimage import binary_dilation

    return bool((shown[binary_dilation(shown == number)] < 0).any())


def overlaps(truth: Labels, shown: Labels) -> dict[int, tuple[int, float]]:
    """Return for each true object the predicted one of the highest IoU, and this IoU."""
    from septum.metrics.contingency import table
    from septum.metrics.matching import ious

    ids, best, partner = ious(table(truth, np.maximum(shown, 0)))
    return {int(n): (int(p), float(v)) for n, p, v in zip(ids, partner, best, strict=True)}


def background_band(truth: Labels) -> NDArray[np.bool_]:
    """Return the pixels of a stroke in the background, where it is widest: 81 pixels long, at most 13 wide."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(np.pad(truth, 1, constant_values=1) == 0)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), truth.shape)
    radius = int(min(6, max(1, distance.max() / 2)))
    band = np.zeros(truth.shape, bool)
    band[max(0, y - radius) : y + radius + 1, max(0, x - 40) : x + 41] = True
    return band & (truth == 0)
