"""Masks whose background is 1, -1 or 255, in training and in evaluation; rims of 255 around objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

import septum
from septum.check.check import Report, check
from septum.check.samples import load_samples
from septum.errors import UsageError

Data = Callable[..., Path]


def lines(report: Report, severity: str) -> list[str]:
    return [issue.line() for issue in report.issues if issue.severity == severity]


def same_objects(found: np.ndarray, ids: np.ndarray) -> bool:
    """Return True if two masks have the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([found.ravel(), ids.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] and bool((pairs[:, 0] == 0).all())


@pytest.mark.parametrize("background", [1, 255, -1])
def test_a_number_that_surrounds_all_objects_is_read_as_the_background(data: Data, background: int) -> None:
    def mask(_: int, ids: np.ndarray, __: Path) -> np.ndarray:
        return np.where(ids == 0, background, ids + (background == 1)).astype(np.int16)

    report = check([data(mask)])
    assert report.label_kind.reason == "object ids, 8 per image"
    assert report.errors == report.warnings == ()
    assert lines(report, "mended") == [
        "6 masks without 0, in which another value surrounds all objects: "
        + ", ".join(f"c{n}.tif ({background})" for n in range(5))
        + " and 1 more; read as 0"
    ]


def test_minus_one_is_not_annotated_where_any_mask_holds_zero(data: Data) -> None:
    def mask(n: int, ids: np.ndarray, _: Path) -> np.ndarray:
        return np.where(ids == 0, -1 if n == 2 else 0, ids).astype(np.int16)

    report = check([data(mask)])
    assert lines(report, "mended") == []
    sample = {sample.name: sample for sample in load_samples(report)}["c2"]
    assert set(np.unique(sample.mask)[:2]) == {-1, 1}


def test_samples_hold_zero_for_the_background(data: Data) -> None:
    truth: dict[str, np.ndarray] = {}

    def mask(n: int, ids: np.ndarray, _: Path) -> np.ndarray:
        truth[f"c{n}"] = ids
        return (ids + 1).astype(np.uint16)

    samples = list(load_samples(check([data(mask)])))
    assert len(samples) == 6
    assert all(same_objects(sample.mask, truth[sample.name]) for sample in samples)


def test_an_image_without_objects_in_such_a_set_is_empty(data: Data) -> None:
    report = check([data(lambda n, ids, _: (ids * (n > 0) + 1).astype(np.uint16))])
    assert [i.line() for i in report.warnings] == [
        "1 mask with background only: c0.tif; each is learned as an image without objects; "
        "remove a pair whose objects were not drawn"
    ]


def test_areas_that_fill_the_image_have_no_background(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(3):
        for role in ("images", "masks"):
            (tmp_path / role).mkdir(exist_ok=True)
        points = rng.uniform(0, 64, (30, 2))
        places = np.stack(np.mgrid[:64, :64], -1)
        areas = (1 + ((places[:, :, None] - points) ** 2).sum(-1).argmin(-1)).astype(np.uint8)
        tifffile.imwrite(tmp_path / f"masks/a{n}.tif", areas)
        edges = ndimage.grey_dilation(areas, (3, 3)) != areas
        tifffile.imwrite(
            tmp_path / f"images/a{n}.tif", (200 - 150 * edges + rng.normal(0, 5, edges.shape)).astype("u1")
        )
    report = check([tmp_path])
    assert report.rules.kind == "objects"
    assert [i.line() for i in report.warnings] == [
        "no mask holds 0, so that every pixel belongs to an object; if one value is the background, name it with "
        "--background"
    ]


def test_objects_numbered_from_zero_on_minus_one_are_a_warning_that_names_the_option(data: Data) -> None:
    folder = data(lambda n, ids, _: (ids - 1).astype(np.int16))
    report = check([folder])
    assert [i.line() for i in report.warnings] == [
        "-1 (not annotated) surrounds all objects, and 0 is learned as the background; if -1 is the background, "
        "add --background -1"
    ]
    named = check([folder], background=-1)
    assert named.label_kind.reason == "object ids, 8 per image"
    assert named.warnings == ()


def test_watershed_lines_between_areas_are_a_warning_that_names_the_options(data: Data) -> None:
    def mask(_: int, ids: np.ndarray, __: Path) -> np.ndarray:
        lines = (ndimage.grey_dilation(ids, (3, 3)) != ids) & (ids == 0)
        return np.where(lines, 0, ids + 1).astype(np.uint16)

    folder = data(mask)
    assert [i.line() for i in check([folder]).warnings] == [
        "1 surrounds all objects and 0 is rare, as in masks with lines between areas; if 1 is the background, "
        "add --background 1 --ignore-value 0"
    ]
    report = check([folder], background=1, ignore=(0,))
    assert report.label_kind.reason == "object ids, 8 per image"
    sample = next(iter(load_samples(report)))
    assert set(np.unique(sample.mask)[:2]) == {-1, 0}


def test_pieces_with_objects_and_background_swapped_are_a_warning(data: Data) -> None:
    folder = data(lambda n, ids, _: (255 * (ids == 0)).astype(np.uint8))
    assert "255 surrounds 0: objects and background seem swapped; if so, add --background 255" in [
        i.line() for i in check([folder], kind="objects").warnings
    ]
    report = check([folder], kind="objects", background=255)
    assert report.label_kind.reason == "objects, one per connected piece, 7 to 8 per image (as asked)"


def test_a_background_that_no_mask_holds_is_refused(data: Data) -> None:
    folder = data(lambda n, ids, _: ids.astype(np.uint8))
    with pytest.raises(UsageError, match="--background 77: no mask holds it"):
        check([folder], background=77)


@pytest.mark.parametrize("inverted", [{5}, {1, 3, 5}])
def test_masks_that_are_inverted_among_others_are_named(data: Data, inverted: set[int]) -> None:
    folder = data(lambda n, ids, _: (255 * ((ids > 0) != (n in inverted))).astype(np.uint8))
    (issue,) = check([folder]).warnings
    assert issue.code == "inverted"
    assert [path.name for path in issue.files] == [f"c{n}.tif" for n in sorted(inverted)]


def test_white_is_zero_in_masks_of_one_bit_is_honored(data: Data) -> None:
    def mask(n: int, ids: np.ndarray, path: Path) -> None:
        tag = {"tiffinfo": {262: 0}} if n % 2 else {}
        Image.fromarray(ids > 0).save(path.with_suffix(".tif"), compression="group4", **tag)

    folder = data(mask)
    report = check([folder])
    assert report.issues == ()
    for sample in load_samples(report):
        assert 0.05 < (sample.mask == 1).mean() < 0.3
    found = septum.evaluate(folder / "masks", folder / "masks", metrics=["pixels"])
    assert {s.name: s.value for s in found.results[0].scores}["Dice 1"] == 1


@pytest.mark.parametrize("values", [(0, 2, 15, 7, 2, 15, 2, 7, 15), tuple(range(9))])
def test_255_along_borders_is_not_annotated(data: Data, values: tuple[int, ...]) -> None:
    """Pascal VOC draws such a rim around objects of classes; so do some around numbered objects."""

    def mask(_: int, ids: np.ndarray, __: Path) -> np.ndarray:
        rim = ndimage.grey_dilation(ids, (3, 3)) != ndimage.grey_erosion(ids, (3, 3))
        return np.where(rim, 255, np.array(values)[ids]).astype(np.uint8)

    report = check([data(mask)])
    assert "255 only along the borders of other values; read as not annotated" in lines(report, "mended")
    assert report.rules.kind == ("objects" if len(set(values)) == 9 else "classes")
    assert "8 per image" in report.label_kind.reason or report.rules.class_values == (0, 2, 7, 15)
    for sample in load_samples(report):
        assert (sample.mask == -1).any()
        assert sample.mask.max() == (8 if report.rules.kind == "objects" else 3)


def test_255_is_an_object_where_it_is_no_rim(data: Data) -> None:
    report = check([data(lambda n, ids, _: np.where(ids == 3, 255, ids).astype(np.uint8))])
    assert report.issues == ()
    assert report.label_kind.reason == "object ids, 8 per image"


@pytest.mark.parametrize("role", ["pred", "truth"])
@pytest.mark.parametrize("background", [1, -1])
def test_evaluation_reads_the_background_of_either_side(
    tmp_path: Path, cells: Callable[..., tuple[np.ndarray, np.ndarray]], role: str, background: int
) -> None:
    for n in range(3):
        ids = cells(n)[1]
        for folder in ("pred", "truth"):
            (tmp_path / folder).mkdir(exist_ok=True)
            other = np.where(ids == 0, background, ids + (background == 1))
            tifffile.imwrite(tmp_path / folder / f"c{n}.tif", (other if folder == role else ids).astype(np.int16))
    found = septum.evaluate(tmp_path / "pred", tmp_path / "truth", metrics=["instances"])
    assert {s.name: s.value for s in found.results[0].scores}["F1@0.50"] == 1
    side = "prediction" if role == "pred" else "truth"
    assert f"{side}: {background} surrounds all objects and was read as the background" in found.notes


def test_evaluation_does_not_count_rims(tmp_path: Path, cells: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    for n in range(3):
        ids = cells(n)[1]
        rim = ndimage.grey_dilation(ids, (3, 3)) != ndimage.grey_erosion(ids, (3, 3))
        for folder, mask in (("pred", ids), ("truth", np.where(rim, 255, ids))):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"c{n}.tif", mask.astype(np.uint8))
    found = septum.evaluate(tmp_path / "pred", tmp_path / "truth", metrics=["instances"])
    assert {s.name: s.value for s in found.results[0].scores}["AP"] == 1
