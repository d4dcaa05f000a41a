"""Settings of a run of one or several trainings; nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from septum.settings import Option, Settings
from septum.training.settings import TrainSettings


class TrackerSettings(Settings):
    """Where a training is logged beside its run folder."""

    tensorboard: Annotated[
        bool, Option(help="Log losses and scores for TensorBoard, in RUN/tensorboard.", heading="Logging")
    ] = False
    mlflow: Annotated[
        bool,
        Option(
            help="Log plan, losses, scores, report and model to the MLflow server of MLFLOW_TRACKING_URI.",
            heading="Logging",
        ),
    ] = False


class RunSettings(Settings):
    """A training, or one training a fold."""

    training: TrainSettings
    folds: Annotated[
        int | None,
        Field(ge=2),
        Option(
            help="Hold each image out once: N networks that predict together, and scores of all images.", metavar="N"
        ),
    ] = None
    devices: Annotated[
        int,
        Field(ge=1),
        Option(
            help="Number of processes to train with here, each on a GPU of its own.", heading="Hardware", metavar="N"
        ),
    ] = 1
    trackers: TrackerSettings = TrackerSettings()


class SeedsSettings(Settings):
    """The same training with several seeds."""

    training: TrainSettings
    count: Annotated[int, Field(ge=2), Option(help="Number of seeds: --seed, and the following ones.", metavar="N")] = 3
    trackers: TrackerSettings = TrackerSettings()


class CurveSettings(Settings):
    """Trainings on growing parts of the images."""

    training: TrainSettings
    trackers: TrackerSettings = TrackerSettings()
