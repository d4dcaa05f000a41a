from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from septum.errors import FileError, UsageError
from septum.io import tiff_write
from septum.io.files import read_image, write_image

STACK = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)


def test_unnamed_pages_are_time_and_named_axes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK)
    image = read_image(path)
    assert (image.axes, image.file_axes) == ("TCYX", "TYX")
    np.testing.assert_array_equal(image.array[:, 0], STACK)
    tifffile.imwrite(path, STACK[0], metadata=None)
    for page in STACK[1:]:
        tifffile.imwrite(path, page, metadata=None, append=True)
    assert read_image(path).axes == "TCYX"
    assert read_image(path, axes="ZYX").axes == "CZYX"
    for axes, wanted in [("ZYX", "CZYX"), ("TYX", "TCYX"), ("CYX", "CYX")]:
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": axes})
        assert read_image(path).axes == wanted
        tifffile.imwrite(path, STACK, ome=True, metadata={"axes": axes})
        assert read_image(path).axes == wanted
    with pytest.raises(UsageError, match="3 dimensions"):
        read_image(path, axes="TZYX")


def test_imagej_hyperstack(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": "TZCYX"})
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.file_axes) == ("TCZYX", "TZCYX")
    np.testing.assert_array_equal(image.array, array.transpose(0, 2, 1, 3, 4))


def test_color_samples_and_planes_are_channels(tmp_path: Path) -> None:
    color = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    tifffile.imwrite(tmp_path / "a.tif", color, photometric="rgb")
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.file_axes) == ("CYX", "YXC")
    np.testing.assert_array_equal(image.array, color.transpose(2, 0, 1))
    planes = np.moveaxis(color, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, planes)
    alpha = np.dstack([color, color[..., :1]])
    tifffile.imwrite(tmp_path / "a.tif", alpha, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, planes)
    tifffile.imwrite(tmp_path / "a.tif", alpha, photometric="rgb", extrasamples=["unspecified"])
    assert read_image(tmp_path / "a.tif").array.shape == (4, 5, 7)


def test_channels_of_color_become_one_axis(tmp_path: Path) -> None:
    array = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", metadata={"axes": "CYXS"}, ome=True)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.array, array.transpose(0, 3, 1, 2).reshape(6, 5, 7))


def test_three_channels_of_whole_numbers_are_written_as_color(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", STACK[:3], axes="CYX")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric.name == "RGB"
    write_image(tmp_path / "a.tif", STACK[:3].astype(np.float32), axes="CYX")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric.name == "MINISBLACK"


@pytest.mark.parametrize(
    ("unit", "value", "micrometers"),
    [
        ("µm", 0.5, 0.5),
        ("nm", 500, 0.5),
        ("mm", 0.002, 2.0),
        ("Å", 5000, 0.5),
        ("pixel", 3, None),
        ("reference frame", 1, None),
    ],
)
def test_ome_units(tmp_path: Path, unit: str, value: float, micrometers: float | None) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeX": value, "PhysicalSizeXUnit": unit, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "a.tif", STACK, ome=True, metadata=metadata)
    size = read_image(tmp_path / "a.tif").pixel_size_um
    assert size == pytest.approx({"Z": 2.0} | ({"X": micrometers} if micrometers else {}))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("inch", 25400)],
)
def test_imagej_units(tmp_path: Path, unit: str, factor: float) -> None:
    metadata = {"axes": "ZYX", "unit": unit, "spacing": 2.5}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata=metadata, resolution=(4, 5))
    size = read_image(tmp_path / "a.tif").pixel_size_um
    assert size == pytest.approx({"Z": 2.5 * factor, "Y": 0.2 * factor, "X": 0.25 * factor})


