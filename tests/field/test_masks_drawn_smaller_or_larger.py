"""Masks that lie on their images, but are drawn smaller or larger than the objects, or with rims that do not count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage as ndi

from septum.check.check import Report, check

Cells = Callable[..., tuple[np.ndarray, np.ndarray]]


def smaller(ids: np.ndarray) -> np.ndarray:
    inner = [(k, ndi.binary_erosion(ids == k, iterations=2)) for k in range(1, ids.max() + 1)]
    return sum((k * inside for k, inside in inner), np.zeros_like(ids)).astype(np.uint8)


def larger(ids: np.ndarray) -> np.ndarray:
    return np.where(ids > 0, ids, ndi.grey_dilation(ids, (5, 5))).astype(np.uint8)


def rims(ids: np.ndarray) -> np.ndarray:
    classes = np.where(ids > 0, 1 + ids % 3, 0)
    return np.where(ndi.grey_dilation(ids, (5, 5)) != ndi.grey_erosion(ids, (5, 5)), 255, classes).astype(np.uint8)


MASKS = pytest.mark.parametrize("drawn", [smaller, larger, rims])
SUFFIXES = pytest.mark.parametrize("suffix", [".png", ".jpg"])


def shifts(folder: Path, cells: Cells, drawn: Callable[..., np.ndarray], suffix: str, by: tuple[int, int]) -> Report:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for n in range(6):
        image, ids = cells(n, side=96)
        soft = ndi.gaussian_filter(image.astype(float), 1.0).astype(np.uint8)
        options = {"quality": 95} if suffix == ".jpg" else {}
        Image.fromarray(soft).save(folder / f"images/c{n}{suffix}", **options)
        moved = np.roll(drawn(ids), by, (0, 1))
        Image.fromarray(moved).save(folder / f"masks/c{n}.png")
    return check([folder])


@MASKS
@SUFFIXES
def test_masks_of_another_size_are_no_shifted_masks(
    tmp_path: Path, cells: Cells, drawn: Callable[..., np.ndarray], suffix: str
) -> None:
    report = shifts(tmp_path, cells, drawn, suffix, (0, 0))
    assert not {"mask-shifted", "masks-shifted", "mask-turned"} & {issue.code for issue in report.issues}


@MASKS
def test_shifted_masks_of_another_size_are_found_by_the_pixels_of_their_shift(
    tmp_path: Path, cells: Cells, drawn: Callable[..., np.ndarray]
) -> None:
    report = shifts(tmp_path, cells, drawn, ".png", (-3, 2))
    issue = next(issue for issue in report.issues if issue.code == "mask-shifted")
    assert set(issue.details) == {"shifted by -3 pixels along Y and 2 pixels along X"}
    assert len(issue.files) == 6
