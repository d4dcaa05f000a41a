"""What a trained run doubts in the masks, as `septum check --run` shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from septum.cli.progress import Progress
from septum.io.paths import format_path
from septum.report.numbers import format_table

if TYPE_CHECKING:
    from septum.check.check import Report
    from septum.review.label_issues import LabelIssues

MOST_LINES = 20


def judge(report: Report, run: Path, *, quiet: bool) -> LabelIssues:
    """Let a run judge the masks of a report, and show how far it is."""
    from septum.experiments.events import HeldOutDone
    from septum.review.label_issues import LabelIssues, find_label_issues

    found: LabelIssues | None = None
    with Progress("images", quiet=quiet, waiting="opening the model") as progress:
        for record in find_label_issues(report, run):
            if isinstance(record, LabelIssues):
                found = record
            elif isinstance(record, HeldOutDone):
                progress.show(record.done, record.total)
    assert found is not None
    return found


def suspect_lines(report: Report, found: LabelIssues, run: Path) -> list[str]:
    """Return the suspicious labels as a table, the worst first, and of how many images they are."""
    count = f"{found.judged} image{'s' * (found.judged != 1)}"
    unseen = f" ({found.unseen} others were trained on: --folds judges all)" if found.unseen else ""
    if not found.issues:
        return [f"no suspicious label in {count} that {format_path(run)} had not seen{unseen}"]
    rows: list[list[object]] = [["suspicious label in", "at y, x", "px", "sure", "the model sees"]]
    if report.rules.rank == 3:
        rows[0][1] = "at z, y, x"
    for suspect in found.issues[:MOST_LINES]:
        place = suspect.disagreement
        where = ", ".join(f"{a}:{b}" for a, b in zip(place.start, place.stop, strict=True))
        said = suspect.describe(report.rules.class_values)
        rows.append([format_path(suspect.image), where, place.area_px, f"{place.confidence:.2f}", said])
    left = len(found.issues) - MOST_LINES
    more = [f"and {left} more, of which --json tells"] if left > 0 else []
    total = f"{len(found.issues)} suspicious label{'s' * (len(found.issues) != 1)}"
    return [*format_table(rows), *more, f"{total} in {count} that {format_path(run)} had not seen{unseen}"]


def suspects_told(found: LabelIssues) -> dict[str, object]:
    """Return the suspicious labels for the document of ``--json``."""
    labels = [{"image": one.image, "mask": one.mask, **vars(one.disagreement)} for one in found.issues]
    return {"judged": found.judged, "unseen": found.unseen, "labels": labels}
