"""Cross-validation: each image is held out once, all are scored as one, and the networks predict together."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

from septum.check.check import check
from septum.check.samples import LoadedData, load_data
from septum.errors import UsageError
from septum.experiments.ensemble import Ending, finish, finished
from septum.experiments.held_out import OUT_OF_FOLD, HeldOutFiles, Share
from septum.experiments.series import Series, SeriesPart, claim, held, refuse_processes
from septum.nn.device import report_memory_shortage
from septum.predict.model import open_model
from septum.report.collect import rebuilt_command
from septum.report.summary import json_ready
from septum.train.events import Checked, Planned, Trained
from septum.train.interrupt import StopRequest
from septum.train.run_folder import RunFolder
from septum.train.settings import TrainSettings
from septum.train.split import folds_sentence, grouped, make_folds

_NOTE = (
    "Every image was predicted by the one network that was not trained on it; the model holds all networks and "
    "averages them, which is mostly a little better."
)


def train_folds(settings: TrainSettings, folds: int, stop: StopRequest | None = None) -> Iterator[Any]:
    """Train one network a fold, score all images as one, and write the networks as one model.

    Parameters
    ----------
    settings
        Of the run; a time budget is shared out, `steps` are those of each fold. How images are dealt out:
        `septum.train.split.make_folds`.
    folds
        Number of folds, 2 or more.
    stop
        See `septum.train.loop.train`.

    Yields
    ------
    The records of `septum.experiments.series.Series.trainings`; then HeldOutDone while all images are predicted, Saved,
    RunReport, and Trained with the out-of-fold scores; or Stopped.

    Raises
    ------
    SeptumError
        As `septum.train.loop.train`; and if there are too few images or groups for the folds.
    """
    if folds < 2:
        raise UsageError(f"--folds {folds}", "2 or more", "leave --folds out to train once")
    refuse_processes("--folds")
    parts = [
        SeriesPart(
            f"fold-{k}", f"fold {k} of {folds}", settings.split.model_copy(update={"fold": (k, folds)}), settings.seed
        )
        for k in range(1, folds + 1)
    ]
    series = Series(settings, parts, rebuilt_command(settings, ["--folds", str(folds)]), 0)
    with (
        report_memory_shortage("this training", "use a smaller --batch, --tile or --width, or close other programs"),
        held(settings) as (folder, warnings),
    ):
        yield from warnings
        report = check(settings.data, kind=settings.kind, ignore=settings.ignore_values)
        yield Checked(report)
        series.seen.hear(Checked(report))
        loaded = load_data(report)
        samples = grouped(loaded.samples, settings.split.group) if settings.split.group else loaded.samples
        seed = settings.seed if settings.split.seed is None else settings.split.seed
        dealt = make_folds(samples, folds, seed=seed, keep_groups=settings.split.group is not None)
        claim(folder, settings, "folds", folds)
        sentence = folds_sentence(dealt, samples)
        yield Planned((sentence,))
        series.ends = len(samples)
        trained = yield from series.trainings(loaded, stop or StopRequest())
        if trained is None:
            return
        series.seen.planned = (sentence, *series.seen.planned[1:])
        done = finished(series, folder, loaded)
        if done is None:
            done = yield from _finish(series, folder, loaded, trained)
        yield done


def _finish(
    series: Series, folder: RunFolder, loaded: LoadedData, trained: Sequence[Trained]
) -> Generator[Any, None, Trained]:
    """Predict every image out of its fold, score all as one, write the networks as one model."""
    settings = series.settings
    images = [series.held_out(part, loaded) for part in series.parts]
    names = [[sample.name for sample in some] for some in images]
    shares = [
        Share(partial(open_model, one.model, settings.device), some) for one, some in zip(trained, images, strict=True)
    ]
    ending = Ending(HeldOutFiles(settings.out / OUT_OF_FOLD), shares, {"folds": names}, _NOTE)
    done = yield from finish(series, folder, ending, trained)
    told = [
        {
            "folder": part.folder,
            "held_out": some,
            "scores": one.scores,
            "steps": one.steps,
            "seconds": round(one.seconds, 1),
        }
        for part, some, one in zip(series.parts, names, trained, strict=True)
    ]
    folder.write_json("folds.json", json_ready({"scores": done.scores, "folds": told}))
    return done
