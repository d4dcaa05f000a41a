"""Settings of ``septum suggest``; nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from septum.settings import Option, Settings


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
    region: Annotated[
        int | None,
        Field(ge=8),
        Option(help="Side of a suggested region in pixels.", metavar="N", default="256, in volumes 64"),
    ] = None
    axes: Annotated[
        str | None,
        Option(
            help="Meaning of the dimensions of the files, such as TYX; for files that do not say it, or wrongly.",
            heading="Input",
            metavar="AXES",
        ),
    ] = None
    device: Annotated[
        str,
        Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.", heading="Hardware", metavar="NAME"),
    ] = "auto"
