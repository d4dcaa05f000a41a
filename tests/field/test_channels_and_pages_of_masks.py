"""Masks with a channel for each class, a page for each object, or the drawing in alpha."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import septum
from septum.check.check import check
from septum.check.samples import load_samples
from septum.errors import DataError

Data = Callable[..., Path]
CLASSES = np.array([0, 1, 2, 3, 4, 1, 2, 3, 4])


def write(path: Path, mask: np.ndarray, axes: str) -> None:
    tifffile.imwrite(path.with_suffix(".tif"), mask, photometric="minisblack", metadata={"axes": axes})


@pytest.mark.parametrize("high", [1, 255])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_channel_for_each_class_gives_class_numbers(data: Data, high: int, kind: str) -> None:
    def mask(_: int, ids: np.ndarray, path: Path) -> None:
        write(path, high * (CLASSES[ids] == np.arange(5)[:, None, None]).astype(kind), "CYX")

    report = check([data(mask)])
    assert (report.rules.kind, report.rules.class_values) == ("classes", (0, 1, 2, 3, 4))
    assert {issue.code for issue in report.issues} - {"mask-float"} == {"class-channels"}
    for sample in load_samples(report):
        assert np.unique(sample.mask).tolist() == [0, 1, 2, 3, 4]
        assert (sample.mask == 0).mean() > 0.5


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_channels_of_classes_are_neither_colors_nor_alpha(data: Data, count: int) -> None:
    def mask(_: int, ids: np.ndarray, path: Path) -> None:
        classes = np.minimum(CLASSES[ids], count - 1)
        write(path, 255 * (classes == np.arange(count)[:, None, None]).astype(np.uint8), "CYX")

    assert check([data(mask)]).rules.class_values == tuple(range(count))


def test_channels_without_one_for_the_background_are_numbered_from_one(data: Data) -> None:
    """QuPath's multichannel output has no channel for unannotated places."""

    def mask(_: int, ids: np.ndarray, path: Path) -> None:
        write(path, 255 * (CLASSES[ids] == np.arange(1, 5)[:, None, None]).astype(np.uint8), "CYX")

    report = check([data(mask)])
    assert [issue.code for issue in report.issues] == ["label-channels"]
    assert report.rules.class_values == (0, 1, 2, 3, 4)


def test_channels_that_overlap_are_refused_with_a_way_out(data: Data) -> None:
    def mask(_: int, ids: np.ndarray, path: Path) -> None:
        write(path, np.stack([255 * (ids > k) for k in range(5)]).astype(np.uint8), "CYX")

    report = check([data(mask, count=1)])
    assert report.errors[0].line() == (
        "1 mask whose values are not labels: c0.tif (5 channels that overlap or hold several values; numpy.argmax "
        "makes one of a channel for each class); left out of the copy of `septum check --fix`; save each as "
        "whole numbers in one channel, as PNG or TIFF"
    )


@pytest.mark.parametrize("axes", ["QYX", "ZYX", "CYX"])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_page_or_channel_for_each_object_gives_ids(data: Data, axes: str, overlap: bool) -> None:
    def mask(n: int, ids: np.ndarray, path: Path) -> None:
        order = np.random.default_rng(n).permutation(8) + 1
        pages = np.stack([255 * (ids == k) for k in order]).astype(np.uint8)
        if overlap:
            pages[0][np.argwhere(pages[1])[0][0], np.argwhere(pages[1])[0][1]] = 255
        write(path, pages, axes)

    report = check([data(mask)])
    assert report.label_kind.reason == "object ids, 8 per image"
    assert [issue.code for issue in report.issues] == ["label-channels" if axes == "CYX" else "mask-label-pages"]
    assert all(len(np.unique(sample.mask)) == 9 for sample in load_samples(report))


