"""The command that applies a model to images."""

from __future__ import annotations

import typer

from septum.cli import options
from septum.cli.progress import Outcome, follow_prediction, stoppable
from septum.cli.text import echo_failures, json_text
from septum.errors import SeptumError
from septum.export.settings import PredictAndExportSettings
from septum.progress import Display, Progress
from septum.words import pluralize


def predict(settings: PredictAndExportSettings, display: Display) -> None:
    """Segment images of any size with a trained model.

    MODEL is a model file, the folder of a run, or a model that comes with Septum: cells, membranes or nuclei ('septum
    info nuclei' shows its card). INPUT is any number of images, folders of images, or patterns ('*.tif'). The results
    are like the training masks: numbered objects, or classes. An image that does not fit into the memory is predicted
    block by block. If the command is stopped, the same command with --skip-existing predicts the other images, and
    continues an image that was predicted block by block.

    Example: septum predict nuclei images/ -o results --also tables,geojson
    """
    from septum.export.jobs import predict_and_export

    asked = settings.prediction
    place = str(asked.out) if asked.label_image is None else f"labels/{asked.label_image} of each image"
    outcome = Outcome()
    try:
        with (
            stoppable(lambda: f"the results in {place} are whole; {_continuation(settings)}"),
            Progress("images", display, waiting="opening the model and the first image") as progress,
        ):
            follow_prediction(predict_and_export(settings), progress, outcome)
    except SeptumError as error:
        echo_failures([image for image in outcome.failed if image.message != str(error)])
        raise
    echo_failures(outcome.failed)
    if display.json:
        typer.echo(json_text({"command": "predict", **vars(outcome), "warnings": progress.warnings}))
    else:
        typer.echo(_summary(outcome, place))
    if outcome.failed:
        raise typer.Exit(1)


def _continuation(settings: PredictAndExportSettings) -> str:
    command = f"the same command with --skip-existing{' in place of --also' if settings.also else ''}"
    return f"{command} predicts the other images, and continues one that was predicted block by block"


def _summary(outcome: Outcome, place: str) -> str:
    from septum.report.numbers import format_seconds
    from septum.words import format_bytes

    finished = [pluralize(len(outcome.done), "image")] if outcome.done or not outcome.shards else []
    finished += [f"a part of {pluralize(outcome.shards, 'image')}"] if outcome.shards else []
    words = f"{' and '.join(finished)} in {format_seconds(outcome.seconds)}, results in {place}"
    words += f"; at most {format_bytes(outcome.peak_bytes)} of memory"
    if outcome.exported:
        words += f"; {pluralize(len(outcome.exported), 'file')} for other programs"
    if outcome.skipped:
        words += f"; {pluralize(len(outcome.skipped), 'image')} had a result already"
    return words + (f"; {len(outcome.failed)} failed" if outcome.failed else "")


command = options.command(predict, PredictAndExportSettings)
