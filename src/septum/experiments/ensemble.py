"""The end of a series of trainings: their networks as one model, held-out images predicted, scored as one, reported."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from septum.arrays.instances import ObjectSettings
from septum.check.samples import LoadedData, Sample, fingerprint
from septum.errors import ModelError
from septum.events import Warned
from septum.experiments.held_out import HeldOutFiles, Share
from septum.experiments.series import Series
from septum.nn.device import find_device
from septum.nn.ensemble import Ensemble
from septum.nn.unet import for_prediction
from septum.predict.model import Model, ModelHeader, open_model, save_model, trained_networks
from septum.report.collect import build_report
from septum.report.gallery import Gallery, ScoredSample, estimates, labels_of
from septum.report.summary import json_ready
from septum.train.events import Saved, Trained
from septum.train.model_selection import main_scores
from septum.train.run_folder import RunFolder, read_plan_file


@dataclass(frozen=True)
class Ending:
    """How a series ends.

    Parameters
    ----------
    files
        Where the predictions of the held-out images are kept.
    shares
        Which model predicts which of them.
    plan
        What ``plan.json`` says beside the plan of the first training and the names of the held-out images.
    note
        What the scores are of, for the report.
    """

    files: HeldOutFiles
    shares: Sequence[Share]
    plan: Mapping[str, Any]
    note: str


def finished(series: Series, folder: RunFolder, loaded: LoadedData) -> Trained | None:
    """Return the result of a series that has come to its end, report and all; None if it has not."""
    try:
        header = open_model(folder.model, series.settings.device).header
    except ModelError:
        return None
    made = header.training
    if made.get("parts") != [part.title for part in series.parts] or not (folder.path / "metrics.json").exists():
        return None
    if made.get("data_fingerprint") != fingerprint(loaded.images):
        return None
    return Trained(folder.model, header.scores, int(made.get("steps", 0)), float(made.get("seconds", 0.0)))


def averaged(paths: Sequence[Path], device: str) -> Model:
    """Return the models of several files as one; its header is that of the first, but for the number of networks."""
    found = find_device(device)
    networks = [for_prediction(n).to(found.torch) for path in paths for n in trained_networks(path)]
    header = open_model(paths[0], device).header
    return Model(header.model_copy(update={"members": len(networks)}), Ensemble(networks), found)


def finish(
    series: Series, folder: RunFolder, ending: Ending, trained: Sequence[Trained]
) -> Generator[Any, None, Trained]:
    """Predict the held-out images, tune and score on all of them, write the networks as one model; return the end.

    Yields
    ------
    HeldOutDone, Warned, Saved; RunReport at the end.
    """
    begin, settings = time.monotonic(), series.settings
    samples = [sample for share in ending.shares for sample in share.samples]
    left = None if series.seconds_left is None else max(1.0, series.seconds_left - 2 * (series.tuning_s or 0.0))
    yield from ending.files.predict(ending.shares, limit_s=left)
    first = open_model(trained[0].model, settings.device)
    objects, lines = first.header.objects, first.header.lines
    if samples and (first.header.kind == "objects" or lines):
        objects = ending.files.tune(samples, lines=lines, limit_s=series.tuning_s)
    header = _header(first.header, series, trained, objects)
    gallery = Gallery(Model(header, first.network, first.device))
    yield from _score(ending.files, gallery, samples)
    if len(gallery.images) < len(samples):
        text = f"scores are of {len(gallery.images)} of {len(samples)} images, to keep the budget"
        series.seen.warnings.append(text)
        yield Warned(text)
    scores = model_scores(gallery.images, header)
    said = read_plan_file(series.folder(series.parts[0]))
    folder.write_json("plan.json", {**said, "held_out": [s.name for s in samples], **ending.plan})
    folder.write_json("scores.json", json_ready(scores))
    networks = [network for one in trained for network in trained_networks(one.model)]
    # The model comes last: where it is, all is done.
    save_model(folder.model, networks, header.model_copy(update={"scores": scores}))
    yield Saved(folder.model)
    done = Trained(folder.model, scores, sum(t.steps for t in trained), series.seconds)
    series.seen.trained = done
    yield build_report(settings, series.seen, gallery, begin=begin, again=series.again, note=ending.note)
    return done


def model_scores(images: Sequence[ScoredSample], header: ModelHeader) -> dict[str, float]:
    """Return the scores that a model file holds, from images that were predicted; empty without any."""
    if not images:
        return {}
    found = estimates(images, header.kind, values=header.class_values, seed=0)
    return main_scores({name: score.value for name, score in found.items()}, header.kind)


def _score(files: HeldOutFiles, gallery: Gallery, samples: Sequence[Sample]) -> Iterator[Saved]:
    """Make and write the labels of what is predicted, and score them."""
    for sample in samples:
        probabilities = files.read(sample)
        if probabilities is None:
            continue
        labels = labels_of(probabilities, gallery.model, sample)
        files.write_labels(sample, labels, gallery.model)
        gallery.add(sample, probabilities, labels, seconds=files.seconds.get(sample.name, math.nan))
        yield Saved(files.path(sample))


def _header(first: ModelHeader, series: Series, trained: Sequence[Trained], objects: ObjectSettings) -> ModelHeader:
    """Return the header of the networks of a series together, without scores."""
    made = {k: v for k, v in first.training.items() if k != "best_step"}
    made |= {"steps": sum(t.steps for t in trained), "seconds": round(series.seconds, 1)}
    made |= {"parts": [part.title for part in series.parts]}
    return first.model_copy(update={"members": len(trained), "objects": objects, "scores": {}, "training": made})
