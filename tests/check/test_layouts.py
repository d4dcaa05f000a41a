"""Data sets in the layouts of other laboratories are checked and trained on without an option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from septum.check.check import Report, check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.io.files import write_image
from septum.metrics.aggregate import class_columns, finish_classes
from septum.metrics.contingency import table
from septum.training.events import Planned, Trained
from septum.training.loop import train
from septum.training.settings import TrainSettings

SIDE = 64


def disks(seed: int, count: int = 6) -> np.ndarray:
    """Return ids 1 .. `count` of disks at random places, ``(64, 64)``."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.uint16)
    grid = np.indices(labels.shape)
    while labels.max() < count:
        center = rng.uniform(8, SIDE - 9, 2)
        disk = ((grid - center[:, None, None]) ** 2).sum(axis=0) < rng.uniform(4, 7) ** 2
        if not labels[disk].any():
            labels[disk] = labels.max() + 1
    return labels


def picture(labels: np.ndarray, seed: int, *, high: float = 255, color: bool = False) -> np.ndarray:
    noise = np.random.default_rng(100 + seed).normal(0, 0.04, labels.shape)
    gray = np.clip(0.2 + 0.5 * ndimage.gaussian_filter((labels > 0).astype(float), 0.7) + noise, 0, 1)
    if color:
        gray = np.stack([gray, 0.3 + 0.5 * gray, 0.9 - 0.6 * gray], axis=-1)
    return (high * gray).astype(np.uint8 if high < 256 else np.uint16)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.shape[-1] == 3 else "minisblack")
    else:
        Image.fromarray(array).save(path)


def glands(folder: Path) -> Path:
    for n in range(4):
        labels = disks(n, 4 + n)
        save(folder / f"train_{n + 1}.bmp", picture(labels, n, color=True))
        save(folder / f"train_{n + 1}_anno.bmp", labels.astype(np.uint8))
    return folder


def colored_glands(folder: Path) -> Path:
    colors = np.random.default_rng(1).integers(40, 256, (20, 3), np.uint8)
    colors[0] = 0
    for n in range(4):
        labels = disks(n, 4 + n)
        save(folder / f"Images/{n}a.png", picture(labels, n, color=True))
        save(folder / f"Annotation/{n}a.png", colors[labels])
    return folder


def vessels(folder: Path) -> Path:
    for n in range(4):
        lines = ndimage.binary_dilation(disks(n) > 0) ^ ndimage.binary_erosion(disks(n) > 0)
        save(folder / f"images/{21 + n}_training.tif", picture(lines, n, color=True))
        save(folder / f"1st_manual/{21 + n}_manual1.gif", 255 * lines.astype(np.uint8))
        save(folder / f"2nd_manual/{21 + n}_manual2.gif", 255 * lines.astype(np.uint8))
        disk = np.hypot(*(np.indices(lines.shape) - SIDE / 2)) < SIDE / 2
        save(folder / f"mask/{21 + n}_training_mask.gif", 255 * disk.astype(np.uint8))
    return folder


def vessels_side_by_side(folder: Path) -> Path:
    for n in range(4):
        lines = ndimage.binary_dilation(disks(n) > 0) ^ ndimage.binary_erosion(disks(n) > 0)
        eye = f"Image_{n // 2 + 1:02d}{'LR'[n % 2]}"
        save(folder / f"{eye}.jpg", picture(lines, n, color=True))
        for observer in ("1stHO", "2ndHO"):
            save(folder / f"{eye}_{observer}.png", 255 * lines.astype(np.uint8))
    return folder


