"""Prediction block by block gives the same result as in memory, however often it is stopped and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import AREAS, ObjectSettings, label_objects
from septum.arrays.learned import LearnedDecisions, LogisticScore
from septum.arrays.normalize import NormalizeSettings
from septum.errors import FileError, SeptumError, UsageError
from septum.events import Event
from septum.io.files import read_image, write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import block_stages, tile_plan
from septum.prediction import predict as predict_module
from septum.prediction.block_store import BlockTask
from septum.prediction.events import BlockDone, ImageDone, ImageStarted, ShardDone
from septum.prediction.in_memory import predict_objects
from septum.prediction.model import ModelHeader, open_model, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings


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


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("flat") / "model.safetensors")


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
    write_image(path, values, axes=axes, pixel_size_um={"Y": 0.5, "X": 0.25})
    return path


def _run(model: Path, image: Path, out: Path | None, **more: object) -> list[Event]:
    given = {"model": model, "inputs": (str(image),), "out": out, "device": "cpu", "tile": 16}
    return list(predict_files(PredictSettings.model_validate(given | more)))


def _both(model: Path, image: Path, folder: Path, **more: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the result in memory and the result block by block."""
    _run(model, image, folder / "memory", **more)
    events = _run(model, image, folder / "blocks", **more, in_blocks=True)
    assert any(isinstance(r, BlockDone) for r in events)
    started = next(r for r in events if isinstance(r, ImageStarted))
    assert started.blocks > 3
    (memory,), (blocks,) = (list((folder / n).iterdir()) for n in ("memory", "blocks"))
    a, b = read_image(memory), read_image(blocks)
    assert (a.axes, a.pixel_size_um) == (b.axes, b.pixel_size_um)
    return a.array, b.array


@pytest.mark.parametrize("form", ["tif", "ome.zarr"])
def test_objects_equal_those_of_the_whole_image_number_by_number(flat: Path, tmp_path: Path, form: str) -> None:
    whole, blocks = _both(flat, _image(tmp_path / "a.tif", 46, 60), tmp_path, format=form)
    np.testing.assert_array_equal(blocks, whole)
    assert blocks.dtype == whole.dtype
    assert whole.max() > 20  # so that the comparison is not trivial


def test_small_seeds_are_dropped_in_blocks_as_in_memory(flat: Path, tmp_path: Path) -> None:
    objects = ObjectSettings(threshold=0.4, seed_level=0.6, seed_share=0.5, min_size_px=3, grow_px=1)
    unsure = _save(tmp_path / "model.safetensors", objects=objects)
    image = _image(tmp_path / "a.tif", 46, 60)
    whole, blocks = _both(unsure, image, tmp_path)
    np.testing.assert_array_equal(blocks, whole)
    usual, _ = _both(flat, image, tmp_path / "usual")
    assert whole.max() < usual.max()
    stages = {r.stage for r in _run(unsure, image, tmp_path / "again", in_blocks=True) if isinstance(r, BlockDone)}
    assert "redivide" in stages
    frames = np.stack(
        [read_image(image).array[0], np.full((46, 60), 9, np.uint16)]
    )  # only one of the frames has small seeds
    write_image(tmp_path / "frames.tif", frames, axes="TYX")
    whole, blocks = _both(unsure, tmp_path / "frames.tif", tmp_path / "frames")
    np.testing.assert_array_equal(blocks, whole)


def test_objects_are_numbered_in_each_frame(flat: Path, tmp_path: Path) -> None:
    whole, blocks = _both(flat, _image(tmp_path / "a.tif", 3, 40, 50, axes="TYX"), tmp_path)
    np.testing.assert_array_equal(blocks, whole)
    assert all(frame.max() == len(np.unique(frame)) - 1 for frame in whole)


def test_objects_of_volumes_equal_those_of_the_whole(tmp_path: Path) -> None:
    model = _save(tmp_path / "model.safetensors", depths=(1, 1, 1))
    whole, blocks = _both(model, _image(tmp_path / "a.tif", 9, 20, 31, axes="ZYX"), tmp_path)
    np.testing.assert_array_equal(blocks, whole)
    assert whole.max() > 5


@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_do_not_show_the_blocks(flat: Path, tmp_path: Path, tta: bool) -> None:
    image = _image(tmp_path / "a.tif", 46, 60)
    whole, blocks = _both(flat, image, tmp_path, output="probabilities", tta=tta)
    assert np.abs(whole - blocks).max() <= 1e-5
    assert np.ptp(whole) > 0.2


