"""Samples of checked files: axes, pages, sections, groups, truth, repairs."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from septum.check.check import check
from septum.check.samples import load_samples
from septum.io.files import write_image
from septum.pairing.sample import Sample

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def boxes(*shape: int, count: int = 4) -> np.ndarray:
    """Return ids of `count` boxes along the last axis."""
    labels = np.zeros(shape, np.uint16)
    for number in range(count):
        labels[..., 2:7, 1 + 6 * number : 5 + 6 * number] = number + 1
    return labels


def samples(*paths: Path) -> list[Sample]:
    return list(load_samples(check(paths)))


def folders(root: Path) -> None:
    for role in ("images", "masks"):
        (root / role).mkdir()


def test_images_of_many_types_become_float32_with_raw_values(tmp_path: Path) -> None:
    folders(tmp_path)
    for dtype in (np.uint8, np.uint16, np.float32):
        name = np.dtype(dtype).name
        tifffile.imwrite(tmp_path / f"images/{name}.tif", noise(20, 30).astype(dtype) * dtype(1))
        tifffile.imwrite(tmp_path / f"masks/{name}.tif", boxes(20, 30))
    for sample in samples(tmp_path):
        assert sample.image.dtype == np.float32
        np.testing.assert_array_equal(sample.image[0], noise(20, 30))
        np.testing.assert_array_equal(sample.mask, boxes(20, 30))
        assert sample.mask.dtype == np.int32
        assert sample.gold is None
        assert (sample.group, sample.position, sample.spacing_um) == ("", 0, None)


def test_numbered_sections_are_one_group(tmp_path: Path) -> None:
    folders(tmp_path)
    for n in range(3):
        tifffile.imwrite(tmp_path / f"images/{n:02d}.tif", noise(20, 30, seed=n))
        tifffile.imwrite(tmp_path / f"masks/{n:02d}.tif", boxes(20, 30))
    found = samples(tmp_path)
    assert len({s.group for s in found}) == 1
    assert found[0].group != ""
    assert [s.position for s in found] == [0, 1, 2]


def test_pages_of_two_stacks(tmp_path: Path) -> None:
    image, mask = noise(4, 20, 30), np.stack([boxes(20, 30, count=n + 1) for n in range(4)])
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", mask, photometric="minisblack")
    found = samples(tmp_path / "a.tif", tmp_path / "b.tif")
    assert [s.name for s in found] == ["a_t000", "a_t001", "a_t002", "a_t003"]
    assert [(s.group, s.position) for s in found] == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]
    for page, sample in enumerate(found):
        np.testing.assert_array_equal(sample.image, image[page][None])
        np.testing.assert_array_equal(sample.mask, mask[page])


@pytest.mark.parametrize(("image_axes", "rank"), [("ZYX", 3), ("TYX", 2)])
@pytest.mark.parametrize("mask_axes", ["ZYX", "TYX"])
def test_a_mask_follows_the_axes_of_its_image(tmp_path: Path, image_axes: str, rank: int, mask_axes: str) -> None:
    folders(tmp_path)
    for n in range(2):
        write_image(tmp_path / f"images/a{n}.tif", noise(5, 20, 30, seed=n), axes=image_axes)
        write_image(tmp_path / f"masks/a{n}.tif", boxes(5, 20, 30), axes=mask_axes)
    report = check([tmp_path])
    assert report.errors == ()
    assert report.rules.rank == rank
    found = list(load_samples(report))
    if rank == 3:
        np.testing.assert_array_equal(found[1].image[0], noise(5, 20, 30, seed=1))
        np.testing.assert_array_equal(found[1].mask, boxes(5, 20, 30))
    else:
        assert len(found) == 10
        np.testing.assert_array_equal(found[7].image[0], noise(5, 20, 30, seed=1)[2])


def test_sections_of_volumes_among_2d_images_become_samples(tmp_path: Path) -> None:
    folders(tmp_path)
    write_image(
        tmp_path / "images/volume.tif", noise(3, 20, 30), axes="ZYX", pixel_size_um={"Z": 2, "Y": 0.5, "X": 0.5}
    )
    write_image(tmp_path / "masks/volume.tif", boxes(3, 20, 30), axes="ZYX")
    write_image(tmp_path / "images/flat.tif", noise(20, 30, seed=4), axes="YX")
    write_image(tmp_path / "masks/flat.tif", boxes(20, 30), axes="YX")
    report = check([tmp_path])
    assert "ranks-differ" in {f.code for f in report.issues}
    found = {s.name: s for s in load_samples(report)}
    assert list(found) == ["flat", "volume_z000", "volume_z001", "volume_z002"]
    np.testing.assert_array_equal(found["volume_z002"].image[0], noise(3, 20, 30)[2])
    assert found["volume_z001"].spacing_um == (0.5, 0.5)
    assert found["volume_z001"].group == "volume"
    assert found["flat"].group == ""


def test_volumes_keep_spacing_and_may_be_nifti(tmp_path: Path) -> None:
    folders(tmp_path)
    values = noise(6, 20, 30)
    affine = np.diag([0.5, 1, 3, 1])
    for role, array in (("images", values), ("masks", boxes(6, 20, 30).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array.T.copy(), affine), tmp_path / role / "a.nii.gz")
    (sample,) = samples(tmp_path)
    assert sample.spacing_um == (3000.0, 1000.0, 500.0)
    np.testing.assert_array_equal(sample.image[0], values)
    np.testing.assert_array_equal(sample.mask, boxes(6, 20, 30))


def test_gold_slices_of_a_volume_are_joined(tmp_path: Path) -> None:
    for folder in ("01", "01_GT/SEG", "01_ST/SEG"):
        (tmp_path / folder).mkdir(parents=True)
    for frame in range(2):
        write_image(tmp_path / f"01/t{frame:03d}.tif", noise(4, 20, 30, seed=frame), axes="ZYX")
        tifffile.imwrite(tmp_path / f"01_ST/SEG/man_seg{frame:03d}.tif", boxes(4, 20, 30), photometric="minisblack")
    for section in (1, 3):
        tifffile.imwrite(tmp_path / f"01_GT/SEG/man_seg_001_{section:03d}.tif", boxes(20, 30, count=section))
    found = samples(tmp_path)
    assert [s.position for s in found] == [0, 1]
    assert found[0].gold is None
    gold = found[1].gold
    assert gold is not None
    assert (gold[[0, 2]] == -1).all()
    np.testing.assert_array_equal(gold[1], boxes(20, 30, count=1))
    np.testing.assert_array_equal(gold[3], boxes(20, 30, count=3))


def test_gold_truth_alone_is_the_mask_and_a_warning(tmp_path: Path) -> None:
    for folder in ("01", "01_GT/SEG"):
        (tmp_path / folder).mkdir(parents=True)
    for frame in range(3):
        tifffile.imwrite(tmp_path / f"01/t{frame:03d}.tif", noise(20, 30, seed=frame))
    for frame in (0, 2):
        tifffile.imwrite(tmp_path / f"01_GT/SEG/man_seg{frame:03d}.tif", boxes(20, 30, count=frame + 1))
    report = check([tmp_path])
    assert {f.code for f in report.issues} == {"gold-only", "unpaired-image"}
    found = list(load_samples(report))
    assert [(s.group, s.position) for s in found] == [("01", 0), ("01", 2)]
    assert all(s.gold is None for s in found)


def test_real_sequence_has_silver_masks_and_gold_beside_them(tmp_path: Path) -> None:
    data = REAL / "ctc" / "DIC-C2DH-HeLa"
    if not data.is_dir():
        pytest.skip("the real images are not beside the repository")
    for folder in ("01", "01_GT/SEG", "01_ST/SEG"):
        (tmp_path / folder).mkdir(parents=True)
        for path in (data / folder).glob("*00[0-5].tif"):
            (tmp_path / folder / path.name).symlink_to(path)
    report = check([tmp_path])
    assert report.rules.kind == "objects"
    assert report.rules.pixel_size_um["Y"] == pytest.approx(0.19, rel=1e-3)
    assert report.issues == ()
    found = list(load_samples(report))
    assert [s.gold is not None for s in found] == [False, False, True, False, False, True]
    gold = found[2].gold
    assert gold is not None
    # Gold and silver are two opinions on the same cells.
    assert ((gold > 0) & (found[2].mask > 0)).sum() > 0.9 * (gold > 0).sum()
