from __future__ import annotations

import pytest

from septum.words import as_keywords, name_fields

FIELDS = {"--max-memory": "Memory", "--axes": "Axes", "-o": "Keep in"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("--max-memory 2Q\nto do: write --max-memory 2G", '"Memory" 2Q\nto do: write "Memory" 2G'),
        ("give -o FOLDER in place of it", 'give "Keep in" FOLDER in place of it'),
        ("name its dimensions with --axes, such as -1", 'name its dimensions with "Axes", such as -1'),
        ("my--axes, a-o, --axes-of", "my--axes, a-o, --axes-of\n(--axes-of: only on the command line)"),
        ("`septum check DATA --axes ZYX`: --axes", '`septum check DATA --axes ZYX`: "Axes"'),
        ("write septum predict --axes ZYX; then --axes", 'write septum predict --axes ZYX; then "Axes"'),
        ("--tile of septum train", "--tile of septum train\n(--tile: only on the command line)"),
        ("--tile, --tile and --batch", "--tile, --tile and --batch\n(--tile and --batch: only on the command line)"),
    ],
)
def test_a_window_names_its_fields_in_place_of_options(text: str, named: str) -> None:
    assert name_fields(text, FIELDS) == named


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("--scale 0", "scale=0"),
        ("--object-size -5 and --scale 2", "object_size=-5 and scale=2"),
        ("leave --output out, or --axes ZYX", "leave output out, or axes ZYX"),
        ("my--axes, a--1", "my--axes, a--1"),
    ],
)
def test_python_names_keywords_in_place_of_options(text: str, named: str) -> None:
    assert as_keywords(text) == named
