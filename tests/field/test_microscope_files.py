"""Files of microscopes from check to prediction: each scene is an image, and its result is named after it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import septum
from septum.check.check import check
from septum.io.files import read_image, write_image
from septum.prediction.events import Predicted
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings

pytest.importorskip("pylibCZIrw", reason="the extra [formats] is not installed")


def _writers() -> ModuleType:
    path = Path(__file__).parents[1] / "contract" / "write_foreign.py"
    spec = importlib.util.spec_from_file_location("write_foreign", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scenes_are_checked_trained_on_predicted_and_scored(tmp_path: Path, disks: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    images = [read_image(path).array for path in sorted((disks / "images").iterdir())]
    masks = [read_image(path).array for path in sorted((disks / "masks").iterdir())]
    scenes = [np.clip(image, 0, 255).astype(np.uint8)[:, None] for image in images]
    _writers().write_czi(tmp_path / "images" / "plate.czi", scenes, ["DAPI"])
    for number, mask in enumerate(masks, start=1):
        write_image(tmp_path / "masks" / f"plate#{number}.tif", mask[0], axes="YX")
    report = check([tmp_path])
    assert [pair.image.name for pair in report.pairs] == [f"plate.czi#{k}" for k in range(1, 6)]
    assert not report.errors
    septum.train(tmp_path, out=tmp_path / "run", steps=3, width=2, depth=1, tile=32)
    for inputs, wanted in (("images", range(1, 6)), ("images/plate.czi#3", [3]), ("images/plate.czi", range(1, 6))):
        out = tmp_path / f"out of {len(list(wanted))} {len(inputs)}"
        settings = PredictSettings(model=tmp_path / "run", inputs=(str(tmp_path / inputs),), out=out, device="cpu")
        *_, last = predict_files(settings)
        assert isinstance(last, Predicted) and last.failed == 0
        assert sorted(p.name for p in out.iterdir()) == [f"plate#{k}.tif" for k in wanted]
        assert read_image(out / "plate#3.tif").pixel_size_um == {"Y": 0.25, "X": 0.25}
    found = septum.evaluate(tmp_path / "out of 5 6", tmp_path / "masks")
    assert len(found.results[0].images) == 5
