"""Files of slide scanners: TIFF with a pyramid, a thumbnail, a label and a picture of the glass, named otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.files import list_images, open_image, read_image
from septum.io.formats import result_suffix

SLIDE = np.random.default_rng(0).integers(0, 255, (300, 260, 3), np.uint8)


def save_slide(path: Path, *, aperio: bool = True) -> Path:
    with tifffile.TiffWriter(path) as file:
        about = "Aperio Image Library\n260x300 (64x64)|AppMag = 20|MPP = 0.499" if aperio else "a slide"
        file.write(SLIDE, photometric="rgb", tile=(64, 64), description=about, metadata=None)
        file.write(SLIDE[::4, ::4], photometric="rgb", description="thumbnail", metadata=None)
        file.write(SLIDE[::2, ::2], photometric="rgb", tile=(64, 64), description="level 2", metadata=None)
        if aperio:
            picture = np.full((90, 200, 3), 180, np.uint8)
            file.write(picture, photometric="rgb", subfiletype=1, description="label", metadata=None)
            file.write(picture, photometric="rgb", subfiletype=9, description="macro", metadata=None)
    return path


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.moveaxis(read_image(path).array, 0, -1)


@pytest.mark.parametrize("name", ["slide.svs", "slide.tif", "SLIDE.SVS"])
def test_the_slide_is_read(tmp_path: Path, name: str) -> None:
    path = save_slide(tmp_path / name)
    np.testing.assert_array_equal(pixels(path), SLIDE)
    with open_image(path) as image:
        assert image.lazy
        assert image.pixel_size_um == {"Y": 0.499, "X": 0.499}
        np.testing.assert_array_equal(np.moveaxis(image[:, 100:170, 30:90], 0, -1), SLIDE[100:170, 30:90])
    assert list_images([tmp_path]) == [path]


def test_the_result_of_a_slide_is_a_tiff() -> None:
    assert {result_suffix(suffix) for suffix in (".svs", ".ndpi", ".scn", ".btf", ".qptiff")} == {".tif"}


def test_a_pyramid_of_pages_is_read_at_full_resolution(tmp_path: Path) -> None:
    np.testing.assert_array_equal(pixels(save_slide(tmp_path / "plain.tif", aperio=False)), SLIDE)


def test_pictures_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(SLIDE, photometric="rgb", tile=(64, 64), metadata=None)
        file.write(SLIDE[:200], photometric="rgb", metadata=None)
    with pytest.raises(FileError, match="holds 2 separate images"):
        read_image(tmp_path / "two.tif")
