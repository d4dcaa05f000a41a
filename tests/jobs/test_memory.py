"""Sizes in words, and what a process holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from septum.errors import UsageError
from septum.jobs import memory
from septum.jobs.memory import bytes_text, parse_bytes, peak_bytes, resident_bytes, usual_limit


@pytest.mark.parametrize(
    ("text", "count"),
    [("2G", 2 << 30), ("800M", 800 << 20), ("1.5 GB", 3 << 29), ("2GiB", 2 << 30), ("64k", 1 << 16), ("1000", 1000)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "2X", "-1G", "0", "G", "2 2G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="2G or 800M"):
        parse_bytes(text)


def test_sizes_for_people() -> None:
    assert [bytes_text(n) for n in (1, 640 << 20, 1 << 30, 1.34 * (1 << 30))] == ["1 MB", "640 MB", "1.0 GB", "1.3 GB"]


def test_the_peak_remembers_what_was_given_back() -> None:
    before = resident_bytes()
    block = np.ones(60_000_000, np.uint8)
    assert resident_bytes() >= before + 50_000_000
    del block
    assert peak_bytes() >= before + 50_000_000
    assert resident_bytes() < before + 40_000_000


def test_the_usual_limit_leaves_room_and_knows_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import psutil

    assert resident_bytes() < usual_limit() < psutil.virtual_memory().total
    monkeypatch.setattr(memory, "_group_free", lambda: [100 << 20])
    assert usual_limit() - resident_bytes() <= 71 << 20
