"""The comparison hands every program the same cases, measures each process, and scores what comes back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from septum.io.files import read_image, write_image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("benchmarks are not part of a source package", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))
import peers  # noqa: E402
import peers_cases  # noqa: E402

PROGRAM = """
import json, pathlib, sys
import numpy as np
from septum.io.files import read_image
what, cases, folder, *rest = sys.argv[1:]
cases, folder = pathlib.Path(cases), pathlib.Path(folder)
if what == "train":
    held = np.ones(200_000_000, np.uint8)
    told = {"steps": 7, "budget": float(rest[0]), "cases": len(list((cases / "labels").iterdir()))}
    (folder / "trained.json").write_text(json.dumps(told))
else:
    inputs, out = map(pathlib.Path, rest)
    out.mkdir(exist_ok=True)
    for path in inputs.glob("*_0000.tif"):
        image = read_image(path).array.squeeze()
        np.save(out / (path.name[: -len("_0000.tif")] + ".npy"), (image // 50).astype(np.uint16))
"""


def picture(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return an image and its objects, of which two touch; the image is 50 times the number of the object."""
    labels = np.zeros((64, 64), np.uint16)
    labels[8:24, 8:24], labels[8:24, 24:40], labels[40:56, 20:30] = 1, 2, 3
    labels = np.roll(labels, seed, axis=(0, 1))
    return (50 * labels).astype(np.uint8), labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, count in (("train", 5), ("test", 2)):
        for number in range(count):
            image, mask = picture(number)
            for kind, array in (("images", image), ("masks", mask)):
                (tmp_path / "set" / part / kind).mkdir(parents=True, exist_ok=True)
                write_image(tmp_path / "set" / part / kind / f"{number:02d}.tif", array, axes="YX")
    return tmp_path / "set"


def test_cases_are_the_images_and_objects_with_a_gap_between_touching_ones(data: Path, tmp_path: Path) -> None:
    tuning = peers_cases.write_cases(data, tmp_path / "cases", kind="objects")
    image, mask = picture(2)
    place = tmp_path / "cases"
    np.testing.assert_array_equal(read_image(place / "images" / "case_0003_0000.tif").array.squeeze(), image)
    np.testing.assert_array_equal(read_image(place / "labels" / "case_0003.tif").array.squeeze(), mask)
    inside = read_image(place / "inside" / "case_0003.tif").array.squeeze()
    assert set(np.unique(inside)) == {0, 1}
    assert not inside[mask == 0].any()
    assert 0 < (inside[mask > 0] == 0).sum() <= 2 * 16  # the two columns where the squares meet, at most
    assert sorted(p.name for p in (place / "inputs").iterdir()) == ["00_0000.tif", "01_0000.tif"]
    assert sorted(tuning) == [f"case_{n:04d}" for n in range(1, 6)]
    assert json.loads((place / "job.json").read_text()) == {"kind": "objects", "channels": 1, "axes": 2, "classes": 2}


def test_a_program_is_measured_and_its_objects_are_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peers_stardist.py").write_text(PROGRAM)
    monkeypatch.setattr(peers, "HERE", tmp_path)
    run = peers.peer("stardist", sys.executable)
    found = peers.run_set("fluorescence", "stardist", run, data, data / "stardist", 3.0)
    assert (found["steps"], found["budget"], found["cases"]) == (7, 3.0, 5)
    assert found["train_mb"] > found["predict_mb"] + 100  # an array of 200 MB
    assert found["train_s"] > 0 and found["predict_s"] > 0
    assert {name: value for name, (value, *_) in found["scores"].items()} == {"AP50": 1, "AP75": 1, "AP": 1, "SEG": 1}
    again = peers.run_set("fluorescence", "stardist", pytest.fail, data, data / "stardist", 3.0)  # type: ignore[arg-type]
    assert again == found
