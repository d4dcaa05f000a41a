"""Each error for which the check refuses data: its whole text, in words that are true for the data that cause it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from septum.check.check import ISSUE_KINDS, check

Maker = Callable[[Path], dict[str, object] | None]


def image(seed: int = 0, sides: tuple[int, ...] = (24, 24)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, sides).astype(np.uint8)


def mask(sides: tuple[int, ...] = (24, 24)) -> np.ndarray:
    ids = np.zeros(sides, np.uint8)
    ids[..., 3:9, 3:9], ids[..., 12:18, 3:9], ids[..., 3:9, 13:19] = 1, 2, 3
    return ids


def write(folder: Path, name: str, picture: np.ndarray, labels: np.ndarray, **how: object) -> None:
    for role, array in (("images", picture), ("masks", labels)):
        (folder / role).mkdir(exist_ok=True)
        tifffile.imwrite(folder / role / f"{name}.tif", array, **({"photometric": "minisblack"} | how))


def other_size(folder: Path) -> None:
    write(folder, "a", image(), mask())
    write(folder, "b", image(1), mask()[:20])


def other_pages(folder: Path) -> None:
    write(folder, "a", image(), mask())
    write(folder, "b", image(1, (4, 24, 24)), mask((3, 24, 24)))


def other_affine(folder: Path) -> None:
    scanner = np.array([[-1.0, 0, 0, 23], [0, -1.0, 0, 19], [0, 0, 2.0, -30], [0, 0, 0, 1]])
    turned = scanner @ np.array([[-1.0, 0, 0, 23], [0, -1.0, 0, 19], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned[0, 3] += 3.3
    labels = mask((8, 20, 24)).transpose()
    for name, stored, affine in (("a", labels, scanner), ("b", labels[::-1, ::-1], turned)):
        for role, array, placed in (("images", image(sides=labels.shape), scanner), ("masks", stored, affine)):
            (folder / role).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array.astype(np.int16), placed), folder / role / f"{name}.nii.gz")


def unclear_axes(folder: Path) -> None:
    z, y, x = np.mgrid[:20, :20, :28]
    for n in range(2):
        labels = np.zeros((20, 20, 28), np.uint8)
        for value, (at_z, at_y, at_x) in enumerate([(6, 5, 7), (12, 14, 9), (7, 13, 20)], 1):
            labels[((z - at_z) / 5) ** 2 + ((y - at_y - n) / 3) ** 2 + ((x - at_x) / 4) ** 2 < 1] = value
        bright = (40 + 120 * (labels > 0) + np.random.default_rng(n).normal(0, 4, labels.shape)).astype(np.uint8)
        write(folder, f"v{n}", bright, labels.transpose(2, 1, 0), ome=True, metadata={"axes": "ZYX"})


def unclear_planes(folder: Path) -> None:
    for n in range(2):
        labels = np.stack([255 * (mask() > k) for k in range(3)]).astype(np.uint8)
        write(folder, f"a{n}", image(n, (3, 24, 24)), labels, photometric="rgb", planarconfig="separate")


def other_channels(folder: Path) -> None:
    for n, count in enumerate((2, 2, 5)):
        write(folder, f"a{n}", image(), mask((48, 48)))
        picture = image(n, (count, 48, 48))
        tifffile.imwrite(folder / f"images/a{n}.tif", picture, ome=True, metadata={"axes": "CYX"})


def unclear_kind(folder: Path) -> None:
    for n in range(2):
        values = np.random.default_rng(n).integers(1, 81, (20, 20)).astype(np.uint8)
        write(folder, f"a{n}", image(n, (160, 160)), np.kron(values, np.pad(np.ones((6, 6), np.uint8), 1)))


def empty(folder: Path) -> None:
    for n in range(2):
        write(folder, f"a{n}", image(n), 0 * mask())


def one_value(folder: Path) -> None:
    for n in range(2):
        write(folder, f"a{n}", image(n), 0 * mask() + 7)


def many_classes(folder: Path) -> dict[str, object]:
    values = 1 + np.random.default_rng(0).permutation(300).astype(np.uint16).reshape(20, 15)
    for n in range(2):
        labels = np.kron(values, np.pad(np.ones((3, 3), np.uint16), 1))
        write(folder, f"a{n}", image(n, labels.shape), labels)
    return {"kind": "classes"}


def no_labels(folder: Path) -> None:
    write(folder, "a", image(), mask())
    write(folder, "b", image(1), mask().astype(np.int16) - 7)


def unreadable(folder: Path) -> None:
    write(folder, "a", image(), mask())
    (folder / "images/a.tif").write_bytes(b"")


ERRORS: list[tuple[Maker, dict[str, str]]] = [
    (
        other_size,
        {
            "sizes-differ": "1 pair whose image and mask differ in size: b.tif (image 24 x 24, mask 20 x 24); left "
            "out of the copy of `septum check --fix`; export each mask in the size of its image"
        },
    ),
    (
        other_pages,
        {
            "pages-differ": "1 pair whose image and mask differ in the number of pages: b.tif (image 4, mask 3); left "
            "out of the copy of `septum check --fix`; export a page of the mask for each page of the image"
        },
    ),
    (
        other_affine,
        {
            "affines-conflict": "1 pair whose affines turn image and mask differently without placing them on the "
            "same voxels: b.nii.gz (image LPS, mask RAS); left out of the copy of `septum check --fix`; save each "
            "mask on the grid of its image; if the arrays fit as they are stored, save it with the affine of its image"
        },
    ),
    (
        unclear_axes,
        {
            "axes-unclear": "2 masks with axes in another order, which the sides alone do not decide: v0.tif (28 x 20 "
            "x 20 for 20 x 20 x 28, axes in the order XYZ), v1.tif (28 x 20 x 20 for 20 x 20 x 28, axes in the order "
            "XYZ); `septum check DATA --fix OUT` puts the axes in the order whose outlines fit the image in a copy; "
            "or export each mask with the axes of its image",
            "all-to-fix": "no pair can be trained on as it is; `septum check DATA --fix OUT` repairs the pairs that "
            "are named here in a copy",
        },
    ),
    (
        unclear_planes,
        {
            "planes-unclear": "2 pairs whose image and mask hold 3 or 4 planes that the files call color: a0.tif (3 "
            "planes), a1.tif (3 planes); add --axes ZYX if the planes are sections of volumes, --axes TYX if they are "
            "images, --axes CYX if they are channels"
        },
    ),
    (
        other_channels,
        {
            "channels-differ": "1 image with another number of channels than most: a2.tif (5 instead of 2); left out "
            "of the copy of `septum check --fix`; export each with the channels of the other images"
        },
    ),
    (
        unclear_kind,
        {
            "kind-unclear": "masks hold 80 values, most of them in several pieces: neither object ids nor classes; "
            "give --kind objects or --kind classes"
        },
    ),
    (
        empty,
        {"no-labels": "every mask is empty: there is nothing to learn; draw at least one object or a second class"},
    ),
    (
        one_value,
        {
            "no-labels": "every mask holds 7 only: there is nothing to distinguish; draw at least one object or a "
            "second class"
        },
    ),
    (
        many_classes,
        {"too-many-classes": "301 classes, more than 254; if the values are object ids, give --kind objects"},
    ),
    (
        no_labels,
        {
            "mask-no-labels": "1 mask whose values are not labels: b.tif (the value -7, where only -1 (not annotated) "
            "may be negative); left out of the copy of `septum check --fix`; save each as whole numbers in "
            "one channel, as PNG or TIFF"
        },
    ),
    (unreadable, {"nothing-left": "no pair is left to train on; repair the files that are named here"}),
]


@pytest.mark.parametrize(("make", "expected"), ERRORS, ids=[make.__name__ for make, _ in ERRORS])
def test_an_error_is_said_in_words_that_are_true(tmp_path: Path, make: Maker, expected: dict[str, str]) -> None:
    options = make(tmp_path) or {}
    report = check([tmp_path], **options)  # type: ignore[arg-type]
    assert {issue.code: issue.line() for issue in report.errors} == expected


def test_every_error_is_produced() -> None:
    assert {code for _, expected in ERRORS for code in expected} == {
        code for code, kind in ISSUE_KINDS.items() if kind.severity == "error"
    }
