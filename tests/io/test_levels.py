"""Slides and other pyramids: any level is read, in training, prediction and conversion; its result has its size."""

from __future__ import annotations

import csv
import importlib.util
import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import septum
from septum.check.check import check
from septum.cli.progress import layout_text
from septum.convert.settings import ConvertSettings
from septum.convert.to_labels import write_labels
from septum.errors import UsageError
from septum.export.jobs import NotExported, export_labels, predict_and_export
from septum.export.settings import ConvertAndExportSettings, PredictAndExportSettings
from septum.io.files import open_image, read_image, write_image
from septum.io.selection import Selection
from septum.prediction.events import ImageStarted
from septum.prediction.settings import PredictSettings

SIDES = (192, 256)


def _writers() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "write_foreign", Path(__file__).parents[1] / "contract" / "write_foreign.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slide(seed: int = 0, sides: tuple[int, int] = SIDES) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (*sides, 3), np.uint8)


def _svs(path: Path, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    pytest.importorskip("openslide", reason="the extra [formats] is not installed")
    _writers().write_svs(path, image, mpp=0.5, levels=2)
    return [image, image[::4, ::4]]


def _ome_tiff(path: Path, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    levels = [image, image[::2, ::2], image[::4, ::4]]
    notes = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(levels[0], subifds=2, tile=(64, 64), photometric="rgb", metadata=notes)
        for level in levels[1:]:
            file.write(level, subfiletype=1, tile=(64, 64), photometric="rgb")
    return levels


def _tiled_tiff(path: Path, image: NDArray[np.uint8], reduced: int = 0) -> list[NDArray[np.uint8]]:
    levels = [image, image[::2, ::2], image[::4, ::4]]
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels):
            options: dict[str, Any] = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
            options["subfiletype"] = reduced if number else 0
            file.write(np.ascontiguousarray(level), tile=(64, 64), photometric="rgb", **options)
    return levels


def _reduced_tiff(path: Path, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Write the levels as vips does: marked as reduced versions of the first page."""
    return _tiled_tiff(path, image, reduced=1)


def _zarr(path: Path, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    write_image(path, np.moveaxis(image, -1, 0), axes="CYX", pixel_size_um={"Y": 0.5, "X": 0.5})
    import zarr

    group = zarr.open_group(path, mode="r")
    return [np.moveaxis(np.asarray(group[str(k)]), 0, -1) for k in range(len(list(group.array_keys())))]


WRITERS = {
    "a.svs": _svs,
    "a.ome.tif": _ome_tiff,
    "a.tif": _tiled_tiff,
    "reduced.tif": _reduced_tiff,
    "a.ome.zarr": _zarr,
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_level_is_read_by_number_and_by_pixel_size(tmp_path: Path, name: str) -> None:
    sides = (1200, 1100) if name == "a.ome.zarr" else SIDES
    levels = WRITERS[name](tmp_path / name, slide(sides=sides))
    assert len(levels) > 1
    for number, expected in enumerate(levels):
        um = 0.5 * levels[0].shape[0] / expected.shape[0]
        for choice in (Selection(level=number), Selection(pixel_size=um), Selection(pixel_size=1.3 * um)):
            with open_image(tmp_path / name, selection=choice) as image:
                assert (image.axes, image.shape, image.level) == ("CYX", (3, *expected.shape[:2]), number)
                assert image.full_sides == (levels[0].shape[:2] if number else None)
                assert {a: round(v, 6) for a, v in image.pixel_size_um.items()} == {"Y": um, "X": um}
                np.testing.assert_array_equal(image[...], np.moveaxis(expected, -1, 0))
                np.testing.assert_array_equal(image[1:, 7:40, 11:50], np.moveaxis(expected, -1, 0)[1:, 7:40, 11:50])
                with pickle.loads(pickle.dumps(image)) as again:
                    np.testing.assert_array_equal(again[:, :5], image[:, :5])
    image = read_image(tmp_path / name, selection=Selection(("2",), level=1))
    assert (image.level, image.full_sides) == (1, levels[0].shape[:2])
    np.testing.assert_array_equal(image.array[0], levels[1][..., 1])


@pytest.mark.parametrize("name", ["a.svs", "a.ome.tif"])
def test_a_wrong_choice_names_the_levels_with_their_sizes(tmp_path: Path, name: str) -> None:
    levels = WRITERS[name](tmp_path / name, slide())
    listed = r"level 0 \(256 x 192 pixels of 0\.5 micrometers\), level 1 \("
    number = len(levels)
    with pytest.raises(UsageError, match=rf"a\.\w+(\.tif)?: --level {number}: the file holds {listed}"):
        open_image(tmp_path / name, selection=Selection(level=number))
    for um in (0.1, 9.0):
        with pytest.raises(UsageError, match=rf"--pixel-size {um:g}: the file holds {listed}"):
            open_image(tmp_path / name, selection=Selection(pixel_size=um))
    with pytest.raises(UsageError, match=r"--level 1 with --pixel-size 2"):
        Selection(level=1, pixel_size=2)
    with pytest.raises(UsageError, match="micrometers above 0"):
        Selection(pixel_size=0)


def test_an_image_of_one_size_has_level_0_only(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.ones((4, 5), np.uint8), axes="YX")
    assert read_image(tmp_path / "a.png", selection=Selection(level=0)).shape == (1, 4, 5)
    with pytest.raises(UsageError, match=r"--level 1: the file holds level 0 \(5 x 4 pixels\)"):
        open_image(tmp_path / "a.png", selection=Selection(level=1))
    with pytest.raises(UsageError, match=r"--pixel-size 1, and the file does not state its pixel size\n"):
        open_image(tmp_path / "a.png", selection=Selection(pixel_size=1))


def test_parts_of_a_level_between_the_pixels_of_the_largest_equal_the_whole(tmp_path: Path) -> None:
    """1203 rows become 301: OpenSlide shifts such a level by parts of a pixel, by where the part begins."""
    _svs(tmp_path / "a.svs", slide(sides=(1203, 2601)))
    with open_image(tmp_path / "a.svs", selection=Selection(level=1)) as image:
        whole = image[...]
        assert whole.shape == (3, 301, 651)
        for part in ((slice(None), slice(3, 200), slice(100, 640)), (slice(1, 2), slice(299, 301), slice(510, 515))):
            np.testing.assert_array_equal(image[part], whole[part])


def _cells(folder: Path, names: str = "a") -> tuple[Path, NDArray[np.uint8]]:
    """Write pyramids with bright squares, and outlines on their largest level; return the labels of level 2."""
    labels = np.zeros(SIDES, np.uint8)
    features = []
    for k, (top, left) in enumerate([(16, 16), (16, 96), (80, 40), (120, 160), (72, 200)], start=1):
        labels[top : top + 32, left : left + 40] = k
        ring = [[left, top], [left + 40, top], [left + 40, top + 32], [left, top + 32], [left, top]]
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}})
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for seed, name in enumerate(names):
        image = (slide(seed) // 4 + 120 * (labels > 0)[..., None]).astype(np.uint8)
        _ome_tiff(folder / "images" / f"{name}.ome.tif", image)
        drawn = json.dumps({"type": "FeatureCollection", "features": features})
        (folder / "masks" / f"{name}.geojson").write_text(drawn)
    return folder, labels[::4, ::4]


def test_objects_drawn_on_the_largest_level_are_masks_of_another_level(tmp_path: Path) -> None:
    data, labels = _cells(tmp_path / "data")
    report = check([data], selection=Selection(level=2))
    assert "images: 48 x 64 pixels, 3 channels, uint8, read with --level 2" in report.lines()
    assert [pair.census[0].values for pair in report.pairs] == [(1, 2, 3, 4, 5)]
    done = list(write_labels(ConvertSettings(data=(data,), out=tmp_path / "out", level=2)))
    assert [type(one).__name__ for one in done] == ["Converted"]
    mask = read_image(tmp_path / "out" / "a.ome.tif", labels=True)
    assert mask.pixel_size_um == {"Y": 2.0, "X": 2.0}
    np.testing.assert_array_equal(mask.array[0], labels)


def test_pixels_of_objects_of_the_largest_level_are_those_of_another_level(tmp_path: Path) -> None:
    data, labels = _cells(tmp_path / "data")
    (data / "masks" / "a.geojson").unlink()
    full = np.kron(labels, np.ones((4, 4), np.uint8))
    coco = pytest.importorskip("pycocotools.mask")
    codes = [coco.encode(np.asfortranarray(full == k)) for k in range(1, 6)]
    annotations = [
        {
            "id": k,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": {"size": list(SIDES), "counts": one["counts"].decode()},
        }
        for k, one in enumerate(codes, start=1)
    ]
    image = {"id": 1, "file_name": "a.ome.tif", "height": SIDES[0], "width": SIDES[1]}
    categories = [{"id": 1, "name": "cell"}]
    (data / "masks" / "a.json").write_text(
        json.dumps({"images": [image], "categories": categories, "annotations": annotations})
    )
    list(write_labels(ConvertSettings(data=(data,), out=tmp_path / "out", level=2)))
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.ome.tif", labels=True).array[0], labels)


def test_a_model_of_a_level_predicts_that_level_and_says_so(tmp_path: Path) -> None:
    data, _ = _cells(tmp_path / "data", "ab")
    small: dict[str, Any] = {"steps": 2, "width": 2, "depth": 1, "tile": 32, "kind": "objects", "from_model": "none"}
    for name, chosen in {"level": {"level": 2}, "size": {"pixel_size": 2.0}}.items():
        model = septum.train(data, out=tmp_path / name, **chosen, **small)
        assert model.header.pixel_size_um == {"Y": 2.0, "X": 2.0}
        assert (model.header.read_level, model.header.read_um) == (chosen.get("level"), chosen.get("pixel_size"))
    results = {}
    for name, options in {"learned": {}, "asked": {"pixel_size": 2.1}, "blocks": {"in_blocks": True}}.items():
        given: dict[str, Any] = {"inputs": (str(data / "images"),), "out": tmp_path / f"out {name}", "scale": 1}
        settings = PredictSettings(model=tmp_path / "level", **given, **options)
        events = list(predict_and_export(PredictAndExportSettings(prediction=settings, also=("geojson", "tables"))))
        said = " ".join(event.text for event in events if hasattr(event, "text"))
        begun = [layout_text(event) for event in events if isinstance(event, ImageStarted)]
        assert begun and "a.ome.tif: level 2, 64 x 48 pixels of 2 micrometers, as the result; " in begun[0]
        assert ("read with --level 2, as in training" in said) == (name != "asked")
        results[name] = read_image(tmp_path / f"out {name}" / "a.ome.tif")
        assert (results[name].shape, results[name].pixel_size_um) == ((1, 48, 64), {"Y": 2.0, "X": 2.0})
        np.testing.assert_array_equal(results[name].array, results["learned"].array)
    with pytest.warns(septum.errors.SeptumWarning, match="read with level=2, as in training"):
        array = septum.predict(tmp_path / "level", data / "images" / "a.ome.tif", scale=1)
    np.testing.assert_array_equal(array, results["learned"].array[0])
    with pytest.warns(septum.errors.UnfamiliarImageWarning, match="4 times smaller than in training"):
        assert septum.predict(tmp_path / "level", data / "images" / "a.ome.tif", scale=1, level=0).shape == SIDES
    with pytest.raises(UsageError, match="level=1 with an array"):
        septum.predict(tmp_path / "level", np.zeros((3, 64, 64), np.uint8), level=1)


def test_regions_of_a_level_lie_on_the_largest_level(tmp_path: Path) -> None:
    """QuPath shows GeoJSON on the full resolution."""
    from septum.export.results import Exporter, LabelFile

    data, labels = _cells(tmp_path / "data")
    write_image(tmp_path / "a.png", labels, axes="YX")
    with Exporter(tmp_path, ("geojson", "rois")) as exporter:
        image = data / "images" / "a.ome.tif"
        done = exporter.add(
            LabelFile(tmp_path / "a.png", "a", image=image, selection=Selection(level=2)), tmp_path / "a"
        )
    assert done.notes == ("rois in pixels of level 2, geojson of the largest level",)
    found = json.loads((tmp_path / "a.geojson").read_text())["features"]
    drawn = json.loads((data / "masks" / "a.geojson").read_text())["features"]
    rings = [[one["geometry"]["coordinates"][0] for one in features] for features in (found, drawn)]
    boxes = [sorted((np.min(r, 0).tolist(), np.max(r, 0).tolist()) for r in some) for some in rings]
    assert boxes[0] == boxes[1]


def test_tables_of_label_images_of_a_level_have_the_pixel_size_of_the_level(tmp_path: Path) -> None:
    data, labels = _cells(tmp_path / "data")
    write_image(tmp_path / "a.png", labels, axes="YX")
    asked: dict[str, Any] = {"data": (tmp_path / "a.png",), "out": tmp_path / "out", "pixel_size": 2.0}
    named = {"conversion": ConvertSettings(**asked), "to": ("tables",)}
    done = list(export_labels(ConvertAndExportSettings(**named, images=data / "images" / "a.ome.tif")))
    assert not [one for one in done if isinstance(one, NotExported)]
    with (tmp_path / "out" / "objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["area_um2"]) for row in rows] == [4 * float(row["area_px"]) for row in rows]
    with pytest.raises(UsageError, match="--pixel-size 2 without images"):
        list(export_labels(ConvertAndExportSettings(**named)))


def test_a_label_image_in_several_sizes_is_read_at_the_size_of_its_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(np.arange(1, 17, dtype=np.uint16).reshape(4, 4), np.ones((300, 270), np.uint16))
    labels[::40] = 0
    for part, values in (("images", rng.integers(0, 99, labels.shape, np.uint8)), ("masks", labels)):
        (tmp_path / part).mkdir()
        write_image(tmp_path / part / "a.ome.zarr", values, axes="YX", labels=part == "masks")
    report = check([tmp_path / "images", tmp_path / "masks"], selection=Selection(level=1))
    (pair,) = report.pairs
    assert pair.grid is not None and pair.grid.shape == (1, 600, 540)
    np.testing.assert_array_equal(report.files.labels(pair.mask, pair.grid)[0].array, labels[::2, ::2])
