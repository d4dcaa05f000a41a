"""One suite that every image format passes."""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from septum.axes import canonical
from septum.errors import FileError, SeptumError, UsageError
from septum.io.files import list_images, read_image, write_image
from septum.io.formats import is_image
from septum.io.image import Image

MILLION = 10**6


@dataclass(frozen=True)
class Format:
    suffix: str
    stacks: bool = True  # T, Z and any number of channels
    floats: bool = True
    wide: bool = True  # more than 16 bits
    keeps_axes: bool = True
    keeps_size: bool = True
    keeps_bool: bool = False


FORMATS = [
    Format(".tif"),
    Format(".ome.tiff"),
    Format(".png", stacks=False, floats=False, wide=False, keeps_size=False, keeps_bool=True),
    Format(".nii"),
    Format(".nii.gz"),
    Format(".npy", keeps_axes=False, keeps_size=False, keeps_bool=True),
]
each_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda k: k.suffix)
NAMES = ["plain", "with some spaces", "line\nbreak", "cells 🔬 ünïcode", "t[1]*?", "a.b.c", "-dash", "'quote\""]
SHAPES = {"YX": [(1, 1), (1, 7), (7, 1), (13, 17)], "CYX": [(1, 4, 5), (3, 4, 5), (3, 1, 1)]}
STACKS = {
    "CYX": [(2, 4, 5), (7, 5, 4)],
    "ZYX": [(4, 5, 6), (3, 4, 3), (2, 1, 1)],
    "TYX": [(3, 5, 4)],
    "CZYX": [(2, 3, 4, 5), (3, 2, 5, 4)],
    "TCYX": [(2, 3, 4, 5)],
    "TCZYX": [(2, 3, 4, 5, 6)],
    "YXC": [(4, 5, 3), (4, 5, 2)],
    "XYZ": [(4, 5, 3)],
}


def values(shape: tuple[int, ...], dtype: type) -> NDArray[np.generic]:
    """Return values that every wrong order of axes and every rounding changes, with the extremes of the type."""
    count = int(np.prod(shape))
    if dtype is bool:
        return (np.arange(count) % 3 == 0).reshape(shape)
    if np.issubdtype(dtype, np.floating):
        flat = np.linspace(-1.5, 1e6, count, dtype=dtype) / 3
    else:
        flat = np.arange(count).astype(dtype)
        flat[-1] = np.iinfo(dtype).max
    return flat.reshape(shape)


def expected(array: NDArray[np.generic], axes: str) -> tuple[NDArray[np.generic], str]:
    full, permutation = canonical(axes)
    array = array.transpose(permutation)
    return (array if "C" in axes else np.expand_dims(array, full.index("C"))), full


def round_trip(folder: Path, kind: Format, array: NDArray[np.generic], axes: str) -> Image:
    path = folder / f"image{kind.suffix}"
    write_image(path, array, axes=axes)
    return read_image(path, axes=None if kind.keeps_axes else axes)


@each_format
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_values_dtype_and_axes_are_kept(tmp_path: Path, kind: Format, dtype: type) -> None:
    if not kind.wide and dtype not in (bool, np.uint8, np.uint16):
        array = values((3, 4), dtype)
        array[0, 0] = -1 if np.dtype(dtype).kind == "i" else 70000
        with pytest.raises(FileError, match="cannot be kept in a PNG"):
            round_trip(tmp_path, kind, array, "YX")
        return
    shapes = SHAPES | ({a: SHAPES.get(a, []) + s for a, s in STACKS.items()} if kind.stacks else {})
    for axes, shape in ((a, s) for a, many in shapes.items() for s in many):
        array = values(shape, dtype)
        image = round_trip(tmp_path, kind, array, axes)
        wanted, full = expected(array, axes)
        assert image.axes == full, (axes, shape)
        np.testing.assert_array_equal(image.array, wanted)
        narrow = dtype is bool and (not kind.keeps_bool or (kind.suffix == ".png" and 3 in shape and axes == "CYX"))
        assert image.array.dtype == (np.uint8 if narrow else dtype), (axes, shape)
        assert image.array.flags.c_contiguous and image.array.flags.writeable and image.array.dtype.isnative


