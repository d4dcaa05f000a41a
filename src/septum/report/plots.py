"""Plots as SVG inside a page, and the log of a training that they show.

A plot is drawn into an area of `WIDTH` x `HEIGHT` units and scales with the page. Lines and dots carry classes, so that
the style sheet of the page decides their colors. All texts are escaped.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from septum.errors import FileError

if TYPE_CHECKING:
    from septum.report.curve import Curve

Array = NDArray[np.float64]

# Colors of Okabe and Ito, which color-blind people can tell apart too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46  # margins around the area of the data
MOST_POINTS = 300  # of a line; more cannot be distinguished
MOST_DOTS = 1500


@dataclass(frozen=True)
class Axis:
    """One axis: its label, ends, ticks, and whether it is logarithmic."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, values: Array) -> Array:
        """Return the positions of values, ``(n,) float64``, along the axis: 0 at the low end, 1 at the high end."""
        change = np.log if self.log else np.asarray
        low, high = float(change(self.low)), float(change(self.high))
        inside = np.clip(np.asarray(values, np.float64), self.low, self.high)
        return np.asarray((change(inside) - low) / (high - low))


def axis(label: str, values: Array, *, log: bool = False, low: float | None = None, high: float | None = None) -> Axis:
    """Return an axis around values, with a few ticks at round numbers.

    Parameters
    ----------
    label
        Label with the unit.
    values
        ``(n,) float64``, any values; those that are not finite do not count.
    log
        Logarithmic axis; the values must be above 0.
    low, high
        Ends of the axis; computed from the values if not given.
    """
    finite = values[np.isfinite(values)]
    first = float(finite.min()) if low is None and finite.size else low or 0.0
    last = float(finite.max()) if high is None and finite.size else high or 1.0
    if log:
        first, last = first / 1.1, max(last, first * 1.5) * 1.1
        return Axis(label, first, last, _log_ticks(first, last), log=True)
    last = last if last > first else first + 1
    step = _step(last - first)
    ticks = np.arange(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1) * step
    return Axis(label, first, last, tuple(ticks.tolist()))


def _step(span: float) -> float:
    """Return a round distance between ticks, so that about five of them fit into `span`."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return 1, 2 and 5 times the powers of ten between the ends; only the powers where these would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    return tuple(m * 10.0**p for p in powers for m in factors if low <= m * 10.0**p <= high)


@dataclass(frozen=True)
class PlotArea:
    """Two axes, and the mapping from values to positions on the drawing."""

    x: Axis
    y: Axis

    def xs(self, values: Array) -> Array:
        """Return the horizontal positions of values, ``(n,) float64`` of any range."""
        return LEFT + self.x.place(values) * (WIDTH - LEFT - RIGHT)

    def ys(self, values: Array) -> Array:
        """Return the vertical positions of values, ``(n,) float64`` of any range, counted downwards."""
        return HEIGHT - BOTTOM - self.y.place(values) * (HEIGHT - TOP - BOTTOM)

    def path(self, x: Array, y: Array) -> str:
        """Return the SVG path of a line through points, ``(n,) float64`` of any range; NaN in `y` breaks the line."""
        words, pen = [], "M"
        for a, b, there in zip(self.xs(x), self.ys(y), np.isfinite(y), strict=True):
            words.append(f"{pen}{a:.1f} {b:.1f}" if there else "")
            pen = "L" if there else "M"
        return "".join(words)

    def drawing(self, title: str, marks: Sequence[str]) -> Markup:
        """Return the whole plot: grid, ticks, labels, and `marks`, which are SVG."""
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for tick, at in zip(self.x.ticks, self.xs(np.array(self.x.ticks)), strict=True):
            parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
            parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{tick_text(tick)}</text>')
        for tick, at in zip(self.y.ticks, self.ys(np.array(self.y.ticks)), strict=True):
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>')
        middle, half = (LEFT + right) / 2, (TOP + bottom) / 2
        parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
        label = 'class="label" text-anchor="middle"'
        parts.append(f'<text {label} x="{middle}" y="{HEIGHT - 7}">{escape(self.x.label)}</text>')
        parts.append(f'<text {label} transform="translate(14 {half}) rotate(-90)">{escape(self.y.label)}</text>')
        body = "".join([*parts, *marks])
        head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        return Markup(f"{head}<title>{escape(title)}</title>{body}</svg>")


def tick_text(value: float) -> str:
    """Format the number at a tick: ``"0.05"``, ``"2000"``, ``"20k"``, ``"1M"``."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else 1e6):g}{letter}"
    return f"{round(value, 10):g}"


