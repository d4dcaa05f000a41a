"""Commands from settings: each option is a field with an `Option`; the help lists options under their headings."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperCommand
from typer.main import get_command

from septum.cli.usage import parsed_arguments
from septum.errors import UsageError
from septum.progress import Display
from septum.settings import Option, expectation, flag_of, options_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from septum.settings import Settings

S = TypeVar("S", bound="Settings")


DISPLAY = {
    "quiet": Annotated[
        bool, typer.Option("--quiet", "-q", help="Print warnings and the last line only.", rich_help_panel="Output")
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Print details and reasons as well.", rich_help_panel="Output")
    ],
    "json": Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON document.", rich_help_panel="Output")
    ],
}


class HeadedCommand(TyperCommand):
    """A command whose help lists its options under headings, in plain text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; refuse wrong usage in the words of Septum."""
        return parsed_arguments(super().parse_args, self, ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, those without a heading first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                heading = getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault("Output" if parameter.name == "help" else heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def command(function: Callable[[S, Display], None], settings: type[S]) -> Any:
    """Return a function of settings and `Display` as a command of typer; its docstring is the help.

    Parameters
    ----------
    function
        What the command does.
    settings
        The class whose fields with an `Option` are the options of the command.
    """

    def run(**values: Any) -> None:
        display = Display(**{key: values.pop(key) for key in DISPLAY})
        function(make_settings(settings, values), display)

    shown = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=False)
        for key, kind in DISPLAY.items()
    ]
    run.__signature__ = inspect.Signature([*parameters(settings), *shown])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(
        function.__name__.replace("_", "-"),
        cls=HeadedCommand,
        help=inspect.cleandoc(function.__doc__ or ""),
        no_args_is_help=any(_is_required(field, option) for _, field, option in options_of(settings)),
    )(run)
    return get_command(app)


def parameters(settings: type[Settings]) -> list[inspect.Parameter]:
    """Return the options of a settings class as parameters that typer understands."""
    return [
        inspect.Parameter(
            "__".join(place),
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[_text_type(field, option), _typer_option(place, field, option)],
            default=inspect.Parameter.empty if _is_required(field, option) else _text_default(field, option),
        )
        for place, field, option in options_of(settings)
    ]


def make_settings(cls: type[S], values: Mapping[str, Any]) -> S:
    """Return the settings of a job from the values of its `parameters`.

    Raises
    ------
    UsageError
        If a value is outside its range; the message names the option.
    """
    from pydantic import ValidationError

    found: dict[str, Any] = {}
    names: dict[tuple[str, ...], str] = {}
    for place, _, option in options_of(cls):
        names[place] = flag(place, option)
        value = values["__".join(place)]
        if value is None or value == []:
            continue
        if option.parse is not None:
            value = _parsed(option.parse, value, names[place])
        *outer, last = place
        inner = found
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**found)
    except ValidationError as error:
        place = tuple(part for part in error.errors()[0]["loc"] if isinstance(part, str))
        named = next((names[place[:n]] for n in range(len(place), 0, -1) if place[:n] in names), "the options")
        value = error.errors()[0]["input"]
        text = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        raise UsageError(named if named == "the options" else f"{named} {text}", expectation(error)) from None


def flag(place: tuple[str, ...], option: Option) -> str:
    """Return the name of an option on the command line: its first long flag, or the metavar of an argument."""
    if option.argument:
        return option.metavar or place[-1].upper()
    return flag_of(place, option)


def _is_required(field: FieldInfo, option: Option) -> bool:
    """Return True if the command line must give a value; a default in words is computed by the settings."""
    return field.is_required() and not option.default


def _parsed(parse: Callable[[str], Any], text: str, name: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{name} {text}", str(error)) from None


def _inner(annotation: Any) -> Any:
    """Return a type without None: ``int`` of ``int | None``; the other types of a union stay."""
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [a for a in get_args(annotation) if a is not type(None)]
        return kept[0] if len(kept) == 1 else str
    return annotation


def _text_type(field: FieldInfo, option: Option) -> Any:
    """Return the type that typer reads: text or a path, so that the settings alone judge values."""
    inner = _inner(field.annotation)
    if inner is bool:
        return bool
    kind: Any = Path if Path in (inner, *get_args(inner)) and option.parse is None else str
    if get_origin(inner) is tuple and get_args(inner)[-1] is Ellipsis and option.parse is None:
        kind = list[kind]
    return kind if _is_required(field, option) else kind | None


def _text_default(field: FieldInfo, option: Option) -> Any:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return value
    computed = option.parse is not None or option.default or value in ((), None)
    return None if computed else str(value)


def _typer_option(place: tuple[str, ...], field: FieldInfo, option: Option) -> Any:
    inner = _inner(field.annotation)
    words = [str(word) for word in get_args(inner)] if get_origin(inner) is Literal else []
    metavar = option.metavar or "|".join(words) or place[-1].upper()
    complete = (lambda incomplete: [word for word in words if word.startswith(incomplete)]) if words else None
    if option.argument:
        return typer.Argument(metavar=metavar, hidden=True, autocompletion=complete)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    shown: bool | str = option.default or not (default in ((), None) or option.parse is not None or inner is bool)
    return typer.Option(
        *(option.flags or (flag_of(place, option),)),
        metavar=metavar,
        show_default=shown,
        help=option.help,
        rich_help_panel=option.heading or None,
        autocompletion=complete,
    )
