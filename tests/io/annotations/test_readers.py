"""Files of drawn objects, made by the other program's library or after its format's description, give equal arrays."""

from __future__ import annotations

import base64
import io
import json
import pickle
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
from PIL import Image
from pycocotools import mask as pycoco
from skimage.draw import polygon2mask

from septum.errors import FileError
from septum.io.annotations.formats import _keys, drawn_format, place_of, read_drawing, read_drawings, split_place
from septum.io.annotations.raster import Filled, fill, list_names

SIDES = (40, 50)
Y, X = np.mgrid[: SIDES[0], : SIDES[1]]
DISK = (Y - 12) ** 2 + (X - 14) ** 2 < 60
RING = ((Y - 25) ** 2 + (X - 33) ** 2 < 110) & ((Y - 25) ** 2 + (X - 33) ** 2 > 25)
SQUARE = [[4, 22], [12, 22], [12, 34], [4, 34]]
SQUARE_PIXELS = (Y >= 22) & (Y < 34) & (X >= 4) & (X < 12)
# No center of a pixel lies on its border, so that programs with other rules for the border agree.
FREE = np.array([[3.2, 4.1], [30.7, 2.3], [44.4, 19.6], [22.9, 11.3], [25.6, 36.2], [8.4, 30.9]])


def centers(corners: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Return the pixels whose centers lie in a polygon of x and y, by scikit-image, which counts from centers."""
    return np.asarray(polygon2mask(SIDES, corners[:, ::-1] - 0.5 + shift))


def filled(place: Path, sides: tuple[int, int] = SIDES, pages: tuple[int, int] = (1, 1), **more: Any) -> Filled:
    return fill(read_drawing(place), split_place(place)[0], pages, sides, **more)


def labels(place: Path, **more: Any) -> np.ndarray:
    return filled(place, **more).labels[0, 0]


def numbered(*masks: np.ndarray) -> np.ndarray:
    found = np.zeros(SIDES, int)
    for number, mask in enumerate(masks, start=1):
        found[mask] = number
    return found


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


# ImageJ, by roifile.


def traced(mask: np.ndarray, name: str, **more: int) -> roifile.ImagejRoi:
    """Return a selection along the corners of pixels of a mask whose rows are whole."""
    rows = np.flatnonzero(mask.any(axis=1))
    left = [(int(np.flatnonzero(mask[r])[0]), int(r) + d) for r in rows for d in (0, 1)]
    right = [(int(np.flatnonzero(mask[r])[-1]) + 1, int(r) + d) for r in rows[::-1] for d in (1, 0)]
    roi = roifile.ImagejRoi.frompoints(np.array(right[::-1] + left[::-1]), name=name)
    roi.roitype = roifile.ROI_TYPE.TRACED
    for key, value in more.items():
        setattr(roi, key, value)
    return roi


def rect(kind: roifile.ROI_TYPE, left: int, top: int, right: int, bottom: int, name: str = "r") -> roifile.ImagejRoi:
    roi = roifile.ImagejRoi()
    roi.roitype, roi.name = kind, name
    roi.left, roi.top, roi.right, roi.bottom = left, top, right, bottom
    roi.n_coordinates = 0
    return roi


def composite(*rings: list[tuple[int, int]]) -> roifile.ImagejRoi:
    roi = rect(roifile.ROI_TYPE.RECT, 20, 10, 40, 30, "composite")
    path: list[float] = []
    for ring in rings:
        path += [0, *ring[0]]
        for corner in ring[1:]:
            path += [1, *corner]
        path += [4]
    roi.multi_coordinates = np.array(path, np.float32)
    roi.shape_roi_size = len(path)
    return roi


def roi_set(path: Path, *rois: roifile.ImagejRoi) -> Path:
    roifile.roiwrite(path, list(rois), name=[f"{number}.roi" for number in range(len(rois))])
    return path


def test_imagej_traced_and_freehand_polygons(tmp_path: Path) -> None:
    free = roifile.ImagejRoi.frompoints(FREE.astype(np.float32), name="free")
    assert free.subpixelresolution
    place = roi_set(tmp_path / "RoiSet.zip", free, traced(DISK, "0001"))
    assert np.array_equal(labels(place), numbered(centers(FREE), DISK))


def test_imagej_rectangle_oval_and_composite(tmp_path: Path) -> None:
    outer, inner = [(20, 10), (40, 10), (40, 30), (20, 30)], [(25, 15), (25, 20), (33, 20), (33, 15)]
    place = roi_set(
        tmp_path / "RoiSet.zip",
        rect(roifile.ROI_TYPE.RECT, 4, 22, 12, 34),
        rect(roifile.ROI_TYPE.OVAL, 2, 2, 15, 11),
        composite(outer, inner),
    )
    oval = ((X + 0.5 - 8.5) / 6.5) ** 2 + ((Y + 0.5 - 6.5) / 4.5) ** 2 < 1
    frame = (X >= 20) & (X < 40) & (Y >= 10) & (Y < 30) & ~((X >= 25) & (X < 33) & (Y >= 15) & (Y < 20))
    assert np.array_equal(labels(place), numbered(SQUARE_PIXELS, oval, frame))


def test_imagej_single_roi_points_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.roi").write_bytes(traced(DISK, "only").tobytes())
    assert np.array_equal(labels(tmp_path / "a.roi"), numbered(DISK))
    point = rect(roifile.ROI_TYPE.POINT, 3, 3, 4, 4, "p1")
    point.integer_coordinates, point.n_coordinates = np.array([[0, 0]], np.int32), 1
    place = roi_set(tmp_path / "RoiSet.zip", traced(DISK, "a"), point, rect(roifile.ROI_TYPE.LINE, 0, 0, 5, 5, "l1"))
    assert list_names(filled(place).refused) == "1 point (p1), 1 line (l1)"


def test_imagej_stack_positions(tmp_path: Path) -> None:
    place = roi_set(
        tmp_path / "RoiSet.zip",
        traced(DISK, "a", position=2),
        traced(SQUARE_PIXELS, "cell", z_position=2),
        traced(SQUARE_PIXELS, "cell", z_position=3),
    )
    found = filled(place, pages=(1, 3)).labels[0]
    assert (found[0] == -1).all()
    assert np.array_equal(found[1], numbered(DISK, SQUARE_PIXELS))
    assert np.array_equal(found[2], 2 * SQUARE_PIXELS)  # one name in two sections: one object


# QuPath, by hand after its description.


def feature(geometry: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **properties}}


def poly(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*r, r[0]] for r in rings]}


def frame_of(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


FRAME = poly(frame_of(20, 10, 40, 30), frame_of(25, 15, 33, 20))
FRAME_PIXELS = (X >= 20) & (X < 40) & (Y >= 10) & (Y < 30) & ~((X >= 25) & (X < 33) & (Y >= 15) & (Y < 20))
CHILD_PIXELS = (X >= 21) & (X < 24) & (Y >= 11) & (Y < 14)
FEATURES = [feature(poly(SQUARE)), feature(FRAME, classification={"name": "Tumor", "color": [200, 0, 0]})]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"type": "FeatureCollection", "features": FEATURES}, (SQUARE_PIXELS, FRAME_PIXELS)),
        (FEATURES, (SQUARE_PIXELS, FRAME_PIXELS)),
        (FEATURES[1], (FRAME_PIXELS,)),
        ([{"type": "FeatureCollection", "features": FEATURES[:1]}, FEATURES[1]], (SQUARE_PIXELS, FRAME_PIXELS)),
        (
            feature(
                {
                    "type": "MultiPolygon",
                    "coordinates": [poly(SQUARE)["coordinates"], FRAME["coordinates"]],
                }
            ),
            (SQUARE_PIXELS | FRAME_PIXELS,),
        ),
        (feature(FRAME, childObjects=[feature(poly(frame_of(21, 11, 24, 14)))]), (FRAME_PIXELS, CHILD_PIXELS)),
    ],
    ids=["collection", "list", "feature", "nested lists", "several parts", "nested features"],
)
def test_qupath(tmp_path: Path, document: object, expected: tuple[np.ndarray, ...]) -> None:
    assert np.array_equal(labels(write_json(tmp_path / "a.geojson", document)), numbered(*expected))


def test_qupath_classes_planes_and_what_is_no_object(tmp_path: Path) -> None:
    line = feature({"type": "LineString", "coordinates": [[1, 1], [5, 5]]}, name="ruler")
    place = write_json(tmp_path / "a.geojson", [*FEATURES, line])
    assert [one.label for one in read_drawing(place).objects] == ["", "Tumor"]
    assert list_names(filled(place).refused) == "1 line (feature 3 (ruler))"
    classes = labels(place, classes={"": 1, "Tumor": 2})
    assert np.array_equal(classes, numbered(SQUARE_PIXELS, FRAME_PIXELS))
    plane = feature({**poly(SQUARE), "plane": {"c": -1, "z": 2, "t": 0}})
    found = filled(write_json(tmp_path / "b.geojson", plane), pages=(1, 3)).labels[0]
    assert (found[:2] == -1).all()
    assert np.array_equal(found[2], numbered(SQUARE_PIXELS))


def test_a_feature_of_qupath_without_an_outline_is_named(tmp_path: Path) -> None:
    empty = [feature(None), feature({"type": "Polygon", "coordinates": []}, name="b")]  # type: ignore[arg-type]
    found = filled(write_json(tmp_path / "a.geojson", [*empty, feature(poly(SQUARE))]))
    assert list_names(found.refused) == "2 features without an outline (feature 1, feature 2 (b))"
    assert found.objects == 1


def test_qupath_cells_in_an_annotation(tmp_path: Path) -> None:
    cell = feature(poly(SQUARE), objectType="cell") | {"nucleusGeometry": poly(frame_of(6, 24, 8, 26))}
    place = write_json(tmp_path / "a.geojson", [feature(poly(frame_of(0, 0, 50, 40)), name="region"), cell])
    assert np.array_equal(labels(place), numbered(SQUARE_PIXELS))
    assert list_names(filled(place).refused) == "1 annotation around detections (feature 1 (region))"


# COCO, by pycocotools.


OTHER = [30, 1, 40, 1, 40, 5, 30, 5]


def coco(path: Path) -> Path:
    runs = pycoco.encode(np.asfortranarray(RING.astype(np.uint8)))
    flat = RING.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    document = {
        "images": [
            {"id": 7, "file_name": "train/a.png", "height": SIDES[0], "width": SIDES[1]},
            {"id": 8, "file_name": "b.png", "height": SIDES[0], "width": SIDES[1]},
            {"id": 9, "file_name": "c.png", "height": SIDES[0], "width": SIDES[1]},
        ],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [FREE.ravel().tolist()]},
            {
                "id": 2,
                "image_id": 7,
                "category_id": 2,
                "segmentation": {"size": list(SIDES), "counts": runs["counts"].decode()},
                "iscrowd": 1,
            },
            {
                "id": 3,
                "image_id": 8,
                "category_id": 1,
                "segmentation": {"size": list(SIDES), "counts": np.diff(np.concatenate([[0], changes])).tolist()},
            },
            {"id": 4, "image_id": 8, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": []},
            {
                "id": 5,
                "image_id": 8,
                "category_id": 1,
                "segmentation": [np.ravel(SQUARE).tolist(), [30, 1, 40, 1, 40, 5, 30, 5]],
            },
        ],
    }
    return write_json(path, document)


def test_coco(tmp_path: Path) -> None:
    path = coco(tmp_path / "instances.json")
    assert [one.key for one in read_drawings(path)] == ["train:a", "b", "c"]
    first = filled(tmp_path / "instances.json#train:a")
    assert np.array_equal(first.labels[0, 0], numbered(centers(FREE), RING))
    assert first.notes == ("1 marked as crowds, each read as one object",)
    second = filled(tmp_path / "instances.json#b")
    more = (X >= 30) & (X < 40) & (Y >= 1) & (Y < 5)
    assert np.array_equal(second.labels[0, 0], numbered(RING, SQUARE_PIXELS | more))
    assert list_names(second.refused) == "1 box without an outline (annotation 4)"
    assert not filled(tmp_path / "instances.json#c").labels.any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_outlines_are_filled_as_pycocotools_does(tmp_path: Path) -> None:
    document = json.loads(coco(tmp_path / "a.json").read_text())
    corners = [np.ravel(SQUARE).tolist()]
    theirs = pycoco.decode(pycoco.merge(pycoco.frPyObjects(corners, *SIDES))).astype(bool)
    document["annotations"] = [{"id": 1, "image_id": 8, "category_id": 1, "segmentation": corners}]
    write_json(tmp_path / "a.json", document)
    assert np.array_equal(labels(tmp_path / "a.json#b") > 0, theirs)


@pytest.mark.parametrize("seed", range(5))
def test_coco_compressed_run_lengths_of_noise(tmp_path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).random(SIDES) < (0.5, 0.02, 0.98, 0.0, 1.0)[seed]
    document = json.loads(coco(tmp_path / "a.json").read_text())
    counts = pycoco.encode(np.asfortranarray(noise.astype(np.uint8)))["counts"].decode()
    document["annotations"] = [
        {"id": 1, "image_id": 8, "category_id": 1, "segmentation": {"size": list(SIDES), "counts": counts}}
    ]
    write_json(tmp_path / "a.json", document)
    if noise.any():
        assert np.array_equal(labels(tmp_path / "a.json#b") > 0, noise)
    else:
        with pytest.raises(FileError, match="1 object without an outline"):
            labels(tmp_path / "a.json#b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "annotation 1 names the image 99"),
        ({"category_id": 99}, "annotation 1 names the class 99"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": "0"}}, "the image has 40 x 50"),
        ({"segmentation": {"size": list(SIDES), "counts": [5, 10]}}, "run lengths of 15 pixels for a box of 40 x 50"),
        ({"segmentation": {"size": list(SIDES), "counts": "PPPP"}}, "end within a number"),
        ({"segmentation": {"size": list(SIDES), "counts": [2**70]}}, "above 2\\^63"),
        ({"segmentation": [[1, 2, 3]]}, "not pairs of x and y"),
        ({"segmentation": [[1, 2, float("nan"), 4, 5, 6]]}, "not finite"),
        ({"segmentation": [["a", "b", "c", "d", "e", "f"]]}, "annotation 1"),
    ],
)
def test_coco_that_is_wrong_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = json.loads(coco(tmp_path / "a.json").read_text())
    document["annotations"][0] |= change
    with pytest.raises(FileError, match=message):
        read_drawings(write_json(tmp_path / "a.json", document))


def test_ids_of_coco_that_differ_in_white_space_alone_are_the_same_where_only_one_fits(tmp_path: Path) -> None:
    square = [[2, 2, 9, 2, 9, 9, 2, 9]]
    document = {
        "images": [{"id": "1", "file_name": "a.png"}, {"id": "2 x", "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": "1 ", "category_id": "1 ", "segmentation": square},
            {"id": 2, "image_id": "2  x", "category_id": " ", "segmentation": square},
        ],
    }
    path = write_json(tmp_path / "a.json", document)
    assert [[o.label for o in one.objects] for one in read_drawings(path)] == [["cell"], [""]]
    document["images"] += [{"id": "1  ", "file_name": "c.png"}]
    with pytest.raises(FileError, match="annotation 1 names the image '1 '"):
        read_drawings(write_json(tmp_path / "b.json", document))


def test_coco_with_two_images_of_one_id_is_refused(tmp_path: Path) -> None:
    document = {"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}], "annotations": []}
    with pytest.raises(FileError, match="2 images with 1 different ids"):
        read_drawings(write_json(tmp_path / "a.json", document))


def test_a_coco_file_whose_name_holds_the_sign_of_places_is_read(tmp_path: Path) -> None:
    path = coco(tmp_path / "my#set.json")
    place = place_of(path, read_drawings(path)[0])
    assert split_place(place) == (path, read_drawings(path)[0].key)
    assert split_place(path) == (path, "")
    assert read_drawing(place).image == read_drawings(path)[0].image


# labelme, after the description of its format.


def labelme(path: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    document = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "..\\a.png", "imageData": None}
    return write_json(path, document | {"imageHeight": SIDES[0], "imageWidth": SIDES[1]} | more)


def shape(kind: str, points: Any, label: str = "cell", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, "PNG")  # labelme writes 0 and 1
    return base64.b64encode(stream.getvalue()).decode()


def test_labelme(tmp_path: Path) -> None:
    rows, columns = np.flatnonzero(RING.any(axis=1)), np.flatnonzero(RING.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    box = [[int(left), int(top)], [int(right), int(bottom)]]
    place = labelme(
        tmp_path / "a.json",
        shape("polygon", FREE.tolist()),
        shape("rectangle", [[12, 34], [4, 22]]),
        shape("circle", [[14.5, 12.5], [20.5, 12.5]]),
        shape("mask", box, "ring", mask=png(RING[top : bottom + 1, left : right + 1])),
        shape("point", [[1, 1]], "dot"),
        shape("linestrip", [[1, 1], [4, 4], [6, 1]], "trace"),
    )
    circle = (X - 14) ** 2 + (Y - 12) ** 2 < 36
    found = filled(place)
    assert np.array_equal(found.labels[0, 0], numbered(centers(FREE), SQUARE_PIXELS, circle, RING))
    assert list_names(found.refused) == "1 point (shape 5 (dot)), 1 line (shape 6 (trace))"
    assert [one.label for one in read_drawing(place).objects] == ["cell", "cell", "cell", "ring"]
    assert read_drawing(place).image == "a.png"


def test_a_mask_of_labelme_above_the_limit_of_pillow_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    place = labelme(tmp_path / "a.json", shape("mask", [[0, 0], [49, 39]], mask=png(RING)))
    assert np.array_equal(labels(place), RING)


def test_labelme_groups_are_one_object(tmp_path: Path) -> None:
    parts = [shape("rectangle", [[x, 2], [x + 3, 6]], group_id=5) for x in (2, 20)]
    found = labels(labelme(tmp_path / "a.json", *parts, shape("rectangle", [[40, 2], [44, 6]])))
    assert np.array_equal(np.unique(found), [0, 1, 2])
    assert (found[3, 3], found[3, 21], found[3, 41]) == (1, 1, 2)


def test_labelme_of_another_size_is_refused(tmp_path: Path) -> None:
    place = labelme(tmp_path / "a.json", shape("polygon", FREE.tolist()), imageHeight=99)
    with pytest.raises(FileError, match="drawn on 99 x 50 pixels, the image has 40 x 50"):
        labels(place)


# CVAT, after the description of its format.


def cvat(path: Path, *shapes: str, head: str = "") -> Path:
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n{head}<annotations><version>1.1</version>'
        f'<image id="0" name="set/a.png" width="{SIDES[1]}" height="{SIDES[0]}">{"".join(shapes)}</image>'
        f'<image id="1" name="b.png" width="{SIDES[1]}" height="{SIDES[0]}"></image></annotations>'
    )
    return path


def test_cvat(tmp_path: Path) -> None:
    box = RING[14:37, 22:45]
    flat = np.concatenate([[False], box.ravel(), [not box.ravel()[-1]]])
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat))]))
    points = ";".join(f"{x},{y}" for x, y in FREE)
    path = cvat(
        tmp_path / "annotations.xml",
        '<box label="cell" xtl="4" ytl="22" xbr="12" ybr="34" z_order="2"></box>',
        f'<polygon label="cell" points="{points}" z_order="0"></polygon>',
        '<ellipse label="cell" cx="14.5" cy="12.5" rx="6" ry="6" z_order="1"></ellipse>',
        f'<mask label="ring" rle="{", ".join(map(str, runs))}" left="22" top="14" width="23" height="23" z_order="3"/>',
        '<polyline label="cell" points="1,1;5,5"></polyline><points label="dot" points="1,1"></points>',
    )
    assert [one.key for one in read_drawings(path)] == ["set:a", "b"]
    found = filled(tmp_path / "annotations.xml#set:a")
    circle = (X - 14) ** 2 + (Y - 12) ** 2 < 36
    assert np.array_equal(found.labels[0, 0], numbered(centers(FREE), circle, SQUARE_PIXELS, RING))
    assert list_names(found.refused) == "1 line (shape 5 (cell)), 1 point (shape 6 (dot))"


def test_cvat_with_entities_or_tracks_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    with pytest.raises(FileError, match="a DOCTYPE, which CVAT does not write"):
        read_drawings(cvat(tmp_path / "a.xml", head=bomb))
    (tmp_path / "b.xml").write_text('<annotations><track id="0" label="cell"></track></annotations>')
    with pytest.raises(FileError, match="1 tracks of CVAT for video"):
        read_drawings(tmp_path / "b.xml")


def test_a_turned_box_of_cvat(tmp_path: Path) -> None:
    path = cvat(tmp_path / "a.xml", '<box label="c" xtl="4" ytl="22" xbr="12" ybr="34" rotation="90"/>')
    expected = (Y >= 24) & (Y < 32) & (X >= 2) & (X < 14)
    assert np.array_equal(labels(tmp_path / f"{path.name}#set:a") > 0, expected)


# napari, as its writer makes it.


def napari(path: Path, *shapes: tuple[str, Any]) -> Path:
    axes = len(shapes[0][1][0])
    rows = [",".join(["index", "shape-type", "vertex-index", *(f"axis-{n}" for n in range(axes))])]
    for index, (kind, corners) in enumerate(shapes):
        rows += [",".join(map(str, [index, kind, n, *corner])) for n, corner in enumerate(corners)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_napari_counts_from_the_centers_of_pixels(tmp_path: Path) -> None:
    square = np.array(SQUARE)[:, ::-1] - 0.5
    place = napari(
        tmp_path / "a.csv",
        ("polygon", FREE[:, ::-1].tolist()),
        ("rectangle", square.tolist()),
        ("ellipse", [[6, 8], [6, 20], [18, 20], [18, 8]]),
        ("path", [[1, 1], [5, 5]]),
    )
    circle = (X - 14) ** 2 + (Y - 12) ** 2 < 36
    found = filled(place)
    assert np.array_equal(found.labels[0, 0], numbered(centers(FREE, 0.5), SQUARE_PIXELS, circle))
    assert list_names(found.refused) == "1 line (shape 3)"


def test_napari_pages(tmp_path: Path) -> None:
    corners = [[2, y - 0.5, x - 0.5] for x, y in SQUARE]
    found = filled(napari(tmp_path / "a.csv", ("polygon", corners)), pages=(3, 1)).labels[:, 0]
    assert (found[:2] == -1).all()
    assert np.array_equal(found[2], numbered(SQUARE_PIXELS))
    corners[0][0] = 1
    with pytest.raises(FileError, match="shape 0: corners on several pages"):
        read_drawings(napari(tmp_path / "b.csv", ("polygon", corners)))


# Cellpose, as numpy saves it.


def cellpose(path: Path, masks: np.ndarray) -> Path:
    notes = {
        "outlines": np.zeros(SIDES, np.uint16),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(2, bool),
        "filename": "a.png",
        "flows": [np.zeros((2, 3), np.float32), [], None],
        "diameter": np.float64(17.5),
        "model_path": 0,
    }
    np.save(path, notes, allow_pickle=True)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.dtype(">i4")])
def test_cellpose(tmp_path: Path, dtype: Any) -> None:
    expected = numbered(DISK, RING)
    for masks in (expected.astype(dtype), np.asfortranarray(expected.astype(dtype))):
        found = read_drawing(cellpose(tmp_path / "a_seg.npy", masks)).labels
        assert found is not None
        assert np.array_equal(found, expected)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("was-run", "w"))


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_file_of_cellpose_is_refused_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    (tmp_path / "a_seg.npy").write_bytes(head.getvalue() + pickle.dumps({"masks": Hostile()}, protocol))
    with pytest.raises(
        FileError, match=r"a pickle that is not a file of Cellpose: it asks for (_?io|builtins|__builtin__)"
    ):
        read_drawings(tmp_path / "a_seg.npy")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch was-run'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0adtype.type.\x93.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo that would take gigabytes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00x.",  # bytes that are not there
        b"(" * 100_000,
    ],
)
def test_pickles_that_ask_for_more_end_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    (tmp_path / "a_seg.npy").write_bytes(head.getvalue() + program)
    with pytest.raises(FileError):
        read_drawings(tmp_path / "a_seg.npy")
    assert not (tmp_path / "was-run").exists()


def test_a_pickle_takes_no_memory_for_bytes_that_are_not_there(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    program = b"\x80\x05\x96" + (1 << 28).to_bytes(8, "little") + b"."
    (tmp_path / "a_seg.npy").write_bytes(head.getvalue() + program)
    tracemalloc.start()
    with pytest.raises(FileError, match="damaged or cut off"):
        read_drawings(tmp_path / "a_seg.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_a_pickle_changes_nothing_for_the_next_one(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    program = b"cnumpy.core.numeric\n_frombuffer\n(N}(X\x0c\0\0\0__defaults__)utb."
    (tmp_path / "a_seg.npy").write_bytes(head.getvalue() + program)
    with pytest.raises(FileError, match="it sets attributes of something that is not an array"):
        read_drawings(tmp_path / "a_seg.npy")


# All formats.


def one_of_each(folder: Path) -> dict[str, Path]:
    return {
        "ImageJ": roi_set(folder / "RoiSet.zip", traced(DISK, "a"), traced(RING, "b")),
        "GeoJSON": write_json(folder / "a.geojson", FEATURES),
        "COCO": coco(folder / "instances.json"),
        "labelme": labelme(folder / "a.json", shape("polygon", FREE.tolist())),
        "CVAT": cvat(folder / "a.xml", '<box label="c" xtl="4" ytl="22" xbr="12" ybr="34"/>'),
        "napari": napari(folder / "a.csv", ("polygon", FREE.tolist())),
        "Cellpose": cellpose(folder / "a_seg.npy", numbered(DISK)),
    }


def test_files_are_recognized_by_what_they_hold(tmp_path: Path) -> None:
    for name, path in one_of_each(tmp_path).items():
        found = drawn_format(path)
        assert found is not None
        assert found.name == name
    for name, content in (("x.json", '{"a": 1}'), ("x.csv", "a,b\n1,2\n"), ("x.xml", "<svg/>"), ("x.zip", "PK")):
        (tmp_path / name).write_text(content)
        assert drawn_format(tmp_path / name) is None


@pytest.mark.parametrize("name", ["COCO", "labelme", "CVAT"])
def test_a_large_file_is_recognized_wherever_its_words_stand(tmp_path: Path, name: str) -> None:
    path, far = one_of_each(tmp_path)[name], 100_000 * "A"
    if name == "CVAT":
        path.write_text(path.read_text().replace("<image", f"<meta>{far}</meta><image", 1))
    else:
        document = json.loads(path.read_text())
        document |= {"imageData": far} if name == "labelme" else {}
        for one in document.get("annotations", ()):
            one["description"] = far
        path.write_text(json.dumps(document, sort_keys=True) + " " * 100_000)
    found = drawn_format(path)
    assert found is not None
    assert found.name == name
    assert len(read_drawings(path)[0].objects) > 0


@pytest.mark.parametrize(
    "late",
    [
        {"images": ["a.png"], "annotations": "by hand"},
        {"images": 3, "file_name": "a.png"},
        {"shapes": [1, 2], "imagePath": "a"},
        {"tasks": [{"annotations": [{"geometry": {"coordinates": [[1, 2]]}}]}]},
    ],
)
def test_a_large_file_that_uses_the_words_otherwise_is_not_recognized(tmp_path: Path, late: dict[str, Any]) -> None:
    assert drawn_format(write_json(tmp_path / "notes.json", {"log": 70_000 * "x", **late})) is None


def test_a_large_file_is_recognized_where_blocks_cut_its_words(tmp_path: Path) -> None:
    document = json.loads(labelme(tmp_path / "a.json", shape("polygon", FREE.tolist())).read_text())
    for length in range(2**16 - 60, 2**16 + 10):
        found = drawn_format(write_json(tmp_path / f"{length}.json", {"a": length * "A", **document}))
        assert found is not None
        assert found.name == "labelme"


def test_a_large_file_of_another_program_is_not_recognized_by_late_words(tmp_path: Path) -> None:
    region = {"shape_attributes": {"name": "polygon"}}
    document = {"a.png1": {"regions": [region], "p": 70_000 * "x"}, "images": [{}], "annotations": [{}]}
    assert drawn_format(write_json(tmp_path / "via.json", document)) is None


def test_a_file_is_looked_at_again_after_it_was_written_again(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert drawn_format(tmp_path / "a.json") is None
    assert drawn_format(coco(tmp_path / "a.json")) is not None


def listing(path: Path, *images: str) -> Path:
    """Write COCO that lists images, each with an object of another size."""
    listed = [{"id": f"  {n}", "file_name": one, "height": 40, "width": 50} for n, one in enumerate(images)]
    drawn = [
        {"id": n, "image_id": f"  {n}", "segmentation": [[2, 2, 4 + n, 2, 4 + n, 5, 2, 5]]} for n in range(len(images))
    ]
    return write_json(path, {"images": listed, "annotations": drawn})


@pytest.mark.parametrize(
    ("images", "keys"),
    [
        (("a.png", "a.tif", "b.tif"), ["a.png", "a.tif", "b"]),
        (("p1/a.png", "p2/a.png"), ["p1:a", "p2:a"]),
        (("a.png", "a.png"), ["a.png", "a.png (2)"]),
        (("a  b.png", "a b.png", "a\nb.png"), ["a  b", "a b", "a_b"]),
        (("x" + "y" * 120 + ".png", "z" + "y" * 120 + ".png"), ["y" * 100, "y" * 96 + " (2)"]),
        (("ü" * 90 + ".png",), ["ü" * 50]),
    ],
)
def test_each_image_of_a_file_has_a_place_of_its_own(tmp_path: Path, images: tuple[str, ...], keys: list[str]) -> None:
    path = listing(tmp_path / "cells.json", *images)
    drawings = read_drawings(path)
    assert [one.key for one in drawings] == keys
    assert [one.image for one in drawings] == list(images)
    for drawing in drawings:
        assert read_drawing(place_of(path, drawing)) is drawing


def test_keys_of_thousands_of_equal_names_are_made_in_one_turn(tmp_path: Path) -> None:
    drawings = read_drawings(listing(tmp_path / "cells.json", *["a.png"] * 3000))
    begin = time.process_time()
    keys = list(_keys(drawings))
    assert time.process_time() - begin < 0.5
    assert keys == ["a.png", *(f"a.png ({n})" for n in range(2, 3001))]


@pytest.mark.parametrize("name", ["a  b.png", "a\nb.png", "x" * 230 + ".png"])
def test_names_of_images_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    written = [
        listing(tmp_path / "a.json", name),
        labelme(tmp_path / "b.json", shape("polygon", FREE.tolist()), imagePath=name),
        cvat(tmp_path / "c.xml", ""),
    ]
    in_xml = written[2].read_text()
    stated = in_xml.partition('name="')[2].partition('"')[0]
    written[2].write_text(in_xml.replace(f'name="{stated}"', 'name="' + name.replace("\n", "&#10;") + '"', 1))
    assert [read_drawings(path)[0].image for path in written] == [name] * 3


@pytest.mark.parametrize("name", ["ImageJ", "GeoJSON", "COCO", "labelme", "CVAT", "napari", "Cellpose"])
def test_damaged_files_end_in_a_message(tmp_path: Path, name: str) -> None:
    path = one_of_each(tmp_path)[name]
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    kind = drawn_format(path)
    assert kind is not None
    for turn in range(120):
        data = bytearray(whole[: rng.integers(1, len(whole))] if turn % 2 else whole)
        for at in rng.integers(0, len(data), 1 + turn % 5):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            for drawing in kind.read(path):
                if drawing.labels is None:
                    fill(drawing, path, (1, 1), SIDES, dict.fromkeys((one.label for one in drawing.objects), 1))
        except FileError as error:
            assert error.given and error.todo


def test_a_zip_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", b"Iout" + bytes(200))
    data = bytearray((tmp_path / "bomb.zip").read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "bomb.zip").write_bytes(data)
    with pytest.raises(FileError, match="claims 2147483648 bytes but holds"):
        read_drawings(tmp_path / "bomb.zip")


def test_a_zip_whose_packed_bytes_are_wrong_is_refused(tmp_path: Path) -> None:
    for number, packing in enumerate((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w", packing) as archive:
            archive.writestr("a.roi", b"Iout" + bytes(range(200)))
        data = bytearray(path.read_bytes())
        at = data.index(b"a.roi") + len("a.roi") + 9  # behind the properties of LZMA
        data[at : at + 30] = bytes(byte ^ 255 for byte in data[at : at + 30])
        path.write_bytes(data)
        with pytest.raises(FileError, match="damaged or cut off"):
            read_drawings(path)


def test_names_of_imagej_hold_no_control_characters(tmp_path: Path) -> None:
    roi = roifile.ImagejRoi.frompoints(np.array(SQUARE, np.float32), name="a\x1b[31m\nb")
    roi.tofile(tmp_path / "a.roi")
    assert [one.name for one in read_drawing(tmp_path / "a.roi").objects] == ["a[31m b"]
