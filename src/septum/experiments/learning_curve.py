"""How many more images are worth annotating: trainings on parts of the images, and their scores carried on.

The parts are an eighth, a quarter, a half and all of the training images, each within the next larger one. Each network
gets the same time or steps, and all are scored on the same held-out images.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from septum import seeding
from septum.check.check import check
from septum.check.samples import LoadedData, Sample, fingerprint, load_data
from septum.errors import DataError, ModelError
from septum.events import Warned
from septum.experiments.events import HeldOutDone
from septum.experiments.power_law import fit_power_law
from septum.experiments.series import Series, SeriesPart, claim, held, refuse_processes
from septum.io.atomic import whole_file
from septum.metrics import bootstrap
from septum.nn.device import report_memory_shortage
from septum.predict.model import open_model
from septum.report.collect import build_report, rebuilt_command
from septum.report.curve import Curve
from septum.report.gallery import Gallery, ScoredSample, estimates, predicted_sample, resampled, spread_order
from septum.report.summary import json_ready
from septum.train.events import Checked, Planned, Saved, Trained
from septum.train.interrupt import StopRequest
from septum.train.model_selection import selection_names
from septum.train.run_folder import RunFolder, read_plan_file
from septum.train.settings import TrainSettings
from septum.train.split import split

_LEAST_TRAINING, _LEAST_HELD_OUT = 4, 2
# An interval for the score ahead that is wider than this says nothing.
_WIDEST = 0.25


def train_curve(settings: TrainSettings, stop: StopRequest | None = None) -> Iterator[Any]:
    """Train on parts of the images and say what more images would bring.

    Parameters
    ----------
    settings
        Of the run; a time budget is shared out in equal parts, `steps` are those of each training.
    stop
        See `septum.train.loop.train`.

    Yields
    ------
    The records of `septum.experiments.series.Series.trainings`; then HeldOutDone while the held-out images are
    predicted, Saved, RunReport, Curve, and Trained, the model of all images; or Stopped.

    Raises
    ------
    SeptumError
        As `septum.train.loop.train`; and if there are too few images for a curve.
    """
    refuse_processes("--learning-curve")
    series = Series(settings, [], rebuilt_command(settings, ["--learning-curve"]), 0)
    with (
        report_memory_shortage("this training", "use a smaller --batch, --tile or --width, or close other programs"),
        held(settings) as (folder, warnings),
    ):
        yield from warnings
        report = check(settings.data, kind=settings.kind, ignore=settings.ignore_values)
        yield Checked(report)
        series.seen.hear(Checked(report))
        loaded = load_data(report)
        chosen = split(loaded.samples, settings.split, seed=settings.seed)
        sizes = subsets(len(chosen.train), len(chosen.held_out))
        claim(folder, settings, "learning_curve", True)
        some = {n: settings.split.model_copy(update={"limit": n}) for n in sizes}
        series.parts = [SeriesPart(f"images-{n}", f"{n} of {sizes[-1]} images", some[n], settings.seed) for n in sizes]
        said = ", ".join(map(str, sizes[:-1])) + f" and {sizes[-1]}"
        yield Planned((f"{len(sizes)} trainings on {said} images, scored on the same {len(chosen.held_out)}",))
        series.ends = len(chosen.held_out) * len(sizes)
        trained = yield from series.trainings(loaded, stop or StopRequest())
        if trained is None:
            return
        if (earlier := _earlier(folder, loaded)) is not None:
            yield from earlier
        else:
            yield from _finish(series, folder, series.held_out(series.parts[-1], loaded), sizes, trained)


def _earlier(folder: RunFolder, loaded: LoadedData) -> tuple[Curve, Trained] | None:
    """Return what came of a run that has come to its end, report and all; None if it has not."""
    try:
        found = TypeAdapter(Curve).validate_json((folder.path / "curve.json").read_bytes())
        header = open_model(folder.model, "cpu").header
    except (OSError, ValidationError, ModelError):
        return None
    made = header.training
    if made.get("data_fingerprint") != fingerprint(loaded.images) or not (folder.path / "metrics.json").exists():
        return None
    return found, Trained(folder.model, header.scores, int(made["steps"]), float(made["seconds"]))


def subsets(training: int, held_out: int) -> list[int]:
    """Return the numbers of images of the trainings, rising.

    Raises
    ------
    DataError
        If there are fewer than 4 images for training or 2 held out.
    """
    if training < _LEAST_TRAINING or held_out < _LEAST_HELD_OUT:
        raise DataError(
            f"a learning curve with {training} image{'s' * (training != 1)} for training and {held_out} held out",
            f"at least {_LEAST_TRAINING} for training and {_LEAST_HELD_OUT} held out: 8 images, or two groups of them",
            "annotate more images first: with so few, any more will help",
        )
    return sorted({max(1, -(-training // k)) for k in (8, 4, 2, 1)})


def _finish(
    series: Series, folder: RunFolder, samples: Sequence[Sample], sizes: Sequence[int], trained: Sequence[Trained]
) -> Iterator[Any]:
    """Predict the held-out images with every model, fit the curve, keep the model of all images."""
    begin, settings = time.monotonic(), series.settings
    galleries = [Gallery(open_model(one.model, settings.device)) for one in trained]
    yield from _predict(series, galleries, samples)
    number = len(galleries[-1].images)
    if number < len(samples):
        text = f"the curve is of {number} of {len(samples)} held-out images, to keep the budget"
        series.seen.warnings.append(text)
        yield Warned(text)
    found = curve(sizes, [gallery.images for gallery in galleries], galleries[-1], seed=settings.seed)
    said = read_plan_file(series.folder(series.parts[-1]))
    folder.write_json("plan.json", said)
    folder.write_json("curve.json", json_ready(vars(found)))
    folder.write_json("scores.json", json_ready(trained[-1].scores))
    with whole_file(folder.model) as part:
        shutil.copyfile(trained[-1].model, part)
    yield Saved(folder.model)
    done = replace(trained[-1], model=folder.model)
    series.seen.trained = replace(done, steps=sum(t.steps for t in trained), seconds=series.seconds)
    yield replace(build_report(settings, series.seen, galleries[-1], begin=begin, again=series.again), curve=found)
    yield found
    yield done


def _predict(series: Series, galleries: Sequence[Gallery], samples: Sequence[Sample]) -> Iterator[HeldOutDone]:
    """Predict and score held-out images, evenly spread, each with all models, while there is time."""
    total, done = len(samples) * len(galleries), 0
    for place, sample in enumerate(spread_order(samples)):
        left = series.seconds_left
        if left is not None and place >= _LEAST_HELD_OUT and left < series.report_s:
            return
        for gallery in galleries:
            start = time.monotonic()
            probabilities, labels = predicted_sample(gallery.model, sample)
            gallery.add(sample, probabilities, labels, seconds=time.monotonic() - start)
            done += 1
            yield HeldOutDone(done, total)


def curve(sizes: Sequence[int], images: Sequence[Sequence[ScoredSample]], gallery: Gallery, *, seed: int) -> Curve:
    """Fit a power law to the scores of models of rising numbers of images and carry it on.

    The interval is that of 1000 draws. Each takes held-out images with replacement, the same for all models (Efron and
    Tibshirani 1993, chapter 13), and gives the models random weights (Rubin 1981, "The Bayesian bootstrap"), because a
    training with other images or another seed would have ended elsewhere; the law is fitted to each draw.

    Parameters
    ----------
    sizes
        Numbers of training images, rising, at least three.
    images
        For each the same held-out images, predicted by its model.
    gallery
        Says what the labels are.
    seed
        Of the draws.
    """
    header = gallery.model.header
    values = header.class_values
    found = [estimates(some, header.kind, values=values, seed=seed) for some in images]
    name = selection_names(found[0])[0]
    scores = [one[name] for one in found]
    n = np.asarray(sizes, np.float64)
    drawn = np.stack([resampled(some, header.kind, values=values, seed=seed)[name] for some in images], axis=1)
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    ahead = numbers_ahead(sizes[-1])
    measured = np.array([score.value for score in scores])
    law = fit_power_law(n, measured[None])
    gains = _gains(n, drawn, np.asarray(ahead, np.float64), seed)
    gain = law.at(np.asarray(ahead, np.float64))[0] - law.at(n[-1:])[0]
    told: list[tuple[int, float, float, float]] = []
    for place, images_ahead in enumerate(ahead):
        added = (float(gain[place]), *bootstrap.interval(gains[:, place]))
        value, low, high = (float(np.clip(measured[-1] + g, 0, 1)) for g in added)
        told.append((images_ahead, value, low, high))
    clear, words = in_words(name, sizes[-1], float(measured[-1]), told[0])
    return Curve(
        score=name,
        images=tuple(sizes),
        values=tuple(measured.tolist()),
        intervals=tuple((score.low, score.high) for score in scores),
        fit=(float(law.a[0]), float(law.b[0]), float(law.c[0])),
        more=ahead[0] - sizes[-1],
        ahead=tuple(told),
        clear=clear,
        words=words,
    )


def _gains(
    n: NDArray[np.float64], drawn: NDArray[np.float64], ahead: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return what the images ahead would add to the score in each draw: ``(draws, len(ahead))``."""
    weights = seeding.generator(seed, "learning curve").exponential(size=drawn.shape) + 1e-3
    law = fit_power_law(n, drawn, weights)
    return np.asarray(law.at(ahead) - law.at(n[-1:]))