@each_format
def test_foreign_byte_order_is_written_right(tmp_path: Path, kind: Format) -> None:
    array = np.array([[1, 2, 300]], ">u2")
    assert round_trip(tmp_path, kind, array, "YX").array.tolist() == [[[1, 2, 300]]]


@each_format
def test_labels_up_to_and_above_65535(tmp_path: Path, kind: Format) -> None:
    labels = np.array([[0, 1, 255, 256], [65535, 2, 3, 4]], np.int32)
    image = round_trip(tmp_path, kind, labels, "YX")
    np.testing.assert_array_equal(image.array[0], labels)
    labels[0, 0] = 65536
    if kind.wide:
        np.testing.assert_array_equal(round_trip(tmp_path, kind, labels, "YX").array[0], labels)
        many = np.array([[2**32 - 1, 0]], np.uint64)
        np.testing.assert_array_equal(round_trip(tmp_path, kind, many, "YX").array[0], many)
    else:
        with pytest.raises(FileError, match=r"values from 1 to 65536[\s\S]*\.tif"):
            round_trip(tmp_path, kind, labels, "YX")
        assert list(tmp_path.iterdir()) == [tmp_path / f"image{kind.suffix}"]


@each_format
def test_probabilities_of_classes(tmp_path: Path, kind: Format) -> None:
    probabilities = np.random.default_rng(0).random((3, 5, 6), np.float32)
    if not kind.floats:
        with pytest.raises(FileError, match="float32 values"):
            round_trip(tmp_path, kind, probabilities, "CYX")
        return
    image = round_trip(tmp_path, kind, probabilities, "CYX")
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.array, probabilities)


@each_format
def test_pixel_size_in_micrometers(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / f"image{kind.suffix}"
    size = {"Y": 0.5, "X": 0.325}
    write_image(path, np.ones((4, 5), np.uint8), axes="YX", pixel_size_um=size)
    assert read_image(path).pixel_size_um == (size if kind.keeps_size else {})
    if kind.stacks:
        size["Z"] = 2.5
        write_image(path, np.ones((3, 4, 5), np.uint8), axes="ZYX", pixel_size_um=size)
        assert read_image(path, axes=None if kind.keeps_axes else "ZYX").pixel_size_um == (
            size if kind.keeps_size else {}
        )


@each_format
def test_no_pixel_size_is_made_up(tmp_path: Path, kind: Format) -> None:
    assert round_trip(tmp_path, kind, np.ones((4, 5), np.uint8), "YX").pixel_size_um == {}


@each_format
@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_is_written_and_read(tmp_path: Path, kind: Format, name: str) -> None:
    path = tmp_path / (name + kind.suffix)
    write_image(path, np.array([[1, 2]], np.uint8), axes="YX")
    assert is_image(path)
    assert read_image(path).array.tolist() == [[[1, 2]]]
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"")
    with pytest.raises(FileError) as raised:
        read_image(path)
    assert raised.value.given.isprintable()


