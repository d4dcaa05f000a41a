"""Regions for QuPath, ImageJ and COCO: read by others, they are the same pixels."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from septum.errors import DataError
from septum.export.coco import coco_file
from septum.export.geojson import write_geojson
from septum.export.imagej import write_rois
from septum.export.runs import Frame, split_labels
from septum.io.image import Image

WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def cells(seed: int = 1, sides: tuple[int, int] = (60, 80)) -> NDArray[np.uint16]:
    """Return objects with holes and parts, at the border as well."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=sides), 2)
    labels = ndimage.label(smooth > np.quantile(smooth, 0.5))[0].astype(np.uint16)
    labels[rng.random(sides) < 0.03] = 99
    return labels


def frames_of(labels: NDArray[Any], axes: str = "CYX") -> list[Frame]:
    return split_labels(Image.from_array(labels, axes))


def stack(seed: int = 1) -> NDArray[np.uint16]:
    """Return ``(T, C, Z, Y, X)`` labels."""
    planes = [[[cells(seed + 3 * t + z, (20, 30)) for z in range(3)]] for t in range(2)]
    return np.array(planes)


@pytest.fixture
def drawn() -> Any:
    features = pytest.importorskip("rasterio.features")
    return lambda geometry, sides: features.rasterize([geometry], out_shape=sides) > 0


