"""A prediction that was stopped goes on with the images that have no result yet, and gives the same results."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import UsageError
from septum.events import Event, Warned
from septum.export.settings import PredictAndExportSettings
from septum.io.files import read_image, write_image
from septum.io.zarr_labels import write_labels
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import in_blocks, tile_plan
from septum.prediction import predict as predict_module
from septum.prediction.block_store import finished_images
from septum.prediction.events import BlockDone, ImageDone, ImageFailed, ImageSkipped, ImageStarted, Predicted
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = UNetSettings(depths=(1, 1), width=4)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(threshold=0.4, seed_level=0.6, min_size_px=3),
    )
    path = tmp_path / "model.safetensors"
    save_model(path, UNet(network, seed=3), header)
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tile_plan.CHUNK, 2, (16, 16))
    monkeypatch.setitem(tile_plan.BLOCK_CHUNKS, 2, (1, 2))
    monkeypatch.setattr(tile_plan, "LARGEST_BLOCK", 16 * 32)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def _images(folder: Path, count: int, suffix: str = ".tif", side: int = 20) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        values = np.random.default_rng(number).integers(0, 255, (side, side)).astype(np.uint8)
        write_image(path, values, axes="YX")
    return paths


def _run(model: Path, images: list[Path], out: Path | None, **more: object) -> list[Event]:
    given = {"model": model, "inputs": tuple(map(str, images)), "out": out, "device": "cpu", "tile": 16}
    return list(predict_files(PredictSettings.model_validate(given | more)))


def _names(events: list[Event], kind: type[ImageSkipped | ImageDone | ImageFailed]) -> list[str]:
    return [event.path.name for event in events if isinstance(event, kind)]


def _made_later(path: Path, than: Path) -> None:
    time = than.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(time, time))


def test_images_are_left_out_whose_result_is_newer_than_image_and_model(model: Path, tmp_path: Path) -> None:
    images, out = _images(tmp_path / "in", 4), tmp_path / "out"
    first = _run(model, images, out, skip_existing=True)
    assert _names(first, ImageDone) == ["0.tif", "1.tif", "2.tif", "3.tif"]
    (out / "1.tif").unlink()
    _made_later(images[2], than=out / "2.tif")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    events = _run(model, images, out, skip_existing=True)
    assert _names(events, ImageSkipped) == ["0.tif", "3.tif"]
    assert _names(events, ImageDone) == ["1.tif", "2.tif"]
    assert [(e.index, e.count) for e in events if isinstance(e, ImageStarted)] == [(1, 4), (2, 4)]
    assert isinstance(events[-1], Predicted) and (events[-1].done, events[-1].failed) == (2, 0)
    assert all((out / name).stat().st_mtime_ns == before[name] for name in ("0.tif", "3.tif"))
    _made_later(model, than=images[2])
    assert _names(_run(model, images, out, skip_existing=True), ImageSkipped) == []
    assert _names(_run(model, images, out), ImageSkipped) == []


def test_an_image_of_a_file_of_several_is_compared_with_its_file(tmp_path: Path) -> None:
    slides, result, model = (tmp_path / name for name in ("slides.czi", "slides#2.tif", "model"))
    for path in (slides, model, result):
        path.write_bytes(b"content")
    settings = PredictSettings(model=model, inputs=("slides.czi#2",), out=tmp_path)
    image = Path(f"{slides}#2")
    _made_later(result, than=slides)
    assert finished_images([(image, result)], settings, {}) == {image}
    _made_later(slides, than=result)
    assert finished_images([(image, result)], settings, {}) == frozenset()


def test_an_image_is_predicted_again_if_one_of_its_chunks_is_newer(model: Path, tmp_path: Path) -> None:
    images, out = _images(tmp_path / "in", 3, ".ome.zarr"), tmp_path / "out"
    _run(model, images, out)
    chunk = next(path for path in (images[0] / "0").rglob("*") if path.is_file() and path.name != "zarr.json")
    _made_later(chunk, than=out / "0.ome.zarr/zarr.json")
    write_labels(images[1], "drawn", np.ones((20, 20), np.uint8), axes="YX")
    for path in (images[1] / "labels").rglob("*"):
        _made_later(path, than=out / "1.ome.zarr/zarr.json")
    events = _run(model, images, out, skip_existing=True)
    assert (_names(events, ImageDone), _names(events, ImageSkipped)) == (["0.ome.zarr"], ["1.ome.zarr", "2.ome.zarr"])


def test_an_unfinished_result_goes_on_though_an_older_result_exists(model: Path, tmp_path: Path) -> None:
    images, out = _images(tmp_path / "in", 2, side=40), tmp_path / "out"
    _run(model, images, out)
    _run(model, images[1:], out, in_blocks=True, shard=(1, 2))
    events = _run(model, images, out, in_blocks=True, skip_existing=True)
    assert _names(events, ImageSkipped) == ["0.tif"]
    assert [e.resumed for e in events if isinstance(e, ImageStarted)] == [True]
    assert sorted(path.name for path in out.iterdir()) == ["0.tif", "1.tif"]


def test_the_run_after_the_parts_predicts_only_what_is_missing(model: Path, tmp_path: Path) -> None:
    images, out = _images(tmp_path / "in", 4), tmp_path / "out"
    _run(model, images, out, shard=(2, 2))
    again = _run(model, images, out, shard=(2, 2), skip_existing=True)
    assert (_names(again, ImageSkipped), _names(again, ImageDone)) == (["1.tif", "3.tif"], [])
    events = _run(model, images, out, skip_existing=True)
    assert (_names(events, ImageSkipped), _names(events, ImageDone)) == (["1.tif", "3.tif"], ["0.tif", "2.tif"])


def test_label_images_of_one_name_fail_alone_and_are_left_out_when_asked(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [*_images(tmp_path / "in", 3, ".ome.zarr", 40), *_images(tmp_path / "in", 1)]
    original = in_blocks.deliver

    def stopped(work: object, job: object) -> object:
        if job.index == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return original(work, job)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(in_blocks, "deliver", stopped)
        with pytest.raises(KeyboardInterrupt):
            _run(model, images, None, label_image="cells", in_blocks=True)
    events = _run(model, images[:2], None, label_image="cells", in_blocks=True)
    assert (_names(events, ImageFailed), _names(events, ImageDone)) == (["0.ome.zarr"], ["1.ome.zarr"])
    assert "cells exists" in next(e.message for e in events if isinstance(e, ImageFailed))
    assert [e.resumed for e in events if isinstance(e, ImageStarted)] == [True]
    assert not any(isinstance(e, BlockDone) and e.stage == "probabilities" for e in events)
    events = _run(model, images, None, label_image="cells", in_blocks=True, skip_existing=True)
    assert _names(events, ImageSkipped) == ["0.ome.zarr", "1.ome.zarr"]
    assert (_names(events, ImageFailed), _names(events, ImageDone)) == (["0.tif"], ["2.ome.zarr"])
    for image in images[:3]:
        assert read_image(image / "labels/cells").array.max() > 0
    with pytest.raises(UsageError, match="the name 'a/b' of a label image"):
        _run(model, images, None, label_image="a/b")


def test_tables_of_all_images_are_not_made_of_some(tmp_path: Path) -> None:
    asked = PredictSettings(model=Path("m"), inputs=("a",), out=tmp_path, skip_existing=True)
    with pytest.raises(UsageError, match=r"--also tables with --skip-existing[\s\S]*septum convert .* --to tables"):
        PredictAndExportSettings(prediction=asked, also=("tables",))


@pytest.mark.parametrize("form", ["png", "tif"])
def test_a_part_leaves_the_images_of_other_parts_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    images, out = _images(tmp_path / "in", 4, ".png"), tmp_path / "out"
    images[0].write_bytes(b"no image")
    opened, compared = list[str](), list[str]()
    open_one, compare = predict_module.open_for_model, predict_module.image_warnings

    def opens(path: Path, *args: object, **kwargs: object) -> object:
        opened.append(path.name)
        return open_one(path, *args, **kwargs)  # type: ignore[arg-type]

    def compares(frames: object, name: str, *args: object) -> object:
        compared.append(Path(name).name)
        return compare(frames, name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(predict_module, "open_for_model", opens)
    monkeypatch.setattr(predict_module, "image_warnings", compares)
    events = _run(model, images, out, format=form, shard=(2, 2))
    assert _names(events, ImageDone) == compared == ["1.png", "3.png"]
    assert _names(events, ImageFailed) == []
    # Only what is written piece by piece can have blocks for all parts.
    assert opened == (["1.png", "3.png"] if form == "png" else ["0.png", "1.png", "2.png", "3.png"])
    said = [e.text for e in events if isinstance(e, Warned) and "0.png" in e.text]
    assert said == (
        [] if form == "png" else [f"{images[0]} cannot be predicted; the part of the job array that has it says why"]
    )
    events = _run(model, images, out, format=form, shard=(1, 2))
    assert (_names(events, ImageFailed), _names(events, ImageDone)) == (["0.png"], ["2.png"])
