"""Base class of all settings: frozen, closed, validated; and how a field becomes an option of a command.

Each settings class stands beside the code that it configures (``nn/unet.py`` holds those of the network). A value out
of range, a wrong type or an unknown name is refused on construction, so that code that receives settings need not check
them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

Level = Annotated[int, Field(ge=0)]
PixelSize = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MaskKind = Literal["objects", "classes"]
"""Meaning of the values of masks: object ids (instances), or classes (semantic)."""


class Settings(BaseModel):
    """Frozen, closed settings; ``model_dump_json`` and ``model_validate_json`` write and read them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field of settings as an option of a command; stands in the `Annotated` type of the field.

    The command line, its help, the command that a report repeats, and the comparison with a stored run are derived from
    it: a new option is one field. A field without an `Option` cannot be set on the command line.

    Attributes
    ----------
    help : str
        One sentence for the help text.
    heading : str
        Heading under which the help lists the option; ``""``: among the first ones.
    flags : tuple of str
        Names on the command line; empty: ``--`` and the name of the field with hyphens.
    metavar : str
        Name of the value in the help, ``"TIME"``.
    default : str
        Default in words, where the value is computed: ``"planned"``.
    parse : callable or None
        Turns the text of the command line into the value; raises ValueError that says what is expected. None: by
        the type.
    write : callable or None
        Turns the value back into the text of the command line. None: ``str``.
    argument : bool
        Positional, without a flag.
    free : bool
        True if the value may differ when a run is resumed; it is then not stored in the run folder. For fields of the
        settings themselves, not of nested ones.
    """

    help: str
    heading: str = ""
    flags: tuple[str, ...] = ()
    metavar: str = ""
    default: str = ""
    parse: Callable[[str], Any] | None = None
    write: Callable[[Any], str] | None = None
    argument: bool = False
    free: bool = False


def flag_of(place: tuple[str, ...], option: Option) -> str:
    """Return the long name of an option on the command line: its first long flag, else that of the field's name."""
    return next((flag for flag in option.flags if flag.startswith("--")), "--" + place[-1].replace("_", "-"))


def options_of(settings: type[Settings]) -> Iterator[tuple[tuple[str, ...], FieldInfo, Option]]:
    """Yield the place, the field and the `Option` of each option of a settings class, in order.

    The place is the name of the field, after the names of the settings that hold it: ``("split", "group")``.
    """
    for name, field in settings.model_fields.items():
        option = next((m for m in field.metadata if isinstance(m, Option)), None)
        if option is not None:
            yield (name,), field, option
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            for place, inner, nested in options_of(field.annotation):
                yield (name, *place), inner, nested


def expectation(error: ValidationError) -> str:
    """Return what was expected in place of the first wrong value: ``"greater than or equal to 2"``."""
    message = str(error.errors()[0]["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    message = message.partition(", unable to parse")[0]
    return message[:1].lower() + message[1:]


# Options that several commands share; `dataclasses.replace` puts one of them under another heading.
DEVICE = Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.", heading="Hardware", metavar="NAME", free=True)
AXES = Option(
    help="Axes of the image files: ZYX, TYX, YXC.", heading="Input", metavar="AXES", default="as the files say"
)
CHANNEL = Option(
    help="Channel of the images, by number from 1 or by name (repeatable).",
    heading="Input",
    metavar="N|NAME",
    default="all",
)
LEVEL = Option(
    help="Level of slides and other images in several sizes, from 0, the largest.",
    heading="Input",
    metavar="N",
    default="0",
)
PIXEL_SIZE = Option(
    help="Micrometers per pixel: read the level that is nearest to it.",
    heading="Input",
    metavar="UM",
    default="any",
)
MASK_KIND = Option(
    help="What the masks hold: numbered objects, or classes.", heading="Data", default="read from the masks"
)
IGNORE_VALUES = Option(
    help="Mask value to treat as unannotated (repeatable); use 0 for scribble annotations.",
    heading="Data",
    flags=("--ignore-value",),
    metavar="VALUE",
)
BACKGROUND = Option(
    help="Mask value of the background, where it is not 0.",
    heading="Data",
    metavar="VALUE",
    default="read from the masks",
)
WIDTH = Option(help="Features of the first level of the network.", heading="Network", metavar="N", default="planned")
