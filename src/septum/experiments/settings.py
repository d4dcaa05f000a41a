"""Settings of a run beside those of one training: several trainings, and trackers. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from septum.settings import Option, Settings


class ExperimentSettings(Settings):
    """Arguments of `septum.experiments.run.run_training` and `septum.experiments.tracking.open_trackers` as options."""

    folds: Annotated[
        int | None,
        Field(ge=2),
        Option(
            help="Cross-validation: hold out every image once, with one network for each fold; they are averaged.",
            metavar="N",
        ),
    ] = None
    seeds: Annotated[
        int | None,
        Field(ge=2),
        Option(help="Train with this many seeds on the same images; --seed is the first.", metavar="N"),
    ] = None
    tensorboard: Annotated[
        bool,
        Option(help="Log losses and scores for TensorBoard, in RUN/tensorboard.", heading="Logging", free=True),
    ] = False
    mlflow: Annotated[
        bool,
        Option(
            help="Log plan, losses, scores, report and model to MLflow, at MLFLOW_TRACKING_URI.",
            heading="Logging",
            free=True,
        ),
    ] = False
