"""The command that scores predictions."""

from __future__ import annotations

import typer

from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import evaluation_lines, image_score_lines, json_text
from septum.evaluation.results import EvaluateSettings
from septum.progress import Display, Progress


def evaluate(settings: EvaluateSettings, display: Display) -> None:
    """Score predictions against the truth.

    PREDICTED and TRUTH are two images, or two folders whose images are named alike. With three paths the second
    prediction is compared with the first: A B TRUTH.

    Example: septum evaluate results/ cells/masks/
    """
    from septum.evaluation import evaluate as job

    with stoppable(lambda: "nothing was written"), Progress("files", display, waiting="opening every file"):
        found = job.evaluate(settings)
    for note in found.notes:
        typer.echo(note, err=True)
    for result in found.results:
        for failure in result.failures:
            typer.echo(f"failed: {failure.name}: {failure.message}", err=True)
    if display.json:
        typer.echo(json_text({"command": "evaluate", **vars(found)}))
    else:
        if display.verbose:
            typer.echo("\n".join(image_score_lines(found)))
        if not display.quiet or found.files == ():
            typer.echo("\n".join(evaluation_lines(found)))
        for path in found.files:
            typer.echo(f"written: {path}")
    if found.failed:
        raise typer.Exit(1)


command = options.command(evaluate, EvaluateSettings)
