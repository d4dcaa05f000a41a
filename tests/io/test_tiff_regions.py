"""Regions of TIFF files equal the same regions of `tifffile.imread`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.files import open_image, read_image

STACK = np.random.default_rng(0).integers(0, 60000, (5, 37, 53), np.uint16)
COLOR = np.random.default_rng(1).integers(0, 255, (37, 53, 3), np.uint8)


def pyramid(path: Path, image: NDArray[Any], **options: Any) -> None:
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(image, tile=(16, 16), subifds=1, metadata={"axes": "ZYX"}, **options)
        file.write(image[:, ::2, ::2], tile=(16, 16), subfiletype=1, **options)


def separate(path: Path, **options: Any) -> None:
    planes = np.ascontiguousarray(np.moveaxis(COLOR, -1, 0))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", metadata=None, **options)


def gaps(path: Path) -> None:
    """Write pages that do not follow each other, so that the values are no single block."""
    with tifffile.TiffWriter(path) as file:
        for page in STACK:
            file.write(page, metadata=None, contiguous=False, rowsperstrip=5)


# Axes as tifffile reads the array.
FILES = {
    "tiled": ("ZYX", lambda p: tifffile.imwrite(p, STACK, tile=(16, 32), ome=True, metadata={"axes": "ZYX"})),
    "tiled-zlib": ("TYX", lambda p: tifffile.imwrite(p, STACK, tile=(16, 16), compression="zlib", predictor=True)),
    "striped": ("TYX", lambda p: tifffile.imwrite(p, STACK, rowsperstrip=7)),
    "striped-lzw": ("TYX", lambda p: tifffile.imwrite(p, STACK, rowsperstrip=1, compression="lzw")),
    "striped-zstd-big": (
        "TYX",
        lambda p: tifffile.imwrite(p, STACK, rowsperstrip=9, compression="zstd", byteorder=">", bigtiff=True),
    ),
    "gaps": ("TYX", gaps),
    "rgb": ("YXC", lambda p: tifffile.imwrite(p, COLOR, photometric="rgb")),
    "rgb-lzw": ("YXC", lambda p: tifffile.imwrite(p, COLOR, photometric="rgb", compression="lzw", predictor=True)),
    "rgb-jpeg": ("YXC", lambda p: tifffile.imwrite(p, COLOR, photometric="rgb", compression="jpeg", tile=(16, 16))),
    "rgb-separate": ("CYX", separate),
    "rgb-separate-tiled": ("CYX", lambda p: separate(p, tile=(16, 16), compression="zlib")),
    "imagej": ("ZYX", lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "ZYX"})),
    "imagej-zlib": (
        "ZYX",
        lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "ZYX"}, compression="zlib"),
    ),
    "pyramid": ("ZYX", lambda p: pyramid(p, STACK, compression="zlib")),
    "pyramid-plain": ("ZYX", lambda p: pyramid(p, STACK)),
    "volume": (
        "ZYX",
        lambda p: tifffile.imwrite(p, STACK, volumetric=True, photometric="minisblack", tile=(16, 16, 16)),
    ),
    "one-bit": ("YX", lambda p: tifffile.imwrite(p, STACK[0] % 3 == 0, compression="packbits")),
}


@pytest.mark.parametrize("name", FILES)
def test_regions_equal_those_of_tifffile(tmp_path: Path, name: str) -> None:
    axes, write = FILES[name]
    path = tmp_path / "a.tif"
    write(path)
    expected = tifffile.imread(path)
    order = [axes.index(a) for a in "TCZYX" if a in axes]
    expected = expected.transpose(order)
    with open_image(path, axes=axes) as image:
        missing = [i for i, a in enumerate(image.axes) if a not in axes]
        expected = np.expand_dims(expected, missing)
        assert image.lazy and image.shape == expected.shape and image.dtype == expected.dtype
        random = np.random.default_rng(0)
        for _ in range(20):
            low = [int(random.integers(n)) for n in image.shape]
            index = tuple(slice(a, int(random.integers(a, n)) + 1) for a, n in zip(low, image.shape, strict=True))
            np.testing.assert_array_equal(image[index], expected[index], err_msg=str(index))
        for page in range(image.shape[0]):
            np.testing.assert_array_equal(image[page], expected[page])
        np.testing.assert_array_equal(image[...], expected)
    np.testing.assert_array_equal(read_image(path, axes=axes).array, expected)


@pytest.mark.parametrize("name", ["tiled-zlib", "striped-lzw", "rgb-jpeg"])
def test_threads_read_parts_pages_and_the_whole_side_by_side(tmp_path: Path, name: str) -> None:
    axes, write = FILES[name]
    write(tmp_path / "a.tif")
    whole = read_image(tmp_path / "a.tif", axes=axes).array
    image = open_image(tmp_path / "a.tif", axes=axes)
    indices = [(Ellipsis,), (0,), (Ellipsis, slice(3, 20), slice(5, 40))] * 20
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda index: np.array_equal(image[index], whole[index]), indices))


@pytest.mark.parametrize("index", [(Ellipsis,), (1,), (1, 0, slice(20, 30), slice(20, 30))])
def test_a_damaged_tile_is_named_however_it_is_read(tmp_path: Path, index: tuple[Any, ...]) -> None:
    path = tmp_path / "a.tif"
    FILES["tiled-zlib"][1](path)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[1].dataoffsets[5]
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(FileError, match="tile or strip 6 of page 2"):
        open_image(path)[index]


def test_missing_tiles_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("TileOffsets", "TileByteCounts"):
            file.pages[0].tags[tag].overwrite(file.pages[0].tags[tag].value[:-4])
    with pytest.raises(FileError, match="lacks its tile or strip 9"):
        open_image(path)