@each_format
def test_every_truncation_is_noticed(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / f"image{kind.suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8), axes="YX")
    whole = path.read_bytes()
    for tenth in range(1, 10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(FileError, match="cut off"):
            read_image(path)


@each_format
def test_empty_text_and_noise_are_no_images(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / f"image{kind.suffix}"
    for content, message in [
        (b"", "0 bytes"),
        (b"cell,area\n1,20\n", "text that begins 'cell,area"),
        (bytes(range(7, 207)), "bytes that begin 07 08"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"/annex/objects/MD5E-s37--9a.tif\n", "git-annex pointer"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FileError, match=message) as raised:
            read_image(path)
        assert raised.value.expected and raised.value.todo


@each_format
def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / f"image{kind.suffix}"
    path.symlink_to(f"../.git/annex/objects/nothing{kind.suffix}")
    assert list_images([tmp_path]) == [path]
    with pytest.raises(FileError, match="a link that leads nowhere") as raised:
        read_image(path)
    assert "git annex get" in raised.value.todo


@each_format
def test_missing_file_folder_and_wrong_axes(tmp_path: Path, kind: Format) -> None:
    with pytest.raises(FileError, match="does not exist"):
        read_image(tmp_path / f"none{kind.suffix}")
    folder = tmp_path / f"folder{kind.suffix}"
    folder.mkdir()
    with pytest.raises(FileError, match="is a folder"):
        read_image(folder)
    write_image(tmp_path / f"image{kind.suffix}", np.ones((4, 5), np.uint8), axes="YX")
    for axes in ("ZYX", "YY", "Q", "ZX"):
        with pytest.raises(UsageError, match="axes"):
            read_image(tmp_path / f"image{kind.suffix}", axes=axes)
    image = read_image(tmp_path / f"image{kind.suffix}")
    turned = read_image(tmp_path / f"image{kind.suffix}", axes=image.file_axes[::-1].lower())
    assert (image.array.shape, turned.array.shape) == ((1, 4, 5), (1, 5, 4))


def _png_claiming(path: Path) -> None:
    header = struct.pack(">IIBBBBB", MILLION, MILLION, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(900), 0)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _tiff_claiming(path: Path, compression: str | None = None) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), metadata=None, compression=compression)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[tag].overwrite(MILLION, dtype=4)


def _nifti_claiming(path: Path) -> None:
    header = nib.Nifti2Header()
    header.set_data_shape((MILLION, MILLION))
    header["magic"] = b"n+2"
    header["vox_offset"] = 544
    path.write_bytes(header.binaryblock + bytes(1000))


def _npy_claiming(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (MILLION, MILLION)}
        )
        file.write(bytes(1000))


def _jpeg_claiming(path: Path) -> None:
    Pillow.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    content = path.read_bytes()
    frame = content.index(b"\xff\xc0")
    path.write_bytes(content[: frame + 5] + struct.pack(">HH", 65500, 65500) + content[frame + 9 :])


def _gif_claiming(path: Path) -> None:
    Pillow.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:6] + struct.pack("<HH", 65500, 65500) + content[10:])


CLAIMS = {
    "a.png": _png_claiming,
    "a.tif": _tiff_claiming,
    "b.tif": lambda p: _tiff_claiming(p, "zlib"),
    "c.tif": lambda p: _tiff_claiming(p, "lzw"),
    "d.tif": lambda p: _tiff_claiming(p, "zstd"),
    "a.nii": _nifti_claiming,
    "a.npy": _npy_claiming,
    "a.jpg": _jpeg_claiming,
    "a.gif": _gif_claiming,
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_small_file_that_claims_a_huge_image_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    CLAIMS[name](path)
    assert path.stat().st_size < 3000

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("decoded before its size was checked")

    for place in ("tifffile.TiffPageSeries.asarray", "PIL.ImageFile.ImageFile.load", "numpy.load"):
        monkeypatch.setattr(place, forbidden)
    with pytest.raises(FileError, match=r"claims (1000000|65500) x (1000000|65500)"):
        read_image(path)


def test_large_images_are_not_taken_for_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow warns of images above its limit, and refuses twice of it; warnings are errors here.
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)
    for suffix in (".png", ".jpg", ".bmp", ".gif"):
        Pillow.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / f"large{suffix}")
        assert read_image(tmp_path / f"large{suffix}", labels=True).array.shape == (1, 20, 30)


def test_flipped_bytes_give_an_image_or_our_error(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    array = random.integers(0, 255, (3, 9, 11), np.uint8)
    sources = []
    for suffix in (".tif", ".png", ".nii", ".nii.gz", ".npy"):
        write_image(tmp_path / f"source{suffix}", array, axes="CYX")
        sources.append((suffix, (tmp_path / f"source{suffix}").read_bytes()))
    for (suffix, source), _ in itertools.product(sources, range(60)):
        content = bytearray(source)
        content[random.integers(len(source))] ^= 1 << random.integers(8)
        path = tmp_path / f"flipped{suffix}"
        path.write_bytes(bytes(content))
        try:
            read_image(path)
        except SeptumError as error:
            assert error.given
        else:
            assert suffix != ".png", "every byte of a PNG lies under a checksum"