def loss_plot(steps: Array, loss: Array, best_step: int) -> Markup:
    """Draw the loss of each step as a band, its running mean as a line, and the step of the best weights.

    Parameters
    ----------
    steps, loss
        ``(n,) float64``: steps, rising, and the loss of each, of any range.
    best_step
        Step whose weights were kept.
    """
    log = bool(np.nanmin(loss, initial=math.inf) > 0)
    low = None if log else min(0.0, float(np.nanmin(loss, initial=0.0)))
    frame = PlotArea(axis("step", steps, low=0.0), axis("training loss", loss, log=log, low=low))
    places, bottom, top = _envelope(steps, loss)
    mean = smoothed(loss)
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_POINTS)).astype(int))
    band = frame.path(places, top) + frame.path(places[::-1], bottom[::-1]).replace("M", "L", 1) + "Z"
    marks = [f'<path class="band" d="{band}"/>', f'<path class="line c0" d="{frame.path(steps[shown], mean[shown])}"/>']
    at = float(frame.xs(np.array([float(best_step)]))[0])
    marks.append(f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    return frame.drawing("Training loss over steps; the dashed line is the step whose weights were kept", marks)


def with_start(steps: Array, scores: Mapping[str, Array], start: Mapping[str, float]) -> tuple[Array, dict[str, Array]]:
    """Return steps and scores with those before the first step, which the log does not hold.

    Parameters
    ----------
    steps
        ``(n,) float64``, rising, above 0.
    scores
        By name ``(n,) float64`` in 0..1, NaN at steps without a validation.
    start
        Scores at step 0 by name, in 0..1; may be empty.

    Returns
    -------
    steps, scores
        ``(n + 1,) float64`` each; as given if `start` is empty.
    """
    if not start:
        return steps, dict(scores)
    first = {name: np.array([start.get(name, math.nan)]) for name in scores}
    return np.append(0.0, steps), {name: np.append(first[name], values) for name, values in scores.items()}


def scores_plot(steps: Array, scores: Mapping[str, Array], best_step: int) -> Markup:
    """Draw the scores of held-out images over the steps.

    Parameters
    ----------
    steps
        ``(n,) float64``, rising.
    scores
        By name ``(n,) float64`` in 0..1, NaN at steps without a validation.
    best_step
        Step whose weights were kept.
    """
    frame = PlotArea(
        axis("step", steps, low=0.0), axis("score on held-out images", np.array([0.0, 1.0]), low=0, high=1)
    )
    marks = []
    at = float(frame.xs(np.array([float(best_step)]))[0])
    marks.append(f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for number, values in enumerate(scores.values()):
        there = np.isfinite(values)
        x, y = steps[there], values[there]
        marks.append(f'<path class="line c{number}" d="{frame.path(x, y)}"/>')
        dots = zip(frame.xs(x), frame.ys(y), strict=True)
        marks += [f'<circle class="dot c{number}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in dots]
    return frame.drawing(f"Scores of held-out images over steps: {', '.join(scores)}", marks)


def curve_plot(curve: Curve) -> Markup:
    """Draw scores over numbers of training images with their intervals, the fitted law, and its extrapolation."""
    a, b, c = curve.fit
    last, ahead = curve.images[-1], curve.ahead
    images = np.array([*curve.images, *(n for n, *_ in ahead)], np.float64)
    ends = [v for pair in (*curve.intervals, *((low, high) for _, _, low, high in ahead)) for v in pair]
    score = axis(f"{curve.score} on held-out images", np.array([*curve.values, *(v for _, v, *_ in ahead), *ends]))
    frame = PlotArea(axis("training images", images, log=True), score)
    places = np.geomspace(images.min(), images.max(), 60)
    shift = curve.values[-1] - (a - b * last**-c)  # the extrapolation starts at the measured score
    beyond = np.array([last, *(n for n, *_ in ahead)], np.float64)
    low, high = (np.array([curve.values[-1], *(one[k] for one in ahead)]) for k in (2, 3))
    band = frame.path(beyond, high) + frame.path(beyond[::-1], low[::-1]).replace("M", "L", 1) + "Z"
    inside = places <= last
    marks = [
        f'<path class="band" d="{band}"/>',
        f'<path class="line c0" d="{frame.path(places[inside], a - b * places[inside] ** -c)}"/>',
        f'<path class="mark" d="{frame.path(places[~inside], a - b * places[~inside] ** -c + shift)}"/>',
    ]
    for n, value, (bottom, top) in zip(curve.images, curve.values, curve.intervals, strict=True):
        x, *ys = *frame.xs(np.array([float(n)])), *frame.ys(np.array([value, bottom, top]))
        marks.append(f'<path class="ci" d="M{x:.1f} {ys[1]:.1f}V{ys[2]:.1f}"/>' if math.isfinite(sum(ys)) else "")
        marks.append(f'<circle class="dot c0" cx="{x:.1f}" cy="{ys[0]:.1f}" r="4"/>')
    return frame.drawing(
        f"{curve.score} over the number of training images; the band is what more images may bring", marks
    )


def sizes_plot(diameter_px: Array, iou: Array, found: NDArray[np.bool_]) -> Markup:
    """Draw each true object at its diameter and best IoU; the color shows whether it was found.

    Parameters
    ----------
    diameter_px, iou
        ``(n,) float64``: diameters in pixels, and IoU in 0..1.
    found
        ``(n,) bool``, True if the object was found.
    """
    x = axis("diameter of the object (px)", np.maximum(diameter_px, 0.5), log=True)
    frame = PlotArea(x, axis("best IoU", iou, low=0.0, high=1.0))
    shown = np.unique(np.linspace(0, len(iou) - 1, min(len(iou), MOST_DOTS)).astype(int)) if len(iou) else np.arange(0)
    half = float(frame.ys(np.array([0.5]))[0])
    marks = [f'<path class="mark" d="M{LEFT} {half:.1f}H{WIDTH - RIGHT}"/>']
    spots = zip(frame.xs(diameter_px[shown]), frame.ys(iou[shown]), found[shown], strict=True)
    for a, b, hit in spots:
        marks.append(f'<circle class="{"hit" if hit else "miss"}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>')
    return frame.drawing("Best IoU of each true object over its diameter; the dashed line is IoU 0.5", marks)


def reliability_plot(confidence: Sequence[float], right: Sequence[float], share: Sequence[float], label: str) -> Markup:
    """Draw the share of right pixels over their confidence, the diagonal, and the number of pixels in each bin."""
    ends = np.array([0.0, 1.0])
    frame = PlotArea(axis(label, ends), axis("share that is true", ends))
    x, y = np.array(confidence), np.array(right)
    marks = [f'<path class="mark" d="{frame.path(ends, ends)}"/>']
    # The logarithm also shows bins of few pixels: most pixels have a confidence near 1.
    heights = 1 + np.log10(np.maximum(np.array(share), 1e-4)) / 4
    for at, height in zip(frame.xs(x), heights, strict=True):
        marks.append(f'<rect class="bar" x="{at - 7:.1f}" y="{HEIGHT - BOTTOM - 40 * height:.1f}" width="14" '
                     f'height="{40 * height:.1f}"/>')  # fmt: skip
    marks.append(f'<path class="line c0" d="{frame.path(x, y)}"/>')
    dots = zip(frame.xs(x), frame.ys(y), strict=True)
    marks += [f'<circle class="dot c0" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in dots]
    return frame.drawing("Share of pixels that are right over their confidence; the dashed line is perfect", marks)


def whisker(value: float, low: float, high: float) -> Markup:
    """Draw a value in 0..1 as a dot with its interval, small enough for a row of a table."""
    at, begin, end = (4 + 112 * min(max(v, 0.0), 1.0) for v in (value, low, high))
    line = f'<path class="ci" d="M{begin:.1f} 8H{end:.1f}"/>' if math.isfinite(low + high) else ""
    dot = f'<circle class="dot c0" cx="{at:.1f}" cy="8" r="4"/>' if math.isfinite(value) else ""
    head = '<svg class="whisker" viewBox="0 0 120 16" aria-hidden="true"><path class="grid" d="M4 8H116"/>'
    return Markup(f"{head}{line}{dot}</svg>")  # numbers only


def _envelope(steps: Array, values: Array) -> tuple[Array, Array, Array]:
    """Return positions of at most `MOST_POINTS` groups of steps, and the smallest and largest value of each."""
    groups = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    held = [g[np.isfinite(values[g])] for g in groups]
    held = [g for g in held if g.size]
    places = np.array([steps[g].mean() for g in held])
    return places, np.array([values[g].min() for g in held]), np.array([values[g].max() for g in held])


def read_log(log: Path) -> dict[str, Array]:
    """Read the columns of the ``log.csv`` of a run.

    Returns
    -------
    dict
        By name (``step``, ``loss``, ``rate``, ``seconds``, and the scores) ``(n,) float64``, any finite values; NaN
        where a field is empty.

    Raises
    ------
    FileError
        If the log is missing or damaged, or has no line.
    """
    try:
        with log.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        names = lines[0].keys()
        columns = {name: np.array([float(line[name] or "nan") for line in lines]) for name in names}
    except (OSError, IndexError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "no line that can be read"
        raise FileError(f"{log}: {reason}", "the log.csv of a run", "name the folder of a training") from None
    if not {"step", "loss"} <= columns.keys():
        raise FileError(f"{log}: no columns step and loss", "the log.csv of a run", "name the folder of a training")
    return columns


def smoothed(values: Array) -> Array:
    """Compute the running mean over a twentieth of the values around each, over fewer at the ends.

    Parameters
    ----------
    values
        ``(n,) float64``, any range; NaN does not count.

    Returns
    -------
    ndarray
        ``(n,) float64`` in the range of `values`; NaN where no value counts.
    """
    half = max(1, len(values) // 40)
    there = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(there, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(there)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    number = counts[high] - counts[low]
    return np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), np.nan)
