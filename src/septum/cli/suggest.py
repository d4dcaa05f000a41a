"""The command that names the images to annotate next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import echo_failures, json_text
from septum.progress import Display, Progress
from septum.review.settings import SuggestSettings
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.prediction.events import ImageFailed
    from septum.review.suggest import Suggested, Suggestion


def suggest(settings: SuggestSettings, display: Display) -> None:
    """Name the images to annotate next.

    MODEL is a model file or the folder of a run, best of one with --folds. INPUT is any number of images without
    annotation, folders of images, or patterns ('*.tif'). They are ranked by how much the networks of the model
    disagree on them; for a single network, by how much its predictions of turned images do.

    Example: septum suggest runs/cells new/ -n 5 -o next
    """
    from septum.events import Warned
    from septum.prediction.events import ImageFailed
    from septum.review import suggest as job

    failed: list[ImageFailed] = []
    found: Suggested | None = None
    with (
        stoppable(lambda: "nothing was written"),
        Progress("images", display, waiting="opening the model and the first image") as progress,
    ):
        for event in job.suggest(settings):
            match event:
                case job.Judged(path, index, count, done, total):
                    progress.show(index + done / total, count, note=path.name)
                case Warned(text):
                    progress.warn(text)
                case ImageFailed(path):
                    failed.append(event)
                    progress.say(f"{path} failed")
                case job.Suggested():
                    found = event
    assert found is not None
    pictures = _pictures(found, settings.out)
    echo_failures(failed)
    if display.json:
        typer.echo(json_text({"command": "suggest", **_document(found, pictures), "failures": failed}))
    else:
        lines = _lines(found, settings.out, verbose=display.verbose)
        typer.echo("\n".join(lines[-1:] if display.quiet else lines))
    if failed:
        raise typer.Exit(1)


def _pictures(found: Suggested, out: Path | None) -> list[Path | None]:
    if out is None:
        return [None] * len(found.suggestions)
    from septum.io.formats import format_path
    from septum.review.pictures import draw_suggestions

    written, others = draw_suggestions(found.suggestions, out)
    if others:
        kept = f"{pluralize(len(others), 'other picture')}, such as {format_path(others[0].name)}"
        typer.echo(f"warning: {format_path(out)} keeps {kept}: Septum removes only its own, unchanged ones", err=True)
    return list(written)


def _lines(found: Suggested, out: Path | None, *, verbose: bool) -> list[str]:
    from septum.io.formats import format_path
    from septum.report.numbers import format_table

    rows: list[list[object]] = [["annotate next", "disagreement", "most of it in"]]
    for one in found.suggestions:
        place = "".join(f", {axis} {number}" for axis, number in one.place.items())
        boxes = one.regions if verbose else one.regions[:1]
        where = [", ".join(f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True)) for box in boxes]
        rows.append([f"{format_path(one.path)}{place}", f"{one.disagreement:.4f}", "; ".join(where) or "-"])
    count = found.judged
    lines = [*format_table(rows), f"{pluralize(count, 'image')}, ranked by how much {found.voters} disagree"]
    return lines if out is None else [*lines, f"pictures: {out}"]


def _document(found: Suggested, pictures: list[Path | None]) -> dict[str, object]:
    return {
        "voters": found.voters,
        "judged": found.judged,
        "seconds": found.seconds,
        "suggestions": [_suggestion(one, picture) for one, picture in zip(found.suggestions, pictures, strict=True)],
    }


def _suggestion(one: Suggestion, picture: Path | None) -> dict[str, object]:
    return {
        "image": one.path,
        "place": one.place,
        "disagreement": one.disagreement,
        "regions": one.regions,
        "picture": picture,
    }


command = options.command(suggest, SuggestSettings)
