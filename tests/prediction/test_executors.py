"""Workers of a cluster give the same result as one process, also if one of them dies."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import SeptumError, UsageError
from septum.events import Event
from septum.io.files import read_image, write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import executors as module
from septum.prediction.block_store import BlockTask
from septum.prediction.events import BlockDone, ImageDone, ImageFailed, Opened
from septum.prediction.executors import compute_block, open_executor
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings

try:
    import distributed
except ImportError:
    distributed = None  # type: ignore[assignment]

ALONE = {"OMP_NUM_THREADS": "1"}

needs_dask = pytest.mark.skipif(distributed is None, reason="needs septum[cluster]")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = UNetSettings(depths=(1, 1), width=4)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(threshold=0.4, seed_level=0.6, min_size_px=3),
    )
    save_model(path, UNet(network, seed=3), header)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    write_image(path, np.random.default_rng(0).integers(0, 4000, (40, 44)).astype(np.uint16), axes="YX")
    return path


@pytest.mark.slow
def test_the_result_survives_the_death_of_a_worker(model: Path, image: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs septum[cluster]")
    program = Path(__file__).with_name("shared_predictions.py")
    command = [sys.executable, str(program), str(model), str(image), str(tmp_path / "out")]
    done = subprocess.run(command, env=os.environ | ALONE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["workers"] == 2
    assert result["killed"] > 0
    settings = PredictSettings(model=model, inputs=(str(image),), out=tmp_path / "alone", device="cpu", tile=16)
    list(predict_files(settings))
    expected = read_image(tmp_path / "alone/a.tif").array
    np.testing.assert_array_equal(read_image(tmp_path / "out/a.tif").array, expected)
    assert expected.max() > 10
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.tif"]


class _Future:
    """The call of a function by a worker that was started in another folder."""

    def __init__(self, function: Callable[[object], object], value: object, folder: Path, deadly: str) -> None:
        self._call, self._folder, self._deadly = (function, value), folder, deadly

    def result(self) -> object:
        function, value = self._call
        if self._deadly and self._deadly in str(value):
            raise distributed.KilledWorker("a-task", None, 3)
        before = Path.cwd()
        os.chdir(self._folder)
        try:
            return function(value)
        finally:
            os.chdir(before)


class _Client:
    def __init__(self, folder: Path, deadly: str) -> None:
        self._folder, self._deadly = folder, deadly

    def scheduler_info(self, n_workers: int) -> dict[str, list[int]]:
        return {"workers": [1, 2]}

    def map(self, function: Callable[[object], object], values: Sequence[object], pure: bool) -> list[_Future]:
        return [_Future(function, value, self._folder, self._deadly) for value in values]

    def cancel(self, futures: list[_Future]) -> None:
        pass

    def run(self, function: Callable[[], int]) -> dict[str, int]:
        return {"worker": function()}


def _on_workers(
    monkeypatch: pytest.MonkeyPatch, folder: Path, settings: dict[str, object], deadly: str = ""
) -> list[Event]:
    @contextlib.contextmanager
    def opened(workers: str, device: str) -> Iterator[module.DaskExecutor]:
        yield module.DaskExecutor(_Client(folder, deadly), device)

    monkeypatch.setattr(module, "open_executor", opened)
    monkeypatch.setattr(distributed, "as_completed", list)
    given = settings | {"workers": "tcp://host:8786", "device": "cpu"}
    return list(predict_files(PredictSettings.model_validate(given)))


@pytest.fixture
def relative(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Settings with paths relative to a folder, in which three images lie."""
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 4000, (40, 44)).astype(np.uint16)
        write_image(tmp_path / f"in/{number}.tif", values, axes="YX")
    shutil.copyfile(model, tmp_path / "copy.safetensors")
    monkeypatch.chdir(tmp_path)
    return {"model": "copy.safetensors", "inputs": ("in",), "out": Path("out"), "tile": 16}


@needs_dask
@pytest.mark.parametrize("blocks", [False, True])
def test_workers_that_were_started_in_another_folder_find_the_files(
    relative: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: bool
) -> None:
    list(predict_files(PredictSettings.model_validate(relative | {"out": Path("alone"), "device": "cpu"})))
    write_image(tmp_path / "all.tif", np.ones((40, 44), np.uint8), axes="YX")
    asked = relative | {"in_blocks": blocks} | ({"inputs": ("in/0.tif",), "region": "all.tif"} if blocks else {})
    events = _on_workers(monkeypatch, tmp_path / "elsewhere", asked)
    done = [(event.path, event.output) for event in events if isinstance(event, ImageDone)]
    names = ["0.tif"] if blocks else ["0.tif", "1.tif", "2.tif"]
    assert done == [(Path("in") / name, Path("out") / name) for name in names]
    for name in names:
        made, alone = (read_image(tmp_path / folder / name).array for folder in ("out", "alone"))
        np.testing.assert_array_equal(made, alone)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@needs_dask
