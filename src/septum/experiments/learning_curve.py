"""Learning curve: trainings on parts of the images show how many more images are worth annotating.

The parts are an eighth, a quarter, a half and all of the training images, each contained in the next larger one. Each
training gets the same time or steps, and all networks are scored on the same held-out images.

The scores are extrapolated by an inverse power law s(n) = a - b n^-c: a is the score with infinitely many images, c the
speed at which it is approached. Source: Figueroa, Zeng-Treitler, Kandula and Ngo 2012, "Predicting sample size required
for classification performance", BMC Medical Informatics and Decision Making 12:8.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from septum import seeding
from septum.errors import DataError
from septum.events import Event
from septum.experiments.events import HeldOutDone
from septum.experiments.series import Outline, Series, SeriesKind, SeriesPart, TimeBudget, run_series
from septum.io.atomic import whole_file
from septum.metrics import bootstrap
from septum.pairing.sample import Sample
from septum.prediction.model import ModelHeader, open_model
from septum.report.collect import build_report
from septum.report.curve import Curve
from septum.report.gallery import Gallery, ScoredSample, estimates, predicted_sample, resampled, spread_order
from septum.report.numbers import SCORE_TITLES
from septum.report.summary import json_ready
from septum.settings import MaskKind
from septum.training.events import Saved, Trained
from septum.training.interrupt import StopRequest
from septum.training.model_selection import selection_names
from septum.training.run_folder import read_plan_file
from septum.training.settings import TrainSettings
from septum.training.split import split
from septum.words import pluralize

Array = NDArray[np.float64]

_LEAST_TRAINING, _LEAST_HELD_OUT = 4, 2
# A wider interval of the expected score is inconclusive.
_WIDEST = 0.25
# Exponents that are tried. Deep networks on images show 0.1 to 1; a curve with c > 2 is flat after the first points.
_EXPONENTS = np.geomspace(0.1, 2.0, 60)


def train_curve(settings: TrainSettings, stop: StopRequest | None = None) -> Iterator[Event]:
    """Train on parts of the images and estimate the gain of more images.

    Parameters
    ----------
    settings
        Settings of the run; a time budget is shared out in equal parts, `steps` are those of each training.
    stop
        See `septum.training.loop.train`.

    Yields
    ------
    The events of `septum.experiments.series.run_series`; after the last training HeldOutDone, Saved, RunReport, Curve,
    and Trained with the model of all images.

    Raises
    ------
    SeptumError
        As `septum.training.loop.train`; and if there are too few images for a curve.
    """
    command, outline = ("experiment", "learning-curve"), partial(_outline, settings)
    yield from run_series(settings, SeriesKind("learning_curve", True, command, (), outline, _finish), stop)


def _outline(settings: TrainSettings, samples: Sequence[Sample], kind: MaskKind) -> Outline:
    """Return one training for each number of images."""
    chosen = split(samples, settings.split, seed=settings.seed, kind=kind)
    held_out = len(chosen.held_out)
    sizes = subsets(len(chosen.train), held_out)
    limits = {n: settings.split.model_copy(update={"limit": n}) for n in sizes}
    parts = [SeriesPart(f"images-{n}", f"{n} of {sizes[-1]} images", limits[n], settings.seed) for n in sizes]
    numbers = ", ".join(map(str, sizes[:-1])) + f" and {sizes[-1]}"
    sentence = f"{len(sizes)} trainings on {numbers} images, scored on the same {held_out}"
    return Outline(parts, [chosen] * len(parts), sentence, predictions=held_out * len(sizes))


def subsets(training: int, held_out: int) -> list[int]:
    """Return the numbers of images of the trainings, rising.

    Raises
    ------
    DataError
        If there are fewer than 4 images for training or 2 held out.
    """
    if training < _LEAST_TRAINING or held_out < _LEAST_HELD_OUT:
        raise DataError(
            f"a learning curve with {pluralize(training, 'image')} for training and {held_out} held out",
            f"at least {_LEAST_TRAINING} for training and {_LEAST_HELD_OUT} held out: 8 images, or two groups of them; "
            "an image that alone holds a class is trained on",
            "annotate more images first: with this few, any more will help",
        )
    return sorted({max(1, -(-training // k)) for k in (8, 4, 2, 1)})


def _finish(series: Series, trained: Sequence[Trained]) -> Iterator[Event]:
    """Score every model on the held-out images, fit the curve and keep the model of all images, unless that is done."""
    done, curve = series.finished(), _read_curve(series)
    if done is not None and curve is not None:
        yield curve
        yield done
        return
    begin, settings, whole = time.monotonic(), series.settings, series.outline.parts[-1]
    samples = series.held_out(whole)
    galleries = [Gallery(open_model(one.model, settings.device)) for one in trained]
    yield from predict_with_each(galleries, samples, series.budget)
    number = len(galleries[-1].images)
    if number < len(samples):
        yield series.warn(f"the curve is of {number} of {len(samples)} held-out images, to keep the budget")
    # The number of training images is the end of the name of each folder.
    sizes = [int(part.folder.removeprefix("images-")) for part in series.outline.parts]
    curve = fit_curve(sizes, [g.images for g in galleries], galleries[-1].model.header, seed=settings.seed)
    series.folder.write_json("plan.json", read_plan_file(series.part_folder(whole)))
    series.folder.write_json("curve.json", json_ready(vars(curve)))
    series.folder.write_json("scores.json", json_ready(trained[-1].scores))
    with whole_file(series.folder.model) as file:
        shutil.copyfile(trained[-1].model, file)
    yield Saved(series.folder.model)
    done = replace(trained[-1], model=series.folder.model)
    series.log.trained = replace(done, steps=sum(t.steps for t in trained), seconds=series.budget.spent_s)
    report = build_report(settings, series.log, galleries[-1], begin=begin, again=series.command)
    yield replace(report, curve=curve)
    yield curve
    yield done


def _read_curve(series: Series) -> Curve | None:
    """Read the curve of an earlier start; None if there is none."""
    try:
        stored = json.loads((series.folder.path / "curve.json").read_bytes())
        return TypeAdapter(Curve).validate_python(_with_nan(stored))
    except (OSError, ValueError):  # a ValidationError is a ValueError
        return None


def _with_nan(stored: Any) -> Any:
    """Return JSON content with the numbers that are not defined: `json_ready` wrote them as None."""
    if isinstance(stored, dict):
        return {name: _with_nan(value) for name, value in stored.items()}
    if isinstance(stored, list):
        return [_with_nan(value) for value in stored]
    return math.nan if stored is None else stored


def predict_with_each(
    galleries: Sequence[Gallery], samples: Sequence[Sample], budget: TimeBudget
) -> Iterator[HeldOutDone]:
    """Predict held-out samples with the model of every gallery and score them, until only the report's time is left.

    The order is spread evenly over the samples, and at least two of them are predicted.
    """
    total, done = len(samples) * len(galleries), 0
    for place, sample in enumerate(spread_order(samples)):
        if budget.left_s is not None and place >= _LEAST_HELD_OUT and budget.left_s < budget.report_s:
            return
        for gallery in galleries:
            start = time.monotonic()
            probabilities, labels = predicted_sample(gallery.model, sample)
            gallery.add(sample, probabilities, labels, seconds=time.monotonic() - start)
            done += 1
            yield HeldOutDone(done, total)


def fit_curve(
    sizes: Sequence[int], images: Sequence[Sequence[ScoredSample]], header: ModelHeader, *, seed: int
) -> Curve:
    """Fit a power law to the scores of models of rising numbers of images, and extrapolate it.

    The interval is that of 1000 draws. Each takes held-out images with replacement, the same for all models (Efron and
    Tibshirani 1993, chapter 13), and gives the models random weights (Rubin 1981, "The Bayesian bootstrap"), because
    the result of a training depends on its images and its seed; the law is fitted to each draw.

    Parameters
    ----------
    sizes
        Numbers of training images, rising, at least three.
    images
        For each model the same held-out images, scored.
    header
        Header of one of the models: whether labels are objects or classes.
    seed
        Seed of the draws.
    """
    kind, values = header.kind, header.class_values
    score_estimates = [estimates(scored, kind, values=values, seed=seed) for scored in images]
    name = selection_names(score_estimates[0])[0]
    scores = [one[name] for one in score_estimates]
    n = np.asarray(sizes, np.float64)
    drawn = np.stack([resampled(scored, kind, values=values, seed=seed)[name] for scored in images], axis=1)
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    ahead = numbers_ahead(sizes[-1])
    measured = np.array([score.value for score in scores])
    law = fit_power_law(n, measured[None])
    gains = _gains(n, drawn, np.asarray(ahead, np.float64), seed)
    gain = law.at(np.asarray(ahead, np.float64))[0] - law.at(n[-1:])[0]
    expected: list[tuple[int, float, float, float]] = []
    for place, number in enumerate(ahead):
        added = (float(gain[place]), *bootstrap.interval(gains[:, place]))
        value, low, high = (float(np.clip(measured[-1] + g, 0, 1)) for g in added)
        expected.append((number, value, low, high))
    clear, sentence = describe_gain(name, sizes[-1], float(measured[-1]), expected[0])
    return Curve(
        score=name,
        images=tuple(sizes),
        values=tuple(measured.tolist()),
        intervals=tuple((score.low, score.high) for score in scores),
        fit=(float(law.a[0]), float(law.b[0]), float(law.c[0])),
        more=ahead[0] - sizes[-1],
        ahead=tuple(expected),
        clear=clear,
        words=sentence,
    )


def _gains(n: Array, drawn: Array, ahead: Array, seed: int) -> Array:
    """Return the gain of the score at the numbers of images `ahead` in each draw: ``(draws, len(ahead)) float64``."""
    weights = seeding.generator(seed, "learning curve").exponential(size=drawn.shape) + 1e-3
    law = fit_power_law(n, drawn, weights)
    return np.asarray(law.at(ahead) - law.at(n[-1:]))


def numbers_ahead(images: int) -> list[int]:
    """Return the numbers of images to extrapolate to: a round number more (1, 2, 5, 10, 20 ...), and twice as many."""
    rounds = [m * 10**k for k in range(8) for m in (1, 2, 5) if m * 10**k <= images]
    return sorted({images + rounds[-1], 2 * images})


def describe_gain(name: str, images: int, now: float, ahead: tuple[int, float, float, float]) -> tuple[bool, str]:
    """Describe the gain of more images in one sentence.

    Parameters
    ----------
    name
        Name of the score.
    images, now
        Number of training images today, and the score with them.
    ahead
        A larger number of images, the score expected with it, and both ends of its interval.

    Returns
    -------
    clear, sentence
        Whether the curve shows a gain, and the sentence.
    """
    title = SCORE_TITLES.get(name, name)
    number, value, low, high = ahead
    more = pluralize(number - images, "more image")
    if not np.isfinite(now + value):
        return False, f"the curve is inconclusive: {title} is not defined on these held-out images"
    if not np.isfinite(low + high):
        return False, (
            f"the curve is inconclusive: only one held-out image, or group of them, defines {title}, so that it has no "
            f"interval; it is {now:.2f} and would be about {value:.2f} with {more}"
        )
    if high - low > _WIDEST:
        return False, (
            f"the curve is inconclusive: with {more} {title} could be anything from {low:.2f} to {high:.2f}, now it is "
            f"{now:.2f}; a longer --budget or more held-out images would show more"
        )
    if low <= now:
        return False, (
            f"the curve does not show that {more} would help: {title} is {now:.2f} and would be between {low:.2f} and "
            f"{high:.2f}"
        )
    return True, f"{more} would raise {title} from {now:.2f} to about {value:.2f} ({low:.2f}-{high:.2f})"


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Fitted curves a - b n^-c.

    Attributes
    ----------
    a, b, c : ndarray
        ``(repeats,) float64`` each; `b` is negative where scores fall with more images.
    """

    a: Array
    b: Array
    c: Array

    def at(self, images: Array) -> Array:
        """Return the scores at numbers of images.

        Parameters
        ----------
        images
            ``(k,)`` float64, above 0.

        Returns
        -------
        ndarray
            ``(repeats, k)`` float64, not clipped to 0..1.
        """
        return np.asarray(self.a[:, None] - self.b[:, None] * images[None] ** -self.c[:, None])


