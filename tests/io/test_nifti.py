from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from septum.errors import FileError
from septum.io.files import read_image, write_image

VOLUME = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.array([[0, -0.5, 0, 10], [0.7, 0, 0, -20.5], [0, 0, 3, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_volume_is_turned_to_z_y_x_and_keeps_its_place(tmp_path: Path, suffix: str, kind: type) -> None:
    path = tmp_path / f"a{suffix}"
    image = kind(VOLUME, AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    read = read_image(path)
    assert (read.axes, read.file_axes) == ("CZYX", "XYZ")
    np.testing.assert_array_equal(read.array[0], VOLUME.T)
    assert read.array.dtype == np.int16
    assert read.pixel_size_um == pytest.approx({"X": 700, "Y": 500, "Z": 3000})
    assert read.affine is not None
    np.testing.assert_allclose(read.affine, AFFINE, rtol=1e-7)

    labels = (read.array[0] > 50).astype(np.int32)
    write_image(tmp_path / f"labels{suffix}", labels, axes="ZYX", pixel_size_um=read.pixel_size_um, affine=read.affine)
    again = nib.load(tmp_path / f"labels{suffix}")
    np.testing.assert_allclose(again.affine, AFFINE, rtol=1e-7)
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), VOLUME > 50)
    assert again.header.get_zooms() == pytest.approx((0.7, 0.5, 3.0))
    assert again.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(read_image(tmp_path / f"labels{suffix}").array[0], labels)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOLUME, np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([0.5, -3], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(content))
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").array[0], VOLUME.T * 0.5 - 3)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4, 5), "CYX"),
        ((4, 5, 1), "CYX"),
        ((4, 5, 6), "CZYX"),
        ((4, 5, 6, 2), "TCZYX"),
        ((4, 5, 1, 2), "TCYX"),
        ((4, 5, 6, 1, 2), "CZYX"),
        ((4, 5, 6, 3, 2), "TCZYX"),
        ((4, 5, 6, 1, 1, 1, 1), "CZYX"),
        ((1, 1, 1), "CYX"),
    ],
)
def test_dimensions_are_x_y_z_t_c(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    assert image.axes == axes
    letters = dict(zip("XYZTC", (*shape, 1, 1, 1), strict=False))
    assert image.array.shape == tuple(letters[a] for a in axes)
    for index in np.ndindex(*shape[:5]):
        where = dict(zip("XYZTC", (*index, 0, 0, 0), strict=False))
        assert image.array[tuple(where[a] for a in axes)] == array[index + (0,) * (len(shape) - len(index))]


def test_six_dimensions_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(FileError, match="6 dimensions"):
        read_image(tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.complex64), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(FileError, match="complex64"):
        read_image(tmp_path / "a.nii")


def test_packed_color_becomes_channels(tmp_path: Path) -> None:
    color = np.arange(4 * 5 * 2 * 3, dtype=np.uint8).reshape(4, 5, 2, 3)
    packed = np.ascontiguousarray(color).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(packed, np.eye(4)), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    assert (image.axes, image.file_axes) == ("CZYX", "XYZC")
    np.testing.assert_array_equal(image.array, color.transpose(3, 2, 1, 0))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1000), ("micron", 1), ("meter", 1e6), ("unknown", 1000)])
def test_units(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(VOLUME, np.diag([0.5, 2, 3, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").pixel_size_um == pytest.approx(
        {"X": 0.5 * factor, "Y": 2 * factor, "Z": 3 * factor}
    )


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("micron", 1e-3), ("meter", 1000), ("unknown", 1)])
def test_size_and_place_are_the_same_after_a_round_trip_in_any_unit(tmp_path: Path, unit: str, mm: float) -> None:
    image = nib.Nifti1Image(VOLUME, AFFINE)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(read.affine, np.diag([mm, mm, mm, 1]) @ AFFINE, rtol=1e-6)
    write_image(tmp_path / "b.nii", read.array[0], axes="ZYX", pixel_size_um=read.pixel_size_um, affine=read.affine)
    again = read_image(tmp_path / "b.nii")
    assert again.pixel_size_um == pytest.approx(read.pixel_size_um)
    np.testing.assert_allclose(again.affine, read.affine, rtol=1e-6)
    assert nib.load(tmp_path / "b.nii").header.get_xyzt_units()[0] == "mm"


def test_voxel_sizes_of_1_without_a_unit_are_unknown(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOLUME, np.eye(4))
    image.header.set_xyzt_units("unknown")
    nib.save(image, tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").pixel_size_um == {}


def test_long_sides_need_nifti_2(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz", np.ones((2, 40000), np.uint8), axes="YX")
    assert isinstance(nib.load(tmp_path / "a.nii.gz"), nib.Nifti2Image)
    assert read_image(tmp_path / "a.nii.gz").array.shape == (1, 2, 40000)


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz", VOLUME, axes="ZYX")
    write_image(tmp_path / "b.nii.gz", VOLUME, axes="ZYX")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_damage_inside_gzip_is_noticed(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz", VOLUME, axes="ZYX")
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[-6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(bytes(content))
    with pytest.raises(FileError, match="NIfTI file is damaged"):
        read_image(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"some text, long enough to be no header" * 20))
    with pytest.raises(FileError, match="not NIfTI"):
        read_image(tmp_path / "a.nii.gz")


def test_nothing_is_printed_about_odd_headers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[76:80] = np.array([0], "<f4").tobytes()  # orientation sign, which many programs leave 0
    content[252:254] = np.array([77], "<i2").tobytes()  # qform_code
    content[80:84] = np.array([-2], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(content))
    capfd.readouterr()
    image = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.array[0], VOLUME.T)
    assert image.pixel_size_um["X"] > 0
    assert capfd.readouterr() == ("", "")
