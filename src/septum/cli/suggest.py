"""The command that says which images to annotate next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from septum.cli.options import AxesOption, DeviceOption, JsonOption, QuietOption, settings_of
from septum.cli.progress import Progress, stoppable
from septum.cli.text import json_text
from septum.io.paths import format_path
from septum.report.numbers import format_table

if TYPE_CHECKING:
    from septum.predict.events import ImageFailed
    from septum.review.suggest import Suggested, Suggestion


def suggest(
    model: Annotated[Path, typer.Argument(metavar="MODEL", hidden=True)],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", hidden=True)],
    *,
    number: Annotated[int, typer.Option("--number", "-n", metavar="N", min=1, help="How many images to name.")] = 10,
    region: Annotated[
        int | None,
        typer.Option(metavar="N", min=8, show_default="256, in volumes 64", help="Side of a region in pixels."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", show_default=False, help="Folder for a picture of each of them."),
    ] = None,
    axes: AxesOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Name the images from which a model would learn most.

    MODEL is a model file or a run folder, best of a run with --folds or --seeds. INPUT is any number of images without
    annotation, folders of images, or patterns ('*.tif'). They are ranked by how much the networks of the model
    disagree on them; those of a single network by how much its predictions of turned images do.

    Example: septum suggest runs/cells new/ -n 5 -o next
    """
    from septum.predict.events import ImageFailed
    from septum.review import suggest as job
    from septum.review.settings import SuggestSettings

    settings = settings_of(
        SuggestSettings,
        model=model,
        inputs=tuple(inputs),
        number=number,
        region=region,
        axes=axes,
        device=device,
    )
    failed: list[ImageFailed] = []
    found: Suggested | None = None
    with (
        stoppable(lambda: "nothing was written"),
        Progress("images", quiet=quiet or as_json, waiting="opening the model") as progress,
    ):
        for record in job.suggest(settings):
            match record:
                case job.Judged(path, index, count, done, total):
                    progress.show(index + done / total, count, note=path.name)
                case ImageFailed(path):
                    failed.append(record)
                    progress.say(f"{path} failed")
                case job.Suggested():
                    found = record
    assert found is not None
    pictures = _pictures(found, out)
    for image in failed:
        reason = image.message.removeprefix(f"{image.path}: ").replace("\n", "\n  ")
        typer.echo(f"failed: {image.path}: {reason}", err=True)
    if as_json:
        typer.echo(json_text({"command": "suggest", **_document(found, pictures), "failures": failed}))
    else:
        typer.echo("\n".join(_lines(found, out)))
    if failed:
        raise typer.Exit(1)


def _pictures(found: Suggested, out: Path | None) -> list[Path | None]:
    if out is None:
        return [None] * len(found.suggestions)
    from septum.review.pictures import draw_suggestion

    return [draw_suggestion(one, rank, out) for rank, one in enumerate(found.suggestions, start=1)]


def _lines(found: Suggested, out: Path | None) -> list[str]:
    rows: list[list[object]] = [["annotate next", "disagreement", "most of it in"]]
    for one in found.suggestions:
        place = "".join(f", {axis} {number}" for axis, number in one.place.items())
        box = one.regions[0] if one.regions else None
        where = "-" if box is None else ", ".join(f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True))
        rows.append([f"{format_path(one.path)}{place}", f"{one.disagreement:.4f}", where])
    count = found.judged
    lines = [*format_table(rows), f"{count} image{'s' * (count != 1)}, ranked by how much {found.voters} disagree"]
    return lines if out is None else [*lines, f"pictures: {out}"]


def _document(found: Suggested, pictures: list[Path | None]) -> dict[str, object]:
    return {
        "voters": found.voters,
        "judged": found.judged,
        "seconds": found.seconds,
        "suggestions": [_told(one, picture) for one, picture in zip(found.suggestions, pictures, strict=True)],
    }


def _told(one: Suggestion, picture: Path | None) -> dict[str, object]:
    return {
        "image": one.path,
        "place": one.place,
        "disagreement": one.disagreement,
        "regions": one.regions,
        "picture": picture,
    }
