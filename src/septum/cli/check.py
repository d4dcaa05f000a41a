"""The command that says what is wrong with annotated images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from septum.check.settings import CheckSettings
from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import json_text, repair_lines
from septum.io.formats import format_path
from septum.progress import Display, Progress

if TYPE_CHECKING:
    from septum.check.check import Report


def check(settings: CheckSettings, display: Display) -> None:
    """Find what is wrong with images and masks, and repair it.

    DATA is a folder with images/ and masks/ in it, or the images and the masks: two folders, or two stacks; or a data
    set of the Cell Tracking Challenge. The data itself is never changed. Exit code 1: some files are left out; 2: the
    data cannot be trained on.

    Example: septum check cells --fix cells-repaired
    """
    from septum.check import check as job
    from septum.check.repair import fix

    farewell = f"the files in {settings.fix} are whole, others are missing" if settings.fix else "nothing was written"
    with stoppable(lambda: farewell), Progress("files", display, waiting="opening every file"):
        report = job.check_data(settings)
    if not display.json:
        typer.echo("\n".join(_lines(report, display)))
    with stoppable(lambda: farewell), Progress("files", display, waiting="writing the copy"):
        fixed = [] if settings.fix is None else list(fix(report, settings.fix))
    if display.json:
        written = {} if settings.fix is None else {"fixed": fixed}
        typer.echo(json_text({"command": "check", **report.as_dict(), **written}))
    elif settings.fix is not None:
        typer.echo("\n".join(repair_lines(fixed, settings.fix)))
    elif report.errors:
        typer.echo("training refuses these data until the errors are gone")
    elif report.mended or report.left_out:
        typer.echo("training does this in memory; --fix OUT writes a repaired copy")
    if report.errors and settings.fix is None:
        raise typer.Exit(2)
    if report.left_out:
        raise typer.Exit(1)


def _lines(report: Report, display: Display) -> list[str]:
    """Return the report as lines: quiet, those of errors and warnings and the last; verbose, also one for each pair."""
    lines = report.lines()
    if display.quiet:
        return [line for line in lines[:-1] if line.startswith(("error: ", "warning: "))] + lines[-1:]
    if display.verbose:
        lines[1:1] = [f"{format_path(pair.image)} with {format_path(pair.mask)}" for pair in report.pairs]
    return lines


command = options.command(check, CheckSettings)
