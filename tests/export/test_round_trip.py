"""What Septum writes for other programs, Septum reads back as the same objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from septum.convert.settings import ConvertSettings
from septum.convert.to_labels import Converted, write_labels
from septum.export.jobs import export_labels
from septum.export.settings import ConvertAndExportSettings, Form
from septum.io.files import read_image, write_image


def objects(seed: int) -> NDArray[np.uint8]:
    """Return objects with holes and with parts, at the border as well."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(50, 60)), 2)
    labels = ndimage.label(smooth > np.quantile(smooth, 0.5))[0].astype(np.uint8)
    labels[rng.random(labels.shape) < 0.02] = 0
    labels[2:4, 30:33] = labels[20, 7:9] = 200
    return labels


@pytest.mark.parametrize("form", ["geojson", "rois", "coco"])
def test_regions_are_read_back_as_the_same_objects(tmp_path: Path, form: Form) -> None:
    for number, name in enumerate("ab"):
        for part, values in (("images", np.full((50, 60), 7, np.uint8)), ("labels", objects(number))):
            (tmp_path / part).mkdir(exist_ok=True)
            write_image(tmp_path / part / f"{name}.png", values, axes="YX")
    conversion = ConvertSettings(data=(tmp_path / "images", tmp_path / "labels"), out=tmp_path / "masks")
    list(export_labels(ConvertAndExportSettings(conversion=conversion, to=(form,))))
    again = ConvertSettings(data=(tmp_path / "images", tmp_path / "masks"), out=tmp_path / "again")
    events = list(write_labels(again))
    assert all(isinstance(event, Converted) for event in events)
    for number, name in enumerate("ab"):
        read = read_image(tmp_path / "again" / f"{name}.png", labels=True).array[0]
        labels = objects(number)
        pairs = np.unique(np.stack([labels.ravel(), read.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(labels)) == len(np.unique(read))  # one number for each object
        np.testing.assert_array_equal(labels == 0, read == 0)


@pytest.mark.parametrize("form", ["geojson", "rois", "coco"])
@pytest.mark.parametrize("axes", ["TYX", "ZYX", "TZYX"])
def test_stacks_and_volumes_are_read_back_as_the_same_objects(tmp_path: Path, axes: str, form: Form) -> None:
    sides = {"T": 2, "Z": 3, "Y": 20, "X": 24}
    frames = [volume(t, tuple(sides[axis] for axis in axes if axis != "T")) for t in range(2 if "T" in axes else 1)]
    labels = np.stack(frames) if "T" in axes else frames[0]
    for part, values in (("images", np.full(labels.shape, 7, np.uint8)), ("labels", labels)):
        (tmp_path / part).mkdir()
        write_image(tmp_path / part / "a.tif", values, axes=axes)
    conversion = ConvertSettings(data=(tmp_path / "images", tmp_path / "labels"), out=tmp_path / "masks")
    list(export_labels(ConvertAndExportSettings(conversion=conversion, to=(form,))))
    (event,) = write_labels(ConvertSettings(data=(tmp_path / "images", tmp_path / "masks"), out=tmp_path / "again"))
    assert isinstance(event, Converted)
    read = read_image(event.written, labels=True).array.reshape(len(frames), *frames[0].shape)
    for own, back in zip(frames, read, strict=True):
        pairs = np.unique(np.stack([own.ravel(), back.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(own)) == len(np.unique(back)) > 3
        np.testing.assert_array_equal(own == 0, back == 0)


def volume(seed: int, sides: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return objects that pass several sections, if there are three axes."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=sides), 1)
    return ndimage.label(smooth > np.quantile(smooth, 0.6))[0].astype(np.uint8)
