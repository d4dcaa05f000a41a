"""Wrong usage of the command line: what was given, what was expected and what to do, as in all errors of Septum."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from septum.errors import UsageError
from septum.words import most_similar

# The error of all wrong usage, under whichever name a version of typer keeps it.
_WRONG_USAGE: type[Exception] = typer.BadParameter.__bases__[0]


class Group(TyperGroup):
    """A command of commands, whose errors say what was given, what was expected and what to do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; refuse wrong usage in the words of Septum."""
        return parsed_arguments(super().parse_args, self, ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments begin with; refuse an unknown one with the most similar name."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            similar = most_similar(args[0], known)
            todo = f"did you mean: {ctx.command_path} {similar}?" if similar else _look_at_help(ctx)
            raise UsageError(f"no such command: {args[0]}", f"one of {', '.join(known)}", todo)
        return super().resolve_command(ctx, args)


def parsed_arguments(
    parse: Callable[[Any, list[str]], list[str]], command: TyperCommand | TyperGroup, ctx: Any, args: list[str]
) -> list[str]:
    """Return the arguments that `parse` leaves to a command.

    Raises
    ------
    UsageError
        If typer refuses them: an unknown option, a missing or a superfluous value.
    """
    if not args and command.no_args_is_help:  # typer prints the help by an error
        return parse(ctx, args)
    try:
        return parse(ctx, args)
    except _WRONG_USAGE as error:
        raise _in_plain_words(error, ctx) from None


def _in_plain_words(error: Any, ctx: Any) -> UsageError:
    """Return an error of typer with what was given, what was expected and what to do."""
    name: str | None = getattr(error, "option_name", None)
    if hasattr(error, "possibilities"):
        similar = most_similar(name or "", error.possibilities or ())
        todo = f"did you mean: {similar}?" if similar else _look_at_help(ctx)
        return UsageError(f"no such option: {name}", f"an option of {ctx.command_path}", todo)
    if name is not None:
        option = next(parameter for parameter in ctx.command.params if name in parameter.opts)
        if option.is_flag:
            return UsageError(f"{name} with a value", f"{name} alone", _look_at_help(ctx))
        return UsageError(f"{name} without a value", f"{name} {option.metavar}", _look_at_help(ctx))
    missing = getattr(error, "param", None)
    if missing is not None and not error.message:
        shown = missing.opts[0] if missing.param_type_name == "option" else missing.metavar
        wanted = f"{shown} {missing.metavar}" if missing.param_type_name == "option" else _usage(ctx)
        return UsageError(f"{ctx.command_path} without {shown}", wanted, _look_at_help(ctx))
    said = error.format_message().rstrip(".")
    if extra := re.search(r"unexpected extra argument\S* \((.*)\)", said):
        return UsageError(f"too many arguments: {extra[1]}", _usage(ctx), _look_at_help(ctx))
    return UsageError(said[:1].lower() + said[1:], _usage(ctx), _look_at_help(ctx))


def _usage(ctx: Any) -> str:
    return " ".join(ctx.get_usage().split()).removeprefix("Usage: ")


def _look_at_help(ctx: Any) -> str:
    return f"look at: {ctx.command_path} --help"
