"""The scale of a prediction: whole, tiles, blocks and workers agree on another grid; scale 1 changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import AREAS, ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import UsageError
from septum.events import Event
from septum.io.files import read_image, write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import tile_plan
from septum.prediction.domain_shift import TrainingDomain
from septum.prediction.events import BlockDone, ImageDone
from septum.prediction.in_memory import predict_image
from septum.prediction.model import ModelHeader, open_model, save_model
from septum.prediction.predict import predict_files
from septum.prediction.scale import Evidence, ScaleFinder
from septum.prediction.settings import PredictSettings
from septum.prediction.tiled import TiledPredictor

DOMAIN = TrainingDomain(curves=((0.0,) * 7,), levels=100, object_px=10.0)


def _save(path: Path, depths: tuple[int, ...] = (1, 1), **changes: object) -> Path:
    """Save a model whose random weights give probabilities all over 0..1."""
    network = UNetSettings(classes=int(str(changes.pop("classes", 2))), depths=depths, width=4)
    given: dict[str, object] = {
        "network": network,
        "normalization": NormalizeSettings(),
        "kind": "objects",
        "class_values": (0, 1),
        "objects": ObjectSettings(threshold=0.4, seed_level=0.6, min_size_px=3, grow_px=1),
    }
    save_model(path, UNet(network, seed=3), ModelHeader.model_validate(given | changes))
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tile_plan.CHUNK, 2, (16, 16))
    monkeypatch.setitem(tile_plan.CHUNK, 3, (4, 8, 8))
    monkeypatch.setitem(tile_plan.BLOCK_CHUNKS, 2, (1, 2))
    monkeypatch.setitem(tile_plan.BLOCK_CHUNKS, 3, (1, 2))
    monkeypatch.setattr(tile_plan, "LARGEST_BLOCK", 16 * 32)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no test cuts the power; syncing takes most of the time


def _image(path: Path, *shape: int, axes: str = "YX", seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
    write_image(path, values, axes=axes, pixel_size_um={"Z": 1.0, "Y": 0.5, "X": 0.25})
    return path


def _run(model: Path, image: Path, out: Path, **more: object) -> list[Event]:
    given = {"model": model, "inputs": (str(image),), "out": out, "device": "cpu"}
    return list(predict_files(PredictSettings.model_validate(given | more)))


def _result(folder: Path) -> np.ndarray:
    (path,) = folder.iterdir()
    return read_image(path).array


def _each_way(model: Path, image: Path, folder: Path, **more: object) -> list[np.ndarray]:
    """Return the result of the whole image, of small tiles, and of blocks."""
    whole = _run(model, image, folder / "whole", **more)
    _run(model, image, folder / "tiles", tile=6, **more)
    blocks = _run(model, image, folder / "blocks", tile=16, in_blocks=True, **more)
    assert "resampling" in {r.stage for r in blocks if isinstance(r, BlockDone)}
    counts = [r.objects for events in (whole, blocks) for r in events if isinstance(r, ImageDone)]
    assert counts[0] == counts[1]
    return [_result(folder / way) for way in ("whole", "tiles", "blocks")]


@pytest.mark.parametrize("scale", [0.5, 0.37, 2.0])
@pytest.mark.parametrize("tta", [False, True])
def test_whole_tiles_and_blocks_agree_number_by_number(tmp_path: Path, scale: float, tta: bool) -> None:
    model = _save(tmp_path / "model.safetensors")
    image = _image(tmp_path / "a.tif", 47, 70) if scale > 1 else _image(tmp_path / "a.tif", 95, 131)
    whole, tiles, blocks = _each_way(model, image, tmp_path, scale=scale, tta=tta)
    np.testing.assert_array_equal(tiles, whole)
    np.testing.assert_array_equal(blocks, whole)
    assert whole.dtype == blocks.dtype
    assert whole.shape == read_image(image).shape
    assert len(np.unique(whole)) > 8  # so that the comparison is not trivial


@pytest.mark.parametrize("scale", [0.5, 0.37, 2.0])
def test_volumes_agree_too(tmp_path: Path, scale: float) -> None:
    model = _save(tmp_path / "model.safetensors", depths=(1, 1, 1))
    shape = (5, 11, 18) if scale > 1 else (17, 30, 41)
    whole, tiles, blocks = _each_way(model, _image(tmp_path / "a.tif", *shape, axes="ZYX"), tmp_path, scale=scale)
    np.testing.assert_array_equal(tiles, whole)
    np.testing.assert_array_equal(blocks, whole)
    assert whole.max() > 2


def test_frames_are_scaled_one_by_one(tmp_path: Path) -> None:
    model = _save(tmp_path / "model.safetensors")
    whole, _, blocks = _each_way(model, _image(tmp_path / "a.tif", 3, 60, 70, axes="TYX"), tmp_path, scale=0.5)
    np.testing.assert_array_equal(blocks, whole)
    first = _image(tmp_path / "b.tif", 60, 70)
    write_image(first, read_image(tmp_path / "a.tif").array[0, 0], axes="YX", pixel_size_um={"Y": 0.5, "X": 0.25})
    _run(model, first, tmp_path / "first", scale=0.5)
    np.testing.assert_array_equal(_result(tmp_path / "first")[0], whole[0, 0])


def test_classes_areas_and_probabilities_agree(tmp_path: Path) -> None:
    image = _image(tmp_path / "a.tif", 95, 131)
    several = _save(tmp_path / "m.safetensors", classes=3, kind="classes", class_values=(5, 70, 300))
    whole, _, blocks = _each_way(several, image, tmp_path / "classes", scale=0.5)
    np.testing.assert_array_equal(blocks, whole)
    assert set(np.unique(whole)) == {5, 70, 300}
    maps, _, made = _each_way(several, image, tmp_path / "maps", scale=0.5, output="probabilities")
    assert maps.shape == (3, 95, 131)
    np.testing.assert_allclose(made, maps, atol=1e-5)
    np.testing.assert_allclose(maps.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(whole[0], np.array([5, 70, 300])[maps.argmax(axis=0)])
    objects = AREAS.model_copy(update={"threshold": 0.4, "seed_level": 0.7})
    lines = _save(tmp_path / "l.safetensors", kind="classes", class_values=(7, 255), objects=objects, lines=True)
    whole, _, blocks = _each_way(lines, image, tmp_path / "lines", scale=0.5)
    np.testing.assert_array_equal(blocks, whole)
    ids, _, _ = _each_way(lines, image, tmp_path / "ids", scale=0.5, output="labels")
    areas = ids[0].astype(np.int32)
    np.testing.assert_array_equal(whole[0], np.where(draw_boundaries(areas) > 0, 255, 7))  # lines of one own pixel


@pytest.mark.parametrize("more", [{}, {"in_blocks": True, "tile": 16}])
def test_scale_1_writes_the_same_file_as_no_option(tmp_path: Path, more: dict[str, object]) -> None:
    model = _save(tmp_path / "model.safetensors")
    image = _image(tmp_path / "a.tif", 46, 60)
    _run(model, image, tmp_path / "plain", **more)
    events = _run(model, image, tmp_path / "one", scale=1.0, **more)
    assert (tmp_path / "one/a.tif").read_bytes() == (tmp_path / "plain/a.tif").read_bytes()
    assert "resampling" not in {r.stage for r in events if isinstance(r, BlockDone)}


def test_the_scale_of_the_training_is_a_factor_of_every_scale(tmp_path: Path) -> None:
    plain, coarse = _save(tmp_path / "plain.safetensors"), _save(tmp_path / "coarse.safetensors", scale=0.5)
    image = _image(tmp_path / "a.tif", 95, 131)
    for name, model, scale in (("a", plain, 0.5), ("b", coarse, 1.0), ("c", plain, 0.25), ("d", coarse, 0.5)):
        _run(model, image, tmp_path / name, scale=scale)
    np.testing.assert_array_equal(_result(tmp_path / "b"), _result(tmp_path / "a"))
    np.testing.assert_array_equal(_result(tmp_path / "d"), _result(tmp_path / "c"))
    made = predict_image(open_model(coarse, "cpu"), read_image(image))
    np.testing.assert_array_equal(made, _result(tmp_path / "a"))


def test_the_width_of_objects_gives_the_scale(tmp_path: Path) -> None:
    model = _save(tmp_path / "model.safetensors", domain=DOMAIN)
    image = _image(tmp_path / "a.tif", 95, 131)
    _run(model, image, tmp_path / "scale", scale=0.5)
    _run(model, image, tmp_path / "size", object_size=20.0)
    np.testing.assert_array_equal(_result(tmp_path / "size"), _result(tmp_path / "scale"))


@pytest.mark.parametrize(("sureness", "factor"), [(0.72, 1.0), (0.60, 10 / 32)])
def test_a_network_that_is_as_sure_of_the_image_as_it_is_keeps_its_scale(
    tmp_path: Path, sureness: float, factor: float
) -> None:
    """At half the size some objects are joined, and their width says little: 16 pixels there are 32 of the image."""
    finder = ScaleFinder(open_model(_save(tmp_path / "model.safetensors", domain=DOMAIN), "cpu"))
    known = [Evidence(1 / 8, 1, 4.8, 0.4), Evidence(1 / 4, 4, 5.0, 0.5), Evidence(1 / 2, 9, 16.0, 0.71)]
    known += [Evidence(1.0, 16, 18.0, sureness), Evidence(2.0, 15, 19.0, 0.5)]
    tiler = TiledPredictor(finder.model, finder.model.device, (64, 64))
    found = finder.search(tiler, np.zeros((1, 64, 64), np.uint8), known)
    assert found is not None
    assert found.factor == pytest.approx(factor)


def test_the_width_of_objects_needs_a_model_that_knows_it(tmp_path: Path) -> None:
    model = _save(tmp_path / "m.safetensors", classes=3, kind="classes", class_values=(0, 1, 2))
    with pytest.raises(UsageError) as told:
        _run(model, _image(tmp_path / "a.tif", 40, 40), tmp_path / "out", object_size=20.0)
    assert "--object-size 20" in str(told.value)
    assert "--scale" in str(told.value)


def test_a_prediction_is_resumed_at_its_own_scale_only(tmp_path: Path) -> None:
    model, image = _save(tmp_path / "model.safetensors"), _image(tmp_path / "a.tif", 95, 131)
    _run(model, image, tmp_path / "whole", scale=0.5, tile=16)
    _run(model, image, tmp_path / "out", scale=0.5, tile=16, in_blocks=True, shard=(1, 2))
    with pytest.raises(UsageError, match=r"scale was \[0.5, 0.5\], is \[0.25, 0.25\]"):
        _run(model, image, tmp_path / "out", scale=0.25, tile=16)
    _run(model, image, tmp_path / "out", tile=16)  # without the option the scale is kept
    np.testing.assert_array_equal(_result(tmp_path / "out"), _result(tmp_path / "whole"))


@pytest.mark.parametrize("blocks", [False, True])
def test_objects_that_hold_no_pixel_of_a_coarser_grid_are_not_counted(tmp_path: Path, blocks: bool) -> None:
    objects = ObjectSettings(threshold=0.4, seed_level=0.6, min_size_px=0, merge_ratio=0.0)
    model = _save(tmp_path / "model.safetensors", objects=objects)
    events = _run(model, _image(tmp_path / "a.tif", 40, 52), tmp_path / "out", scale=3.0, in_blocks=blocks, tile=16)
    made = _result(tmp_path / "out")
    (done,) = (r for r in events if isinstance(r, ImageDone))
    assert done.objects == len(np.unique(made[made > 0])) < made.max()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_memory_of_the_working_grid_is_planned(tmp_path: Path, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    network = UNetSettings(depths=(1, 1), width=4)
    requests = [
        tile_plan.Request(network=network, shape=(2000, 2000)),
        tile_plan.Request(network=network, shape=(int(2000 * scale),) * 2, own=(2000, 2000)),
    ]
    monkeypatch.undo()
    plain, scaled = (tile_plan.plan_prediction(r, held=0, limit=8 << 30).peak_bytes for r in requests)
    assert (scaled > 2 * plain) if scale > 1 else (scaled < plain)


@pytest.mark.slow
def test_workers_agree_with_one_process(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    model = _save(tmp_path / "model.safetensors")
    image = _image(tmp_path / "a.tif", 95, 131)
    _run(model, image, tmp_path / "alone", scale=0.5)
    # Workers have the usual chunks: one block of the network, several of them in the last stage.
    events = _run(model, image, tmp_path / "shared", scale=0.5, workers=2, tile=16)
    assert any(isinstance(r, BlockDone) and r.stage == "resampling" for r in events)
    np.testing.assert_array_equal(_result(tmp_path / "shared"), _result(tmp_path / "alone"))