def test_an_image_that_ends_its_workers_does_not_stop_the_others(
    relative: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in/bad.tif").write_bytes(b"no image")
    events = _on_workers(monkeypatch, tmp_path / "elsewhere", relative, deadly="1.tif")
    assert [event.images for event in events if isinstance(event, Opened)] == [4]
    assert [event.path.name for event in events if isinstance(event, ImageDone)] == ["0.tif", "2.tif"]
    failed = {event.path: event.message for event in events if isinstance(event, ImageFailed)}
    assert set(failed) == {Path("in/1.tif"), Path("in/bad.tif")}
    assert failed[Path("in/1.tif")].startswith(f"{Path('in/1.tif')}: the image ended 4 workers, one after the other")
    assert "--skip-existing, and without --also" in failed[Path("in/1.tif")]  # which are refused together
    with pytest.raises(SeptumError, match=r"a block ended 4 workers[\s\S]*finished blocks are kept"):
        _on_workers(monkeypatch, tmp_path, relative | {"inputs": ("in/0.tif",), "in_blocks": True}, deadly="unfinished")


@needs_dask
def test_the_last_image_without_a_result_is_divided_among_the_workers(
    relative: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"in/1.tif": tmp_path / "alone", "in": tmp_path / "out"}
    for given, out in alone.items():
        settings = relative | {"inputs": (given,), "out": out, "device": "cpu"}
        list(predict_files(PredictSettings.model_validate(settings)))
    (tmp_path / "out/1.tif").unlink()
    events = _on_workers(monkeypatch, tmp_path / "elsewhere", relative | {"skip_existing": True})
    assert [e.path.name for e in events if isinstance(e, ImageDone)] == ["1.tif"]
    assert any(isinstance(e, BlockDone) for e in events)
    np.testing.assert_array_equal(*(read_image(out / "1.tif").array for out in alone.values()))


@needs_dask
def test_failures_on_workers_name_the_paths_that_were_typed(
    relative: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((40, 44), np.nan, np.float32)
    write_image(tmp_path / "in/1.tif", values, axes="YX")
    events = _on_workers(monkeypatch, tmp_path / "elsewhere", relative | {"scale": 1.0})
    (failed,) = (event for event in events if isinstance(event, ImageFailed))
    assert failed.path == Path("in/1.tif")
    assert failed.message.startswith(f"{Path('in/1.tif')}: some pixels are NaN or infinite")


@pytest.mark.slow
def test_workers_start_beside_another_cluster(model: Path, image: Path, tmp_path: Path) -> None:
    """The port of Dask's dashboard, 8787, can be in use: no port is asked for, so nothing is warned of."""
    pytest.importorskip("distributed", reason="needs septum[cluster]")
    out = tmp_path / "out"
    settings = PredictSettings(model=model, inputs=(str(image),), out=out, device="cpu", tile=16, workers=1)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # another program has it, which is what this test wants
            taken.bind(("", 8787))
            taken.listen()
        list(predict_files(settings))
    assert read_image(out / "a.tif").array.max() > 10


def test_this_process_alone_needs_no_dask(
    model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    settings = PredictSettings(model=model, inputs=(str(image),), out=tmp_path / "out", device="cpu", in_blocks=True)
    list(predict_files(settings))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.tif"]


def test_a_scheduler_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs septum[cluster]")

    def silent(address: str, **_: object) -> None:
        raise OSError(f"Timed out trying to connect to {address}")

    monkeypatch.setattr(distributed, "Client", silent)
    with (
        pytest.raises(UsageError, match=r"no scheduler answers[\s\S]*dask scheduler"),
        open_executor("tcp://no:1", "cpu"),
    ):
        pass


def test_the_error_without_dask_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"septum\[cluster\]"), open_executor(2, "cpu"):
        pass


def test_a_worker_refuses_another_model_than_at_the_start(model: Path, image: Path, tmp_path: Path) -> None:
    settings = PredictSettings(
        model=model, inputs=(str(image),), out=tmp_path / "out", device="cpu", in_blocks=True, shard=(1, 1)
    )
    list(predict_files(settings))
    (folder,) = (tmp_path / "out").iterdir()
    plan = folder / "plan.json"
    plan.write_text(plan.read_text().replace('"model_sha256": "', '"model_sha256": "0'))
    with pytest.raises(UsageError, match="another model"):
        module._opened(str(folder), "cpu")


def test_a_worker_without_the_device_reports_it(model: Path, image: Path, tmp_path: Path) -> None:
    settings = PredictSettings(
        model=model, inputs=(str(image),), out=tmp_path / "out", device="cpu", in_blocks=True, shard=(1, 2)
    )
    list(predict_files(settings))
    (folder,) = (tmp_path / "out").iterdir()
    with pytest.raises(UsageError, match=r"device 'cuda:7'[\s\S]*septum info") as caught:
        compute_block((str(folder), "cuda:7", BlockTask("probabilities", 0, 1)))
    arrived = pickle.loads(pickle.dumps(caught.value))  # as Dask sends it to the calling process
    assert (type(arrived), str(arrived)) == (UsageError, str(caught.value))
