"""Volumes and masks in NIfTI whose affines differ: every viewer shows them on one another, the stored arrays do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from septum.check.check import Report, check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.errors import DataError
from septum.evaluation.evaluate import evaluate
from septum.evaluation.results import EvaluateSettings
from septum.io.files import read_image

SCANNER = np.array([[-1.0, 0, 0, 23], [0, -1.0, 0, 19], [0, 0, 2.0, -30], [0, 0, 0, 1]])
Stored = tuple[NDArray[np.uint8], NDArray[np.float64]]


def organs(seed: int) -> NDArray[np.uint8]:
    """Return a mask X Y Z without symmetry, of the values 1 and 2."""
    x, y, z = np.mgrid[:24, :20, :8]
    mask = np.zeros(x.shape, np.uint8)
    mask[((x - 8) / 5) ** 2 + ((y - 7 - seed % 3) / 6) ** 2 + ((z - 4) / 3) ** 2 < 1] = 1
    mask[((x - 18) / 3) ** 2 + ((y - 14) / 3) ** 2 + ((z - 3) / 2) ** 2 < 1] = 2
    return mask


def unchanged(mask: NDArray[np.uint8]) -> Stored:
    return mask, SCANNER


def half_a_turn(mask: NDArray[np.uint8]) -> Stored:
    """Store the same voxels with X and Y reversed, at the same places of the scanner."""
    turn = np.diag([-1.0, -1, 1, 1])
    turn[:2, 3] = np.array(mask.shape[:2]) - 1
    return mask[::-1, ::-1], SCANNER @ turn


def other_order(mask: NDArray[np.uint8]) -> Stored:
    """Store the same voxels in the order Z X Y, Z reversed."""
    order = np.zeros((4, 4))
    order[2, 0], order[0, 1], order[1, 2], order[3, 3], order[2, 3] = -1, 1, 1, 1, mask.shape[2] - 1
    return mask.transpose(2, 0, 1)[::-1], SCANNER @ order


def identity(mask: NDArray[np.uint8]) -> Stored:
    """Store the array of the image without its affine, as numpy users do."""
    return mask, np.eye(4)


def moved(mask: NDArray[np.uint8]) -> Stored:
    """Store the voxels where they belong, and an origin that is 5 mm off."""
    return mask, SCANNER + np.array([[0, 0, 0, 5.0], *[[0] * 4] * 3])


def mirrored_elsewhere(mask: NDArray[np.uint8]) -> Stored:
    """Store directions other than those of the image, and voxels between the voxels of the image."""
    stored, affine = half_a_turn(mask)
    return stored, affine + np.array([[0, 0, 0, 3.3], *[[0] * 4] * 3])


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Return a function that saves six pairs whose masks are stored in one of these ways."""

    def write(*ways: Callable[[NDArray[np.uint8]], Stored], suffix: str = ".nii.gz") -> tuple[Path, Path]:
        for n in range(6):
            mask = organs(n)
            image = 100 + 60 * mask + np.random.default_rng(n).normal(0, 5, mask.shape)
            stored, affine = ways[n % len(ways)](mask)
            for folder, array, place in (("images", image.astype(np.int16), SCANNER), ("masks", stored, affine)):
                (tmp_path / folder).mkdir(exist_ok=True)
                nib.save(nib.Nifti1Image(array, place), tmp_path / folder / f"p{n}{suffix}")
        return tmp_path / "images", tmp_path / "masks"

    return write


def found(report: Report, code: str) -> tuple[str, ...]:
    return next((issue.details for issue in report.issues if issue.code == code), ())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize(("ways", "count"), [((half_a_turn,), 6), ((unchanged, half_a_turn, other_order), 4)])
def test_masks_of_another_orientation_lie_on_their_images(
    save: Callable[..., tuple[Path, Path]], ways: tuple[Callable[..., Stored], ...], count: int, suffix: str
) -> None:
    report = check(save(*ways, suffix=suffix), kind="classes")
    assert len(found(report, "mask-oriented")) == count
    assert not report.errors
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, organs(n).transpose())