def test_classes_and_probabilities_of_several_classes(tmp_path: Path) -> None:
    model = _save(tmp_path / "m.safetensors", classes=3, kind="classes", class_values=(5, 70, 300))
    image = _image(tmp_path / "a.tif", 50, 40)
    whole, blocks = _both(model, image, tmp_path / "classes")
    np.testing.assert_array_equal(blocks, whole)
    assert set(np.unique(whole)) <= {5, 70, 300}
    whole, blocks = _both(model, image, tmp_path / "maps", output="probabilities")
    assert whole.shape == (3, 50, 40)
    assert np.abs(whole - blocks).max() <= 1e-5


def test_the_more_probable_of_two_classes_is_written(tmp_path: Path) -> None:
    model = _save(tmp_path / "m.safetensors", kind="classes", class_values=(7, 255))
    image = _image(tmp_path / "a.tif", 50, 40)
    whole, blocks = _both(model, image, tmp_path / "classes")
    np.testing.assert_array_equal(blocks, whole)
    maps, _ = _both(model, image, tmp_path / "maps", output="probabilities")
    np.testing.assert_array_equal(whole, np.where(maps > 0.5, 255, 7))
    assert 0.1 < (whole == 255).mean() < 0.9


def test_areas_are_separated_as_objects_are_along_faint_lines(tmp_path: Path) -> None:
    objects = AREAS.model_copy(update={"threshold": 0.4, "seed_level": 0.7})
    model = _save(tmp_path / "m.safetensors", kind="classes", class_values=(7, 255), objects=objects, lines=True)
    image = _image(tmp_path / "a.tif", 46, 60)
    whole, blocks = _both(model, image, tmp_path / "classes")
    np.testing.assert_array_equal(blocks, whole)
    assert blocks.dtype == whole.dtype == np.uint8
    maps, _ = _both(model, image, tmp_path / "maps", output="probabilities")
    areas = label_objects(maps, objects)
    np.testing.assert_array_equal(whole, np.where(draw_boundaries(areas) > 0, 255, 7))
    assert 500 < (whole == 255).sum() < (areas > 0).sum()
    ids, _ = _both(model, image, tmp_path / "ids", output="labels")
    np.testing.assert_array_equal(ids, areas)


