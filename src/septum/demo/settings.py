"""Settings of ``septum demo``; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from septum.settings import DEVICE, Option, Settings
from septum.training.settings import format_duration, parse_duration


class DemoSettings(Settings):
    """Images of the demo and duration of its training; the same demo in the same folder is resumed.

    Parameters
    ----------
    budget_s
        Seconds of the training; the rest takes about ten. None: until the validation scores stop improving.
    training, tests
        Numbers of images to train on and to score.
    device
        See `septum.nn.device.find_device`.
    """

    out: Annotated[Path, Option(help="Folder for everything.", flags=("--out", "-o"), metavar="OUT", free=True)] = Path(
        "septum-demo"
    )
    seed: Annotated[int, Field(ge=0), Option(help="Random seed of images and training.", metavar="N")] = 0
    studio: Annotated[bool, Option(help="Only make images, and open them in the studio to annotate them.")] = False
    budget_s: Annotated[
        float | None,
        Field(gt=0),
        Option(
            help="Time of the training, as for septum train.",
            flags=("--budget",),
            metavar="TIME",
            default="120s",
            parse=parse_duration,
            write=format_duration,
        ),
    ] = 120.0
    training: int = Field(default=16, ge=2)
    tests: int = Field(default=4, ge=1)
    device: Annotated[str, replace(DEVICE, heading="")] = "auto"
