"""While an image is computed, the next is opened and the previous one is written, if memory allows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import FileError, SeptumError
from septum.events import Event
from septum.io.files import write_image
from septum.io.image import Image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import in_memory
from septum.prediction import model as model_module
from septum.prediction import predict as predict_module
from septum.prediction.backend import Choice
from septum.prediction.events import ImageDone, ImageFailed, ImageStarted
from septum.prediction.memory import operations, resident_bytes
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.outputs import result_files
from septum.prediction.pipeline import Prefetcher
from septum.prediction.predict import predict_files, predict_on_worker
from septum.prediction.scale import ScaleState
from septum.prediction.settings import PredictSettings
from septum.prediction.tiled import TiledPredictor

WAIT_S = 20.0
NETWORK = UNetSettings(depths=(1, 1), width=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    header = ModelHeader(
        network=NETWORK,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(min_size_px=1),
    )
    save_model(path, UNet(NETWORK, seed=1), header)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"{number}.npy", np.random.default_rng(number).integers(0, 4000, (20, 30)).astype(np.uint16))
    return folder


def _run(model: Path, images: Path, **changes: Any) -> list[Event]:
    given: dict[str, Any] = {"model": model, "inputs": (str(images),), "out": images.parent / "out"}
    return list(predict_files(PredictSettings(**given | changes)))


def _watch(monkeypatch: pytest.MonkeyPatch, place: object, name: str, before: Callable[..., None]) -> None:
    """Call `before` with the same arguments ahead of a function."""
    real = getattr(place, name)

    def watched(*args: Any, **more: Any) -> Any:
        before(*args, **more)
        return real(*args, **more)

    monkeypatch.setattr(place, name, watched)


def test_the_previous_image_is_made_and_the_next_opened_while_one_is_computed(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [threading.Event() for _ in range(3)]
    computing = [threading.Event() for _ in range(3)]
    met = []

    def open_image(path: Path, *_: object, **__: object) -> None:
        opened[int(path.stem)].set()

    def compute(*_: object) -> None:
        number = sum(event.is_set() for event in computing)
        computing[number].set()
        if number < 2:
            met.append(opened[number + 1].wait(WAIT_S))

    def postprocess(*_: object, **__: object) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if not met[2:]:  # the first image: its objects are made when the second is being computed
            met.append(computing[1].wait(WAIT_S))

    _watch(monkeypatch, predict_module, "open_for_model", open_image)
    _watch(monkeypatch, TiledPredictor, "_compute", compute)
    _watch(monkeypatch, in_memory, "postprocess", postprocess)
    events = _run(model, images)
    assert met == [True, True, True]
    done = [r for r in events if isinstance(r, ImageDone)]
    assert [(r.path.name, int(np.load(r.output).max())) for r in done] == [
        (f"{i}.npy", done[i].objects) for i in range(3)
    ]


def test_results_equal_those_of_images_predicted_alone(model: Path, images: Path) -> None:
    _run(model, images)
    for path in images.iterdir():
        _run(model, path, out=images.parent / "alone")
        together, alone = (np.load(images.parent / folder / path.name) for folder in ("out", "alone"))
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_image_that_cannot_be_written_is_named_and_the_others_are_predicted(
    model: Path, images: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(target: Path, *_: object, **__: object) -> None:
        if target.stem == str(failing):
            raise FileError(f"{target}: the disk is full", "room", "make room")

    _watch(monkeypatch, in_memory, "write_image", write)
    events = _run(model, images)
    (failed,) = [r for r in events if isinstance(r, ImageFailed)]
    assert failed.path.stem == str(failing) and "the disk is full" in failed.message
    assert [int(r.path.stem) for r in events if isinstance(r, ImageDone)] == [i for i in range(3) if i != failing]


def test_the_first_error_is_raised_if_all_images_fail(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(target: Path, *_: object, **__: object) -> None:
        raise FileError(f"{target.name}: the disk is full", "room")

    _watch(monkeypatch, in_memory, "write_image", write)
    (images / "1.npy").write_bytes(b"no image")
    with pytest.raises(SeptumError, match=r"0\.npy: the disk is full"):
        _run(model, images)


def test_images_do_not_overlap_if_memory_is_short(model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, order = set(), []

    def postprocess(*_: object, **__: object) -> None:
        threads.add(threading.current_thread())
        order.append("made")

    def open_image(*_: object, **__: object) -> None:
        order.append("opened")

    _watch(monkeypatch, in_memory, "postprocess", postprocess)
    _watch(monkeypatch, predict_module, "open_for_model", open_image)
    events = _run(model, images, max_memory=resident_bytes() + 250_000_000)
    assert threads == {threading.main_thread()}
    assert order == ["opened", "made"] * 3
    kinds = [type(r).__name__ for r in events if isinstance(r, ImageStarted | ImageDone)]
    assert kinds == ["ImageStarted", "ImageDone"] * 3


@pytest.mark.slow
def test_the_announced_memory_is_kept_with_two_images_at_a_time(model: Path, tmp_path: Path) -> None:
    """In a process of its own: memory of other tests would hide that of the prediction."""
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (1100, 1300), np.uint8)
        write_image(tmp_path / f"{number}.png", pixels, axes="YX")
    code = """