def numbers_ahead(images: int) -> list[int]:
    """Return the numbers of images to speak of: with a round number more (1, 2, 5, 10, 20 ...), up to twice as many."""
    rounds = [m * 10**k for k in range(8) for m in (1, 2, 5) if m * 10**k <= images]
    return sorted({images + rounds[-1], 2 * images})


def in_words(name: str, images: int, now: float, ahead: tuple[int, float, float, float]) -> tuple[bool, str]:
    """Say what more images would bring, or that the curve does not say it; return whether it does, and the sentence."""
    title = {"dice": "Dice"}.get(name, name)
    number, value, low, high = ahead
    more = f"{number - images} more image{'s' * (number - images != 1)}"
    if not np.isfinite(now + value + low + high):
        return False, f"the curve says nothing: {title} is not defined on these held-out images"
    if high - low > _WIDEST:
        return False, (
            f"the curve says nothing: with {more} {title} could be anything from {low:.2f} to {high:.2f}, now it is "
            f"{now:.2f}; a longer --budget or more held-out images would tell"
        )
    if low <= now:
        return False, (
            f"that {more} would help is not shown: {title} is {now:.2f} and would be between {low:.2f} and {high:.2f}"
        )
    return True, f"{more} would raise {title} from {now:.2f} to about {value:.2f} ({low:.2f}-{high:.2f})"
