"""The commands that measure published results again: data, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from septum.cli.options import DeviceOption, JsonOption, QuietOption, duration_s, planned, settings_of
from septum.cli.progress import Progress, show_training, stoppable
from septum.cli.text import json_text
from septum.cli.train import DEFAULT_BUDGET_S, orderly
from septum.errors import UsageError
from septum.events import Warned
from septum.io.paths import format_path
from septum.predict.events import ImageDone, TileDone
from septum.report.numbers import format_seconds, format_table, score_format
from septum.train.events import Checked, Planned, Resumed, Step, Validated

if TYPE_CHECKING:
    from septum.reproduce.results import Reproduced

DataName = Literal["isbi2012", "dic-hela", "phc-u373"]
NameArgument = Annotated[DataName, typer.Argument(metavar="NAME", hidden=True)]


def data(
    name: NameArgument,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", show_default="data/NAME", help="Folder that will hold it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a public data set.

    NAME is isbi2012, dic-hela or phc-u373. The archive is downloaded from its public address, its checksum is verified
    where one is known and noted where not, and it is laid out as the other commands take it. Terms and citation are
    printed.

    Example: septum data isbi2012
    """
    from septum.reproduce import archive
    from septum.reproduce import datasets as job
    from septum.reproduce.settings import FetchSettings

    settings = settings_of(FetchSettings, name=name, out=out or Path("data") / name)
    said: dict[str, object] = {}
    with (
        stoppable(lambda: "nothing was kept; the same command begins again"),
        Progress("MB", waiting="reaching the server", quiet=as_json) as progress,
    ):
        for record in job.fetch(settings):
            match record:
                case job.Announced(what):
                    progress.say(f"{what.title}\nfrom {what.url}, described at {what.page}")
                    progress.say(f"terms: {what.terms}\ncite: {what.citation}")
                case archive.Arrived(stage, done, total):
                    if total:
                        progress.show_stage(stage, done / 1e6, max(1, round(total / 1e6)), unit="MB")
                case Warned(text):
                    progress.warn(text)
                case job.Fetched(what, folder, training, sha256):
                    said = {"name": what.name, "url": what.url, "folder": folder, "training": training}
                    said |= {"sha256": sha256, "terms": what.terms, "citation": what.citation}
    if as_json:
        typer.echo(json_text({"command": "data", **said, "warnings": progress.warnings}))
        return
    there = "is there already: " if said["sha256"] is None else ""
    typer.echo(f"{there}{said['folder']}; look at it with: septum check {said['training']}")


def reproduce(
    name: NameArgument,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", show_default="reproduced/NAME", help="Folder for everything."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", show_default="data/NAME", help="Folder that holds the data set."),
    ] = None,
    preset: Annotated[
        Literal["auto", "paper"], typer.Option(help="auto is our best; paper is the U-Net of 2015 to the letter.")
    ] = "auto",
    budget: Annotated[
        float | None,
        typer.Option(
            parser=duration_s, metavar="TIME", show_default="1h", help="How long all trainings together may take."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=False, help="Steps of each training, instead.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(metavar="N", min=2, show_default="5", help="isbi2012: blocks of sections.")
    ] = None,
    variant: Annotated[
        Literal["gold", "silver"] | None,
        typer.Option(show_default="silver", help="dic-hela, phc-u373: the truth that is trained on."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default=False, help="isbi2012: truth of the test sections, a folder or a stack."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same models.")] = 0,
    width: Annotated[int | None, planned("Features of the first level of the network.")] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Reproduce a result of the U-Net paper of 2015.

    NAME is isbi2012, dic-hela or phc-u373. Trains by a fixed protocol, predicts images that no model has seen, scores
    them as the challenge does, and writes a report with our figure beside the paper's. Fetch the data first: septum
    data NAME. The same command goes on where it was stopped.

    Example: septum reproduce dic-hela --budget 1h -o reproduced/dic-hela
    """
    from septum.reproduce import reproduce as job
    from septum.reproduce.page import write_reproduction
    from septum.reproduce.results import Reproduced
    from septum.reproduce.results import as_json as figures
    from septum.reproduce.settings import ReproduceSettings

    if steps is not None and budget is not None:
        raise UsageError("both --steps and --budget", "one of them", "leave one out")
    folder = out or Path("reproduced") / name
    settings = settings_of(
        ReproduceSettings,
        name=name,
        data=data or Path("data") / name,
        out=folder,
        preset=preset,
        steps=steps,
        budget_s=(budget or 2 * DEFAULT_BUDGET_S) if steps is None else None,
        folds=folds,
        variant=variant,
        truth=truth,
        seed=seed,
        width=width,
        device=device,
    )
    found: Reproduced | None = None
    with (
        orderly(folder) as stop,
        Progress("steps", quiet=quiet or as_json, waiting="preparing the images") as progress,
    ):
        for record in job.reproduce(settings, stop):
            if isinstance(record, Reproduced):
                found = record
                page = write_reproduction(found)
            else:
                _show(record, progress)
    if found is None:  # stopped: `orderly` has said so and left
        return
    if as_json:
        typer.echo(json_text({"command": "reproduce", **figures(found), "report": page}))
        return
    typer.echo("\n".join(reproduction_lines(found)))
    typer.echo(f"report: {format_path(page)}  (done in {format_seconds(found.seconds)})")


def _show(record: object, progress: Progress) -> None:
    """Show one record on the way."""
    from septum.reproduce.results import FoldStarted, Scoring

    match record:
        case FoldStarted(name, index, count, says):
            progress.say(f"part {index + 1} of {count}, {name}: {says}")
        case Scoring(images):
            progress.say(f"scoring {images} images")
        case TileDone(path, tile, tiles):
            progress.show_stage("predicting", tile, tiles, note=path.name, unit="tiles")
        case ImageDone(path, output, seconds):
            progress.say(f"{path.name} -> {output}  {format_seconds(seconds)}")
        case Warned(text):
            progress.warn(text)
        case Step(step, total, loss):
            progress.show_stage("training", step, total, note=f"loss {loss:.3f}", unit="steps")
        case Checked() | Planned() | Resumed() | Validated():
            show_training(record, progress)


def reproduction_lines(found: Reproduced) -> list[str]:
    """Return our scores beside the paper's as tables, and what must be known to read them."""
    lines = []
    for result in found.results:
        what = f"{result.images} images" + ("" if result.objects is None else f", {result.objects} objects")
        rows: list[list[object]] = [[f"{result.title}, {what}", "ours", "U-Net 2015", "next best then"]]
        rows += [[s.score, *map(_digits, (s.value, s.unet_2015, s.next_best))] for s in result.lines]
        lines += format_table(rows)
    return [*lines, *found.notes]


def _digits(value: float | None) -> str:
    return "-" if value is None or value != value else format(value, score_format(value))
