"""Results for other programs along with a prediction, and from label images that exist."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from septum.arrays.instances import ObjectSettings
from septum.arrays.learned import LearnedDecisions, LogisticScore
from septum.arrays.normalize import NormalizeSettings
from septum.cli.main import main
from septum.convert.settings import ConvertSettings
from septum.errors import UsageError
from septum.events import Event
from septum.export.jobs import NotExported, export_labels, predict_and_export
from septum.export.results import Exported
from septum.export.settings import ConvertAndExportSettings, Form, PredictAndExportSettings, parse_forms, parse_targets
from septum.io.files import read_image, write_image
from septum.io.formats import is_image_file
from septum.io.zarr import read_node
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.events import ImageDone, ImageFailed
from septum.prediction.frames import FoundScale
from septum.prediction.in_memory import predict_objects
from septum.prediction.model import ModelHeader, open_model, save_model
from septum.prediction.settings import PredictSettings

ALL: tuple[Form, ...] = ("tables", "geojson", "rois", "coco", "overlay")


OBJECTS: dict[str, Any] = {"threshold": 0.4, "seed_level": 0.5, "min_size_px": 3}


def save(path: Path, objects: ObjectSettings) -> Path:
    """Write a small network that was not trained, and finds something in noise."""
    torch.manual_seed(0)
    settings = UNetSettings(width=2, depths=(1, 1))
    plain: dict[str, Any] = {"network": settings, "normalization": NormalizeSettings(), "class_values": (0, 1)}
    save_model(path, UNet(settings), ModelHeader(**plain, kind="objects", objects=objects))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors", ObjectSettings(**OBJECTS))


def spots(seed: int = 0, sides: tuple[int, int] = (60, 50)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, sides).astype(np.uint8)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(model: Path, images: Sequence[Path], out: Path, forms: Sequence[Form], **more: Any) -> list[Event]:
    more = {"scale": 1, "device": "cpu", **more}
    asked = PredictSettings(model=model, inputs=tuple(map(str, images)), out=out, **more)
    return list(predict_and_export(PredictAndExportSettings(prediction=asked, also=tuple(forms))))


def convert(labels: Path, out: Path, forms: Sequence[Form], *, classes: bool = False, **more: Any) -> list[Event]:
    asked = ConvertSettings(data=(labels,), out=out, kind="classes" if classes else None)
    return list(export_labels(ConvertAndExportSettings(conversion=asked, to=tuple(forms), **more)))


def test_files_stand_beside_each_result_and_tables_hold_all_images(model: Path, tmp_path: Path) -> None:
    images = [tmp_path / "a.png", tmp_path / "b.tif"]
    for number, path in enumerate(images):
        write_image(path, spots(number), axes="YX", pixel_size_um={"Y": 0.5, "X": 0.5})
    out = tmp_path / "out"
    events = run(model, images, out, ALL)
    named = {path.name for path in out.iterdir()}
    assert named - {"objects.parquet"} == {
        *("a.png", "a.geojson", "a.rois.zip", "a.overlay.png"),
        *("b.tif", "b.geojson", "b.rois.zip", "b.overlay.png"),
        *("objects.csv", "objects.coco.json"),
    }
    written = {path.name for event in events if isinstance(event, Exported) for path in event.written}
    assert written == named - {"a.png", "b.tif"}
    rows = rows_of(out / "objects.csv")
    for path in images:
        labels = read_image(out / path.name, labels=True).array[0]
        own = [row for row in rows if row["image"] == path.name]
        assert [int(row["label"]) for row in own] == sorted(set(labels[labels > 0].tolist()))
        for row in own:
            inside = labels == int(row["label"])
            assert int(row["area_px"]) == inside.sum()
            assert float(row["mean_0"]) == pytest.approx(spots(images.index(path))[inside].mean())
        assert len(json.loads((out / f"{path.stem}.geojson").read_text())["features"]) == len(own) > 3
    assert [row["area_um2"] == "" for row in rows if row["image"] == "b.tif"].count(True) == 0
    assert len(json.loads((out / "objects.coco.json").read_text())["annotations"]) == len(rows)


def test_pictures_of_results_are_no_images(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", spots(), axes="YX")
    run(model, [tmp_path / "a.png"], tmp_path / "out", ["overlay"])
    assert [path.name for path in (tmp_path / "out").iterdir() if is_image_file(path)] == ["a.png"]


def test_a_prediction_in_blocks_gives_the_same_files(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", spots(3, (90, 70)), axes="YX")
    for name, blocks in (("whole", False), ("blocks", True)):
        run(model, [tmp_path / "a.tif"], tmp_path / name, ALL, in_blocks=blocks, tile=32)
    for name in ("objects.csv", "a.geojson", "a.rois.zip", "a.overlay.png", "objects.coco.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes(), name


@pytest.mark.parametrize("scale", [1, 0.5])
def test_objects_have_the_confidence_that_the_model_states(tmp_path: Path, scale: float) -> None:
    score = LogisticScore(properties=("mean",), mean=(0.5,), deviation=(0.1,), weights=(1.5,), bias=0.3)
    learned = ObjectSettings(**OBJECTS, learned=LearnedDecisions(size_px=20, confidence=score))
    model = save(tmp_path / "model.safetensors", learned)
    write_image(tmp_path / "a.tif", spots(3, (80, 70)), axes="YX")
    image = read_image(tmp_path / "a.tif")
    found = FoundScale.at((scale,) * 2, open_model(model, "cpu"))
    labels, known = predict_objects(open_model(model, "cpu"), image, found=found)
    assert known is not None
    for name, blocks in (("whole", False), ("blocks", True)):
        out = tmp_path / name
        run(model, [tmp_path / "a.tif"], out, ("tables", "geojson"), in_blocks=blocks, tile=32, scale=scale)
        rows = rows_of(out / "objects.csv")
        assert [int(row["label"]) for row in rows] == sorted(set(labels[labels > 0].tolist()))
        for row in rows:
            assert float(row["confidence"]) == pytest.approx(float(known[0][int(row["label"]) - 1]), abs=1e-4)
        for feature in json.loads((out / "a.geojson").read_text())["features"]:
            stated = feature["properties"]["measurements"]["confidence"]
            assert stated == pytest.approx(known[0][int(feature["properties"]["name"]) - 1], abs=1e-4)


def test_each_slice_of_a_stack_has_the_confidence_of_its_own_objects(tmp_path: Path) -> None:
    score = LogisticScore(properties=("mean",), mean=(0.5,), deviation=(0.1,), weights=(1.5,), bias=0.3)
    learned = ObjectSettings(**OBJECTS, learned=LearnedDecisions(size_px=20, confidence=score))
    model = save(tmp_path / "model.safetensors", learned)
    stack = np.stack([np.stack([spots(3 * t + z, (40, 40)) for z in range(3)]) for t in range(2)])
    write_image(tmp_path / "a.tif", stack, axes="TZYX")
    run(model, [tmp_path / "a.tif"], tmp_path / "out", ("tables", "geojson"))
    rows = rows_of(tmp_path / "out" / "objects.csv")
    table = {(int(row["t"]), int(row["z"]), int(row["label"])): float(row["confidence"]) for row in rows}
    assert len({confidence for (_, _, label), confidence in table.items() if label == 1}) == 6
    found = {}
    for feature in json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]:
        plane = feature["geometry"].get("plane", {"t": 0, "z": 0})
        place = plane["t"], plane["z"], int(feature["properties"]["name"])
        found[place] = feature["properties"]["measurements"]["confidence"]
    assert found == pytest.approx(table, abs=1e-4)


def test_stacks_have_time_points_and_slices(model: Path, tmp_path: Path) -> None:
    stack = np.stack([np.stack([spots(3 * t + z, (40, 40)) for z in range(3)]) for t in range(2)])
    write_image(tmp_path / "a.tif", stack, axes="TZYX")
    run(model, [tmp_path / "a.tif"], tmp_path / "out", ALL)
    labels = read_image(tmp_path / "out" / "a.tif", labels=True).array[:, 0]
    rows = rows_of(tmp_path / "out" / "objects.csv")
    for t in range(2):
        for z in range(3):
            found = [int(row["label"]) for row in rows if (row["t"], row["z"]) == (str(t), str(z))]
            assert found == sorted(set(labels[t, z][labels[t, z] > 0].tolist()))


def test_a_result_that_cannot_be_exported_fails_and_the_others_go_on(model: Path, tmp_path: Path) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png", spots(), axes="YX")
    (tmp_path / "out" / "a.geojson").mkdir(parents=True)
    events = run(model, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", ["geojson", "tables"])
    assert [event.path.name for event in events if isinstance(event, ImageFailed)] == ["a.png"]
    assert len([event for event in events if isinstance(event, ImageDone)]) == 2
    assert (tmp_path / "out" / "b.geojson").is_file()
    assert {row["image"] for row in rows_of(tmp_path / "out" / "objects.csv")} == {"b.png"}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_properties_are_written_into_a_label_image(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.ome.zarr", spots(), axes="YX", pixel_size_um={"Y": 0.5, "X": 0.5})
    run(model, [tmp_path / "a.ome.zarr"], tmp_path / "out", ["properties"])
    asked = PredictSettings(model=model, inputs=(str(tmp_path / "a.ome.zarr"),), label_image="cells", scale=1)
    list(predict_and_export(PredictAndExportSettings(prediction=asked, also=("properties",))))
    for place in (tmp_path / "out" / "a.ome.zarr", tmp_path / "a.ome.zarr" / "labels" / "cells"):
        node = read_node(place)
        assert node is not None
        labels = read_image(place, labels=True).array
        stated = node.attributes["ome"]["image-label"]["properties"]
        assert [one["label-value"] for one in stated] == sorted(set(labels[labels > 0].tolist()))
        for one in stated:
            assert one["area_px"] == (labels == one["label-value"]).sum()
            assert one["area_um2"] == one["area_px"] / 4
            assert one["class"] == "object"


def test_classes_of_a_label_image_have_colors(tmp_path: Path) -> None:
    write_image(tmp_path / "a.ome.zarr", np.tri(9, dtype=np.uint8) * 2, axes="YX", labels=True)
    convert(tmp_path / "a.ome.zarr", tmp_path / "out", ("properties",), classes=True)
    node = read_node(tmp_path / "a.ome.zarr")
    assert node is not None
    notes = node.attributes["ome"]["image-label"]
    assert notes["properties"] == [{"label-value": 2, "class": 2, "area_px": 45}]
    assert [(one["label-value"], len(one["rgba"])) for one in notes["colors"]] == [(2, 4)]


def test_other_files_have_no_properties_and_that_is_said(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", spots(), axes="YX")
    events = run(model, [tmp_path / "a.png"], tmp_path / "out", ["properties"])
    (note,) = [note for event in events if isinstance(event, Exported) for note in event.notes]
    assert "not an OME-Zarr label image" in note


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"output": "probabilities"}, "--output probabilities"),
        ({"shard": (1, 2)}, "--shard"),
        ({"out": None, "label_image": "cells"}, "septum convert"),
    ],
)
def test_what_does_not_go_together_is_refused(more: dict[str, Any], message: str) -> None:
    asked = {"model": Path("m"), "inputs": ("a.png",), "out": Path("out"), **more}
    with pytest.raises(UsageError, match=message):
        PredictAndExportSettings(prediction=PredictSettings(**asked), also=("tables",))


def test_forms_are_words_and_an_unknown_one_is_refused() -> None:
    assert parse_forms("geojson, tables,geojson") == ("tables", "geojson")
    with pytest.raises(ValueError, match="tables, geojson, rois, coco, overlay, properties"):
        parse_forms("tables,excel")


def test_label_images_that_exist_are_exported_with_their_images(tmp_path: Path) -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[3:10, 5:20], labels[20:29, 0:9] = 4, 7
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    for name in "ab":
        write_image(tmp_path / "labels" / f"{name}_masks.png", labels, axes="YX")
        write_image(tmp_path / "images" / f"{name}.tif", spots(1, (30, 40)), axes="YX")
        write_image(tmp_path / "labels" / f"{name}_p.npy", np.full((30, 40), 0.25, np.float32), axes="YX")
    (tmp_path / "maps").mkdir()
    for name in "ab":
        (tmp_path / "labels" / f"{name}_p.npy").rename(tmp_path / "maps" / f"{name}.npy")
    places = {"images": tmp_path / "images", "probabilities": tmp_path / "maps"}
    events = convert(tmp_path / "labels", tmp_path / "out", ALL, **places)
    assert all(isinstance(event, Exported) for event in events)
    rows = rows_of(tmp_path / "out" / "objects.csv")
    assert [(row["image"], row["label"]) for row in rows] == [
        ("a.tif", "4"),
        ("a.tif", "7"),
        ("b.tif", "4"),
        ("b.tif", "7"),
    ]
    assert {row["mean_probability"] for row in rows} == {"0.25"}
    assert [row["touches_border"] for row in rows] == ["0", "1"] * 2
    assert (tmp_path / "out" / "a_masks.overlay.png").is_file()


def test_a_label_image_that_does_not_fit_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    write_image(tmp_path / "labels" / "a.png", np.ones((4, 4), np.uint8), axes="YX")
    write_image(tmp_path / "labels" / "b.tif", np.ones((4, 4), np.float32), axes="YX")
    events = convert(tmp_path / "labels", tmp_path / "out", ("tables", "geojson"))
    (failed,) = [event for event in events if isinstance(event, NotExported)]
    assert failed.source.name == "b.tif"
    assert "whole numbers" in failed.reason
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".csv", ".geojson", ".parquet"]


def test_coco_holds_nothing_of_a_label_image_that_cannot_be_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    good = np.ones((2, 4, 4), np.uint64)
    bad = good.copy()
    bad[1] = 2**64 - 1
    for name, labels in (("a", good), ("b", bad), ("c", good)):
        write_image(tmp_path / "labels" / f"{name}.ome.zarr", labels, axes="TYX", labels=True)
    events = convert(tmp_path / "labels", tmp_path / "out", ("coco",))
    assert [event.source.name for event in events if isinstance(event, NotExported)] == ["b.ome.zarr"]
    found = json.loads((tmp_path / "out" / "objects.coco.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.ome.zarr"] * 2 + ["c.ome.zarr"] * 2
    assert [(one["id"], one["image_id"]) for one in found["annotations"]] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_coco_holds_nothing_of_a_label_image_whose_properties_cannot_be_written(tmp_path: Path) -> None:
    labels = np.zeros((8, 9), np.uint8)
    labels[2:5, 3:6] = 1
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.ome.zarr", labels, axes="YX", labels=True)
    write_image(tmp_path / "in" / "b.ome.zarr", labels, axes="YX", labels=False)
    done = convert(tmp_path / "in", tmp_path / "out", ["coco", "properties"])
    assert [one.source.name for one in done if isinstance(one, NotExported)] == ["b.ome.zarr"]
    coco = json.loads((tmp_path / "out" / "objects.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.ome.zarr"] and len(coco["annotations"]) == 1


def test_where_all_label_images_fail_an_older_file_of_all_images_stays(tmp_path: Path) -> None:
    write_image(tmp_path / "a.ome.zarr", np.full((4, 4), 2**64 - 1, np.uint64), axes="YX", labels=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "objects.coco.json").write_text("older")
    (event,) = convert(tmp_path / "a.ome.zarr", tmp_path / "out", ("coco",))
    assert isinstance(event, NotExported)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["objects.coco.json"]
    assert (tmp_path / "out" / "objects.coco.json").read_text() == "older"


def test_the_command_counts_the_files_and_names_the_image_of_a_note(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", spots(), axes="YX")
    asked = ["predict", str(model), str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--scale", "1"]
    with pytest.raises(SystemExit) as left:
        main([*asked, "--device", "cpu", "--also", "geojson,overlay,properties"])
    assert not left.value.code
    said = capsys.readouterr()
    assert "; 2 files for other programs" in said.out
    assert "warning: a.png: no properties: " in said.err


def test_the_masks_of_a_data_set_are_exported_with_their_images_and_images_are_never_labels(tmp_path: Path) -> None:
    for part, values in (("images", spots(1, (9, 9))), ("masks", np.tri(9, dtype=np.uint8))):
        (tmp_path / "cells" / part).mkdir(parents=True)
        write_image(tmp_path / "cells" / part / "a.png", values, axes="YX")
    convert(tmp_path / "cells", tmp_path / "out", ("tables",))
    (row,) = rows_of(tmp_path / "out" / "objects.csv")
    assert (row["image"], row["area_px"]) == ("a.png", "45")
    assert float(row["mean_0"]) == pytest.approx(spots(1, (9, 9))[np.tri(9) > 0].mean())


@pytest.mark.parametrize(("to", "more"), [("labels,tables", {}), ("labels", {"slices": True})])
def test_label_images_and_forms_are_two_runs(to: str, more: dict[str, Any]) -> None:
    asked = ConvertSettings(data=(Path("a"),), out=Path("out"))
    with pytest.raises(UsageError, match="some of tables"):
        ConvertAndExportSettings(conversion=asked, to=parse_targets(to), **more)


def test_an_image_that_is_missing_is_named_before_anything_is_written(tmp_path: Path) -> None:
    for name, value in (("labels/a.png", 1), ("labels/b.png", 1), ("images/a.png", 1), ("images/c.png", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.full((4, 4), value, np.uint8), axes="YX")
    with pytest.raises(UsageError, match=r"b\.png"):
        convert(tmp_path / "labels", tmp_path / "out", ("tables",), images=tmp_path / "images")
    assert not (tmp_path / "out").exists()


def flat(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((4, 4), value, np.uint8), axes="YX")


def means(out: Path) -> list[tuple[str, str]]:
    return [(row["image"], row["mean_0"]) for row in rows_of(out / "objects.csv")]


@pytest.mark.parametrize(
    ("labels", "images", "message"),
    [
        (["a.png"], ["p1/a.png", "p2/a.png"], r"2 images of this name: .*p1/a\.png, .*p2/a\.png"),
        (["a.png"], ["a.png", "a.tif"], r"2 images of this name: .*a\.png, .*a\.tif"),
        (["a.png", "a-2.png"], ["a.png"], r"labels/a-2\.png and .*labels/a\.png both fit the image .*images/a\.png"),
        (["b.png"], ["a.png"], r"b\.png: no image of this name"),
        (["p3/b.png"], ["p2/b.png"], r"p3/b\.png: no image of this name in .*images/p3"),
        (["p1/a.png", "p3/b.png"], ["p1/a.png", "p2/b.png"], r"p3/b\.png: no image of this name in .*images/p3"),
        (["p1/a.png", "p1/b.png"], ["p1/a.png", "p2/b.png"], r"p1/b\.png: no image of this name in .*images/p1"),
    ],
)
def test_a_label_image_never_takes_the_intensities_of_another_image(
    tmp_path: Path, labels: list[str], images: list[str], message: str
) -> None:
    for part, names in (("labels", labels), ("images", images)):
        for value, name in enumerate(names, start=1):
            flat(tmp_path / part / name, value)
    with pytest.raises(UsageError, match=message):
        convert(tmp_path / "labels", tmp_path / "out", ("tables",), images=tmp_path / "images")
    assert not (tmp_path / "out").exists()


def test_a_link_that_leads_nowhere_is_left_where_another_image_has_the_name(tmp_path: Path) -> None:
    flat(tmp_path / "labels" / "a.png", 1)
    flat(tmp_path / "images" / "a.png", 7)
    (tmp_path / "images" / "a.tif").symlink_to("nothing.tif")
    convert(tmp_path / "labels", tmp_path / "out", ("tables",), images=tmp_path / "images")
    assert means(tmp_path / "out") == [("a.png", "7.0")]


def test_two_files_belong_together_whatever_their_names(tmp_path: Path) -> None:
    flat(tmp_path / "b.png", 1)
    flat(tmp_path / "a.png", 7)
    convert(tmp_path / "b.png", tmp_path / "out", ("tables",), images=tmp_path / "a.png")
    assert means(tmp_path / "out") == [("a.png", "7.0")]


@pytest.mark.parametrize("images", ["cells/images", None])
def test_label_images_in_subfolders_keep_them(tmp_path: Path, images: str | None) -> None:
    for value, patient in enumerate(("p1", "p2"), start=1):
        flat(tmp_path / "cells" / "images" / patient / "a.tif", 10 * value)
        flat(tmp_path / "cells" / "masks" / patient / "a.png", value)
    data = tmp_path / "cells" / ("masks" if images else "")
    more = {"images": tmp_path / images} if images else {}
    convert(data, tmp_path / "out", ("tables", "geojson", "rois", "coco"), **more)
    assert means(tmp_path / "out") == [("p1/a.tif", "10.0"), ("p2/a.tif", "20.0")]
    assert [path.is_file() for path in (tmp_path / "out/p1/a.geojson", tmp_path / "out/p2/a.rois.zip")] == [True] * 2
    coco = json.loads((tmp_path / "out" / "objects.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["p1/a.tif", "p2/a.tif"]


@pytest.mark.parametrize("named", [["labels/p1", "labels/p2"], ["labels/p*/*.png"], ["labels/p1/a.png", "labels/p2"]])
def test_several_folders_of_label_images_take_the_images_of_the_same_subfolders(
    tmp_path: Path, named: list[str]
) -> None:
    for value, (part, name) in enumerate(product(("p1", "p2"), ("a", "b")), start=1):
        flat(tmp_path / "images" / part / f"{name}.tif", value)
    flat(tmp_path / "labels" / "p1" / "a.png", 1)
    flat(tmp_path / "labels" / "p2" / "b.png", 1)
    data = tuple(tmp_path / one for one in named)
    asked = ConvertSettings(data=data, out=tmp_path / "out")
    more: dict[str, Any] = {"to": parse_targets("tables"), "images": tmp_path / "images"}
    assert all(
        isinstance(event, Exported) for event in export_labels(ConvertAndExportSettings(conversion=asked, **more))
    )
    assert [mean for _, mean in means(tmp_path / "out")] == ["1.0", "4.0"]
    (tmp_path / "labels" / "p2").rename(tmp_path / "labels" / "p3")
    again = ConvertSettings(data=tuple(tmp_path / one.replace("p2", "p3") for one in named), out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"p3/b\.png: no image of this name in .*images/p3"):
        list(export_labels(ConvertAndExportSettings(conversion=again, **more)))


@pytest.mark.parametrize(("labels", "images"), [("labels/p1", "images"), ("labels", "images/p1")])
def test_images_lie_in_one_folder_or_label_images_in_the_named_one(tmp_path: Path, labels: str, images: str) -> None:
    flat(tmp_path / "labels" / "p1" / "a.png", 1)
    flat(tmp_path / images / ("p9" if images == "images" else "") / "a.tif", 7)
    convert(tmp_path / labels, tmp_path / "out", ("tables",), images=tmp_path / images)
    assert [mean for _, mean in means(tmp_path / "out")] == ["7.0"]


def test_converted_results_have_the_names_that_also_gives_them(model: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "in" / f"p{number}").mkdir(parents=True)
        write_image(tmp_path / "in" / f"p{number}" / "a.tif", spots(number), axes="YX")
    forms: tuple[Form, ...] = ("geojson", "tables", "coco")
    run(model, [tmp_path / "in"], tmp_path / "also", forms)
    for path in (tmp_path / "also").rglob("a.tif"):
        (tmp_path / "results" / path.parent.name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "results" / path.parent.name)
    convert(tmp_path / "results", tmp_path / "out", forms, images=tmp_path / "in")
    for name in ("p1/a.geojson", "p2/a.geojson", "objects.csv", "objects.coco.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "also" / name).read_bytes(), name


def test_classes_are_one_row_and_one_region_each(tmp_path: Path) -> None:
    classes = np.zeros((20, 20), np.uint8)
    classes[2:6, 2:6] = classes[10:14, 10:14] = 1
    classes[15:, :] = 2
    write_image(tmp_path / "a.png", classes, axes="YX")
    convert(tmp_path / "a.png", tmp_path / "out", ("tables", "geojson", "coco"), classes=True)
    rows = rows_of(tmp_path / "out" / "objects.csv")
    assert [(row["class"], row["area_px"]) for row in rows] == [("1", "32"), ("2", "100")]
    features = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"class 1", "class 2"}


def test_parquet_holds_the_table_of_the_csv(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_image(tmp_path / "a.png", np.tri(9, dtype=np.uint8), axes="YX")
    convert(tmp_path / "a.png", tmp_path / "out", ("tables",))
    (row,) = rows_of(tmp_path / "out" / "objects.csv")
    table = parquet.read_table(tmp_path / "out" / "objects.parquet").to_pydict()
    assert list(table) == list(row)
    assert table["image"] == ["a.png"]
    assert float(row["solidity"]) == table["solidity"][0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_name_that_is_not_utf8_does_not_stop_an_export(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_image(tmp_path / f"{name}.tif", np.tri(9, dtype=np.uint8), axes="YX")
    events = convert(tmp_path / f"{name}.tif", tmp_path / "out", ALL, images=tmp_path / f"{name}.tif")
    assert all(isinstance(event, Exported) for event in events)
    (row,) = rows_of(tmp_path / "out" / "objects.csv")
    assert (row["image"], row["area_px"]) == (r"caf\udce9.tif", "45")
    (feature,) = json.loads((tmp_path / "out" / f"{name}.geojson").read_text())["features"]
    assert uuid.UUID(feature["id"]).version == 5
    if importlib.util.find_spec("pyarrow"):
        from pyarrow import parquet

        assert parquet.read_table(tmp_path / "out" / "objects.parquet")["image"].to_pylist() == [r"caf\udce9.tif"]


def test_an_overlay_shows_outlines_on_the_image_and_large_images_are_reduced(tmp_path: Path) -> None:
    labels = np.zeros((4100, 600), np.uint8)
    labels[100:400, 100:300] = 1
    image = np.full(labels.shape, 500, np.uint16)
    image[labels > 0] = 900
    write_image(tmp_path / "a.tif", labels, axes="YX")
    write_image(tmp_path / "i.tif", image, axes="YX")
    convert(tmp_path / "a.tif", tmp_path / "out", ("overlay",), images=tmp_path / "i.tif")
    picture = np.array(Picture.open(tmp_path / "out" / "a.overlay.png"))
    assert picture.shape == (1367, 200, 3)
    colored = (picture.max(axis=2) != picture.min(axis=2)).nonzero()
    assert [(place.min(), place.max()) for place in colored] == [(33, 132), (33, 99)]
    assert (picture[60:100, 60:80] == 255).all()
    assert (picture[500:] == 0).all()


def test_label_images_of_which_nothing_comes_are_not_exported(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.ones((8, 9), np.uint8), axes="YX")
    for forms, reason in ((["overlay"], "the image is not known"), (["properties"], "not an OME-Zarr label image")):
        (done,) = convert(tmp_path / "a.png", tmp_path / "out", forms)
        assert isinstance(done, NotExported) and reason in done.reason
    done, _ = convert(tmp_path / "a.png", tmp_path / "out", ["overlay", "tables"])
    assert isinstance(done, Exported)


def test_words_and_files_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.ones((8, 9), np.uint8), axes="YX")
    with pytest.raises(UsageError, match=r"a\.png: a file\nexpected: a folder"):
        convert(tmp_path / "a.png", tmp_path / "a.png", ["tables"])
    (done,) = convert(tmp_path / "a.png", tmp_path / "out", ["tables"], probabilities=tmp_path / "a.png")
    assert isinstance(done, NotExported) and "uint8 values instead of probabilities" in done.reason
    assert parse_targets("labels, tables") == ("labels", "tables")
    for words, todo in ((("labels", "tables"), "run the command once for labels"), ((), "name a form")):
        with pytest.raises(UsageError, match=todo):
            ConvertAndExportSettings(conversion=ConvertSettings(data=(tmp_path,), out=tmp_path / "out"), to=words)
