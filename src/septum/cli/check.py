"""The command that says what is wrong with annotated images."""

from __future__ import annotations

import typer

from septum.check.settings import CheckSettings
from septum.cli import options
from septum.cli.options import Display
from septum.cli.progress import Progress, stoppable
from septum.cli.text import json_text, repair_lines


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
        report = job.check(settings.data, kind=settings.kind, ignore=settings.ignore_values)
    if not display.json:
        typer.echo("\n".join(report.lines()))
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


command = options.command(check, CheckSettings)
