"""The course of a training as a picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from septum.errors import FileError

# Okabe and Ito's colors, told apart by color-blind people too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RAW_COLOR = "#B8C4CE"


def curves(log: Path, picture: Path) -> Path:
    """Draw loss and scores over the steps of a training.

    Parameters
    ----------
    log
        The run's ``log.csv``: columns ``step``, ``loss``, ``rate``, ``seconds`` and one for each score, empty where
        nothing was scored.
    picture
        The PNG file to write; its folder must exist.

    Returns
    -------
    Path
        `picture`.

    Raises
    ------
    FileError
        If the log is missing, damaged or has no line.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps a global state, and may look for a screen
    from matplotlib.ticker import LogLocator, NullFormatter

    from septum.io.atomic import whole_file

    columns = read_log(log)
    steps, loss = columns["step"], columns["loss"]
    scores = {n: v for n, v in columns.items() if n not in ("step", "loss", "rate", "seconds") and np.isfinite(v).any()}
    figure = Figure(figsize=(8, 5.5 if scores else 3), dpi=120, layout="constrained")
    rows = figure.subplots(2 if scores else 1, 1, sharex=True, squeeze=False)[:, 0]
    rows[0].plot(steps, loss, color=RAW_COLOR, linewidth=0.8, label="each step")
    rows[0].plot(steps, smoothed(loss), color=COLORS[0], linewidth=1.8, label="running mean")
    if np.nanmin(loss, initial=math.inf) > 0:
        rows[0].set_yscale("log")
        rows[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        rows[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        rows[0].yaxis.set_minor_formatter(NullFormatter())
    rows[0].set_ylabel("training loss")
    if scores:
        for (name, values), color in zip(scores.items(), COLORS * len(scores), strict=False):
            there = np.isfinite(values)
            label = f"{name}: {values[there][-1]:.3f} at the end"
            rows[1].plot(steps[there], values[there], color=color, marker="o", markersize=4, label=label)
        rows[1].set_ylim(0, 1)
        rows[1].set_ylabel("score on held-out images")
    for row in rows:
        row.grid(alpha=0.25)
        row.legend(frameon=False, loc="best")
        row.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("step")
    rows[-1].set_xlim(0, max(1, steps.max()))
    with whole_file(picture) as part:
        figure.savefig(part, format="png")
    return picture


def read_log(log: Path) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return the columns of a ``log.csv`` as ``(n,)`` float64, NaN where a field is empty; raise `FileError`."""
    try:
        with log.open(newline="") as file:
            lines = list(csv.DictReader(file))
        names = lines[0].keys()
        columns = {name: np.array([float(line[name] or "nan") for line in lines]) for name in names}
    except (OSError, IndexError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "no line that can be read"
        raise FileError(f"{log}: {reason}", "the log.csv of a run", "name the folder of a training") from None
    if not {"step", "loss"} <= columns.keys():
        raise FileError(f"{log}: no columns step and loss", "the log.csv of a run", "name the folder of a training")
    return columns


def smoothed(
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the running mean over a twentieth of the values around each, fewer at the ends; NaN does not count."""
    half = max(1, len(values) // 40)
    there = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(there, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(there)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    number = counts[high] - counts[low]
    return np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), np.nan)
