"""Format numbers, durations and tables as text, for the report and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

SCORE_TITLES = {"dice": "Dice", "iou": "IoU", "pixel_error": "pixel error"}
"""Titles of scores whose stored names differ from them."""


def format_seconds(seconds: float) -> str:
    """Format a duration: ``"0.8 s"``, ``"41 s"``, ``"3 min 20 s"``, ``"1 h 05 min"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_spent(activities_s: Mapping[str, float], seconds: float) -> str:
    """Format how the time of a training was spent: ``"86 % steps, 6 % validation, 8 % other"``; ``""`` if unknown.

    Parameters
    ----------
    activities_s
        Seconds of each activity of `septum.training.schedule.Activity`.
    seconds
        Seconds of the whole training.
    """
    if not activities_s or seconds <= 0:
        return ""
    titles = {"steps": "steps", "validating": "validation", "preparing": "preparation"}
    titles["finishing"] = "tuning and final scores"
    shares = {title: round(100 * activities_s.get(name, 0.0) / seconds) for name, title in titles.items()}
    shares["other"] = max(0, 100 - sum(shares.values()))
    return ", ".join(f"{share} % {title}" for title, share in shares.items() if share)


def format_number(value: object) -> str:
    """Format a cell of a table: floats with three decimals, a missing value as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def score_format(value: float | None) -> str:
    """Return the format of a score beside published ones: four decimals, or three significant digits if it is tiny."""
    return ".3g" if value is not None and 0 < abs(value) < 0.01 else ".4f"


def format_scores(scores: Mapping[str, float]) -> str:
    """Format scores in one line: ``"SEG 0.812, AP50 0.790"``."""
    return ", ".join(f"{name} {format_number(value)}" for name, value in scores.items())


def format_table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Format a table as lines; the first row is the heading, the first column is text, the others are numbers.

    Nothing is cut, however wide the table is: in a file it must hold the same as on a terminal.
    """
    cells = [[format_number(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        texts = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *texts]).rstrip())
    return lines


def format_value(value: object) -> str:
    """Format a value of a model's description: numbers short, mappings as ``name value, name value``, None empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, Mapping):
        flat = {
            key: item for key, item in value.items() if not isinstance(item, Mapping) and item not in (None, [], "")
        }
        return ", ".join(f"{str(key).replace('_', ' ')} {format_value(item)}" for key, item in flat.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(format_value(item) for item in value)
    return str(value)


def format_interval(low: float, high: float) -> str:
    """Format an interval: ``"0.790 to 0.840"``; a dash if there is none."""
    return "-" if math.isnan(low) or math.isnan(high) else f"{low:.3f} to {high:.3f}"
