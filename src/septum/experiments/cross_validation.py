"""Cross-validation: every image is held out by one training, all are scored as one, and the networks are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from septum.errors import UsageError
from septum.events import Event
from septum.experiments.ensemble import finish_ensemble
from septum.experiments.held_out import OUT_OF_FOLD, HeldOutShare
from septum.experiments.series import Outline, Series, SeriesKind, SeriesPart, run_series
from septum.pairing.grouping import grouped
from septum.pairing.sample import Sample
from septum.prediction.model import open_model
from septum.report.summary import json_ready
from septum.settings import MaskKind
from septum.training.events import Trained
from septum.training.interrupt import StopRequest
from septum.training.settings import TrainSettings
from septum.training.split import folds_sentence, make_folds

_NOTE = (
    "Every image was predicted by the one network that was not trained on it. The model averages all networks, which "
    "usually scores a little higher."
)


def train_folds(settings: TrainSettings, folds: int, stop: StopRequest | None = None) -> Iterator[Event]:
    """Train one network for each fold, score all images as one, and write the networks as one model.

    Parameters
    ----------
    settings
        Settings of the run; a time budget is shared out, `steps` are those of each fold. Images are assigned to folds
        by `septum.training.split.make_folds`.
    folds
        Number of folds, 2 or more.
    stop
        See `septum.training.loop.train`.

    Yields
    ------
    The events of `septum.experiments.series.run_series`; after the last training HeldOutDone, Saved, RunReport, and
    Trained with the out-of-fold scores.

    Raises
    ------
    SeptumError
        As `septum.training.loop.train`; and if there are fewer images, or groups of images, than folds.
    """
    if folds < 2:
        raise UsageError(f"--folds {folds}", "2 or more", "leave --folds out to train once")
    outline, options = partial(_outline, settings, folds), ("--folds", str(folds))
    yield from run_series(settings, SeriesKind("folds", folds, ("train",), options, outline, _finish), stop)


def _outline(settings: TrainSettings, folds: int, samples: Sequence[Sample], kind: MaskKind) -> Outline:
    """Return one training for each fold."""
    parts = []
    for k in range(1, folds + 1):
        split = settings.split.model_copy(update={"fold": (k, folds)})
        parts.append(SeriesPart(f"fold-{k}", f"fold {k} of {folds}", split, settings.seed))
    group = settings.split.group
    samples = grouped(samples, group) if group else samples
    seed = settings.seed if settings.split.seed is None else settings.split.seed
    assigned = make_folds(samples, folds, seed=seed, keep_groups=group is not None)
    return Outline(parts, assigned, folds_sentence(assigned, samples), predictions=len(samples))


def _finish(series: Series, trained: Sequence[Trained]) -> Iterator[Event]:
    """Predict every image by the network of its fold and write the ensemble, unless an earlier start did."""
    series.log.planned = (series.outline.sentence, *series.log.planned[1:])
    done = series.finished()
    if done is None:
        parts = series.outline.parts
        images = [series.held_out(part) for part in parts]
        names = [[sample.name for sample in fold] for fold in images]
        shares = [
            HeldOutShare(partial(open_model, one.model, series.settings.device), fold)
            for one, fold in zip(trained, images, strict=True)
        ]
        entries = [
            {"folder": p.folder, "held_out": n, "scores": t.scores, "steps": t.steps, "seconds": round(t.seconds, 1)}
            for p, n, t in zip(parts, names, trained, strict=True)
        ]

        def write_summary(scores: Mapping[str, float]) -> None:
            series.folder.write_json("folds.json", json_ready({"scores": scores, "folds": entries}))

        done = yield from finish_ensemble(
            series,
            trained,
            place=series.settings.out / OUT_OF_FOLD,
            shares=shares,
            plan={"folds": names},
            note=_NOTE,
            write_summary=write_summary,
        )
    yield done
