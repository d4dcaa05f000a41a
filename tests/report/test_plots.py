"""Plots of the report: ticks, size, escaped texts; and the log that they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from septum.errors import FileError
from septum.report.plots import (
    LEFT,
    axis,
    loss_plot,
    read_log,
    scores_plot,
    sizes_plot,
    smoothed,
    tick_text,
    whisker,
    with_start,
)


def write_log(path: Path, lines: list[str]) -> Path:
    path.write_text("step,loss,rate,seconds,SEG,AP50\n" + "\n".join(lines) + "\n")
    return path


def test_a_log_is_read_with_nan_where_nothing_was_scored(tmp_path: Path) -> None:
    columns = read_log(write_log(tmp_path / "log.csv", ["1,0.5,0.1,1,,", "2,0.25,0.1,2,0.75,0.5"]))
    assert columns["loss"].tolist() == [0.5, 0.25]
    assert np.isnan(columns["SEG"][0])
    assert columns["SEG"][1] == 0.75


@pytest.mark.parametrize("content", ["", "step,loss\n", "step,loss\n1,a\n", "a,b\n1,2\n"])
def test_a_damaged_log_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.csv").write_text(content)
    with pytest.raises(FileError, match=r"log\.csv"):
        read_log(tmp_path / "log.csv")


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_log(tmp_path / "log.csv")


def test_the_running_mean_is_a_mean() -> None:
    values = np.array([1.0, 2.0, np.nan, 6.0])
    assert smoothed(values).tolist() == [1.5, 1.5, 4.0, 6.0]
    assert np.allclose(smoothed(np.full(500, 3.0)), 3.0)


def test_scores_are_drawn_where_they_were_computed() -> None:
    steps, scores = np.arange(1.0, 9), np.full(8, np.nan)
    scores[[1, 3]] = 0.5, 1.0
    plot = scores_plot(steps, {"SEG": scores, "AP50": scores / 2}, 4)
    assert plot.count('<circle class="dot c0"') == plot.count('<circle class="dot c1"') == 2
    assert ">score on held-out images<" in plot


def test_scores_before_the_first_step_are_drawn_at_step_0() -> None:
    steps, scores = np.arange(1.0, 5), {"SEG": np.array([np.nan, 0.5, np.nan, 0.75])}
    assert with_start(steps, scores, {})[0].tolist() == [1, 2, 3, 4]
    from_0, found = with_start(steps, scores, {"SEG": 0.25, "AP": 0.5})
    assert from_0.tolist() == [0, 1, 2, 3, 4]
    assert list(found) == ["SEG"] and found["SEG"][[0, 2, 4]].tolist() == [0.25, 0.5, 0.75]
    plot = scores_plot(from_0, found, 0)
    assert plot.count('<circle class="dot c0"') == 3
    assert f'cx="{LEFT:.1f}"' in plot


def test_plots_have_round_ticks_and_escaped_texts() -> None:
    assert axis("x", np.array([0.0, 998.0]), low=0.0).ticks == (0, 200, 400, 600, 800)
    assert axis("x", np.array([0.31, 0.9]), log=True).ticks == (0.5,)
    assert axis("x", np.array([0.04, 3.0]), log=True).ticks == (0.05, 0.1, 0.2, 0.5, 1, 2)
    assert axis("x", np.array([np.nan]), low=0.0).high == 1
    assert [tick_text(v) for v in (0.05, 2000, 20_000, 1.5e6)] == ["0.05", "2000", "20k", "1.5M"]
    steps = np.arange(1.0, 5001)
    plot = loss_plot(steps, np.exp(-steps / 2000), 4000)
    assert len(plot) < 30_000
    assert plot.count("<text") == plot.count("</text>") > 8
    assert ">training loss<" in plot
    assert loss_plot(np.array([1.0]), np.array([0.5]), 1).count("<path") > 3
    dots = sizes_plot(np.linspace(5, 50, 9000), np.linspace(0, 1, 9000), np.linspace(0, 1, 9000) >= 0.5)
    assert dots.count("<circle") == 1500
    assert whisker(float("nan"), float("nan"), float("nan")).count("circle") == 0
