"""Repairs: found by the check, the same in memory and in the copy, and nothing left to repair in the copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from septum.check.check import check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.errors import DataError, UsageError
from septum.io.files import write_image

SIDES = (40, 36)


def disks(number: int, count: int = 5, sides: tuple[int, ...] = SIDES) -> np.ndarray:
    """Return ids 1 .. count of round objects that do not overlap, at random places."""
    rng = np.random.default_rng(number)
    labels = np.zeros(sides, np.int32)
    grid = np.indices(sides)
    while labels.max() < count:
        center = rng.uniform(4, np.array(sides) - 5)
        disk = ((grid - center[(...,) + (None,) * len(sides)]) ** 2).sum(axis=0) < rng.uniform(2.5, 4) ** 2
        if not labels[disk].any():
            labels[disk] = labels.max() + 1
    return labels


def picture(labels: np.ndarray, number: int) -> np.ndarray:
    noise = np.random.default_rng(100 + number).integers(0, 40, labels.shape)
    return (60 + 100 * (labels > 0) + noise).astype(np.uint8)


def make(folder: Path, change: Callable[[Path, Path, int], None] | None = None, count: int = 5) -> Path:
    """Write `count` clean pairs of ids as TIFF, then let `change` spoil each of them."""
    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True)
    for number in range(count):
        labels = disks(number, 3 + number)
        image, mask = folder / f"images/cell{number}.tif", folder / f"masks/cell{number}.tif"
        tifffile.imwrite(image, picture(labels, number))
        tifffile.imwrite(mask, labels.astype(np.uint16))
        if change is not None:
            change(image, mask, number)
    return folder


def binary(mask: Path, high: int = 255) -> np.ndarray:
    labels = tifffile.imread(mask) if mask.suffix == ".tif" else np.asarray(Image.open(mask))
    return ((labels > 0) * high).astype(np.uint8)


def as_png(path: Path, array: np.ndarray, **options: object) -> None:
    path.unlink()
    Image.fromarray(array, **options).save(path.with_suffix(".png"))


def floats(image: Path, mask: Path, number: int) -> None:
    tifffile.imwrite(mask, tifffile.imread(mask).astype(np.float32))


def nan_labels(image: Path, mask: Path, number: int) -> None:
    labels = tifffile.imread(mask).astype(np.float32)
    labels[:3] = np.nan
    tifffile.imwrite(mask, labels)


def gray_rgb(image: Path, mask: Path, number: int) -> None:
    as_png(mask, np.repeat(tifffile.imread(mask).astype(np.uint8)[..., None], 3, axis=-1))


def class_colors(image: Path, mask: Path, number: int) -> None:
    labels = tifffile.imread(mask)
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    as_png(mask, colors[np.where(labels > 0, 1 + labels % 2, 0)])


def id_colors(image: Path, mask: Path, number: int) -> None:
    colors = np.random.default_rng(number).integers(1, 256, (20, 3), np.uint8)
    colors[0] = 0
    as_png(mask, colors[tifffile.imread(mask)])


def smoothed(image: Path, mask: Path, number: int) -> None:
    large = np.repeat(np.repeat(binary(mask), 2, axis=0), 2, axis=1)
    tifffile.imwrite(mask, np.rint(ndimage.gaussian_filter(large.astype(float), 1)).astype(np.uint8))
    tifffile.imwrite(image, np.repeat(np.repeat(tifffile.imread(image), 2, axis=0), 2, axis=1))


def jpeg(image: Path, mask: Path, number: int) -> None:
    array = binary(mask)
    mask.unlink()
    Image.fromarray(array).save(mask.with_suffix(".jpg"), quality=80)


def large_ids(image: Path, mask: Path, number: int) -> None:
    labels = tifffile.imread(mask).astype(np.uint32)
    tifffile.imwrite(mask, np.where(labels > 0, labels + np.uint32(3_000_000_000), 0).astype(np.uint32))


def binary_255(image: Path, mask: Path, number: int) -> None:
    as_png(mask, binary(mask))


def binary_mixed(image: Path, mask: Path, number: int) -> None:
    as_png(mask, binary(mask, 255 if number % 2 else 1))


def ignore_255(image: Path, mask: Path, number: int) -> None:
    labels = binary(mask, 1)
    labels[:4] = 255
    as_png(mask, labels)


def one_binary(image: Path, mask: Path, number: int) -> None:
    if number == 1:
        as_png(mask, binary(mask))


def holes(image: Path, mask: Path, number: int) -> None:
    values = tifffile.imread(image).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    tifffile.imwrite(image, values)


def some_gray(image: Path, mask: Path, number: int) -> None:
    if number:
        gray = tifffile.imread(image)
        as_png(image, np.stack([gray, gray // 2, 255 - gray], axis=-1))


def some_alpha(image: Path, mask: Path, number: int) -> None:
    gray = tifffile.imread(image)
    planes = [gray, gray // 2, 255 - gray] + [np.full_like(gray, 255)] * (number == 0)
    tifffile.imwrite(image, np.stack(planes), metadata={"axes": "CYX"}, ome=False, photometric="minisblack")


def swapped(image: Path, mask: Path, number: int) -> None:
    if number == 1:
        tifffile.imwrite(mask, tifffile.imread(mask).T.copy())


def large_square(image: Path, mask: Path, number: int) -> None:
    if number == 1:
        tifffile.imwrite(mask, np.zeros((50, 50), np.uint8))


def duplicate(image: Path, mask: Path, number: int) -> None:
    if number == 3:
        for path in (image, mask):
            path.write_bytes(path.with_name("cell0.tif").read_bytes())


def constant(image: Path, mask: Path, number: int) -> None:
    if number == 2:
        tifffile.imwrite(image, np.zeros(SIDES, np.uint8))


def one_pixel(image: Path, mask: Path, number: int) -> None:
    if number == 2:
        tifffile.imwrite(image, np.ones((1, 1), np.uint8))
        tifffile.imwrite(mask, np.ones((1, 1), np.uint8))


def unannotated(image: Path, mask: Path, number: int) -> None:
    if number == 2:
        tifffile.imwrite(mask, np.full(SIDES, -1, np.int16))


def negative(image: Path, mask: Path, number: int) -> None:
    if number == 2:
        tifffile.imwrite(mask, tifffile.imread(mask).astype(np.int16) - 3)


def truncated(image: Path, mask: Path, number: int) -> None:
    if number == 1:
        image.write_bytes(image.read_bytes()[:300])


MENDED = [
    ("mask-float", floats),
    ("mask-nan", nan_labels),
    ("mask-gray-rgb", gray_rgb),
    ("mask-colors", class_colors),
    ("mask-colors", id_colors),
    ("mask-smoothed", smoothed),
    ("mask-large-ids", large_ids),
    ("class-values", binary_255),
    ("mask-mixed", binary_mixed),
    ("ignore-255", ignore_255),
    ("mask-binary", one_binary),
    ("image-holes", holes),
    ("channels-repeated", some_gray),
    ("channels-spare", some_alpha),
    ("sizes-swapped", swapped),
    # left out, and not copied
    ("sizes-differ", large_square),
    ("duplicate", duplicate),
    ("image-constant", constant),
    ("image-tiny", one_pixel),
    ("mask-unannotated", unannotated),
    ("mask-no-labels", negative),
    ("unreadable", truncated),
]


@pytest.mark.parametrize(("code", "change"), MENDED, ids=[change.__name__ for _, change in MENDED])
def test_a_copy_holds_all_repairs_and_needs_none(
    tmp_path: Path, code: str, change: Callable[[Path, Path, int], None]
) -> None:
    before = check([make(tmp_path / "data", change)])
    assert code in {f.code for f in before.issues}
    repaired = list(fix(before, tmp_path / "out"))
    after = check([tmp_path / "out"])
    assert not after.mended
    assert not [f for f in after.issues if f.kind.leaves_out or f.code.startswith("unpaired")]
    assert after.rules.kind == before.rules.kind
    assert after.rules.channels == before.rules.channels
    assert [i.name for i in after.pairs] == [i.name for i in before.pairs]
    if not before.errors:
        for old, new in zip(load_samples(before), load_samples(after), strict=True):
            np.testing.assert_array_equal(new.image, old.image)
            np.testing.assert_array_equal(new.mask, old.mask)
            assert new.name == old.name
    changed = [r for r in repaired if r.done]
    assert changed
    assert all(r.written is None or r.written.is_file() for r in repaired)
    assert sum(r.written is None for r in repaired) == 2 * len(before.left_out)


def test_jpeg_masks_of_two_values_are_left_out_and_the_copy_restores_them(tmp_path: Path) -> None:
    def some(image: Path, mask: Path, number: int) -> None:
        (jpeg if number in (1, 3) else binary_255)(image, mask, number)

    before = check([make(tmp_path / "data", some)])
    (issue,) = before.warnings
    assert (issue.code, [p.name for p in issue.files]) == ("mask-jpeg", ["cell1.jpg", "cell3.jpg"])
    assert [p.name for p in before.left_out] == [p.name for p in before.fixable] == ["cell1", "cell3"]
    assert [s.name for s in load_samples(before)] == ["cell0", "cell2", "cell4"]
    list(fix(before, tmp_path / "out"))
    after = check([tmp_path / "out"])
    assert after.issues == ()
    for number, sample in enumerate(load_samples(after)):
        np.testing.assert_array_equal(sample.mask, disks(number, 3 + number) > 0)


def test_a_set_of_jpeg_masks_only_is_refused_and_the_copy_restores_them(tmp_path: Path) -> None:
    before = check([make(tmp_path / "data", jpeg)])
    assert [f.code for f in before.errors] == ["all-to-fix"]
    with pytest.raises(DataError, match=r"cell0\.jpg") as caught:
        list(load_samples(before))
    assert "--fix" in caught.value.todo
    list(fix(before, tmp_path / "out"))
    assert check([tmp_path / "out"]).issues == ()


def test_clean_files_are_copied_byte_for_byte(tmp_path: Path) -> None:
    data = make(tmp_path / "data")
    repaired = list(fix(check([data]), tmp_path / "out"))
    assert len(repaired) == 10
    assert all(r.written and r.written.read_bytes() == r.source.read_bytes() and r.done == () for r in repaired)


def test_pieces_of_one_value_become_objects(tmp_path: Path) -> None:
    data = make(tmp_path / "data", binary_255)
    list(fix(check([data], kind="objects"), tmp_path / "out"))
    after = check([tmp_path / "out"])
    assert after.rules.kind == "objects"
    assert not after.mended
    pieces = [ndimage.label(binary(p))[1] for p in sorted((data / "masks").iterdir())]
    assert [int(s.mask.max()) for s in load_samples(after)] == pieces


def test_copies_of_volumes_keep_their_position_in_the_scanner(tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 4, 9], [0, 0, 0, 1]])
    for role in ("images", "masks"):
        (tmp_path / "data" / role).mkdir(parents=True)
    for number in range(3):
        labels = np.zeros((9, 10, 12), np.float32)
        labels[2:5, 2:5, 2:6], labels[5:8, 5:8, 5:9] = 1, 2
        noise = np.random.default_rng(number).normal(size=labels.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, affine), tmp_path / f"data/images/brain{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"data/masks/brain{number}.nii.gz")
    before = check([tmp_path / "data"])
    assert [f.code for f in before.mended] == ["mask-float"]
    list(fix(before, tmp_path / "out"))
    after = check([tmp_path / "out"])
    assert not after.mended
    assert after.rules == before.rules.__class__(**{**vars(before.rules), "mends": ()})
    copy = nib.load(tmp_path / "out/masks/brain1.nii.gz")
    np.testing.assert_array_equal(copy.affine, affine)
    assert copy.get_data_dtype() == np.uint8
    for old, new in zip(load_samples(before), load_samples(after), strict=True):
        np.testing.assert_array_equal(new.mask, old.mask)
        assert new.spacing_um == old.spacing_um


def test_copies_of_challenge_data_keep_their_layout(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in ("01", "01_GT/SEG", "01_ST/SEG"):
        (data / folder).mkdir(parents=True)
    for frame in range(3):
        labels = disks(frame)
        tifffile.imwrite(data / f"01/t{frame:03d}.tif", picture(labels, frame))
        tifffile.imwrite(data / f"01_ST/SEG/man_seg{frame:03d}.tif", labels.astype(np.float32))
    tifffile.imwrite(data / "01_GT/SEG/man_seg001.tif", np.where(disks(1) == 2, 2, 0).astype(np.uint16))
    before = check([data])
    list(fix(before, tmp_path / "out"))
    after = check([tmp_path / "out"])
    assert after.pairing.layout == "ctc"
    assert not after.mended
    for old, new in zip(load_samples(before), load_samples(after), strict=True):
        np.testing.assert_array_equal(new.mask, old.mask)
        assert (new.gold is None) == (old.gold is None) == (new.position != 1)
    assert (tmp_path / "out/01_GT/SEG/man_seg001.tif").read_bytes() == (data / "01_GT/SEG/man_seg001.tif").read_bytes()


def test_masks_that_their_format_cannot_hold_become_tiff(tmp_path: Path) -> None:
    data = make(tmp_path / "data", ignore_255)
    repaired = list(fix(check([data]), tmp_path / "out"))
    masks = [r.written for r in repaired if r.written and r.written.parent.name == "masks"]
    assert {m.suffix for m in masks} == {".tif"}
    assert tifffile.imread(masks[0]).min() == -1


def test_a_copy_of_a_stack_has_its_pages(tmp_path: Path) -> None:
    labels = np.stack([disks(n) for n in range(4)])
    pictures = np.stack([picture(m, n) for n, m in enumerate(labels)])
    tifffile.imwrite(tmp_path / "image.tif", pictures, photometric="minisblack")
    tifffile.imwrite(tmp_path / "image_mask.tif", labels.astype(np.float32), photometric="minisblack")
    before = check([tmp_path / "image.tif", tmp_path / "image_mask.tif"])
    list(fix(before, tmp_path / "out"))
    after = check([tmp_path / "out"])
    assert not after.mended
    samples = list(load_samples(after))
    assert [s.position for s in samples] == [0, 1, 2, 3]
    np.testing.assert_array_equal(np.stack([s.mask for s in samples]), labels)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    report = check([make(tmp_path / "data")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        fix(report, tmp_path / "out")
    with pytest.raises(UsageError, match="a file"):
        fix(report, tmp_path / "out" / "mine.txt")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_data_that_cannot_be_repaired_is_refused(tmp_path: Path) -> None:
    def empty(image: Path, mask: Path, number: int) -> None:
        write_image(mask, np.zeros(SIDES, np.uint8), axes="YX")

    with pytest.raises(DataError, match="nothing to learn"):
        fix(check([make(tmp_path / "data", empty)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
