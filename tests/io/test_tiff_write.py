"""An OME-Zarr image is written as a tiled OME-TIFF with a pyramid, in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from septum.errors import FileError
from septum.io.files import read_image
from septum.io.tiff_write import write_tiff_from
from septum.io.zarr_write import ZarrTarget, create_zarr

SIDES = {"T": 2, "C": 3, "Z": 2, "Y": 700, "X": 1100}


def stored(path: Path, array: np.ndarray, axes: str, *, labels: bool = False) -> ZarrTarget:
    target = create_zarr(
        path, shape=array.shape, axes=axes, dtype=array.dtype, pixel_size_um={"Y": 0.5, "X": 0.25}, labels=labels
    )
    target.write(..., array)
    return target


@pytest.mark.parametrize("axes", ["YX", "ZYX", "CYX", "TCYX"])
@pytest.mark.parametrize("labels", [False, True])
def test_levels_are_those_of_the_image_halved(tmp_path: Path, axes: str, labels: bool) -> None:
    shape = [SIDES[a] for a in axes]
    dtype = np.int64 if labels else np.uint8
    array = np.random.default_rng(0).integers(0, 200, shape, dtype)
    done = list(write_tiff_from(stored(tmp_path / "a.ome.zarr", array, axes, labels=labels), tmp_path / "a.ome.tif"))
    assert done == sorted(done) and done[-1] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ome.tif", "a.ome.zarr"]
    image = read_image(tmp_path / "a.ome.tif", labels=labels)
    np.testing.assert_array_equal(image.array.reshape(array.shape), array)
    assert image.pixel_size_um == {"Y": 0.5, "X": 0.25}
    assert image.array.dtype == (np.int32 if labels else np.uint8)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        levels = file.series[0].levels
        assert len(levels) == 3
        coarse = levels[1].asarray()
    if "C" in axes and not labels:  # written as RGB
        coarse = np.moveaxis(coarse, -1, -3)
    means = array.reshape(*shape[:-2], 350, 2, 550, 2).mean(axis=(-3, -1))
    wanted = array[..., ::2, ::2] if labels else np.rint(means)
    np.testing.assert_array_equal(coarse.reshape(wanted.shape), wanted)


def test_values_of_more_than_32_bits_leave_no_file(tmp_path: Path) -> None:
    target = stored(tmp_path / "a.ome.zarr", np.full((20, 30), 2**40), "YX")
    with pytest.raises(FileError, match="values from 1099511627776"):
        list(write_tiff_from(target, tmp_path / "a.tif"))
    steps = write_tiff_from(stored(tmp_path / "b.ome.zarr", np.ones((20, 30), np.uint8), "YX"), tmp_path / "b.tif")
    steps.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ome.zarr", "b.ome.zarr"]
