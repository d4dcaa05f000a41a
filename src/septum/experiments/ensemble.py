"""Write the networks of a series as one model, tuned and scored on all held-out images together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from septum.arrays.instances import ObjectSettings
from septum.events import Event
from septum.experiments.held_out import HeldOutFiles, HeldOutShare
from septum.experiments.series import Series
from septum.nn.device import find_device
from septum.nn.ensemble import Ensemble
from septum.nn.unet import for_prediction
from septum.pairing.sample import Sample
from septum.prediction.model import Model, ModelHeader, open_model, save_model, trained_networks
from septum.report.collect import build_report
from septum.report.gallery import Gallery, ScoredSample, estimates, labels_of
from septum.report.summary import json_ready
from septum.training.events import Saved, Trained
from septum.training.model_selection import main_scores
from septum.training.run_folder import read_plan_file


def open_ensemble(paths: Sequence[Path], device: str) -> Model:
    """Open the networks of several model files as one model, with the header of the first file."""
    chosen = find_device(device)
    networks = [for_prediction(n).to(chosen.torch) for path in paths for n in trained_networks(path)]
    header = open_model(paths[0], device).header
    return Model(header.model_copy(update={"members": len(networks)}), Ensemble(networks), chosen)


def finish_ensemble(
    series: Series,
    trained: Sequence[Trained],
    *,
    place: Path,
    shares: Sequence[HeldOutShare],
    plan: Mapping[str, Any],
    note: str,
    write_summary: Callable[[Mapping[str, float]], None],
) -> Generator[Event, None, Trained]:
    """Predict the held-out images, tune and score on all of them, and write the networks as one model.

    Parameters
    ----------
    series, trained
        The run and the results of its trainings.
    place
        Folder in which the predictions of the held-out images are kept.
    shares
        The held-out images by the model that predicts them.
    plan
        Entries of ``plan.json`` beside the plan of the first training and the names of the held-out images.
    note
        Images that the scores are of, for the report.
    write_summary
        Writes the files of this kind of series, given the scores; all files are there before the report.

    Yields
    ------
    HeldOutDone, Warned, Saved, and RunReport.

    Returns
    -------
    Trained
        The ensemble, its scores, and steps and seconds of all trainings.
    """
    begin, budget = time.monotonic(), series.budget
    samples = [sample for share in shares for sample in share.samples]
    limit_s = None if budget.left_s is None else max(1.0, budget.left_s - 2 * (budget.tuning_s or 0.0))
    first = open_model(trained[0].model, series.settings.device)
    files = HeldOutFiles(place, first.header.scale)
    yield from files.predict(shares, limit_s=limit_s)
    objects, lines = first.header.objects, first.header.lines
    if samples and (first.header.kind == "objects" or lines):
        objects = files.tune(samples, lines=lines, fill_holes=objects.fill_holes, limit_s=budget.tuning_s)
    header = _ensemble_header(first.header, series, trained, objects)
    gallery = Gallery(Model(header, first.network, first.device))
    yield from _score(files, gallery, samples)
    if len(gallery.images) < len(samples):
        yield series.warn(f"scores are of {len(gallery.images)} of {len(samples)} images, to keep the budget")
    scores = model_scores(gallery.images, header)
    first_plan = read_plan_file(series.part_folder(series.outline.parts[0]))
    series.folder.write_json("plan.json", {**first_plan, "held_out": [s.name for s in samples], **plan})
    series.folder.write_json("scores.json", json_ready(scores))
    write_summary(scores)
    networks = [network for one in trained for network in trained_networks(one.model)]
    # The model is written last: it marks a complete run.
    save_model(series.folder.model, networks, header.model_copy(update={"scores": scores}))
    yield Saved(series.folder.model)
    activities = sorted({activity for one in trained for activity in one.activities_s})
    spent = {activity: sum(one.activities_s.get(activity, 0.0) for one in trained) for activity in activities}
    done = Trained(series.folder.model, scores, sum(t.steps for t in trained), budget.spent_s, spent)
    series.log.trained = done
    yield build_report(series.settings, series.log, gallery, begin=begin, again=series.command, note=note)
    return done


def model_scores(images: Sequence[ScoredSample], header: ModelHeader) -> dict[str, float]:
    """Return the scores that a model file holds, of scored images; empty without any."""
    if not images:
        return {}
    scores = estimates(images, header.kind, values=header.class_values, seed=0)
    return main_scores({name: score.value for name, score in scores.items()}, header.kind)


def _score(files: HeldOutFiles, gallery: Gallery, samples: Sequence[Sample]) -> Iterator[Saved]:
    """Make labels of the predicted probabilities, write them, and score them."""
    for sample in samples:
        probabilities = files.read(sample)
        if probabilities is None:
            continue
        labels = labels_of(probabilities, gallery.model, sample)
        files.write_labels(sample, labels, gallery.model)
        gallery.add(sample, probabilities, labels, seconds=files.seconds.get(sample.name, math.nan))
        yield Saved(files.path(sample))


def _ensemble_header(
    first: ModelHeader, series: Series, trained: Sequence[Trained], objects: ObjectSettings
) -> ModelHeader:
    """Return the header of the ensemble, without scores, from the header of the first network."""
    training = {name: value for name, value in first.training.items() if name not in ("best_step", "start_scores")}
    training |= {"steps": sum(t.steps for t in trained), "seconds": round(series.budget.spent_s, 1)}
    training |= {"parts": [part.title for part in series.outline.parts]}
    return first.model_copy(update={"members": len(trained), "objects": objects, "scores": {}, "training": training})