def test_geojson_holds_the_pixels_of_each_object(tmp_path: Path, drawn: Any) -> None:
    labels = cells()
    count = write_geojson(tmp_path / "a.geojson", frames_of(labels[None]), name="a.tif")
    found = json.loads((tmp_path / "a.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    assert count == len(found["features"]) == len(np.unique(labels)) - 1
    again = np.zeros_like(labels)
    for feature in found["features"]:
        for rings in [feature["geometry"]["coordinates"]] if feature["geometry"]["type"] == "Polygon" else []:
            assert all(ring[0] == ring[-1] for ring in rings)
        assert feature["properties"]["objectType"] == "detection"
        assert "plane" not in feature["geometry"]
        again[drawn(feature["geometry"], labels.shape)] = int(feature["properties"]["name"])
    np.testing.assert_array_equal(again, labels)


def test_packed_geojson_holds_the_same_bytes(tmp_path: Path) -> None:
    labels = np.zeros((8, 9), np.uint8)
    labels[2:5, 3:6] = 1
    frames = frames_of(labels[None])
    write_geojson(tmp_path / "a.geojson", frames, name="a")
    write_geojson(tmp_path / "a.geojson.gz", frames, name="a")
    plain = (tmp_path / "a.geojson").read_bytes()
    assert gzip.decompress((tmp_path / "a.geojson.gz").read_bytes()) == plain and b"\r" not in plain


def test_geojson_names_planes_and_keeps_its_identifiers(tmp_path: Path, drawn: Any) -> None:
    labels = stack()
    for name, height in (("a", None), ("b", 7)):
        write_geojson(tmp_path / f"{name}.geojson.gz", frames_of(labels, "TCZYX"), name="a.tif", height=height)
    first, second = (gzip.decompress((tmp_path / f"{name}.geojson.gz").read_bytes()) for name in "ab")
    assert first == second
    again = np.zeros_like(labels)
    for feature in json.loads(first)["features"]:
        plane = feature["geometry"].get("plane", {"t": 0, "z": 0})
        here = drawn(feature["geometry"], labels.shape[-2:])
        again[plane["t"], 0, plane["z"]][here] = int(feature["properties"]["name"])
    np.testing.assert_array_equal(again, labels)
    assert len({feature["id"] for feature in json.loads(first)["features"]}) == len(json.loads(first)["features"])


def test_classes_are_annotations_with_a_class_and_objects_have_measurements(tmp_path: Path) -> None:
    labels = (cells() > 0).astype(np.uint8) * 2
    write_geojson(tmp_path / "a.geojson", frames_of(labels[None]), classes=True)
    write_geojson(
        tmp_path / "b.geojson", frames_of(labels[None]), describe=lambda t, z, label: {"confidence": 0.25 * label}
    )
    (one,), (other,) = (json.loads((tmp_path / f"{name}.geojson").read_text())["features"] for name in "ab")
    assert one["properties"]["objectType"] == "annotation"
    assert one["properties"]["classification"]["name"] == "class 2"
    assert other["properties"]["measurements"] == {"confidence": 0.5}


def selected(roi: Any, sides: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an ROI as ImageJ does: by the centers of pixels; parts and holes of a path by the even-odd rule."""
    features = pytest.importorskip("rasterio.features")
    coordinates = roi.coordinates(multi=True)
    rings = coordinates if isinstance(coordinates, list) else [coordinates]
    inside = np.zeros(sides, np.bool_)
    for ring in rings:
        closed = np.concatenate([ring, ring[:1]]).tolist()
        inside ^= features.rasterize([{"type": "Polygon", "coordinates": [closed]}], out_shape=sides) > 0
    return inside


def test_rois_hold_the_pixels_of_each_object(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    labels = cells()
    count = write_rois(tmp_path / "a.rois.zip", frames_of(labels[None]))
    rois = roifile.roiread(tmp_path / "a.rois.zip")
    assert count == len(rois) == len(np.unique(labels)) - 1
    again = np.zeros_like(labels)
    kinds = set()
    for roi in rois:
        kinds.add(roi.roitype.name)
        here = selected(roi, labels.shape)
        again[here] = int(roi.name)
        rows, columns = np.nonzero(labels == int(roi.name))
        assert (roi.top, roi.left, roi.bottom, roi.right) == (
            rows.min(),
            columns.min(),
            rows.max() + 1,
            columns.max() + 1,
        )
        assert (roi.position, roi.z_position, roi.t_position) == (0, 0, 0)
    assert kinds == {"TRACED", "RECT"}
    np.testing.assert_array_equal(again, labels)


def test_an_roi_is_what_the_library_of_rois_writes(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    write_rois(tmp_path / "a.zip", frames_of(cells()[None]))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        for entry in archive.namelist():
            content = archive.read(entry)
            assert roifile.ImagejRoi.frombytes(content).tobytes() == content


def test_rois_of_stacks_have_positions_from_one(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    labels = stack()
    write_rois(tmp_path / "a.zip", frames_of(labels, "TCZYX"))
    again = np.zeros_like(labels)
    for roi in roifile.roiread(tmp_path / "a.zip"):
        label, z, t = roi.name.split("-")
        assert (int(z[1:]), int(t[1:])) == (roi.z_position, roi.t_position)
        again[roi.t_position - 1, 0, roi.z_position - 1][selected(roi, labels.shape[-2:])] = int(label)
    np.testing.assert_array_equal(again, labels)
    write_rois(tmp_path / "b.zip", frames_of(labels[0], "CZYX"))
    assert {roi.position for roi in roifile.roiread(tmp_path / "b.zip")} == {1, 2, 3}


def test_what_rois_cannot_state_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    labels = np.zeros((1, 2, 40_000), np.uint8)
    labels[0, 0, 39_000:39_010] = 3
    with pytest.raises(DataError, match="GeoJSON"):
        write_rois(tmp_path / "a.zip", frames_of(labels))
    assert not list(tmp_path.iterdir())


@WARNS
def test_coco_holds_the_pixels_of_each_object(tmp_path: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    from pycocotools.coco import COCO

    labels, other = cells(), cells(5, (33, 21))
    with coco_file(tmp_path / "coco.json") as file:
        assert file.add("a.tif", frames_of(labels[None])) == len(np.unique(labels)) - 1
        file.add("b.tif", frames_of(other[None]), height=5)
    found = json.loads((tmp_path / "coco.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.tif", "b.tif"]
    assert found["categories"] == [{"id": 1, "name": "object"}]
    again = {1: np.zeros_like(labels), 2: np.zeros_like(other)}
    for one in found["annotations"]:
        here = mask.decode(one["segmentation"]) > 0
        again[one["image_id"]][here] = one["label"]
        assert one["area"] == here.sum() == mask.area(one["segmentation"])
        assert one["bbox"] == mask.toBbox(one["segmentation"]).tolist()
        counts = one["segmentation"]["counts"]
        assert counts == mask.encode(np.asfortranarray(here.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(again[1], labels)
    np.testing.assert_array_equal(again[2], other)
    read = COCO(str(tmp_path / "coco.json"))
    assert len(read.getAnnIds()) == len(found["annotations"])


@WARNS
def test_coco_has_an_image_for_each_plane_and_a_category_for_each_class(tmp_path: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    labels = (stack() % 3).astype(np.uint8)
    with coco_file(tmp_path / "coco.json") as file:
        file.add("a.tif", frames_of(labels, "TCZYX"), classes=True)
    found = json.loads((tmp_path / "coco.json").read_text())
    assert found["categories"] == [{"id": 1, "name": "class 1"}, {"id": 2, "name": "class 2"}]
    places = {image["id"]: (image["t"], image["z"]) for image in found["images"]}
    assert len(places) == 6
    again = np.zeros_like(labels)
    for one in found["annotations"]:
        t, z = places[one["image_id"]]
        again[t, 0, z][mask.decode(one["segmentation"]) > 0] = one["category_id"]
    np.testing.assert_array_equal(again, labels)


def test_a_file_that_fails_on_the_way_leaves_nothing_and_keeps_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text("older")
    with pytest.raises(RuntimeError), coco_file(tmp_path / "coco.json") as file:
        file.add("a.tif", frames_of(cells()[None]))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]
    assert (tmp_path / "coco.json").read_text() == "older"