@pytest.mark.parametrize("unit", ["micron", "mm", "unknown"])
def test_masks_in_another_unit_than_their_images_lie_on_them(tmp_path: Path, unit: str) -> None:
    for n in range(2):
        stored, affine = half_a_turn(organs(n))
        # A mask saved with the affine of its image, but without its header, states no unit.
        affine = np.diag([1e-3, 1e-3, 1e-3, 1]) @ affine if unit == "mm" else affine
        image = 100 + 60 * organs(n) + np.random.default_rng(n).normal(0, 5, organs(n).shape)
        files = (("images", image.astype(np.int16), SCANNER, "micron"), ("masks", stored, affine, unit))
        for folder, array, place, in_unit in files:
            (tmp_path / folder).mkdir(exist_ok=True)
            volume = nib.Nifti1Image(array, place)
            volume.header.set_xyzt_units(in_unit)
            nib.save(volume, tmp_path / folder / f"p{n}.nii")
    report = check([tmp_path], kind="classes")
    assert len(found(report, "mask-oriented")) == 2
    assert not {"affines-differ", "affines-conflict"} & {issue.code for issue in report.issues}
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, organs(n).transpose())


def test_the_message_names_both_orientations(save: Callable[..., tuple[Path, Path]]) -> None:
    report = check(save(half_a_turn, other_order))
    assert found(report, "mask-oriented")[:2] == ("RAS, image LPS", "ILP, image LPS")


def test_the_copy_of_fix_has_the_affine_and_the_order_of_the_image(
    save: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    list(fix(check(save(other_order, unchanged), kind="classes"), tmp_path / "copy"))
    for n in range(6):
        mask = nib.load(tmp_path / "copy" / "masks" / f"p{n}.nii.gz")
        np.testing.assert_allclose(mask.affine, SCANNER)
        np.testing.assert_array_equal(np.asarray(mask.dataobj), organs(n))


def test_an_array_saved_without_its_affine_is_paired_as_stored_with_a_warning(
    save: Callable[..., tuple[Path, Path]],
) -> None:
    report = check(save(identity), kind="classes")
    assert found(report, "affines-differ") == ("image LPS, mask RAS",) * 6
    assert [issue.severity for issue in report.issues if issue.code == "affines-differ"] == ["warning"]
    np.testing.assert_array_equal(next(load_samples(report)).mask, organs(0).transpose())


def test_another_origin_is_a_warning(save: Callable[..., tuple[Path, Path]]) -> None:
    report = check(save(unchanged, moved), kind="classes")
    assert found(report, "affines-differ") == ("first voxels 5 mm apart",) * 3


def test_directions_that_differ_between_other_voxels_are_an_error(save: Callable[..., tuple[Path, Path]]) -> None:
    report = check(save(unchanged, mirrored_elsewhere), kind="classes")
    assert found(report, "affines-conflict") == ("image LPS, mask RAS",) * 3
    with pytest.raises(DataError, match="save each mask on the grid of its image"):
        report.refuse_errors()


def test_images_of_several_orientations_are_a_warning(tmp_path: Path) -> None:
    for n in range(4):
        array, affine = (unchanged, half_a_turn)[n % 2](organs(n))
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), tmp_path / folder / f"p{n}.nii")
    report = check([tmp_path])
    assert found(report, "orientations-differ") == ("LPS", "RAS", "LPS", "RAS")


@pytest.mark.parametrize("way", [half_a_turn, other_order])
def test_scores_compare_the_same_places(
    save: Callable[..., tuple[Path, Path]], way: Callable[..., Stored], tmp_path: Path
) -> None:
    _, truth = save(way)
    (tmp_path / "predicted").mkdir()
    for n in range(6):
        nib.save(nib.Nifti1Image(organs(n), SCANNER), tmp_path / "predicted" / f"p{n}.nii.gz")
    result = evaluate(EvaluateSettings(predicted=(tmp_path / "predicted",), truth=truth, metrics=("pixels",)))
    assert {s.value for s in result.results[0].scores if s.name.startswith("Dice")} == {1.0}
    assert any("orientation of the prediction" in note for note in result.notes)


def test_scores_refuse_files_that_lie_elsewhere(save: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    _, truth = save(mirrored_elsewhere)
    nib.save(nib.Nifti1Image(organs(0), SCANNER), tmp_path / "p0.nii.gz")
    with pytest.raises(DataError, match=r"does not place it on .*prediction LPS, truth RAS"):
        evaluate(EvaluateSettings(predicted=(tmp_path / "p0.nii.gz",), truth=truth / "p0.nii.gz"))


def test_an_image_keeps_its_stored_order(save: Callable[..., tuple[Path, Path]]) -> None:
    images, _ = save(half_a_turn)
    stored = np.asarray(nib.load(images / "p0.nii.gz").dataobj)
    np.testing.assert_array_equal(read_image(images / "p0.nii.gz").array[0], stored.transpose())
