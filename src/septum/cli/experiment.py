"""The commands that train several times: seeds, and a learning curve."""

from __future__ import annotations

from contextlib import closing

import typer
from typer.core import TyperGroup
from typer.main import get_command

from septum.cli import options
from septum.cli.progress import follow_training, orderly, say_training
from septum.cli.usage import Group
from septum.experiments.settings import CurveSettings, SeedsSettings
from septum.progress import Display, Progress


def seeds(settings: SeedsSettings, display: Display) -> None:
    """Train with several seeds: mean and spread of scores.

    The images are the same; the networks are kept as one model that averages them. DATA and all other options are
    those of `septum train`.

    Example: septum experiment seeds cells -o runs/seeds --count 3
    """
    _run(settings, display, seeds=settings.count)


def learning_curve(settings: CurveSettings, display: Display) -> None:
    """Train on parts of the images: what more would bring.

    DATA and all other options are those of `septum train`.

    Example: septum experiment learning-curve cells -o runs/curve
    """
    _run(settings, display, learning_curve=True)


def _run(
    settings: SeedsSettings | CurveSettings, display: Display, *, seeds: int | None = None, learning_curve: bool = False
) -> None:
    from septum.experiments.run import run_training
    from septum.experiments.tracking import open_trackers

    run = settings.training.out
    trackers = open_trackers(run, **settings.trackers.model_dump())
    with (
        orderly(run) as stop,
        Progress("steps", display, waiting="preparing the images") as progress,
        closing(
            run_training(settings.training, seeds=seeds, learning_curve=learning_curve, trackers=trackers, stop=stop)
        ) as events,
    ):
        learned = follow_training(events, progress)
    name = "learning-curve" if learning_curve else "seeds"
    say_training(learned, display, progress.warnings, command=f"experiment {name}")


app = typer.Typer(
    cls=Group,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


@app.callback()
def experiment() -> None:
    """Train several times: seeds, or a learning curve."""


command = get_command(app)
assert isinstance(command, TyperGroup)
command.add_command(options.command(seeds, SeedsSettings), "seeds")
command.add_command(options.command(learning_curve, CurveSettings), "learning-curve")
