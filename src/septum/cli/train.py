"""The command that trains a model."""

from __future__ import annotations

import sys
from contextlib import closing

import typer

from septum.cli import options
from septum.cli.progress import follow_training, orderly, say_training
from septum.errors import UsageError
from septum.experiments.settings import RunSettings
from septum.progress import Display, Progress


def train(settings: RunSettings, display: Display) -> None:
    """Train a model on annotated images.

    DATA is a folder with images/ and masks/ in it, or the images and the masks: two folders, or two stacks; or a data
    set of the Cell Tracking Challenge. The data is checked first; certain repairs are made in memory and printed. The
    same command on the same run continues where it was stopped. A training starts from a model that comes with Septum
    where that finds the objects of the images; --from none refuses.

    Example: septum train cells -o runs/cells --budget 20m
    """
    from septum.experiments.run import run_training
    from septum.experiments.tracking import open_trackers
    from septum.training.distributed import launch, starts_processes

    run = settings.training.out
    trackers = open_trackers(run, **settings.trackers.model_dump())  # refuses what is not installed before all work
    if settings.folds is not None and settings.devices > 1:
        raise UsageError(
            "--folds with several processes",
            "one process",
            "leave --devices out, and start one run for each GPU, or train without --folds",
        )
    if starts_processes(settings.devices):
        raise typer.Exit(launch(settings.devices, [sys.executable, "-m", "septum", *sys.argv[1:]]))
    with (
        orderly(run) as stop,
        Progress("steps", display, waiting="preparing the images") as progress,
        closing(run_training(settings.training, folds=settings.folds, trackers=trackers, stop=stop)) as events,
    ):
        learned = follow_training(events, progress)
    say_training(learned, display, progress.warnings)


command = options.command(train, RunSettings)
