"""The command that describes a model, or this installation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from septum.cli import options
from septum.cli.text import described, json_text
from septum.progress import Display
from septum.settings import DEVICE, Option, Settings


class InfoSettings(Settings):
    """What to describe."""

    model: Annotated[Path | None, Option(help="A model.", argument=True, metavar="MODEL")] = None
    device: Annotated[str, replace(DEVICE, heading="")] = "auto"


def info(settings: InfoSettings, display: Display) -> None:
    """Show what a model is, or what this computer offers.

    MODEL is a model file, the folder of a run, or a model that comes with Septum (cells, membranes, nuclei), whose card
    is shown; the model is opened and verified. Without MODEL, versions, the models that come with Septum and the device
    that would compute are shown, with the reason.

    --quiet prints how the model, or a model here, is computed; --verbose adds the intensities of the training images,
    or the versions of all libraries.

    Example: septum info nuclei
    """
    from septum.prediction.info import describe_model, installation, libraries

    if settings.model is None:
        facts: dict[str, object] = {**installation(settings.device), **(libraries() if display.verbose else {})}
    else:
        model = describe_model(settings.model, settings.device, curves=display.verbose)
        facts = {"model": str(settings.model), **model}
    if display.json:
        typer.echo(json_text({"command": "info", **facts}))
    elif display.quiet:
        typer.echo(facts["device"] if settings.model is None else facts["computed_by"])
    else:
        card = facts.pop("card", None)
        typer.echo("\n".join([*([] if card is None else [str(card)]), *described(facts)]))


command = options.command(info, InfoSettings)
