"""Settings of ``septum fetch`` and ``septum reproduce``; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from septum.errors import UsageError
from septum.settings import DEVICE, WIDTH, Option, Settings
from septum.training.settings import format_duration, parse_duration

DatasetName = Literal["isbi2012", "dic-hela", "phc-u373"]
Variant = Literal["gold", "silver"]


class FetchSettings(Settings):
    """Which public data set to download, and to which folder."""

    name: Annotated[
        DatasetName, Option(help="Data set: isbi2012, dic-hela or phc-u373.", argument=True, metavar="NAME")
    ]
    out: Annotated[
        Path,
        Option(
            help="Folder for the data set; created if missing.",
            flags=("--out", "-o"),
            metavar="FOLDER",
            default="data/NAME",
        ),
    ]

    @model_validator(mode="before")
    @classmethod
    def _name_the_folder_after_the_data_set(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" in values:
            return {"out": Path("data") / values["name"], **values}
        return values


class ReproduceSettings(Settings):
    """Which published result to reproduce, and for how long.

    Exactly one of `budget_s` and `steps` is set: seconds of all trainings together, in equal shares, or the steps of
    each. Prediction and scoring come on top. The same settings with the same folder resume the reproduction.
    """

    name: Annotated[DatasetName, Option(help="Result: isbi2012, dic-hela or phc-u373.", argument=True, metavar="NAME")]
    data: Annotated[
        Path,
        Option(
            help="Folder of the data set, or one that holds it under the name of the challenge.",
            metavar="FOLDER",
            default="data/NAME",
            free=True,
        ),
    ]
    out: Annotated[
        Path,
        Option(
            help="Folder for everything.",
            flags=("--out", "-o"),
            metavar="OUT",
            default="reproduced/NAME",
            free=True,
        ),
    ]
    preset: Annotated[
        Literal["auto", "paper"], Option(help="auto is our best; paper is the U-Net of 2015 to the letter.")
    ] = "auto"
    budget_s: Annotated[
        float | None,
        Field(gt=0),
        Option(
            help="Time of all trainings together: 90s, 20m, 1.5h.",
            flags=("--budget",),
            metavar="TIME",
            default="1h",
            parse=parse_duration,
            write=format_duration,
        ),
    ] = 3600.0
    steps: Annotated[
        int | None, Field(ge=1), Option(help="Steps of each training, in place of a time.", metavar="N")
    ] = None
    folds: Annotated[
        int | None,
        Field(ge=2),
        Option(help="isbi2012: number of blocks of adjacent sections.", metavar="N", default="5"),
    ] = None
    variant: Annotated[
        Variant | None,
        Option(help="dic-hela, phc-u373: truth to train on.", default="silver"),
    ] = None
    truth: Annotated[
        Path | None,
        Option(help="isbi2012: truth of the test sections, a folder or a stack.", metavar="PATH", free=True),
    ] = None
    seed: Annotated[int, Field(ge=0), Option(help="Random seed; the same seed gives the same models.", metavar="N")] = 0
    width: Annotated[int | None, Field(ge=1), replace(WIDTH, heading="")] = None
    device: Annotated[str, DEVICE] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _name_folders_after_the_result(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" in values:
            return {"data": Path("data") / values["name"], "out": Path("reproduced") / values["name"], **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _let_steps_replace_the_default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is not None:
            return {"budget_s": None, **values}
        return values

    @model_validator(mode="after")
    def _check_protocol(self) -> Self:
        if (self.steps is None) == (self.budget_s is None):
            given = "--budget none" if self.steps is None else "both --steps and --budget"
            raise UsageError(given, "a number of steps, or a time", "give one of them")
        sections = self.name == "isbi2012"
        if sections and self.variant is not None:
            raise UsageError(
                "--variant with isbi2012", "dic-hela or phc-u373, whose truth has variants", "leave --variant out"
            )
        if not sections and (self.folds is not None or self.truth is not None):
            given = f"{'--folds' if self.folds is not None else '--truth'} with {self.name}"
            raise UsageError(given, "isbi2012, which alone has folds and test sections", "leave it out")
        return self
