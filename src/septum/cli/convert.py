"""The command that writes masks in another form."""

from __future__ import annotations

import typer

from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import json_text
from septum.convert.settings import ConvertSettings
from septum.progress import Display, Progress


def convert(settings: ConvertSettings, display: Display) -> None:
    """Write masks in another form.

    DATA is annotated images, as for septum check: a folder, two folders, or an image and its mask. Each mask becomes a
    label image in OUT, named after its image, with the values that training reads. Exit code 1: some files were not
    converted.

    Example: septum convert cells -o cells-labels
    """
    from septum.convert import to_labels as job

    written: list[job.Converted] = []
    failed: list[job.NotConverted] = []
    with (
        stoppable(lambda: f"the files in {settings.out} are whole, others are missing"),
        Progress("files", display, waiting="reading the masks") as progress,
    ):
        for event in job.write_labels(settings):
            if isinstance(event, job.Converted):
                written.append(event)
                progress.detail(f"{event.source} -> {event.written}: {event.values} values")
                for note in event.notes:
                    progress.warn(f"{event.source.name}: {note}")
            else:
                failed.append(event)
    for one in failed:
        typer.echo(f"not converted: {one.source}: {one.reason}", err=True)
    if display.json:
        typer.echo(json_text({"command": "convert", "written": written, "failures": failed}))
    else:
        typer.echo(f"{settings.out}: {len(written)} label images; {len(failed)} files not converted")
    if failed:
        raise typer.Exit(1)


command = options.command(convert, ConvertSettings)
