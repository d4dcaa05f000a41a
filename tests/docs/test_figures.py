"""A picture is out of date where it shows something else, not where another processor rounds otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from figures import ROUNDING, alike


@pytest.mark.parametrize(("darker", "same"), [(0, True), (ROUNDING, True), (ROUNDING + 1, False), (200, False)])
def test_a_picture_may_differ_by_the_rounding_of_another_processor(tmp_path: Path, darker: int, same: bool) -> None:
    pixels = np.full((8, 9, 3), 220, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "old.png")
    pixels[3, 4, 1] -= darker
    Image.fromarray(pixels).save(tmp_path / "new.png")
    assert alike(tmp_path / "old.png", tmp_path / "new.png") is same


def test_a_picture_of_another_size_is_another_picture(tmp_path: Path) -> None:
    for name, side in (("old", 8), ("new", 9)):
        Image.fromarray(np.zeros((side, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    assert not alike(tmp_path / "old.png", tmp_path / "new.png")