def fit_power_law(images: Array, scores: Array, weights: Array | None = None) -> PowerLaw:
    """Fit s(n) = a - b n^-c by weighted least squares.

    For a given exponent the law is a straight line in n^-c, which is fitted exactly; of 60 exponents from 0.1 to 2 the
    one with the smallest sum of squares is taken.

    Parameters
    ----------
    images
        ``(m,)`` float64, numbers of training images, above 0, at least three different ones.
    scores
        ``(repeats, m)`` float64, finite.
    weights
        ``(repeats, m)`` float64, above 0; equal if not given.
    """
    w = np.ones_like(scores) if weights is None else weights
    w = w / w.sum(axis=1, keepdims=True)
    middle = (w * scores).sum(axis=1)
    best = np.full(len(scores), np.inf)
    a, b, c = (np.zeros(len(scores)) for _ in range(3))
    for exponent in _EXPONENTS:
        x = images**-exponent
        center = w @ x
        spread = (w * (x - center[:, None]) ** 2).sum(axis=1)
        slope = (w * (x - center[:, None]) * (scores - middle[:, None])).sum(axis=1) / spread
        level = middle - slope * center
        error = (w * (scores - level[:, None] - slope[:, None] * x) ** 2).sum(axis=1)
        # Of equal fits, as where all scores are the same, the first is taken: rounding must not decide.
        better = error < best - 1e-15
        best = np.where(better, error, best)
        a, b, c = (np.where(better, new, old) for new, old in ((level, a), (-slope, b), (exponent, c)))
    return PowerLaw(a, b, c)
