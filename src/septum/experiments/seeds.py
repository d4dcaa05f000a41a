"""The same training with several seeds: how much a score varies by chance, and a model that averages the networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from septum.errors import UsageError
from septum.events import Event, Warned
from septum.experiments.ensemble import finish_ensemble, open_ensemble
from septum.experiments.events import SeedsCompared
from septum.experiments.held_out import HELD_OUT, HeldOutShare
from septum.experiments.series import Outline, Series, SeriesKind, SeriesPart, run_series
from septum.io.formats import format_path
from septum.pairing.sample import Sample
from septum.report.summary import json_ready
from septum.settings import MaskKind
from septum.training.events import Trained
from septum.training.interrupt import StopRequest
from septum.training.model_selection import selection_score
from septum.training.settings import TrainSettings
from septum.training.split import split


def train_seeds(settings: TrainSettings, seeds: int, stop: StopRequest | None = None) -> Iterator[Event]:
    """Train with seeds s, s + 1, s + 2 ... on the same images, compare, and write the networks as one model.

    The model averages the networks. The best single network is not chosen: it would be chosen by the images that it is
    scored on, so that its score would be too high. A warning reports scores of the average that are lower than the mean
    of the single networks, as happens when they are far from trained.

    Parameters
    ----------
    settings
        Settings of the run; `seed` is the first seed and draws the split of all. A time budget is shared out, `steps`
        are those of each training.
    seeds
        Number of seeds, 2 or more.
    stop
        See `septum.training.loop.train`.

    Yields
    ------
    The events of `septum.experiments.series.run_series`; after the last training HeldOutDone, Saved, RunReport,
    SeedsCompared, and Trained with the scores of the average.

    Raises
    ------
    SeptumError
        As `septum.training.loop.train`.
    """
    if seeds < 2:
        raise UsageError(f"{seeds} seeds", "2 or more", "train once with: septum train")
    command, options = ("experiment", "seeds"), ("--count", str(seeds))
    outline = partial(_outline, settings, seeds)
    yield from run_series(settings, SeriesKind("seeds", seeds, command, options, outline, _finish), stop)


def _outline(settings: TrainSettings, seeds: int, samples: Sequence[Sample], kind: MaskKind) -> Outline:
    """Return one training for each seed, all with the split of the first."""
    first, last = settings.seed, settings.seed + seeds - 1
    split_seed = first if settings.split.seed is None else settings.split.seed
    same = settings.split.model_copy(update={"seed": split_seed})
    chosen = split(samples, same, seed=split_seed, kind=kind)
    return Outline(
        [SeriesPart(f"seed-{seed}", f"seed {seed}", same, seed) for seed in range(first, last + 1)],
        [chosen] * seeds,
        f"{seeds} trainings with seeds {first} to {last} on the same images",
        predictions=len(chosen.held_out),
    )


def _finish(series: Series, trained: Sequence[Trained]) -> Iterator[Event]:
    """Score the average of the networks and write it, unless an earlier start did; compare the single networks."""
    compared = SeedsCompared(
        tuple(part.seed for part in series.outline.parts),
        {name: tuple(one.scores[name] for one in trained) for name in trained[0].scores},
    )
    done = series.finished()
    if done is None:
        names = list(compared.scores)
        spread = ", ".join(f"{n} {compared.mean(n):.3f} ± {compared.deviation(n):.3f}" for n in names)
        note = f"The model averages {len(trained)} networks; single ones, mean ± standard deviation: {spread}."
        held_out = series.held_out(series.outline.parts[0])
        share = HeldOutShare(partial(open_ensemble, [t.model for t in trained], series.settings.device), held_out)
        single = {
            n: {"values": compared.scores[n], "mean": compared.mean(n), "deviation": compared.deviation(n)}
            for n in names
        }

        def write_summary(scores: Mapping[str, float]) -> None:
            summary = {"seeds": compared.seeds, "single": single, "averaged": scores}
            series.folder.write_json("seeds.json", json_ready(summary))

        done = yield from finish_ensemble(
            series,
            trained,
            place=series.settings.out / HELD_OUT,
            shares=[share],
            plan={},
            note=note if names else "",
            write_summary=write_summary,
        )
        if names and selection_score(done.scores) < selection_score({n: compared.mean(n) for n in names}):
            yield Warned(
                "the average of the networks scores lower than a single network does: train longer, or use the model "
                f"of one seed, such as {format_path(trained[0].model)}"
            )
    yield compared
    yield done
