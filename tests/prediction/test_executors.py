"""Workers of a cluster give the same result as one process, also if one of them dies."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import UsageError
from septum.io.files import read_image, write_image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction import executors as module
from septum.prediction.block_store import BlockTask
from septum.prediction.executors import compute_block, open_executor
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings

ALONE = {"OMP_NUM_THREADS": "1"}


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
    distributed = pytest.importorskip("distributed", reason="needs septum[cluster]")

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