def stack(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pages and cell interiors of a made stack of sections of many cells with thin walls."""
    pages, masks = [], []
    rng = np.random.default_rng(6)
    seeds = rng.uniform(0, SIDE, (25, 2))
    for n in range(count):
        seeds = seeds + rng.normal(0, 1, seeds.shape)
        grid = np.indices((SIDE, SIDE)).reshape(2, -1).T
        nearest = np.hypot(*(grid[:, None] - seeds[None]).transpose(2, 0, 1)).argmin(axis=1).reshape(SIDE, SIDE)
        wall = ndimage.maximum_filter(nearest, 3) != ndimage.minimum_filter(nearest, 3)
        pages.append(picture(~wall, n))
        masks.append(np.where(wall, 0, nearest + 1).astype(np.uint16))
    return np.stack(pages), np.stack(masks)


def sections(folder: Path) -> Path:
    pages, masks = stack(5)
    save(folder / "train-volume.tif", pages)
    save(folder / "train-labels.tif", 255 * (masks > 0).astype(np.uint8))
    return folder


def sections_with_ids(folder: Path) -> Path:
    pages, masks = stack(5)
    save(folder / "volume.tif", pages)
    save(folder / "labels.tif", masks)
    return folder


def sections_in_folders(folder: Path) -> Path:
    pages, masks = stack(5)
    save(folder / "imagesTr/block_a.tif", pages)
    save(folder / "labelsTr/block_a.tif", masks)
    save(folder / "imagesTs/block_b.tif", pages)
    return folder


def object_files(folder: Path) -> Path:
    for n in range(4):
        labels = disks(n, 4 + n)
        name = f"{n}f{n}c" * 4
        save(
            folder / f"{name}/images/{name}.png",
            np.dstack([picture(labels, n)] * 3 + [np.full(labels.shape, 255, np.uint8)]),
        )
        for number in range(1, int(labels.max()) + 1):
            save(folder / f"{name}/masks/{number:02d}{name}.png", 255 * (labels == number).astype(np.uint8))
    return folder


def object_files_by_image(folder: Path) -> Path:
    for n in range(4):
        labels = disks(n, 4 + n)
        save(folder / f"images/cell{n}.png", picture(labels, n))
        for number in range(1, int(labels.max()) + 1):
            save(folder / f"masks/cell{n}/{number}.png", 255 * (labels == number).astype(np.uint8))
    return folder


def nuclei_16_bit(folder: Path) -> Path:
    for n in range(4):
        labels = disks(n, 4 + n)
        save(folder / f"tissue images/nuclei_{n}.tif", 300 + picture(labels, n, high=255).astype(np.uint16))
        save(folder / f"label masks/nuclei_{n}_seg.tif", labels)
    return folder


def labels_in_tiff(folder: Path) -> Path:
    for n in range(4):
        labels = disks(n, 4 + n)
        save(folder / f"raw/{n}b.png", picture(labels, n))
        save(folder / f"ground_truth/{n}b_label.tif", labels)
    return folder


LAYOUTS: list[tuple[Callable[[Path], Path], str, int, int]] = [
    (glands, "objects", 3, 4),
    (colored_glands, "objects", 3, 4),
    (vessels, "classes", 3, 4),
    (vessels_side_by_side, "classes", 3, 4),
    (sections, "classes", 1, 5),
    (sections_with_ids, "objects", 1, 5),
    (sections_in_folders, "objects", 1, 5),
    (object_files, "objects", 1, 4),
    (object_files_by_image, "objects", 1, 4),
    (nuclei_16_bit, "objects", 1, 4),
    (labels_in_tiff, "objects", 1, 4),
]
NAMES = [make.__name__ for make, *_ in LAYOUTS]


def codes(report: Report) -> set[str]:
    return {f.code for f in report.issues}


@pytest.mark.parametrize(("make", "kind", "channels", "samples"), LAYOUTS, ids=NAMES)
def test_layout_is_read_without_an_option(
    tmp_path: Path, make: Callable[[Path], Path], kind: str, channels: int, samples: int
) -> None:
    report = check([make(tmp_path)])
    assert report.errors == report.warnings == ()
    assert report.left_out == ()
    assert (report.rules.kind, report.rules.channels, report.rules.rank) == (kind, channels, 2)
    opened = list(load_samples(report))
    assert len(opened) == samples
    for number, sample in enumerate(opened):
        assert sample.image.shape == (channels, SIDE, SIDE)
        if make in (glands, colored_glands, object_files, object_files_by_image, nuclei_16_bit, labels_in_tiff):
            truth = disks(number, 4 + number)
            np.testing.assert_array_equal(sample.mask > 0, truth > 0)
            pairs = {tuple(p) for p in np.stack([sample.mask, truth], axis=-1).reshape(-1, 2).tolist()}
            assert len(pairs) == truth.max() + 1  # one id for one id


@pytest.mark.parametrize("make", [glands, vessels, sections_with_ids, object_files, nuclei_16_bit])
def test_layout_is_trained_on_without_an_option(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    settings = TrainSettings(
        data=(make(tmp_path / "data"),), out=tmp_path / "run", steps=2, width=2, depth=1, batch=1, device="cpu"
    )
    *_, last = train(settings)
    assert isinstance(last, Trained)
    assert last.steps == 2


def test_images_in_a_subfolder_beside_other_images_are_named_with_the_reason(tmp_path: Path) -> None:
    for name in ("a", "p1/b", "p1/c"):
        for file in (tmp_path / f"{name}.png", tmp_path / "masks" / f"{Path(name).name}.png"):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(file, np.eye(40, dtype=np.uint8), axes="YX")
    write_image(tmp_path / "masks" / "d.png", np.eye(40, dtype=np.uint8), axes="YX")
    report = check([tmp_path, tmp_path / "masks"])
    files = {issue.code: [path.name for path in issue.files] for issue in report.issues}
    assert files["deeper-image"] == ["b.png", "c.png"]
    assert files["unpaired-mask"] == ["d.png"]


def test_masks_of_the_field_of_view_and_of_a_second_annotator_are_named(tmp_path: Path) -> None:
    report = check([vessels(tmp_path)])
    assert codes(report) == {"second-annotator", "field-of-view"}
    lines = "\n".join(report.lines())
    assert "4 masks of the field of view: 21_training_mask.gif" in lines
    assert lines.count("pixels outside are read as not annotated") == 1
    assert "4 masks of a second annotator: 21_manual2.gif" in lines
    assert {i.mask.parent.name for i in report.pairs} == {"1st_manual"}
    beside = check([vessels_side_by_side(tmp_path / "beside")])
    assert {i.mask.stem[-5:] for i in beside.pairs} == {"1stHO"}
    assert "second-annotator" in codes(beside)


def eye() -> np.ndarray:
    """Return the field of view of `vessels`, ``(64, 64)`` bool."""
    return np.hypot(*(np.indices((SIDE, SIDE)) - SIDE / 2)) < SIDE / 2


def drawn(n: int) -> np.ndarray:
    """Return the vessels drawn in image `n` of `vessels`."""
    return ndimage.binary_dilation(disks(n) > 0) ^ ndimage.binary_erosion(disks(n) > 0)


def test_pixels_outside_the_field_of_view_are_not_annotated(tmp_path: Path) -> None:
    data = vessels(tmp_path)
    (data / "mask/22_training_mask.gif").unlink()
    report = check([data])
    assert report.warnings == ()
    for n, sample in enumerate(load_samples(report)):
        expected = drawn(n).astype(int) if n == 1 else np.where(eye(), drawn(n), -1)
        np.testing.assert_array_equal(sample.mask, expected)


def test_pixels_outside_the_field_of_view_are_neither_learned_nor_scored(tmp_path: Path) -> None:
    report = check([vessels(tmp_path / "data")])
    samples = list(load_samples(report))
    settings = TrainSettings(
        data=(tmp_path / "data",), out=tmp_path / "run", steps=1, width=2, depth=1, batch=1, device="cpu"
    )
    (planned,) = [r for r in train(settings) if isinstance(r, Planned)]
    assert f"{eye().mean():.1%} of the pixels are annotated" in planned.lines
    probabilities = np.stack([1 - drawn(0), drawn(0)]).astype(np.float32)
    probabilities[:, ~eye()] = [[0], [1]]  # a bright frame taken for a vessel
    found = table(samples[0].mask, probabilities.argmax(axis=0))
    scores = finish_classes((0, 1))(class_columns(found, classes=2))
    assert scores == {"dice": 1, "iou": 1, "pixel_error": 0}
    assert found.pixels == eye().sum()


def test_unusable_masks_of_the_field_of_view_are_named_and_not_used(tmp_path: Path) -> None:
    data = vessels(tmp_path)
    save(data / "mask/21_training_mask.gif", np.zeros((SIDE, SIDE), np.uint8))
    save(data / "mask/22_training_mask.gif", np.full((SIDE, 40), 255, np.uint8))
    (data / "mask/23_training_mask.gif").write_bytes(b"GIF")
    save(data / "mask/24_training_mask.gif", 255 * ndimage.binary_dilation(drawn(3)).astype(np.uint8) ^ np.uint8(255))
    save(data / "mask/25_training_mask.gif", 255 * eye().astype(np.uint8))
    report = check([data])
    (issue,) = report.warnings
    assert issue.message == "5 masks of the field of view that cannot be used"
    assert issue.remedy == "left out; export each again in the size of its image"
    assert dict(zip([p.name for p in issue.files], issue.details, strict=True)) == {
        "25_training_mask.gif": "no image of this name",
        "21_training_mask.gif": "nothing is inside",
        "22_training_mask.gif": "image 64 x 64, field of view 64 x 40",
        "23_training_mask.gif": "the GIF file is damaged or cut off (its first bytes are wrong)",
        "24_training_mask.gif": "most labeled pixels lie outside",
    }
    assert "field-of-view" not in codes(report)
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, drawn(n))


def test_masks_of_a_copy_hold_the_field_of_view(tmp_path: Path) -> None:
    before = check([vessels(tmp_path / "data")])
    repaired = [r for r in fix(before, tmp_path / "out") if r.written and r.written.parent.name == "masks"]
    assert all("mask of the field of view: pixels outside are read as not annotated" in r.done for r in repaired)
    after = check([tmp_path / "out"])
    assert after.issues == ()
    for old, new in zip(load_samples(before), load_samples(after), strict=True):
        np.testing.assert_array_equal(new.mask, old.mask)
        assert (new.mask < 0).any()


@pytest.mark.parametrize("make", [object_files, object_files_by_image])
def test_a_copy_joins_the_files_of_single_objects_into_one_mask(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    before = check([make(tmp_path / "data")])
    list(fix(before, tmp_path / "out"))
    after = check([tmp_path / "out"])
    assert after.issues == ()
    for old, new in zip(load_samples(before), load_samples(after), strict=True):
        np.testing.assert_array_equal(new.mask, old.mask)
        np.testing.assert_array_equal(new.image, old.image)
        assert new.name == old.name


def test_the_smaller_of_overlapping_objects_is_kept_and_other_sizes_are_refused(tmp_path: Path) -> None:
    data = object_files_by_image(tmp_path)
    large = np.zeros((SIDE, SIDE), np.uint8)
    large[10:50, 10:50] = 255
    small = np.zeros_like(large)
    small[20:26, 20:26] = 255
    for path in (data / "masks/cell0").iterdir():
        path.unlink()
    save(data / "masks/cell0/1.png", small)
    save(data / "masks/cell0/2.png", large)
    save(data / "masks/cell1/9.png", large[:40])
    report = check([data])
    (sample, *_) = load_samples(report)
    assert (int((sample.mask == 1).sum()), int((sample.mask == 2).sum())) == (36, 1600 - 36)
    (issue,) = [f for f in report.issues if f.code == "unreadable"]
    assert "64 x 64 and of 40 x 64 pixels (9.png)" in issue.line()
