"""Regions of an opened image equal those of the whole image, for every format."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from septum.errors import FileError, UsageError
from septum.io.files import open_image, read_image, write_image
from septum.io.image import Image, StoredImage

STACK = np.arange(2 * 3 * 37 * 53, dtype=np.uint16).reshape(2, 3, 37, 53)
COLOR = np.random.default_rng(0).integers(0, 255, (2, 37, 53, 4), np.uint8)


def plain_stack(path: Path, **options: Any) -> None:
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "CZYX", "PhysicalSizeX": 0.5}, **options)


def color(path: Path, samples: int = 3, separate: bool = False, **options: Any) -> None:
    array = COLOR[..., :samples]
    array = np.moveaxis(array, -1, 1) if separate else array
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    planar = "separate" if separate else "contig"
    tifffile.imwrite(
        path, np.ascontiguousarray(array), photometric="rgb", planarconfig=planar, metadata=None, **extra, **options
    )


def nifti(path: Path, array: NDArray[Any], slope: float | None = None) -> None:
    image = nib.Nifti1Image(array, np.eye(4))
    if slope is not None:
        image.header.set_slope_inter(slope, 1.5)
    nib.save(image, path)


def packed_color() -> NDArray[Any]:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return np.ascontiguousarray(COLOR[..., :3]).view(kind)[..., 0].T.copy()


MADE = {
    "plain.tif": plain_stack,
    "tiled.tif": lambda p: plain_stack(p, tile=(16, 32)),
    "packed.tif": lambda p: plain_stack(p, tile=(16, 32), compression="zlib", predictor=True),
    "zstd.tif": lambda p: plain_stack(p, tile=(32, 16), compression="zstd", bigtiff=True, byteorder=">"),
    "strips.tif": lambda p: plain_stack(p, rowsperstrip=7, compression="lzw"),
    "volume.tif": lambda p: tifffile.imwrite(p, STACK[0], volumetric=True, photometric="minisblack", tile=(16, 16, 16)),
    "imagej.tif": lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "ZCYX"}),
    "pages.tif": lambda p: tifffile.imwrite(p, STACK[0], metadata=None, photometric="minisblack", compression="zlib"),
    "bits.tif": lambda p: tifffile.imwrite(p, STACK[0, 0] % 3 == 0),
    "color.tif": color,
    "alpha.tif": lambda p: color(p, 4, compression="zlib"),
    "jpeg.tif": lambda p: color(p, tile=(16, 16), compression="jpeg"),
    "planes.tif": lambda p: color(p, separate=True, tile=(16, 16), compression="zlib"),
    "planes-alpha.tif": lambda p: color(p, 4, separate=True),
    "merged.tif": lambda p: tifffile.imwrite(
        p, COLOR[..., :3].copy(), photometric="rgb", metadata={"axes": "CYXS"}, ome=True, compression="zlib"
    ),
    "empty.tif": lambda p: tifffile.imwrite(p, np.zeros((64, 48), np.uint8), tile=(16, 16), compression="zlib"),
    "c.npy": lambda p: np.save(p, STACK[0]),
    "fortran.npy": lambda p: np.save(p, np.asfortranarray(STACK[1].astype(">f8"))),
    "half.npy": lambda p: np.save(p, STACK[0].astype(np.float16)),
    "plain.nii": lambda p: nifti(p, STACK.T.astype(np.int16)),
    "scaled.nii": lambda p: nifti(p, STACK[0].T.astype(np.int16), slope=0.25),
    "trailing.nii": lambda p: nifti(p, STACK[0].T[..., None, None].astype(np.float32)),
    "color.nii": lambda p: nifti(p, packed_color()),
    "image.ome.zarr": lambda p: write_image(p, STACK, axes="CZYX", pixel_size_um={"Z": 1.0, "Y": 0.5, "X": 0.5}),
    "packed.nii.gz": lambda p: nifti(p, STACK[0].T.astype(np.int16)),
    "gray.png": lambda p: write_image(p, STACK[0, 0], axes="YX"),
    "color.png": lambda p: Pillow.fromarray(COLOR[0]).save(p),
    "photo.jpg": lambda p: Pillow.fromarray(COLOR[0, ..., :3]).save(p),
}
IN_MEMORY = {"packed.nii.gz", "gray.png", "color.png", "photo.jpg"}


def some_indices(shape: tuple[int, ...], count: int) -> list[tuple[int | slice, ...]]:
    random = np.random.default_rng(1)
    found: list[tuple[int | slice, ...]] = [(), (0,), (-1,), (slice(None, None, -1),) * len(shape)]
    found.append(tuple(slice(1, 1) for _ in shape))
    for _ in range(count):
        index: list[int | slice] = []
        for side in shape:
            low, high = sorted(random.integers(-side - 1, side + 2, 2).tolist())
            step = int(random.choice([1, 1, 1, 2, 3, -1, -2]))
            inside = int(random.integers(-side, side))
            index.append(inside if random.random() < 0.3 else slice(low, high, step))
        found.append(tuple(index))
    return found


@pytest.mark.parametrize("name", MADE)
def test_every_region_equals_that_of_the_whole_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    MADE[name](path)
    image = read_image(path)
    with open_image(path) as source:
        assert (source.axes, source.shape, source.dtype) == (image.axes, image.array.shape, image.array.dtype)
        assert (source.file_axes, source.pixel_size_um, source.affine) == (
            image.file_axes,
            image.pixel_size_um,
            image.affine,
        )
        assert source.lazy == (name not in IN_MEMORY)
        for index in some_indices(image.array.shape, 25):
            part = source[index]
            np.testing.assert_array_equal(part, image.array[index], err_msg=str(index))
            assert part.dtype == image.array.dtype and part.dtype.isnative
            assert part.flags.c_contiguous and part.flags.writeable


@pytest.mark.parametrize("name", ["tiled.tif", "plain.tif", "plain.nii", "c.npy", "image.ome.zarr", "gray.png"])
def test_an_opened_image_can_be_pickled(tmp_path: Path, name: str) -> None:
    MADE[name](tmp_path / name)
    source = open_image(tmp_path / name)
    again: Image = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[0], source[0])
    assert len(pickle.dumps(source)) < 500, "it opens the file again"


def test_named_axes_are_pickled_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", STACK[0])
    source = pickle.loads(pickle.dumps(open_image(tmp_path / "a.npy", axes="zyx")))
    assert (source.axes, source.file_axes, source.shape) == ("CZYX", "ZYX", (1, 3, 37, 53))
    with pytest.raises(UsageError, match="axes"):
        open_image(tmp_path / "a.npy", axes="ZYQ")
    with pytest.raises(UsageError, match="3 dimensions"):
        open_image(tmp_path / "a.npy", axes="YX")


@pytest.mark.parametrize("name", ["packed.tif", "plain.tif", "image.ome.zarr", "c.npy"])
def test_threads_do_not_disturb_each_other(tmp_path: Path, name: str) -> None:
    MADE[name](tmp_path / name)
    whole = read_image(tmp_path / name).array
    source = open_image(tmp_path / name)
    rows = [slice(y, y + 5) for y in range(0, 30, 3)] * 6

    def matches(row: slice) -> bool:
        return bool(np.array_equal(source[_rows(source, row)], whole[..., row, :]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(matches, rows))


def _rows(source: Image, row: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in source.shape[:-2]), row)


def test_only_the_tiles_that_are_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression="zlib")
    source = open_image(tmp_path / "a.tif")
    fetched = []
    read = tifffile.FileHandle.read

    def counted(self: tifffile.FileHandle, size: int = -1) -> bytes:
        fetched.append(size)
        return read(self, size)

    monkeypatch.setattr(tifffile.FileHandle, "read", counted)
    np.testing.assert_array_equal(source[0, 30:70, 64:96], image[30:70, 64:96])
    assert len(fetched) == 3, "three rows of tiles, one column"
    assert sum(fetched) < (tmp_path / "a.tif").stat().st_size / 10


def test_the_full_resolution_of_a_pyramid_is_read(tmp_path: Path) -> None:
    image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as file:
        file.write(image, tile=(16, 16), subifds=1, compression="zlib", metadata={"axes": "YX"})
        file.write(image[::2, ::2], tile=(16, 16), subfiletype=1, compression="zlib")
    source = open_image(tmp_path / "a.tif")
    assert source.shape == (1, 64, 64)
    np.testing.assert_array_equal(source[0], image)


def test_a_damaged_tile_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], tile=(16, 16), compression="zlib", metadata={"axes": "ZYX"}, ome=True)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[1].dataoffsets[5]
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    source = open_image(path)
    np.testing.assert_array_equal(source[0, 0], STACK[0, 0])
    with pytest.raises(FileError, match=r"tile or strip 6 of page 2"):
        source[...]


def test_a_tile_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("TileWidth", "TileLength"):
            file.pages[0].tags[tag].overwrite(65536, dtype=4)
    with pytest.raises(FileError, match=r"claims 1 x 65536 x 65536"):
        open_image(path)[0, 0, 0]


def test_indices_outside_of_the_image_raise_index_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", STACK[0, 0])
    source = open_image(tmp_path / "a.npy")
    for index in [(1,), (0, 37), (0, 0, -54), (0, 0, 0, 0)]:
        with pytest.raises(IndexError):
            source[index]


def test_an_array_in_memory_is_an_image_too() -> None:
    image = Image.from_array(STACK[:1, 0], "CYX", file_axes="YX", pixel_size_um={"X": 0.5})
    assert (image.axes, image.file_axes, image.pixel_size_um, image.name) == ("CYX", "YX", {"X": 0.5}, "")
    assert not image.lazy
    assert np.shares_memory(image.array, STACK)
    part = image[0, 3:9]
    np.testing.assert_array_equal(part, STACK[0, 0, 3:9])
    assert not np.shares_memory(part, STACK)
    again = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(again[...], image.array)
    assert (again.file_axes, again.pixel_size_um) == ("YX", {"X": 0.5})
    assert Image.from_array(STACK[:1, :1], "CZYX").axes == "CZYX", "an axis of length 1 stays"


def test_reading_a_region_takes_no_memory_for_the_whole_image(tmp_path: Path) -> None:
    import zarr

    resource = pytest.importorskip("resource", reason="measures memory as POSIX does")

    side = 6000
    stored = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(side, side), dtype="uint16", chunks=(500, 500), fill_value=0
    )
    stored[:500] = 7
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint16, (side, side))[:500] = 7
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a.npy", "a.zarr"):
        source = open_image(tmp_path / name)
        for row in range(0, side, 500):
            part = source[0, row : row + 500, :3000]
            assert part.sum() == (7 * part.size if row == 0 else 0)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert taken < side * side * 2 / 2, "the image has 72 MB"


def test_an_image_without_y_and_x_is_an_error_of_the_file() -> None:
    for shape, axes in [((), ""), ((5,), "X"), ((2, 3), "ZZ")]:
        with pytest.raises(FileError, match="axes"):
            Image(StoredImage(shape, np.dtype(np.uint8), axes, np.empty))
