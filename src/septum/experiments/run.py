"""One entry for all trainings: a single one, folds, seeds or a learning curve, with report and trackers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from septum.errors import SeptumError, UsageError
from septum.events import Event, Warned
from septum.experiments.events import ReportWritten
from septum.report.page import write_page
from septum.report.summary import RunReport

if TYPE_CHECKING:
    from septum.experiments.tracking import Tracker
    from septum.training.interrupt import StopRequest
    from septum.training.settings import TrainSettings


def run_training(
    settings: TrainSettings,
    *,
    folds: int | None = None,
    seeds: int | None = None,
    learning_curve: bool = False,
    trackers: Sequence[Tracker] = (),
    stop: StopRequest | None = None,
) -> Generator[Event, None, None]:
    """Train, write the report and log to trackers; the same call on the same run folder resumes the run.

    Parameters
    ----------
    settings
        Settings of the training.
    folds, seeds, learning_curve
        At most one of them, to train several times: `septum.experiments.cross_validation.train_folds`,
        `septum.experiments.seeds.train_seeds`, `septum.experiments.learning_curve.train_curve`.
    trackers
        See `septum.experiments.tracking.open_trackers`.
    stop
        See `septum.training.loop.train`.

    Yields
    ------
    The events of the training or trainings, with ReportWritten for each report page; Trained or Stopped is the last one
    of the run itself.

    Raises
    ------
    SeptumError
        As the functions above; if more than one kind of several trainings is asked for.
    """
    from septum.experiments.tracking import track

    return track(_write_reports(_train(settings, folds, seeds, learning_curve, stop)), settings.out, trackers)


def _train(
    settings: TrainSettings, folds: int | None, seeds: int | None, learning_curve: bool, stop: StopRequest | None
) -> Iterator[Event]:
    """Choose the kind of training."""
    asked = {"folds": folds is not None, "seeds": seeds is not None, "learning_curve": learning_curve}
    if sum(asked.values()) > 1:
        kinds = " and ".join(name for name, wanted in asked.items() if wanted)
        raise UsageError(kinds, "one of them", "give each a run of its own")
    if folds is not None:
        from septum.experiments.cross_validation import train_folds

        return train_folds(settings, folds, stop)
    if seeds is not None:
        from septum.experiments.seeds import train_seeds

        return train_seeds(settings, seeds, stop)
    if learning_curve:
        from septum.experiments.learning_curve import train_curve

        return train_curve(settings, stop)
    from septum.report.collect import observe
    from septum.training.loop import train

    return observe(settings, train(settings, stop))


def _write_reports(events: Iterable[Event]) -> Iterator[Event]:
    """Write the page of each report; pass all other events on."""
    for event in events:
        if not isinstance(event, RunReport):
            yield event
            continue
        try:
            yield ReportWritten(write_page(event))
        except SeptumError as error:  # the model, which was asked for, is complete
            yield Warned(f"no report of this run: {error}")