@pytest.mark.parametrize(
    ("resolution", "unit", "micrometers"),
    [
        (50000, "CENTIMETER", 0.2),
        (25400, "INCH", 1.0),
        (72, "INCH", None),
        (96, "INCH", None),
        (1, "INCH", None),
        (1, "CENTIMETER", None),
        (28.3465, "CENTIMETER", None),  # 72 dpi
        (37.7953, "CENTIMETER", None),  # 96 dpi
        (5, "NONE", None),
    ],
)
def test_resolution_tags(tmp_path: Path, resolution: float, unit: str, micrometers: float | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], resolution=(resolution, resolution), resolutionunit=unit)
    size = read_image(tmp_path / "a.tif").pixel_size_um
    assert size == pytest.approx({"Y": micrometers, "X": micrometers} if micrometers else {})


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_common_encoding(
    tmp_path: Path, compression: str | None, tile: tuple[int, int] | None, byteorder: str
) -> None:
    array = np.arange(5 * 20 * 33, dtype=np.uint16).reshape(5, 20, 33)
    big = byteorder == ">"
    tifffile.imwrite(
        tmp_path / "a.tif", array, compression=compression, tile=tile, byteorder=byteorder, bigtiff=big, metadata=None
    )
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[:, 0], array)
    assert image.array.dtype == np.uint16 and image.array.dtype.isnative


@pytest.mark.parametrize("compression", ["jpeg2000", "png"])
def test_image_formats_inside(tmp_path: Path, compression: str) -> None:
    array = np.arange(20 * 33, dtype=np.uint16).reshape(20, 33)
    tifffile.imwrite(tmp_path / "a.tif", array, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], array)


def test_one_bit_masks_and_empty_labels(tmp_path: Path) -> None:
    mask = np.eye(9, dtype=bool)
    tifffile.imwrite(tmp_path / "a.tif", mask)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], mask)
    # Zeros shrink to almost nothing, which must not look like a forged size.
    for compression in ("zlib", "lzw", "zstd"):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((2000, 2000), np.uint16), compression=compression)
        assert not read_image(tmp_path / "a.tif").array.any()


def test_several_images_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (5, 6, 7):
            file.write(np.zeros((side, 4), np.uint8), metadata=None)
    with pytest.raises(FileError, match=r"3 separate images \(5 x 4, 6 x 4, 7 x 4\)"):
        read_image(tmp_path / "a.tif")


def test_a_thumbnail_is_passed_over(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(STACK[0], metadata=None)
        file.write(STACK[0, :2, :2], metadata=None, subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], STACK[0])


def test_missing_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for page in STACK:
            file.write(page, metadata=None, contiguous=False)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
    for cut in (offsets[1] + 5, offsets[2] + 1, offsets[2] - 3, len(whole) - 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileError, match="cut off"):
            read_image(path)


def test_a_circle_of_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], metadata=None)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].offset
        entries = len(file.pages[0].tags)
    content = bytearray(path.read_bytes())
    end = offset + 2 + 12 * entries
    content[end : end + 4] = offset.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(FileError, match="circle"):
        read_image(path)


def test_compressed_and_marked_as_ome(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(200), np.arange(300)).astype(np.uint16)
    write_image(tmp_path / "a.tif", smooth, axes="YX", pixel_size_um={"X": 0.25, "Y": 0.5})
    assert (tmp_path / "a.tif").stat().st_size < smooth.nbytes / 10
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_ome and not file.is_bigtiff
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata and 'PhysicalSizeYUnit="µm"' in file.ome_metadata


def test_large_files_are_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_write, "BIG", 1000)
    write_image(tmp_path / "a.tif", np.zeros((50, 50), np.uint8), axes="YX")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
    assert read_image(tmp_path / "a.tif").array.shape == (1, 50, 50)


def test_too_many_unnamed_dimensions_ask_for_names(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 5, 6, 7), np.uint8))
    with pytest.raises(FileError, match="QQYX") as raised:
        read_image(tmp_path / "a.tif")
    assert "--axes" in raised.value.todo
    assert read_image(tmp_path / "a.tif", axes="TZYX").axes == "TCZYX"


def test_nothing_is_logged_about_damaged_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    write_image(path, STACK, axes="ZYX")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"OME", b"O<E"))
    read_image(path)
    path.write_bytes(content[:200])
    with pytest.raises(FileError):
        read_image(path)
    assert capfd.readouterr() == ("", "")
