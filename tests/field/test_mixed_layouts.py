"""Mixtures in one data set that stopped a command with a traceback, or of which a part was passed over in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

import septum
from septum.check.check import check

Cells = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_planes_and_volumes_of_many_classes_in_one_set_are_told_apart_by_their_places(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for n in range(6):
        sides = (24, 24) if n < 4 else (3, 24, 24)
        mask = np.zeros(sides, np.uint8)
        for value in range(1, 4):
            mask[..., 6 * value : 6 * value + 3, 4:9] = value
        axes = "ZYX"[-mask.ndim :]
        tifffile.imwrite(
            tmp_path / f"images/c{n}.tif",
            (60 * mask + rng.integers(0, 9, sides)).astype(np.uint8),
            imagej=True,
            metadata={"axes": axes},
        )
        tifffile.imwrite(tmp_path / f"masks/c{n}.tif", mask, imagej=True, metadata={"axes": axes})
    assert check([tmp_path]).label_kind.values == (0, 1, 2, 3)


def test_a_folder_of_object_masks_beside_an_image_that_cannot_be_read_is_named(tmp_path: Path, cells: Cells) -> None:
    for n in range(3):
        image, ids = cells(n)
        for name in ("images", "masks"):
            (tmp_path / f"c{n}" / name).mkdir(parents=True)
        tifffile.imwrite(tmp_path / f"c{n}/images/c{n}.tif", image)
        for value in (1, 2):
            tifffile.imwrite(tmp_path / f"c{n}/masks/o{value}.tif", (ids == value).astype(np.uint8))
    (tmp_path / "c1/images/c1.tif").write_bytes(b"")
    report = check([tmp_path])
    assert [pair.name for pair in report.pairs] == ["c0", "c2"]
    assert any("c1.tif" in issue.line() for issue in report.issues if issue.code == "unreadable")


@pytest.mark.parametrize("folder", ["masks", "."])
def test_labels_named_as_the_notes_of_cellpose_are_masks(tmp_path: Path, cells: Cells, folder: str) -> None:
    images = tmp_path / ("images" if folder == "masks" else ".")
    for place in (images, tmp_path / folder):
        place.mkdir(exist_ok=True)
    for n in range(3):
        image, ids = cells(n)
        tifffile.imwrite(images / f"c{n}.tif", image)
        np.save(tmp_path / folder / f"c{n}_seg.npy", ids)
    report = check([tmp_path])
    assert [pair.mask.name for pair in report.pairs] == ["c0_seg.npy", "c1_seg.npy", "c2_seg.npy"]
    assert not report.issues


def test_predictions_without_truth_are_counted_and_named(tmp_path: Path, cells: Cells) -> None:
    for name in ("predicted", "truth"):
        (tmp_path / name).mkdir()
    for n in range(4):
        _, ids = cells(n)
        tifffile.imwrite(tmp_path / f"predicted/c{n}.tif", ids)
        if n < 3:
            tifffile.imwrite(tmp_path / f"truth/c{n}.tif", ids)
    result = septum.evaluate(tmp_path / "predicted", tmp_path / "truth")
    assert "1 prediction without truth, not scored: c3.tif" in result.notes


def test_images_beside_the_folders_of_images_are_named(tmp_path: Path, cells: Cells) -> None:
    for n in range(3):
        image, ids = cells(n)
        for name in ("images", "masks"):
            (tmp_path / f"c{n}" / name).mkdir(parents=True)
        tifffile.imwrite(tmp_path / f"c{n}/images/c{n}.tif", image)
        for value in (1, 2):
            tifffile.imwrite(tmp_path / f"c{n}/masks/o{value}.tif", (ids == value).astype(np.uint8))
    tifffile.imwrite(tmp_path / "other.tif", cells(3)[0])
    (tmp_path / "new.webp").write_bytes(b"RIFF")
    issues = {issue.code: issue.files for issue in check([tmp_path]).issues}
    assert issues["unpaired-image"] == (tmp_path / "other.tif",)
    assert issues["unread-format"] == (tmp_path / "new.webp",)