import sys
from pathlib import Path
from septum.prediction.outputs import result_files
from septum.prediction.predict import predict_files, predict_on_worker
from septum.prediction.scale import ScaleState
from septum.prediction.settings import PredictSettings
settings = PredictSettings(model=Path(sys.argv[1]), inputs=tuple(sys.argv[3:]), out=Path(sys.argv[2]))
events = list(predict_files(settings))
print(max(r.peak_bytes for r in events[:-1] if hasattr(r, "peak_bytes")), events[-1].peak_bytes)
"""
    found = []
    for names in (["0.png"], [f"{i}.png" for i in range(4)]):
        words = [sys.executable, "-c", code, str(model), str(tmp_path / "out"), *(str(tmp_path / n) for n in names)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        announced, taken = map(int, done.stdout.split())
        assert taken <= announced
        found.append(announced)
    assert found[1] > found[0] + 50_000_000


def test_files_are_closed_if_a_prediction_is_abandoned(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    _watch(monkeypatch, Image, "close", lambda source: closed.append(Path(source.name).name))
    for event in predict_files(PredictSettings(model=model, inputs=(str(images),), out=images.parent / "out")):
        if isinstance(event, ImageStarted):
            break
    assert sorted(closed) == ["0.npy", "1.npy"]


def test_the_engine_is_chosen_for_the_work_of_all_images(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = []

    def choose(*_: object, work: float, **__: object) -> Choice:
        works.append(work)
        return Choice("torch", "")

    monkeypatch.setattr(model_module, "select_backend", choose)
    _run(model, images)
    one = operations(NETWORK, NETWORK.geometry.input_for((20, 30)))
    assert works == [3 * one] * 3
    settings = PredictSettings(model=model, inputs=(str(images / "0.npy"),), out=images.parent / "out")
    (files,) = result_files(settings)
    predict_on_worker((settings, files, ScaleState(), 4))  # the worker will predict about four more
    assert works[3:] == [5 * one]


def test_an_image_that_cannot_be_opened_ahead_is_opened_in_its_turn(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path, *_: object, **__: object) -> None:
        if path.name == "1.npy":
            raise PermissionError(13, "no")

    real = predict_module._open_next

    def open_next(*given: Any) -> None:
        with monkeypatch.context() as patch:
            _watch(patch, Path, "stat", gone)
            real(*given)

    monkeypatch.setattr(predict_module, "_open_next", open_next)
    assert len([r for r in _run(model, images) if isinstance(r, ImageDone)]) == 3


def test_ctrl_c_does_not_wait_for_a_slow_drive() -> None:
    slow = threading.Event()

    def opens(path: Path) -> Image:
        slow.wait(WAIT_S)
        raise FileError(f"{path}: gone", "a drive")

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Prefetcher(opens) as ahead:
        ahead.begin(Path("far away"))
        raise KeyboardInterrupt
    took = time.monotonic() - begin
    slow.set()
    assert took < WAIT_S / 2
