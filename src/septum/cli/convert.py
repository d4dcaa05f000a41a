"""The command that writes masks, and objects, in another form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import json_text
from septum.export.settings import ConvertAndExportSettings
from septum.progress import Display, Progress
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.convert.to_labels import NotConverted
    from septum.export.jobs import NotExported


def convert(settings: ConvertAndExportSettings, display: Display) -> None:
    """Write masks as label images, or label images for other programs.

    DATA is annotated images, as for septum check: a folder, two folders, or an image and its mask. Each mask becomes a
    label image in OUT, named after its image, with the values that training reads. With other forms --to, DATA is label
    images, such as predictions, or a data set whose masks are label images: their objects are written for QuPath,
    ImageJ and other programs. Exit code 1: some files were not converted.

    Example: septum convert cells -o cells-labels

    Example: septum convert results -o objects --to tables,geojson --images images
    """
    (_write_forms if settings.forms else _write_labels)(settings, display)


def _write_labels(asked: ConvertAndExportSettings, display: Display) -> None:
    from septum.convert import to_labels as job

    settings = asked.conversion
    written: list[job.Converted] = []
    failed: list[job.NotConverted] = []
    with (
        stoppable(lambda: f"the files in {settings.out} are whole, others are missing"),
        Progress("files", display, waiting="reading the masks") as progress,
    ):
        for event in job.write_labels(settings):
            if isinstance(event, job.Converted):
                written.append(event)
                progress.detail(f"{event.source} -> {event.written}: {pluralize(event.values, 'value')}")
                for note in event.notes:
                    progress.warn(f"{event.source.name}: {note}")
            else:
                failed.append(event)
    counts = f"{pluralize(len(written), 'label image')}; {pluralize(len(failed), 'file')}"
    _report(f"{settings.out}: {counts} not converted", written, failed, display)


def _write_forms(settings: ConvertAndExportSettings, display: Display) -> None:
    from septum.export import jobs
    from septum.export.results import Exported

    out = settings.conversion.out
    written: list[Path] = []
    failed: list[jobs.NotExported] = []
    with (
        stoppable(lambda: f"the files in {out} are whole, others are missing"),
        Progress("files", display, waiting="reading the label images") as progress,
    ):
        for event in jobs.export_labels(settings):
            match event:
                case Exported(source, files, notes):
                    written += files
                    progress.detail(f"{source} -> {', '.join(map(str, files))}")
                    for note in notes:
                        progress.warn(f"{source.name}: {note}")
                case jobs.NotExported():
                    failed.append(event)
    counts = f"{pluralize(len(written), 'file')}; {pluralize(len(failed), 'label image')}"
    _report(f"{out}: {counts} not converted", written, failed, display)


def _report(
    last: str, written: Sequence[object], failed: Sequence[NotConverted | NotExported], display: Display
) -> None:
    """Print what was not converted, then the last line or the document; exit with 1 where something failed."""
    for one in failed:
        typer.echo(f"not converted: {one.source}: {one.reason}", err=True)
    typer.echo(json_text({"command": "convert", "written": written, "failures": failed}) if display.json else last)
    if failed:
        raise typer.Exit(1)


command = options.command(convert, ConvertAndExportSettings)
