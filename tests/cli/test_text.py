"""Numbers and results as text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from septum.cli.text import described, json_text
from septum.report.numbers import format_number, format_scores, format_seconds, format_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200.0, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (3900.0, "1 h 05 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_numbers_and_scores() -> None:
    assert [format_number(v) for v in (None, float("nan"), 0.12345, 7, "a")] == ["-", "-", "0.123", "7", "a"]
    assert format_scores({"SEG": 0.8119, "objects": 12}) == "SEG 0.812, objects 12"


def test_facts_without_a_value_are_left_out() -> None:
    facts = {"read_level": None, "scale": 1.0, "objects": {"threshold": 0.5, "lines": None}, "names": []}
    assert described(facts) == ["scale       1", "objects     threshold 0.5"]


def test_tables_are_aligned_and_never_cut() -> None:
    lines = format_table([["image", "SEG"], ["x" * 200, 0.5], ["b", None]])
    assert lines == ["image" + " " * 195 + "    SEG", "x" * 200 + "  0.500", "b" + " " * 199 + "      -"]


@dataclass(frozen=True)
class Part:
    path: Path
    score: float


def test_json_of_records_paths_and_missing_numbers() -> None:
    document = {"parts": (Part(Path("a/b.tif"), 0.5), Part(Path("c"), float("nan"))), "names": {"z": 1, 2: True}}
    assert json.loads(json_text(document)) == {
        "parts": [{"path": "a/b.tif", "score": 0.5}, {"path": "c", "score": None}],
        "names": {"z": 1, "2": True},
    }
    with pytest.raises(TypeError, match="complex has no JSON form"):
        json_text({"x": 1j})
