"""The command that names annotations that are probably wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import json_text
from septum.experiments.events import HeldOutDone
from septum.progress import Display, Progress
from septum.review.settings import ReviewSettings
from septum.training.events import Checked
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.check.check import Report
    from septum.review.label_issues import LabelIssues

MOST_LINES = 20


def review(settings: ReviewSettings, display: Display) -> None:
    """Name annotations that are probably wrong, the worst first.

    RUN is the folder of a training, best of one with --folds, which judges every image. Its held-out images are
    predicted and compared with their masks. DATA is needed only where the data of the run were moved.

    Example: septum review runs/cells
    """
    from septum.review.label_issues import LabelIssues, review_run

    found: LabelIssues | None = None
    report: Report | None = None
    with (
        stoppable(lambda: "nothing was written"),
        Progress("images", display, waiting="opening the images and the model") as progress,
    ):
        for event in review_run(settings):
            match event:
                case LabelIssues():
                    found = event
                case Checked(report):
                    pass
                case HeldOutDone(done, total):
                    progress.show(done, total)
    assert found is not None and report is not None
    if display.json:
        typer.echo(json_text({"command": "review", **_document(found)}))
    else:
        typer.echo("\n".join(_lines(report, found, settings, len(found.issues) if display.verbose else MOST_LINES)))


def _lines(report: Report, found: LabelIssues, settings: ReviewSettings, most: int) -> list[str]:
    from septum.io.formats import format_path
    from septum.report.numbers import format_table

    count = pluralize(found.judged, "image")
    unseen = f" ({found.unseen} others were trained on: a run with --folds judges all)" if found.unseen else ""
    run = format_path(settings.run)
    if not found.issues:
        return [f"no suspicious label in {count} that {run} had not seen{unseen}"]
    rows: list[list[object]] = [["suspicious label in", "at y, x", "px", "sure", "the model sees"]]
    if report.rules.rank == 3:
        rows[0][1] = "at z, y, x"
    for issue in found.issues[:most]:
        box = issue.disagreement
        where = ", ".join(f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True))
        words = issue.describe(report.rules.class_values)
        rows.append([format_path(issue.image), where, box.area_px, f"{box.confidence:.2f}", words])
    left = len(found.issues) - most
    more = [f"and {left} more: -v lists all"] if left > 0 else []
    total = pluralize(len(found.issues), "suspicious label")
    return [*format_table(rows), *more, f"{total} in {count} that {run} had not seen{unseen}"]


def _document(found: LabelIssues) -> dict[str, object]:
    labels = [{"image": one.image, "mask": one.mask, **vars(one.disagreement)} for one in found.issues]
    return {"judged": found.judged, "unseen": found.unseen, "labels": labels}


command = options.command(review, ReviewSettings)
