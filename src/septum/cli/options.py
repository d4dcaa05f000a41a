"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from septum.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from septum.settings import Settings

Kind = Literal["objects", "classes"]

# Arguments are hidden from the list of options: the sentence in the command's help says more than their types would.
DataArgument = Annotated[list[Path], typer.Argument(metavar="DATA", hidden=True)]
KindOption = Annotated[
    Kind | None,
    typer.Option(show_default="read from the masks", help="What the masks hold: numbered objects, or classes."),
]
IgnoreOption = Annotated[
    list[int] | None,
    typer.Option(
        "--ignore-value",
        metavar="VALUE",
        show_default=False,
        help="A value of the masks that means: not annotated. 0 for scribbles. May be repeated.",
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="NAME", help="Where to compute: auto, cpu, cuda, cuda:1 or mps.")]
AxesOption = Annotated[
    str | None,
    typer.Option(
        metavar="AXES", show_default="as the files say", help="What the dimensions of the files are: ZYX, TYX, YXC."
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and the last line only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def planned(text: str) -> Any:
    """Return the option of a whole number from 1, which is planned if it is left out; `text` is its help."""
    return typer.Option(metavar="N", min=1, show_default="planned", help=text)


S = TypeVar("S", bound="Settings")

_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration_s(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``20m``, ``1.5h`` or ``1h30m``; infinity for ``none``.

    Raises
    ------
    typer.BadParameter
        If `text` is no duration or not longer than 0.
    """
    if text == "none":
        return math.inf
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 20m, 1.5h or none")
    return seconds


def settings_of(cls: type[S], /, **values: object) -> S:
    """Make the settings of a job from the values of options.

    Raises
    ------
    UsageError
        If a value is outside its range; it names the option.
    """
    from pydantic import ValidationError

    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "the options"
        message = str(first["msg"]).removeprefix("Value error, ")
        raise UsageError(f"{name} {first['input']}", message[:1].lower() + message[1:]) from None


def run_folder(data: Sequence[Path]) -> Path:
    """Return the folder of a training for which none was named: ``runs/`` and the name of the data.

    It depends on the data only, so that the same command finds its own checkpoints again.
    """
    first = data[0].absolute()
    if len(data) > 1 or first.is_file():
        first = first.parent
    return Path("runs") / (first.name or "data")
