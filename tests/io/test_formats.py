"""The table of formats: its use by other modules; a new format needs one row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from septum.io import formats
from septum.io.files import WriteRequest, find_format, open_image, write_image
from septum.io.formats import FORMATS, RESULT_SUFFIXES, ImageFormat, format_of, is_image, result_suffix, suffix_of
from septum.io.image import StoredImage


@pytest.mark.parametrize("kind", FORMATS, ids=lambda k: k.name)
def test_readers_and_writers_of_the_table_exist(kind: ImageFormat) -> None:
    assert callable(kind.load_reader())
    assert kind.writer is None or callable(kind.load_writer())
    assert all(suffix_of("a" + suffix) == suffix for suffix in kind.suffixes)


def test_results_keep_the_format_of_the_input_where_it_is_written() -> None:
    wanted = {
        ".jpg": ".png",
        ".jpeg": ".png",
        ".bmp": ".png",
        ".gif": ".png",
        ".png": ".png",
        ".tif": ".tif",
        ".tiff": ".tif",
        ".ome.tif": ".ome.tif",
        ".ome.tiff": ".ome.tif",
        ".nii": ".nii",
        ".nii.gz": ".nii.gz",
        ".npy": ".npy",
        ".zarr": ".ome.zarr",
        ".ome.zarr": ".ome.zarr",
        "": ".tif",
        ".czi": ".tif",
        ".czi#2": ".tif",
        ".nrrd": ".tif",
    }
    assert {suffix: result_suffix(suffix) for suffix in wanted} == wanted
    floats = {suffix: ".tif" if written == ".png" else written for suffix, written in wanted.items()}
    assert {suffix: result_suffix(suffix, floats=True) for suffix in wanted} == floats, "PNG holds no float32"
    assert set(RESULT_SUFFIXES) == {".png", ".tif", ".ome.tif", ".nii", ".nii.gz", ".npy", ".ome.zarr"}


def test_formats_that_keep_values_and_axes() -> None:
    def keeping(dtype: str, axes: str, channels: int = 1) -> set[str]:
        return {kind.name for kind in FORMATS if kind.holds(dtype, axes, channels)}

    assert keeping("uint16", "YX") == {"PNG", "TIFF", "NIfTI", "OME-Zarr"}
    assert keeping("uint8", "CYX", 3) == {"PNG", "TIFF", "NIfTI", "OME-Zarr"}
    assert (
        keeping("uint8", "CYX", 4) == keeping("int32", "YX") == keeping("uint8", "ZYX") == {"TIFF", "NIfTI", "OME-Zarr"}
    )
    assert {kind.name for kind in FORMATS if kind.by_blocks} == {"TIFF", "OME-Zarr"}
    assert {kind.name for kind in FORMATS if kind.lossy} == {"JPEG"}


def open_raw(place: Path, *, axes: str | None, labels: bool) -> StoredImage:
    values = np.frombuffer(place.read_bytes()[4:], np.uint8)
    return StoredImage.from_array(values.reshape(2, -1), axes or "YX")


def write_raw(path: Path, array: np.ndarray, axes: str, request: WriteRequest) -> None:
    path.write_bytes(b"RAW1" + array.tobytes())


def test_a_row_and_a_module_make_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    name = "septum_test_raw"
    monkeypatch.setitem(sys.modules, name, sys.modules[__name__])
    row = ImageFormat("raw", {".testraw": ".testraw"}, (b"RAW1",), f"{name}:open_raw", f"{name}:write_raw")
    monkeypatch.setattr("septum.io.files.FORMATS", (*FORMATS, row))
    monkeypatch.setitem(formats._BY_SUFFIX, ".testraw", row)
    formats.suffix_of.cache_clear()
    path = tmp_path / "a.testraw"
    write_image(path, np.arange(6, dtype=np.uint8).reshape(2, 3), axes="YX")
    assert is_image(path) and find_format(path) is row and format_of("a.testraw") is row
    assert open_image(path)[0, 1].tolist() == [3, 4, 5]
    formats.suffix_of.cache_clear()
