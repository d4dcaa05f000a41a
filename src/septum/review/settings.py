"""Settings of ``septum suggest`` and ``septum review``; nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from septum.settings import AXES, DEVICE, Option, Settings


class SuggestSettings(Settings):
    """Which images to rank, and by which model; `Option.help` of each field describes it."""

    model: Annotated[
        Path,
        Option(
            help="Model file or run folder; a model of several networks (--folds, seeds) ranks best.",
            argument=True,
            metavar="MODEL",
        ),
    ]
    inputs: Annotated[
        tuple[str, ...],
        Option(help="Images without annotation, folders of images, or patterns.", argument=True, metavar="INPUT"),
    ]
    number: Annotated[
        int, Field(ge=1), Option(help="How many images to name.", flags=("--number", "-n"), metavar="N")
    ] = 10
    out: Annotated[
        Path | None, Option(help="Folder for a picture of each suggested image.", flags=("--out", "-o"), metavar="OUT")
    ] = None
    region: Annotated[
        int | None,
        Field(ge=8),
        Option(help="Side of a suggested region in pixels.", metavar="N", default="256, in volumes 64"),
    ] = None
    axes: Annotated[str | None, AXES] = None
    device: Annotated[str, DEVICE] = "auto"


class ReviewSettings(Settings):
    """Which run reviews which annotations."""

    run: Annotated[
        Path, Option(help="Run folder; a run with --folds reviews every image.", argument=True, metavar="RUN")
    ]
    data: Annotated[
        tuple[Path, ...],
        Option(
            help="The data of the run, where they were moved.",
            argument=True,
            metavar="DATA",
            default="the data that the run was trained on",
        ),
    ] = ()
    device: Annotated[str, DEVICE] = "auto"
