"""The same training with several seeds: how far a score moves by chance alone, and a model that averages them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

from septum.check.check import check
from septum.check.samples import Sample, load_data
from septum.errors import UsageError
from septum.events import Warned
from septum.experiments.ensemble import Ending, averaged, finish, finished
from septum.experiments.events import SeedsCompared
from septum.experiments.held_out import HELD_OUT, HeldOutFiles, Share
from septum.experiments.series import Series, SeriesPart, claim, held, refuse_processes
from septum.io.paths import format_path
from septum.nn.device import report_memory_shortage
from septum.report.collect import rebuilt_command
from septum.report.summary import json_ready
from septum.train.events import Checked, Planned, Trained
from septum.train.interrupt import StopRequest
from septum.train.model_selection import selection_score
from septum.train.run_folder import RunFolder
from septum.train.settings import TrainSettings
from septum.train.split import split


def train_seeds(settings: TrainSettings, seeds: int, stop: StopRequest | None = None) -> Iterator[Any]:
    """Train with seeds s, s + 1, s + 2 ... on the same images, compare, and write the networks as one model.

    The mean of the networks is kept, not the best of them: which is best was seen on the very images that it is scored
    on, so its score would be flattered. Where the mean scores lower than a single network on average, as happens to
    networks that are far from trained, that is said.

    Parameters
    ----------
    settings
        Of the run; `seed` is the first and draws the split for all. A time budget is shared out, `steps` are those of
        each.
    seeds
        How many, 2 or more.
    stop
        See `septum.train.loop.train`.

    Yields
    ------
    The records of `septum.experiments.series.Series.trainings`; then HeldOutDone while the held-out images are
    predicted, Saved, RunReport, SeedsCompared, and Trained with the scores of the mean; or Stopped.

    Raises
    ------
    SeptumError
        As `septum.train.loop.train`.
    """
    if seeds < 2:
        raise UsageError(f"--seeds {seeds}", "2 or more", "leave --seeds out to train once")
    refuse_processes("--seeds")
    first = settings.seed if settings.split.seed is None else settings.split.seed
    same = settings.split.model_copy(update={"seed": first})
    parts = [SeriesPart(f"seed-{s}", f"seed {s}", same, s) for s in range(settings.seed, settings.seed + seeds)]
    series = Series(settings, parts, rebuilt_command(settings, ["--seeds", str(seeds)]), 0)
    with (
        report_memory_shortage("this training", "use a smaller --batch, --tile or --width, or close other programs"),
        held(settings) as (folder, warnings),
    ):
        yield from warnings
        report = check(settings.data, kind=settings.kind, ignore=settings.ignore_values)
        yield Checked(report)
        series.seen.hear(Checked(report))
        loaded = load_data(report)
        chosen = split(loaded.samples, same, seed=first)
        claim(folder, settings, "seeds", seeds)
        yield Planned((f"{seeds} trainings with seeds {parts[0].seed} to {parts[-1].seed} on the same images",))
        series.ends = len(chosen.held_out)
        trained = yield from series.trainings(loaded, stop or StopRequest())
        if trained is None:
            return
        compared = SeedsCompared(
            tuple(part.seed for part in parts),
            {name: tuple(t.scores[name] for t in trained) for name in trained[0].scores},
        )
        done = finished(series, folder, loaded)
        if done is None:
            done = yield from _finish(series, folder, series.held_out(parts[0], loaded), trained, compared)
        yield compared
        yield done


def _finish(
    series: Series, folder: RunFolder, held_out: Sequence[Sample], trained: Sequence[Trained], compared: SeedsCompared
) -> Generator[Any, None, Trained]:
    """Score the mean of the networks and write what came of them."""
    settings = series.settings
    share = Share(partial(averaged, [t.model for t in trained], settings.device), held_out)
    spread = ", ".join(f"{n} {compared.mean(n):.3f} ± {compared.deviation(n):.3f}" for n in compared.scores)
    note = f"The model averages {len(trained)} networks; single ones, mean ± standard deviation: {spread}."
    ending = Ending(HeldOutFiles(settings.out / HELD_OUT), [share], {}, note if spread else "")
    done = yield from finish(series, folder, ending, trained)
    summary = {
        name: {"values": values, "mean": compared.mean(name), "deviation": compared.deviation(name)}
        for name, values in compared.scores.items()
    }
    said = {"seeds": compared.seeds, "single": summary, "averaged": done.scores}
    folder.write_json("seeds.json", json_ready(said))
    if spread and selection_score(done.scores) < selection_score(
        {name: compared.mean(name) for name in compared.scores}
    ):
        yield Warned(
            "averaged, the networks score lower than a single one: train longer, or use the model of one of them, such "
            f"as {format_path(trained[0].model)}"
        )
    return done
