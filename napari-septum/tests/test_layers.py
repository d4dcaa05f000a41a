"""Layers become files, and results become layers that lie on the image."""

from __future__ import annotations

from pathlib import Path

import dask.array
import numpy as np
import pytest
import septum
from napari.layers import Image, Labels, Layer
from septum.io.files import open_image, write_image
from septum.training.interrupt import StopRequest

from made import disks, done
from napari_septum import layers
from napari_septum.layer_jobs import PredictOptions, predict_layer
from napari_septum.layers import axes_of, is_large, result_layers, save_layer

PLACE = {"scale": (2.0, 0.5, 0.25), "translate": (1.0, 2.0, 3.0), "units": ("um",) * 3, "axis_labels": ("z", "y", "x")}


@pytest.mark.parametrize("axes", ["YX", "ZYX", "TYX", "XYT", "CYX", "YXC"])
def test_the_pixels_of_a_layer_are_written_with_their_axes(tmp_path: Path, axes: str) -> None:
    sides = {"T": 2, "C": 3, "Z": 4, "Y": 6, "X": 5}
    data = np.random.default_rng(0).integers(0, 255, [sides[a] for a in axes]).astype(np.uint8)
    path, read_axes = save_layer(Image(data, rgb=axes == "YXC", name="a"), axes, tmp_path, "a")
    assert read_axes is None
    with open_image(path) as image:
        order = [a for a in image.axes if a in axes]
        assert np.array_equal(image.array.squeeze(), data.transpose([axes.index(a) for a in order]).squeeze())


def test_the_pixel_size_is_written(tmp_path: Path) -> None:
    path, _ = save_layer(Image(np.zeros((3, 4, 5), np.uint8), **PLACE), "ZYX", tmp_path, "a")
    assert open_image(path).pixel_size_um == {"Z": 2.0, "Y": 0.5, "X": 0.25}


def test_what_is_not_in_memory_is_written_piece_by_piece(tmp_path: Path) -> None:
    data = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50)
    layer = Image(dask.array.from_array(data, chunks=(1, 16, 16)), name="a")
    assert is_large(layer)
    path, _ = save_layer(layer, "TYX", tmp_path, "a")
    assert path.name == "a.ome.zarr"
    assert np.array_equal(open_image(path).array[:, 0], data)


def test_a_layer_of_a_file_that_septum_knows_is_read_from_that_file(tmp_path: Path) -> None:
    from napari.layers._source import layer_source

    data = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
    write_image(tmp_path / "a.tif", data, axes="YX")
    with layer_source(path=str(tmp_path / "a.tif")):
        layer = Image(dask.array.from_array(data), name="a")
    assert save_layer(layer, "YX", tmp_path / "elsewhere", "a") == (tmp_path / "a.tif", "YX")
    with layer_source(path=str(tmp_path / "a.tif")):
        other = Image(dask.array.from_array(data[:20]), name="a")
    (tmp_path / "elsewhere").mkdir()
    assert save_layer(other, "YX", tmp_path / "elsewhere", "a")[0].parent.name == "elsewhere"


@pytest.mark.parametrize("axes", ["YX", "TYX", "ZYX", "TZYX", "YXT", "YXC"])
def test_a_prediction_lies_on_its_image_and_is_that_of_septum(models: dict[int, Path], axes: str) -> None:
    sides = {"T": 2, "C": 3, "Z": 2, "Y": 44, "X": 40}
    data = np.random.default_rng(1).normal(100, 20, [sides[a] for a in axes]).astype(np.float32)
    if axes == "YXC":
        data[...] = data[..., :1]  # a gray image saved in color
        data = data.clip(0, 255).astype(np.uint8)
    rank = data.ndim - (axes == "YXC")
    place = {"scale": tuple(range(1, rank + 1)), "translate": (5.0,) * rank, "rotate": None}
    layer = Image(data, name="a", rgb=axes == "YXC", **{k: v for k, v in place.items() if v is not None})
    _, (made,) = done(predict_layer(layer, axes, PredictOptions(str(models[2])), StopRequest()))
    result = Layer.create(*made)
    assert isinstance(result, Labels)
    assert np.array_equal(result.scale, layer.scale) and np.array_equal(result.translate, layer.translate)
    frames = [a for a in axes if a in "TZ"]
    moved = np.moveaxis(data, [axes.index(a) for a in frames], range(len(frames)))
    found = np.moveaxis(np.asarray(result.data), [axes.index(a) for a in frames], range(len(frames)))
    assert found.shape == moved.shape[: moved.ndim - (axes == "YXC")]
    for place_ in np.ndindex(*(sides[a] for a in frames)):
        frame = moved[place_][..., 0] if axes == "YXC" else moved[place_]
        expected = septum.predict(models[2], frame, scale=1.0)
        assert np.array_equal(found[place_], expected)


def test_a_model_of_volumes_predicts_volumes(models: dict[int, Path]) -> None:
    data = np.random.default_rng(1).normal(100, 20, (12, 24, 24)).astype(np.float32)
    layer = Image(data, name="a", **PLACE)
    _, (made,) = done(predict_layer(layer, "", PredictOptions(str(models[3])), StopRequest()))
    assert made[0].shape == data.shape
    assert made[2] == "labels"
    assert made[1]["scale"] == PLACE["scale"]


def test_large_layers_give_the_same_labels_block_by_block(
    models: dict[int, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = np.random.default_rng(1).normal(100, 20, (2, 60, 70)).astype(np.float32)
    small, options = Image(data, name="a"), PredictOptions(str(models[2]))
    _, (whole,) = done(predict_layer(small, "TYX", options, StopRequest()))
    monkeypatch.setattr(layers, "LARGE", 1)
    large = Image(dask.array.from_array(data, chunks=(1, 32, 32)), name="a")
    kept = PredictOptions(str(models[2]), folder=tmp_path / "kept")
    _, (lazy,) = done(predict_layer(large, "TYX", kept, StopRequest()))
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["a.ome.zarr"]
    found = lazy[0][0] if isinstance(lazy[0], list) else lazy[0]
    assert not isinstance(found, np.ndarray)
    assert np.array_equal(np.asarray(found), whole[0])


def test_probabilities_are_images(models: dict[int, Path]) -> None:
    layer = Image(disks(0)[0], name="a")
    options = PredictOptions(str(models[2]), output="probabilities")
    _, made = done(predict_layer(layer, "", options, StopRequest()))
    assert [kind for _, _, kind in made] == ["image"]
    assert made[0][0].dtype == np.float32
    assert 0 <= made[0][0].min() <= made[0][0].max() <= 1


def test_a_stop_ends_a_prediction_without_layers(models: dict[int, Path]) -> None:
    stop = StopRequest()
    stop.request()
    _, made = done(predict_layer(Image(disks(0)[0], name="a"), "", PredictOptions(str(models[2])), stop))
    assert made == []


def test_the_axes_of_the_image_are_those_of_the_result(tmp_path: Path) -> None:
    layer = Image(np.zeros((3, 4, 5), np.uint8), **PLACE)
    write_image(tmp_path / "r.tif", np.arange(60, dtype=np.uint8).reshape(3, 4, 5), axes="ZYX", labels=True)
    ((data, keywords, kind),) = result_layers(tmp_path / "r.tif", layer, axes_of(layer), output="labels", name="r")
    made = Layer.create(data, keywords, kind)
    assert made.axis_labels == layer.axis_labels and made.units == layer.units
    assert np.array_equal(made.data.ravel(), np.arange(60))