def test_finished_blocks_are_not_computed_again(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(tmp_path / "a.tif", 46, 60)
    _run(flat, image, tmp_path / "whole", in_blocks=True)
    computed: list[object] = []
    original = block_stages.region_probabilities

    def counted(*args: object, **kwargs: object) -> object:
        if len(computed) == 4:
            raise FileError("the disk is full", "room", "free some")
        computed.append(args[3])
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(block_stages, "region_probabilities", counted)
    with pytest.raises(FileError, match="disk is full"):
        _run(flat, image, tmp_path / "stopped", in_blocks=True)
    assert [p.name for p in (tmp_path / "stopped").iterdir()] == ["a.tif.unfinished"]
    monkeypatch.setattr(
        block_stages, "region_probabilities", lambda *a, **k: (computed.append(a[3]), original(*a, **k))[1]
    )
    events = _run(flat, image, tmp_path / "stopped", in_blocks=True)
    started = next(r for r in events if isinstance(r, ImageStarted))
    assert started.resumed
    assert len(computed) == started.blocks == len({str(region) for region in computed})
    assert (tmp_path / "stopped/a.tif").read_bytes() == (tmp_path / "whole/a.tif").read_bytes()
    assert [p.name for p in (tmp_path / "stopped").iterdir()] == ["a.tif"]


@pytest.mark.parametrize("in_blocks", [False, True])
def test_a_link_to_a_result_is_written_through(flat: Path, tmp_path: Path, in_blocks: bool) -> None:
    image = _image(tmp_path / "a.tif", 46, 60)
    (tmp_path / "far").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.ome.zarr").symlink_to(tmp_path / "far" / "result.ome.zarr")
    _run(flat, image, tmp_path / "out", in_blocks=in_blocks, format="ome.zarr")
    assert (tmp_path / "out" / "a.ome.zarr").is_symlink()
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["result.ome.zarr"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.ome.zarr"]


def test_a_resumed_prediction_keeps_its_blocks_with_any_memory(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _image(tmp_path / "a.tif", 46, 60)
    _run(flat, image, tmp_path / "whole")
    monkeypatch.setattr(tile_plan, "LARGEST_BLOCK", 32 * 32)
    with monkeypatch.context() as more:
        more.setitem(tile_plan.BLOCK_CHUNKS, 2, (2,))
        events = _run(flat, image, tmp_path / "out", in_blocks=True, shard=(1, 3))
    begun = next(r.blocks for r in events if isinstance(r, ImageStarted))
    small = next(r.blocks for r in _run(flat, image, tmp_path / "small", in_blocks=True) if isinstance(r, ImageStarted))
    assert small > begun  # the blocks that would be chosen now
    started = next(
        r for r in _run(flat, image, tmp_path / "out", in_blocks=True, shard=(2, 3)) if isinstance(r, ImageStarted)
    )
    assert (started.resumed, started.blocks) == (True, begun)
    started = next(r for r in _run(flat, image, tmp_path / "out") if isinstance(r, ImageStarted))  # fits as a whole
    assert (started.resumed, started.blocks) == (True, begun)
    np.testing.assert_array_equal(read_image(tmp_path / "out/a.tif").array, read_image(tmp_path / "whole/a.tif").array)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.tif"]


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("blocks", [False, True])
def test_objects_are_written_as_a_label_image_inside_the_image(flat: Path, tmp_path: Path, blocks: bool) -> None:
    image = _image(tmp_path / "a.ome.zarr", 2, 46, 60, axes="TYX")
    raw = read_image(image).array
    _run(flat, image, tmp_path / "out", in_blocks=blocks)
    events = _run(flat, image, None, label_image="cells", in_blocks=blocks)
    place = image / "labels/cells"
    assert [r.output for r in events if isinstance(r, ImageDone)] == [place]
    expected = read_image(tmp_path / "out/a.ome.zarr").array
    np.testing.assert_array_equal(read_image(place).array, expected)
    assert expected.max() > 20
    np.testing.assert_array_equal(read_image(image).array, raw)
    assert sorted(p.name for p in (image / "labels").iterdir()) == ["cells", "zarr.json"]
    for made in (place, tmp_path / "out/a.ome.zarr"):  # coarser levels hold ids, never means of ids
        notes = json.loads((made / "zarr.json").read_text())["attributes"]["ome"]
        assert notes["multiscales"][0]["type"] == "nearest"
        assert "image-label" in notes
    with pytest.raises(UsageError, match="exists"):
        _run(flat, image, None, label_image="cells")


def test_label_images_are_written_only_into_ome_zarr(flat: Path, tmp_path: Path) -> None:
    image = _image(tmp_path / "a.tif", 20, 20)
    with pytest.raises(UsageError, match="not an OME-Zarr image"):
        _run(flat, image, None, label_image="cells")
    with pytest.raises(UsageError, match="neither -o nor --label-image"):
        _run(flat, image, None)
    with pytest.raises(UsageError, match="both -o and --label-image"):
        _run(flat, image, tmp_path / "out", label_image="cells")
    with pytest.raises(UsageError, match="--label-image with --output probabilities"):
        _run(flat, image, None, label_image="cells", output="probabilities")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sessions are forked")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_no_byte(flat: Path, tmp_path: Path, kills: int) -> None:
    program = Path(__file__).with_name("killed_predictions.py")
    image = _image(tmp_path / "a.tif", 30, 36)
    command = [sys.executable, str(program), str(flat), str(image), str(tmp_path / "out"), str(kills), "1"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == kills
    whole = _content(tmp_path / "out/whole")
    assert len(whole) > 5
    for number in range(1, found["runs"] + 1):
        assert _content(tmp_path / f"out/killed-{number}") == whole, found


def test_another_model_or_image_does_not_resume_a_work_folder(flat: Path, tmp_path: Path) -> None:
    image = _image(tmp_path / "a.tif", 40, 50)
    _run(flat, image, tmp_path / "out", shard=(1, 2), in_blocks=True)
    other = _save(tmp_path / "other.safetensors", objects=ObjectSettings(threshold=0.3))
    with pytest.raises(UsageError, match="unfinished result of something else: model was"):
        _run(other, image, tmp_path / "out", in_blocks=True)
    _image(image, 40, 50, seed=1)
    with pytest.raises(UsageError, match="source_stamp was"):
        _run(flat, image, tmp_path / "out", in_blocks=True)


def test_an_image_that_is_named_in_another_way_resumes(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = _image(tmp_path / "a.tif", 46, 60), tmp_path / "out"
    plan = out / "a.tif.unfinished/plan.json"
    monkeypatch.chdir(tmp_path)
    _run(flat, Path("a.tif"), out, in_blocks=True, shard=(1, 3))
    assert json.loads(plan.read_text())["source"] == str(image)
    plan.write_text(plan.read_text().replace(json.dumps(str(image)), '"a.tif"'))  # as 0.2.0 wrote it
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    events = _run(flat, image, out, in_blocks=True, shard=(2, 3))
    assert [r.resumed for r in events if isinstance(r, ImageStarted)] == [True]
    assert json.loads(plan.read_text())["source"] == str(image)
    other = _image(Path("a.tif"), 46, 60)
    os.utime(other, ns=(1, 1))
    with pytest.raises(UsageError, match="something else"):
        _run(flat, other, out, in_blocks=True)


def test_parts_that_run_together_compute_each_block_once(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, computed = _image(tmp_path / "a.tif", 46, 60), list[object]()
    original = block_stages.Blocks.steps

    def counted(blocks: block_stages.Blocks, task: BlockTask) -> object:
        computed.append(task)
        return original(blocks, task)

    monkeypatch.setattr(block_stages.Blocks, "steps", counted)
    given = {"model": flat, "inputs": (str(image),), "out": tmp_path / "out", "device": "cpu", "tile": 16}
    given |= {"in_blocks": True, "scale": 1.0}
    parts = [predict_files(PredictSettings.model_validate(given | {"shard": (part, 3)})) for part in (1, 2, 3)]
    while parts:  # in step, as parts that begin together
        parts = [part for part in parts if next(part, None) is not None]
    assert len({task.stage for task in computed}) > 1  # type: ignore[attr-defined]
    assert len(computed) == len(set(computed))


def test_parts_of_a_job_array_are_joined(flat: Path, tmp_path: Path) -> None:
    image = _image(tmp_path / "a.tif", 46, 60)
    _run(flat, image, tmp_path / "whole", in_blocks=True)
    left = []
    for part in (3, 1, 2):
        events = _run(flat, image, tmp_path / "parts", shard=(part, 3), in_blocks=True)
        left += [r.left for r in events if isinstance(r, ShardDone)]
        assert not any(isinstance(r, ImageDone) for r in events)
    assert left[0] > left[1] > left[2] == 0
    events = _run(flat, image, tmp_path / "parts", in_blocks=True)
    assert not any(isinstance(r, BlockDone) and r.stage == "probabilities" for r in events)
    assert (tmp_path / "parts/a.tif").read_bytes() == (tmp_path / "whole/a.tif").read_bytes()


def test_each_part_predicts_its_share_of_many_small_images(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        _image(tmp_path / f"in/{number}.tif", 20, 20, seed=number)
    _run(flat, tmp_path / "in", tmp_path / "out", shard=(2, 2))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.tif", "3.tif"]


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_parts_are_counted_from_one(flat: Path, tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="1/N to N/N"):
        _run(flat, _image(tmp_path / "a.tif", 20, 20), tmp_path / "out", shard=shard)


def test_finished_blocks_survive_a_full_disk(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from septum.io.scratch import ShardedArray

    image = _image(tmp_path / "a.tif", 40, 50)
    written: list[object] = []
    write = ShardedArray.write

    def full(self: ShardedArray, index: tuple[int | slice, ...], values: np.ndarray) -> None:
        if len(written) == 3:
            from septum.io.atomic import as_error

            raise as_error(self.path, OSError(errno.ENOSPC, "No space left on device"))
        written.append(index)
        write(self, index, values)

    monkeypatch.setattr(ShardedArray, "write", full)
    with pytest.raises(FileError, match="disk is full"):
        _run(flat, image, tmp_path / "out", in_blocks=True)
    monkeypatch.setattr(ShardedArray, "write", write)
    events = _run(flat, image, tmp_path / "out", in_blocks=True)
    first = next(r for r in events if isinstance(r, BlockDone))
    assert (first.stage, int(first.done)) == ("probabilities", 4)  # three were done


def test_an_image_too_large_for_its_format_is_refused(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "resident_bytes", lambda: 300 << 20)
    image = _image(tmp_path / "a.npy", 3000, 3000)
    with pytest.raises(SeptumError, match="--format tif or ome"):
        _run(flat, image, tmp_path / "out", max_memory=600 << 20)


def test_learned_decisions_and_confidences_are_those_of_the_whole_image(tmp_path: Path) -> None:
    def score(bias: float, **weights: float) -> LogisticScore:
        zeros, ones = (0.0,) * len(weights), (1.0,) * len(weights)
        return LogisticScore(
            properties=tuple(weights), mean=zeros, deviation=ones, weights=tuple(weights.values()), bias=bias
        )

    learned = LearnedDecisions(
        size_px=20, contact=score(-0.5, saddle=1.0, convexity=-1.0), confidence=score(0.5, size=1.0), least=0.3
    )
    objects = ObjectSettings(threshold=0.4, seed_level=0.6, merge_ratio=0.9, min_size_px=2, grow_px=1)
    model = _save(tmp_path / "model.safetensors", objects=objects.model_copy(update={"learned": learned}))
    image = _image(tmp_path / "image.ome.zarr", 2, 70, 90, axes="TYX")
    memory, blocks = _both(model, image, tmp_path)
    assert np.array_equal(memory, blocks)
    labels, confidence = predict_objects(open_model(model, "cpu"), read_image(image))
    assert np.array_equal(labels.squeeze(), memory.squeeze())
    assert confidence is not None and [len(one) for one in confidence] == [int(m.max()) for m in memory.squeeze()]
    plain = _save(tmp_path / "plain.safetensors", objects=objects)
    without, nothing = predict_objects(open_model(plain, "cpu"), read_image(image))
    assert nothing is None and without.max() != labels.max()
