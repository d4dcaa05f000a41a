"""Settings of a prediction: values that contradict each other are refused in our own words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from septum.errors import UsageError
from septum.prediction.settings import PredictSettings, format_shard, parse_shard, parse_workers
from septum.settings import options_of


def _settings(**changes: Any) -> PredictSettings:
    return PredictSettings(**{"model": Path("m"), "inputs": ("a.tif",), "out": Path("out")} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": "objects"}, "--output objects\nexpected: one of labels, classes, probabilities"),
        ({"out": None}, "neither -o nor --label-image"),
        ({"label_image": "cells"}, "both -o and --label-image"),
        ({"output": "probabilities", "format": "png"}, "--output probabilities with --format png"),
        ({"workers": 2, "shard": (1, 2)}, "--workers and --shard"),
        ({"workers": "tcp://host:1", "shard": (1, 2)}, "--workers and --shard"),
        ({"shard": (0, 2)}, "--shard 0/2\nexpected: 1/N to N/N"),
        ({"shard": (3, 2)}, "--shard 3/2\nexpected: 1/N to N/N"),
    ],
)
def test_contradicting_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        _settings(**changes)
    assert words in str(caught.value)


def test_every_field_is_an_option_with_help() -> None:
    options = {place[0]: option for place, _, option in options_of(PredictSettings)}
    assert list(options) == list(PredictSettings.model_fields)
    assert all(option.help.endswith(".") for option in options.values())
    assert {option.heading for option in options.values()} <= {
        "",
        "Results",
        "Scale",
        "Memory and speed",
        "Cluster",
        "Input",
    }


def test_values_are_parsed_from_text() -> None:
    assert parse_shard("3/8") == (3, 8) and format_shard((3, 8)) == "3/8"
    with pytest.raises(UsageError, match="3 of 8"):
        parse_shard("3 of 8")
    assert (parse_workers("4"), parse_workers("tcp://host:8786")) == (4, "tcp://host:8786")
    assert _settings(workers=4).workers == 4
    assert _settings(workers="tcp://host:8786").workers == "tcp://host:8786"
    for wrong in (0, -1):
        with pytest.raises(UsageError, match="at least one process"):
            _settings(workers=wrong)


def test_settings_import_no_heavy_library() -> None:
    code = (
        "import sys, septum.prediction.settings; print({'torch', 'numpy', 'scipy', 'zarr', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