def test_pages_of_a_mask_that_are_no_single_objects_are_still_refused(data: Data) -> None:
    report = check([data(lambda n, ids, path: write(path, np.stack([ids, ids[::-1]]).astype(np.uint8), "QYX"))])
    assert "pages-differ" in {issue.code for issue in report.errors}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("color", [255, 0])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_drawing_in_alpha_alone_is_the_mask(data: Data, suffix: str, color: int, mode: str) -> None:
    def mask(n: int, ids: np.ndarray, path: Path) -> None:
        picture = np.full((*ids.shape, len(mode)), color, np.uint8)
        picture[..., -1] = 255 * (ids > 0) * (n > 0)  # the first one is an empty layer
        if suffix == ".png":
            Image.fromarray(picture, mode).save(path.with_suffix(suffix))
        else:
            photometric = "rgb" if mode == "RGBA" else "minisblack"
            tifffile.imwrite(
                path.with_suffix(suffix), picture, photometric=photometric, planarconfig="contig", extrasamples=[2]
            )

    report = check([data(mask)])
    assert report.rules.mask_values == (0, 255)
    (alpha,) = [issue for issue in report.mended if issue.code == "mask-alpha"]
    names = ", ".join(f"c{n}{suffix}" for n in range(5))
    assert alpha.line() == (
        f"6 masks drawn in alpha, with the same color everywhere: {names} and 1 more; alpha is read as the mask"
    )
    shares = {sample.name: (sample.mask == 1).mean() for sample in load_samples(report)}
    assert shares.pop("c0") == 0
    assert all(0.05 < share < 0.3 for share in shares.values())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_of_a_mask_with_color_is_dropped(data: Data, mode: str) -> None:
    def mask(_: int, ids: np.ndarray, path: Path) -> None:
        gray = (255 * (ids > 0)).astype(np.uint8)
        picture = np.stack([gray] * (len(mode) - 1) + [np.full_like(gray, 255)], -1)
        Image.fromarray(picture, mode).save(path.with_suffix(".png"))

    report = check([data(mask)])
    assert report.rules.mask_values == (0, 255)
    assert "mask-alpha" not in {issue.code for issue in report.issues}


def test_a_mask_file_for_each_object_may_have_alpha(
    tmp_path: Path, cells: Callable[..., tuple[np.ndarray, ...]]
) -> None:
    for n in range(2):
        image, ids = cells(n, 3)
        for role in ("images", "masks"):
            (tmp_path / f"s{n}" / role).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / f"s{n}/images/s{n}.png")
        for k in range(1, 4):
            gray = (255 * (ids == k)).astype(np.uint8)
            picture = np.stack([gray, gray, gray, np.full_like(gray, 255)], -1)
            Image.fromarray(picture).save(tmp_path / f"s{n}/masks/o{k}.png")
    for sample in load_samples(check([tmp_path])):
        assert [(sample.mask == k).mean() < 0.1 for k in range(1, 4)] == [True] * 3
        assert (sample.mask == 0).mean() > 0.5


def scores(folder: Path, metric: str) -> tuple[dict[str, float], tuple[str, ...]]:
    found = septum.evaluate(folder / "pred", folder / "truth", metrics=[metric])
    return {s.name: s.value for s in found.results[0].scores}, found.notes


@pytest.mark.parametrize("role", ["pred", "truth"])
@pytest.mark.parametrize("form", ["class channels", "object pages", "alpha", "equal channels"])
def test_evaluation_reads_such_masks_as_training_does(
    tmp_path: Path, cells: Callable[..., tuple[np.ndarray, np.ndarray]], role: str, form: str
) -> None:
    metric = "instances" if form == "object pages" else "pixels"
    for n in range(2):
        ids = cells(n)[1]
        plain = {"class channels": CLASSES[ids], "object pages": ids}.get(form, 255 * (ids > 0)).astype(np.uint8)
        for folder in ("pred", "truth"):
            (tmp_path / folder).mkdir(exist_ok=True)
            path = tmp_path / folder / f"c{n}"
            if folder != role:
                write(path, plain, "YX")
            elif form == "class channels":
                write(path, 255 * (plain == np.arange(5)[:, None, None]).astype(np.uint8), "CYX")
            elif form == "object pages":
                write(path, np.stack([255 * (ids == k) for k in range(1, 9)]).astype(np.uint8), "QYX")
            elif form == "alpha":
                white = np.full_like(plain, 255)
                Image.fromarray(np.stack([white, white, white, plain], -1)).save(path.with_suffix(".png"))
            else:
                Image.fromarray(np.stack([plain] * 3, -1)).save(path.with_suffix(".png"))
    found, notes = scores(tmp_path, metric)
    assert found["AP" if metric == "instances" else "IoU"] == 1
    said = "the pages of a file" if form == "object pages" else "truth: mask" if role == "truth" else "prediction: mask"
    assert any(note.startswith(said) for note in notes)


def test_evaluation_refuses_a_picture_in_place_of_the_truth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("pred", "truth"):
        (tmp_path / folder).mkdir()
        shape = (40, 40, 3) if folder == "truth" else (40, 40)
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(tmp_path / folder / "a.png")
    with pytest.raises(DataError) as caught:
        scores(tmp_path, "pixels")
    assert caught.value.todo == "name the mask, not the image or a probability map"
