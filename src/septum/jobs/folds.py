"""Cross-validation: each image is held out once, all are scored as one, and the networks predict together."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from septum.arrays.instances import ObjectSettings
from septum.errors import ModelError, UsageError
from septum.jobs.check import check
from septum.jobs.model import Model, ModelHeader, open_model, save_model, trained_networks
from septum.jobs.out_of_fold import OutOfFold
from septum.jobs.prepare import fingerprint
from septum.jobs.records import Checked, Planned, Saved, Trained, Warned
from septum.jobs.report_images import Gallery, labels_of
from septum.jobs.report_scores import estimates
from septum.jobs.run_report import assembled, command, read_plan_file
from septum.jobs.series import Part, Series, claimed, refuse_processes
from septum.jobs.split import Split, folds_sentence, grouped, make_folds
from septum.jobs.stopping import Stop
from septum.jobs.train import Loaded, TrainSettings, load
from septum.nn.device import enough_memory

if TYPE_CHECKING:
    from septum.jobs.load import Sample
    from septum.jobs.run_folder import RunFolder

MAIN_SCORES = {"objects": ("SEG", "AP50", "AP"), "classes": ("dice", "iou", "pixel_error")}


def train_folds(settings: TrainSettings, folds: int, stop: Stop | None = None) -> Iterator[Any]:
    """Train one network a fold, score all images as one, and write the networks as one model.

    Parameters
    ----------
    settings
        Of the run; a time budget is shared out, `steps` are those of each fold. How images are dealt out:
        `septum.jobs.split.make_folds`.
    folds
        Number of folds, 2 or more.
    stop
        See `septum.jobs.train.train`.

    Yields
    ------
    The records of `septum.jobs.series.Series.trainings`; then HeldOutDone while all images are predicted, Saved,
    RunReport, and Trained with the out-of-fold scores; or Stopped.

    Raises
    ------
    SeptumError
        As `septum.jobs.train.train`; and if there are too few images or groups for the folds.
    """
    if folds < 2:
        raise UsageError(f"--folds {folds}", "2 or more", "leave --folds out to train once")
    refuse_processes("--folds")
    parts = [
        Part(f"fold-{k}", f"fold {k} of {folds}", settings.split.model_copy(update={"fold": (k, folds)}), settings.seed)
        for k in range(1, folds + 1)
    ]
    series = Series(settings, parts, command(settings, ["--folds", str(folds)]), 0)
    with (
        enough_memory("this training", "use a smaller --batch, --tile or --width, or close other programs"),
        claimed(settings, {"folds": folds}) as (folder, warnings),
    ):
        yield from warnings
        report = check(settings.data, kind=settings.kind)
        yield Checked(report)
        series.seen.hear(Checked(report))
        loaded = load(report)
        samples = grouped(loaded.samples, settings.split.group) if settings.split.group else loaded.samples
        seed = settings.seed if settings.split.seed is None else settings.split.seed
        dealt = make_folds(samples, folds, seed=seed, whole=settings.split.group is not None)
        sentence = folds_sentence(dealt, samples)
        yield Planned((sentence,))
        if done := finished(series, folder, loaded, folds):
            yield done
            return
        series.ends = len(samples)
        trained = yield from series.trainings(loaded, stop or Stop())
        if trained is not None:
            series.seen.planned = (sentence, *series.seen.planned[1:])
            yield from _finish(series, folder, loaded, dealt, trained)


def finished(series: Series, folder: RunFolder, loaded: Loaded, members: int) -> Trained | None:
    """Return the result of a series that has come to its end, report and all; None if it has not."""
    try:
        header = open_model(folder.model, series.settings.device).header
    except (ModelError, ValidationError):
        return None
    made = header.training
    if header.members != members or made.get("data_fingerprint") != fingerprint(loaded.images):
        return None
    if not (folder.path / "metrics.json").exists():
        return None
    return Trained(folder.model, header.scores, int(made.get("steps", 0)), float(made.get("seconds", 0.0)))


def _finish(
    series: Series, folder: RunFolder, loaded: Loaded, dealt: Sequence[Split], trained: Sequence[Trained]
) -> Iterator[Any]:
    """Predict every image out of its fold, tune and score all as one, write the ensemble."""
    begin, settings, samples = time.monotonic(), series.settings, loaded.samples
    out = OutOfFold(settings.out)
    shares = [(one.model, [samples[i] for i in fold.held_out]) for one, fold in zip(trained, dealt, strict=True)]
    left = None if series.seconds_left is None else max(1.0, series.seconds_left - 2 * (series.tuning_s or 0.0))
    yield from out.predict(shares, device=settings.device, limit_s=left)
    first = open_model(trained[0].model, settings.device)
    objects = ObjectSettings()
    if first.header.kind == "objects":
        objects = out.tune(samples, limit_s=series.tuning_s)
    header = ensemble_header(first.header, series, trained, objects=objects)
    gallery = Gallery(Model(header, first.network, first.device))
    number = yield from _score(out, gallery, samples)
    if number < len(samples):
        text = f"scores are of {number} of {len(samples)} images, to keep the budget"
        series.seen.warnings.append(text)
        yield Warned(text)
    found = estimates(gallery.images, header.kind, values=header.class_values, seed=settings.seed)
    scores = {name: found[name].value for name in MAIN_SCORES[header.kind]}
    header = header.model_copy(update={"scores": scores})
    said = read_plan_file(series.folder(series.parts[0]))
    names = [[samples[i].name for i in fold.held_out] for fold in dealt]
    folder.write_json("plan.json", {**said, "held_out": [s.name for s in samples], "folds": names})
    folder.write_json("folds.json", {"scores": plain_scores(scores), "folds": folds_told(series, names, trained)})
    yield from write_ensemble(series, folder, header, trained)
    series.seen.trained = Trained(folder.model, scores, sum(t.steps for t in trained), series.seconds)
    note = (
        "Every image was predicted by the one network that was not trained on it; the model holds all networks and "
        "averages them, which is mostly a little better."
    )
    yield assembled(settings, series.seen, gallery, begin=begin, again=series.again, note=note)
    yield series.seen.trained


def _score(out: OutOfFold, gallery: Gallery, samples: Sequence[Sample]) -> Generator[Any, None, int]:
    """Make and write the labels of what is predicted, and score them; return how many there are."""
    number = 0
    for sample in samples:
        probabilities = out.read(sample)
        if probabilities is None:
            continue
        labels = labels_of(probabilities, gallery.model, sample)
        out.write_labels(sample, labels, gallery.model)
        gallery.add(sample, probabilities, labels, seconds=out.seconds.get(sample.name, math.nan))
        number += 1
        yield Saved(out.path(sample))
    return number


def ensemble_header(
    first: ModelHeader, series: Series, trained: Sequence[Trained], *, objects: ObjectSettings
) -> ModelHeader:
    """Return the header of the networks of a series together, without scores."""
    made = {k: v for k, v in first.training.items() if k != "best_step"}
    made |= {"steps": sum(t.steps for t in trained), "seconds": round(series.seconds, 1)}
    made |= {"parts": [part.title for part in series.parts]}
    return first.model_copy(update={"members": len(trained), "objects": objects, "scores": {}, "training": made})


def write_ensemble(
    series: Series, folder: RunFolder, header: ModelHeader, trained: Sequence[Trained]
) -> Iterator[Saved]:
    """Write the scores, and last the networks of all parts as one model."""
    folder.write_json("scores.json", plain_scores(header.scores))
    networks = [network for one in trained for network in trained_networks(one.model)]
    save_model(folder.model, networks, header)
    yield Saved(folder.model)


def folds_told(series: Series, names: Sequence[Sequence[str]], trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """Return what came of each fold, ready for JSON."""
    return [
        {
            "folder": part.folder,
            "held_out": list(held),
            "scores": plain_scores(one.scores),
            "steps": one.steps,
            "seconds": round(one.seconds, 1),
        }
        for part, held, one in zip(series.parts, names, trained, strict=True)
    ]


def plain_scores(scores: dict[str, float]) -> dict[str, float | None]:
    """Return scores as JSON holds them, None where not defined."""
    return {k: v if math.isfinite(v) else None for k, v in scores.items()}
