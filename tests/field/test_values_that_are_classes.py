"""Twelve classes, each in one piece in every image, as teeth or organs are; and numbered objects that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from septum.check.check import Report, check


def twelve(folder: Path, *, noise: float = 3, own: str = "brightness and size", count: int = 8) -> Report:
    """Write images of twelve squares at places that vary, and check them."""
    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True, exist_ok=True)
    for n in range(count):
        rng = np.random.default_rng(n)
        mask, image = np.zeros((160, 160), np.uint8), np.full((160, 160), 20.0)
        other = rng.permutation(12) + 1
        for value, cell in enumerate(rng.permutation(12), 1):
            size, brightness = (value if word in own else other[value - 1] for word in ("size", "brightness"))
            side = 32 - 2 * size
            y, x = cell // 4 * 50 + 5 + rng.integers(4), cell % 4 * 40 + 4 + rng.integers(4)
            mask[y : y + side, x : x + side] = value
            image[y : y + side, x : x + side] = 20 + 18 * brightness
        image = (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)
        tifffile.imwrite(folder / f"images/k{n}.tif", image)
        tifffile.imwrite(folder / f"masks/k{n}.tif", mask)
    return check([folder])


@pytest.mark.parametrize("own", ["brightness and size", "brightness"])
def test_a_brightness_of_its_own_makes_each_of_twelve_values_a_class(tmp_path: Path, own: str) -> None:
    report = twelve(tmp_path, own=own)
    assert report.rules.class_values == tuple(range(13))
    assert report.label_kind.reason.endswith("11, 12, each with a place or look of its own")
    assert report.issues == ()


def test_from_few_images_this_is_a_guess(tmp_path: Path) -> None:
    (issue,) = twelve(tmp_path, count=5).warnings
    assert issue.line().endswith("but this is a guess; if it is wrong, add --kind objects")


def test_numbers_that_rise_with_the_size_are_ids_but_a_guess(tmp_path: Path) -> None:
    report = twelve(tmp_path, own="size")
    assert report.rules.kind == "objects"
    (issue,) = report.warnings
    assert issue.line() == (
        "masks are read as object ids, 12 per image, but this is a guess; if it is wrong, add --kind classes"
    )


def test_numbers_in_any_order_are_ids_without_a_doubt(tmp_path: Path) -> None:
    report = twelve(tmp_path, own="nothing")
    assert report.rules.kind == "objects"
    assert report.issues == ()
