"""Objects that people drew in other programs are found beside their images, and read as masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image

import septum
from septum.check.check import Report, check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.convert.settings import ConvertSettings
from septum.convert.to_labels import Converted, NotConverted, write_labels
from septum.errors import DataError, FileError
from septum.evaluation.evaluate import evaluate
from septum.evaluation.results import EvaluateSettings
from septum.io.files import read_image
from septum.pairing.find import find_pairs

SIDES = (48, 56)
BOXES = [(3, 4, 12, 11), (20, 5, 31, 15), (9, 24, 22, 37), (36, 28, 49, 40)]  # left, top, right, bottom


def boxes(seed: int) -> list[tuple[int, int, int, int]]:
    return [(left + seed, top, right + seed, bottom) for left, top, right, bottom in BOXES]


def ids(seed: int) -> np.ndarray:
    found = np.zeros(SIDES, np.uint16)
    for number, (left, top, right, bottom) in enumerate(boxes(seed), start=1):
        found[top:bottom, left:right] = number
    return found


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = 60 + 120 * (ids(seed) > 0) + np.random.default_rng(seed).normal(0, 4, SIDES)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values.astype(np.uint8))
    else:
        Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def corners(box: Sequence[int]) -> list[list[int]]:
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def labels_of(number: int) -> str:
    return "ab"[number % 2]


def labelme(path: Path, seed: int) -> None:
    shapes = [
        {"label": labels_of(n), "shape_type": "polygon", "points": corners(box), "group_id": None}
        for n, box in enumerate(boxes(seed))
    ]
    path.write_text(json.dumps({"version": "5.0.0", "shapes": shapes, "imagePath": f"{path.stem}.png"}))


def qupath(path: Path, seed: int) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*corners(box), corners(box)[0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": labels_of(n)}},
        }
        for n, box in enumerate(boxes(seed))
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def imagej(path: Path, seed: int, position: int = 0) -> None:
    rois = [roifile.ImagejRoi.frompoints(np.array(corners(box)), name=f"{n:04d}") for n, box in enumerate(boxes(seed))]
    for roi in rois:
        roi.position = position
    roifile.roiwrite(path, rois, mode="w" if path.suffix == ".zip" else None)


def napari(path: Path, seed: int) -> None:
    lines = ["index,shape-type,vertex-index,axis-0,axis-1"]
    for index, box in enumerate(boxes(seed)):
        lines += [f"{index},polygon,{n},{y - 0.5},{x - 0.5}" for n, (x, y) in enumerate(corners(box))]
    path.write_text("\n".join(lines))


def cellpose(path: Path, seed: int) -> None:
    np.save(path, {"masks": ids(seed), "filename": "x.png"}, allow_pickle=True)  # type: ignore[arg-type]


def coco(path: Path, names: Sequence[str]) -> None:
    images = [{"id": n, "file_name": name, "height": SIDES[0], "width": SIDES[1]} for n, name in enumerate(names)]
    annotations = [
        {"id": 10 * n + k, "image_id": n, "category_id": k % 2, "segmentation": [np.ravel(corners(box)).tolist()]}
        for n in range(len(names))
        for k, box in enumerate(boxes(n))
    ]
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))


def cvat(path: Path, names: Sequence[str]) -> None:
    images = []
    for n, name in enumerate(names):
        shapes = "".join(
            f'<polygon label="{labels_of(k)}" points="{";".join(f"{x},{y}" for x, y in corners(box))}"/>'
            for k, box in enumerate(boxes(n))
        )
        images.append(f'<image id="{n}" name="{name}" width="{SIDES[1]}" height="{SIDES[0]}">{shapes}</image>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<?xml version='1.0'?><annotations>{''.join(images)}</annotations>")


ONE_EACH: dict[str, tuple[Callable[[Path, int], None], str]] = {
    "labelme": (labelme, "p{}.json"),
    "QuPath": (qupath, "p{}.geojson"),
    "QuPath, full name": (qupath, "p{}.png.geojson"),
    "ImageJ": (imagej, "p{}.zip"),
    "ImageJ, with a word": (imagej, "p{}_RoiSet.zip"),
    "napari": (napari, "p{}.csv"),
    "Cellpose": (cellpose, "p{}_seg.npy"),
}
NAMES = ["p0.png", "p1.png", "p2.png"]


def read_as_ids(report: Report) -> bool:
    samples = list(load_samples(report))
    assert len(samples) == 3
    return all(np.array_equal(sample.mask, ids(n)) for n, sample in enumerate(samples))


@pytest.mark.parametrize("program", ONE_EACH)
@pytest.mark.parametrize("layout", ["beside", "annotations", "two folders", "wells"])
def test_a_file_for_each_image(tmp_path: Path, program: str, layout: str) -> None:
    draw, name = ONE_EACH[program]
    for n in range(3):
        well = f"w{n}/" if layout == "wells" else ""
        places = {"beside": ("", ""), "two folders": ("photos/", "drawn/")}
        images, drawn = places.get(layout, ("images/", "annotations/"))
        photo(tmp_path / f"{images}{well}p{n}.png", n)
        (tmp_path / f"{drawn}{well}").mkdir(parents=True, exist_ok=True)
        draw(tmp_path / f"{drawn}{well}{name.format(n)}", n)
    data = [tmp_path / "photos", tmp_path / "drawn"] if layout == "two folders" else [tmp_path]
    report = check(data)
    assert {issue.code for issue in report.issues} <= {"drawn", "drawn-classes"}
    assert report.lines()[0] == "3 pairs (images and drawn objects)"
    assert read_as_ids(report)


@pytest.mark.parametrize("write", [coco, cvat])
@pytest.mark.parametrize(
    "place", ["instances{}", "annotations/instances_default{}", "../elsewhere/all{}"], ids=["beside", "folder", "named"]
)
def test_a_file_for_all_images(tmp_path: Path, write: Callable[[Path, Sequence[str]], None], place: str) -> None:
    for n in range(3):
        photo(tmp_path / f"data/images/p{n}.png", n)
    path = tmp_path / "data" / place.format(".json" if write is coco else ".xml")
    write(path, NAMES)
    report = check([tmp_path / "data/images", path] if "elsewhere" in place else [tmp_path / "data"])
    assert {issue.code for issue in report.issues} == {"drawn", "drawn-classes"}
    assert read_as_ids(report)


def test_images_that_a_file_lists_are_found_by_path_where_names_are_equal(tmp_path: Path) -> None:
    names = ["p0/image.png", "p1/image.png", "p2/image.png"]
    for n, name in enumerate(names):
        photo(tmp_path / f"images/{name}", n)
    coco(tmp_path / "annotations/all.json", names)
    assert read_as_ids(check([tmp_path]))


def test_an_image_and_its_selections(tmp_path: Path) -> None:
    photo(tmp_path / "cells.png", 0)
    imagej(tmp_path / "RoiSet.zip", 0)
    for data in ([tmp_path], [tmp_path / "cells.png", tmp_path / "RoiSet.zip"]):
        (pair,) = find_pairs(data).pairs
        assert (pair.image.name, pair.mask and pair.mask.name) == ("cells.png", "RoiSet.zip")


def test_what_fits_nothing_is_counted_and_named(tmp_path: Path) -> None:
    for n in range(4):
        photo(tmp_path / f"images/p{n}.png", n)
    coco(tmp_path / "annotations/all.json", [*NAMES, "gone.png"])
    report = check([tmp_path])
    found = {issue.code: [path.name for path in issue.files] for issue in report.issues}
    assert found["unpaired-image"] == ["p3.png"]
    assert found["unpaired-mask"] == ["all.json#gone"]


def test_mask_images_come_first_and_drawn_objects_fill_what_is_missing(tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / f"p{n}.png", n)
    for n in range(2):
        Image.fromarray(ids(n)).save(tmp_path / f"p{n}_mask.png")
    for n in range(1, 3):
        labelme(tmp_path / f"p{n}.json", n)
    report = check([tmp_path])
    assert [pair.mask.name for pair in report.pairs] == ["p0_mask.png", "p1_mask.png", "p2.json"]
    assert read_as_ids(report)
    spare = next(issue for issue in report.issues if issue.code == "spare-drawn")
    named = f"{tmp_path.name}/p1.json"
    assert spare.line() == f"1 file of drawn objects for an image that has a mask: {named}; the mask is used"


def test_images_of_one_name_in_two_folders_are_two_pairs(tmp_path: Path) -> None:
    for part in ("saved", "drawn"):
        photo(tmp_path / part / "p0.png", 0)
    Image.fromarray(ids(0)).save(tmp_path / "saved/p0_mask.png")
    cellpose(tmp_path / "drawn/p0_seg.npy", 0)
    assert [pair.name for pair in find_pairs([tmp_path]).pairs] == ["drawn_p0", "p0"]


def test_two_files_for_an_image_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "p0.png", 0)
    labelme(tmp_path / "p0.json", 0)
    imagej(tmp_path / "p0.zip", 0)
    with pytest.raises(DataError, match=r"two files hold objects of the image p0.png: p0.json and p0.zip"):
        check([tmp_path])


def test_a_name_that_fits_no_image_says_what_the_files_are(tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / f"p{n}.png", n)
    imagej(tmp_path / "RoiSet.zip", 0)
    imagej(tmp_path / "other.zip", 1)
    with pytest.raises(DataError) as caught:
        check([tmp_path])
    assert "drawn objects of ImageJ fit no image by name: other.zip, RoiSet.zip" in str(caught.value)
    assert "name each file after its image" in str(caught.value)


def test_an_object_outside_leaves_the_image_out_by_name(tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / f"p{n}.png", n)
        labelme(tmp_path / f"p{n}.json", n if n < 2 else 500)
    issue = next(issue for issue in check([tmp_path]).issues if issue.code == "unreadable")
    assert issue.files[0].name == "p2.json"
    assert issue.details[0].startswith("shape 1 (a) lies outside of the image (x 503 to 512, y 4 to 11")


def test_classes_of_drawn_objects(tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / f"images/p{n}.png", n)
    coco(tmp_path / "annotations/all.json", NAMES)
    report = check([tmp_path], kind="classes")
    assert "drawn objects are read as the classes 1 a, 2 b" in {issue.message for issue in report.issues}
    for n, sample in enumerate(load_samples(report)):
        assert np.array_equal(sample.mask, np.array([0, 1, 2, 1, 2])[ids(n)])


def test_selections_on_pages_leave_the_other_pages_out(tmp_path: Path) -> None:
    stack = np.stack([np.asarray(Image.open(photo(tmp_path / "x/p.png", n))) for n in range(5)])
    (tmp_path / "data").mkdir()
    tifffile.imwrite(tmp_path / "data/stack.tif", stack, photometric="minisblack")
    rois = []
    for page in (1, 3):
        for n, box in enumerate(boxes(page)):
            roi = roifile.ImagejRoi.frompoints(np.array(corners(box)), name=f"{page}-{n}")
            roi.position = page + 1
            rois.append(roi)
    roifile.roiwrite(tmp_path / "data/stack.zip", rois)
    report = check([tmp_path / "data"])
    assert {issue.code for issue in report.issues} >= {"drawn", "page-unannotated"}
    samples = list(load_samples(report))
    assert [sample.name for sample in samples] == ["stack_t001", "stack_t003"]
    assert all(np.array_equal(s.mask > 0, ids(n) > 0) for s, n in zip(samples, (1, 3), strict=True))


def test_the_copy_holds_label_images(tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / f"data/images/p{n}.png", n)
    coco(tmp_path / "data/annotations/all.json", NAMES)
    list(fix(check([tmp_path / "data"]), tmp_path / "copy"))
    for n in range(3):
        assert np.array_equal(read_image(tmp_path / f"copy/masks/p{n}.tif", labels=True).array[0], ids(n))


@pytest.mark.parametrize("kind", ["objects", "classes"])
def test_convert_writes_label_images(tmp_path: Path, kind: str) -> None:
    for n in range(3):
        photo(tmp_path / f"data/images/p{n}.png", n)
    coco(tmp_path / "data/annotations/all.json", [*NAMES, "gone.png"])
    settings = ConvertSettings(data=(tmp_path / "data",), out=tmp_path / "out", kind=kind)  # type: ignore[arg-type]
    events = list(write_labels(settings))
    assert [e.values for e in events if isinstance(e, Converted)] == [4 if kind == "objects" else 2] * 3
    assert [e.source.name for e in events if isinstance(e, NotConverted)] == ["all.json#gone"]
    for n in range(3):
        expected = ids(n) if kind == "objects" else np.array([0, 1, 2, 1, 2])[ids(n)]
        assert np.array_equal(read_image(tmp_path / f"out/p{n}.png", labels=True).array[0], expected)


def test_files_that_state_sizes_are_converted_without_images(tmp_path: Path) -> None:
    coco(tmp_path / "all.json", ["set/p0.png", "set/p1.png"])
    cellpose(tmp_path / "p2_seg.npy", 2)
    qupath(tmp_path / "p3.geojson", 3)
    data = tuple(tmp_path / name for name in ("all.json", "p2_seg.npy", "p3.geojson"))
    events = list(write_labels(ConvertSettings(data=data, out=tmp_path / "out")))
    written = [e.written for e in events if isinstance(e, Converted)]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == ["set/p0.png", "set/p1.png", "p2.png"]
    (failed,) = (e for e in events if isinstance(e, NotConverted))
    assert failed.reason.startswith(f"{tmp_path / 'p3.geojson'}: the file does not state the size of its image")
    for n in range(3):
        assert np.array_equal(read_image(written[n], labels=True).array[0], ids(n))


def test_predictions_are_scored_against_drawn_objects(tmp_path: Path) -> None:
    (tmp_path / "predicted").mkdir()
    (tmp_path / "truth").mkdir()
    for n in range(3):
        Image.fromarray(ids(n)).save(tmp_path / f"predicted/p{n}.png")
        labelme(tmp_path / f"truth/p{n}.json", n)
    coco(tmp_path / "all.json", NAMES)
    for truth in (tmp_path / "truth", tmp_path / "all.json"):
        found = evaluate(EvaluateSettings(predicted=(tmp_path / "predicted",), truth=truth))
        scores = {score.name: score.value for score in found.results[0].scores}
        assert scores["F1@0.50"] == 1.0
        assert found.results[0].images[2].name == "p2"
    one = EvaluateSettings(predicted=(tmp_path / "predicted/p1.png",), truth=tmp_path / "truth/p1.json")
    assert evaluate(one).results[0].scores[0].value == 1.0


@pytest.mark.parametrize("first", [True, False])
def test_an_array_with_a_page_for_each_object(tmp_path: Path, first: bool) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for n in range(3):
        photo(tmp_path / f"images/p{n}.png", n)
        pages = np.stack([ids(n) == k for k in range(1, 5)], axis=0 if first else -1)
        pages = np.concatenate([pages, np.zeros_like(pages[:1] if first else pages[..., :1])], axis=0 if first else -1)
        np.save(tmp_path / f"masks/p{n}.npy", pages.astype(np.uint8))
    assert read_as_ids(check([tmp_path], kind="objects"))


def test_training_on_drawn_objects(tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / f"data/p{n}.png", n)
        labelme(tmp_path / f"data/p{n}.json", n)
    report = septum.train(tmp_path / "data", out=tmp_path / "run", steps=2, width=2, depth=1, tile=32, verbose=False)
    assert (tmp_path / "run/model.safetensors").exists()
    assert report is not None


def test_a_damaged_file_for_all_images_ends_in_a_message(tmp_path: Path) -> None:
    photo(tmp_path / "images/p0.png", 0)
    coco(tmp_path / "annotations/all.json", ["p0.png"])
    path = tmp_path / "annotations/all.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(FileError, match=r"all.json: the COCO file is damaged or cut off"):
        check([tmp_path])
