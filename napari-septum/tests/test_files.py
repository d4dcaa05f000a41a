"""Reader, writer, sample data and manifest, in a viewer without a window."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from npe2 import PluginManager, PluginManifest
from septum.io.files import open_image, write_image
from septum.io.formats import FORMATS
from septum.io.zarr_write import add_pyramid, create_zarr, mark_complete

from napari_septum import files
from napari_septum.files import get_reader, layer_of, read, write_image_layer, write_labels
from napari_septum.samples import cells, cells_3d, cells_in_time

LABELS = np.arange(24, dtype=np.int32).reshape(2, 3, 4)


def test_the_manifest_is_valid_and_names_what_exists() -> None:
    manifest = PluginManifest.from_distribution("napari-septum")
    manifest.validate_imports()
    assert {widget.display_name for widget in manifest.contributions.widgets} == {
        "Train",
        "Predict",
        "Suggest where to annotate",
        "Data folder and studio",
    }


@pytest.fixture
def plugins() -> None:
    """Find the plugin as napari does when its window opens."""
    PluginManager.instance().discover()


def test_napari_asks_for_every_format_but_photos_and_for_folders() -> None:
    (reader,) = PluginManifest.from_distribution("napari-septum").contributions.readers
    photos = {"JPEG", "BMP", "GIF"}  # hold no labels, no axes and no pixel size: napari's own reader does
    suffixes = [suffix for one in FORMATS if one.name not in photos for suffix in one.suffixes]
    left_out = [s for s in suffixes if not any(fnmatch(f"a{s}", pattern) for pattern in reader.filename_patterns)]
    assert not left_out
    assert reader.accepts_directories


@pytest.mark.usefixtures("plugins")
def test_a_folder_of_results_opens_as_labels(tmp_path: Path) -> None:
    results = tmp_path / "predictions"
    results.mkdir()
    assert get_reader(str(results)) is None
    for name in ("a", "b"):
        write_image(results / f"{name}.png", LABELS[0].astype(np.uint8), axes="YX", labels=True)
    opened = ViewerModel().open(str(results), plugin="napari-septum")
    assert [layer.name for layer in opened] == ["a", "b"]
    assert all(isinstance(layer, Labels) and np.array_equal(layer.data, LABELS[0]) for layer in opened)


@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr", ".nii.gz"])
def test_labels_come_back_with_their_axes_and_pixel_size(tmp_path: Path, suffix: str) -> None:
    layer = Labels(LABELS, name="objects", scale=(2.0, 0.5, 0.25), units=("um",) * 3, axis_labels=("z", "y", "x"))
    path = tmp_path / f"objects{suffix}"
    assert write_labels(str(path), *layer.as_layer_data_tuple()[:2]) == [str(path)]
    back = Layer.create(*layer_of(path))
    assert isinstance(back, Labels)
    assert np.array_equal(back.data, LABELS)
    assert np.allclose(back.scale, layer.scale)
    assert back.axis_labels == ("z", "y", "x")
    assert [str(unit) for unit in back.units] == ["micrometer"] * 3


def test_color_images_come_back_as_color(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    layer = Image(data, rgb=True)
    write_image_layer(str(tmp_path / "a.tif"), *layer.as_layer_data_tuple()[:2])
    back = Layer.create(*layer_of(tmp_path / "a.tif"))
    assert back.rgb
    assert np.array_equal(back.data, data)


@pytest.mark.parametrize(
    ("name", "dtype", "labels"),
    [
        ("masks/a.tif", np.uint8, True),
        ("predictions/a.tif", np.uint16, True),
        ("images/a.tif", np.uint8, False),
        ("images/a_mask.tif", np.uint8, True),
        ("images/a.tif", np.uint32, True),
        ("images/a.tif", np.float32, False),
    ],
)
def test_ids_are_told_from_intensities(tmp_path: Path, name: str, dtype: type, labels: bool) -> None:
    (tmp_path / name).parent.mkdir()
    write_image(tmp_path / name, np.arange(12, dtype=dtype).reshape(3, 4), axes="YX")
    ((_, _, kind),) = read(str(tmp_path / name))
    assert kind == ("labels" if labels else "image")


def test_large_images_are_read_lazily_with_their_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_septum.layers.LARGE", 1000)
    data = np.random.default_rng(0).integers(0, 9, (64, 80)).astype(np.uint16)
    target = create_zarr(tmp_path / "a.ome.zarr", shape=(64, 80), axes="YX", dtype=np.uint16, labels=True)
    target.write((slice(None), slice(None)), data)
    mark_complete(tmp_path / "a.ome.zarr", 0)
    assert list(add_pyramid(tmp_path / "a.ome.zarr", smallest=32))
    levels, keywords, kind = layer_of(tmp_path / "a.ome.zarr")
    assert kind == "labels" and keywords["multiscale"]
    assert [level.shape for level in levels] == [(64, 80), (32, 40), (16, 20)]
    assert not isinstance(levels[0], np.ndarray)
    assert np.array_equal(np.asarray(levels[0][10:20, 5:70]), data[10:20, 5:70])
    made = Layer.create(levels, keywords, kind)
    assert made.multiscale


def test_other_files_are_left_to_other_readers(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    assert get_reader(str(tmp_path / "notes.txt")) is None
    assert get_reader([str(tmp_path / "notes.txt")]) is None


@pytest.mark.usefixtures("plugins")
def test_the_viewer_opens_and_saves_with_the_plugin(tmp_path: Path) -> None:
    viewer = ViewerModel()
    viewer.add_labels(LABELS, name="objects", axis_labels=("t", "y", "x"))
    viewer.layers.save(str(tmp_path / "objects.ome.zarr"), plugin="napari-septum")
    (opened,) = viewer.open(str(tmp_path / "objects.ome.zarr"), plugin="napari-septum")
    assert np.array_equal(opened.data, LABELS)
    with open_image(tmp_path / "objects.ome.zarr") as image:
        assert image.axes == "TCYX"


@pytest.mark.parametrize("sample", [cells, cells_3d, cells_in_time])
def test_sample_data_are_an_image_and_its_truth(sample) -> None:
    image, truth = (Layer.create(*one) for one in sample())
    assert image.data.shape == truth.data.shape
    assert image.data.dtype == np.uint8
    assert truth.data.max() > 5
    assert files.pixel_size_um(image.scale, image.units, "".join(image.axis_labels).upper())["X"] == 0.5
