"""Every command for real, on made cells: check, train, predict, evaluate, info; and what bad input gets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from septum.cli.main import main
from septum.demo.synthetic_cells import generate
from septum.io.files import read_image, write_image

SMALL = ("--steps", "2", "--width", "2", "--depth", "1", "--tile", "64", "--device", "cpu")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; return the exit code, the standard output and the standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small images with masks, as a person would have them."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    image, labels = generate(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(4):
        window = (slice(64 * index, 64 * index + 64), slice(0, 96))
        write_image(folder / "images" / f"cell{index}.png", image[0][window].astype(np.uint8), axes="YX")
        write_image(folder / "masks" / f"cell{index}.png", labels[window].astype(np.uint16), axes="YX")
    return folder


@pytest.fixture(scope="module")
def model(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cells"
    with pytest.raises(SystemExit) as left:
        main(["train", str(cells), "-o", str(folder), *SMALL, "--quiet"])
    assert not left.value.code
    return folder / "model.safetensors"


def test_check_says_what_was_found(run: Run, cells: Path) -> None:
    code, out, _ = run("check", cells)
    assert code == 0
    assert out.splitlines()[0].startswith("4 pairs")
    assert "object ids" in out
    code, out, _ = run("check", cells, "--json")
    document = json.loads(out)
    assert (code, document["command"], document["pairs"], document["used"]) == (0, "check", 4, 4)


def test_check_exit_codes(run: Run, cells: Path, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for path in sorted((cells / part).iterdir())[:3]:
            (tmp_path / part / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "cell0.png").write_text("not an image")
    code, out, _ = run("check", tmp_path)
    assert code == 1
    assert "cannot be read" in out
    assert "cell0.png" in out
    write_image(tmp_path / "masks" / "cell1.png", np.ones((5, 5), np.uint8), axes="YX")
    code, out, _ = run("check", tmp_path)
    assert code == 2
    assert "differ in size" in out


def test_check_fix_writes_a_copy(run: Run, cells: Path, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for path in sorted((cells / part).iterdir())[:3]:
            (tmp_path / "data" / part / path.name).write_bytes(path.read_bytes())
    (tmp_path / "data" / "images" / "cell0.png").write_text("not an image")
    labels = read_image(cells / "masks" / "cell1.png", labels=True).array[0]
    (tmp_path / "data" / "masks" / "cell1.png").unlink()
    write_image(tmp_path / "data" / "masks" / "cell1.tif", labels.astype(np.float32), axes="YX")
    code, out, _ = run("check", tmp_path / "data", "--fix", tmp_path / "mended")
    assert code == 1
    assert "left out: " in out
    assert f"{tmp_path / 'mended'}: 4 files, 1 of them mended; 2 left out" in out
    mended = read_image(tmp_path / "mended" / "masks" / "cell1.tif", labels=True).array[0]
    assert mended.dtype.kind == "u"
    np.testing.assert_array_equal(mended, labels)
    code, out, _ = run("check", tmp_path / "mended")
    assert code == 0
    assert "nothing is wrong" in out
    code, out, err = run("check", tmp_path / "data", "--fix", tmp_path / "mended")
    assert code == 2
    assert "not empty" in err
    code, out, _ = run("check", tmp_path / "data", "--fix", tmp_path / "again", "--json")
    assert code == 1
    assert len(json.loads(out)["fixed"]) == 6


def test_training_leaves_a_run_and_goes_on_when_repeated(run: Run, cells: Path, tmp_path: Path) -> None:
    code, out, err = run("train", cells, "-o", tmp_path / "run", *SMALL)
    assert code == 0
    assert out.startswith(f"model: {tmp_path / 'run' / 'model.safetensors'}")
    assert "2/2 steps" in err
    with (tmp_path / "run" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]
    code, out, err = run("train", cells, "-o", tmp_path / "run", *SMALL, "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 2
    code, _, err = run("train", cells, "-o", tmp_path / "run", *SMALL, "--seed", "1")
    assert code == 2
    assert "other settings" in err


def test_predict_evaluate_info(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "new" / "results"
    code, out, err = run("predict", model, cells / "images", "-o", out_folder)
    assert code == 0
    assert out.startswith("4 images in ")
    assert err.count(" -> ") == 4
    image = read_image(out_folder / "cell2.png", labels=True)
    assert image.array.shape == (1, 64, 96)

    code, out, err = run("evaluate", out_folder, cells / "masks")
    assert code == 0
    assert out.splitlines()[0].split()[:2] == ["score", "value"]
    code, out, _ = run("evaluate", cells / "masks", cells / "masks", "--metrics", "ctc,instances", "--json")
    assert code == 0
    scores = {s["name"]: s["value"] for s in json.loads(out)["results"][0]["scores"]}
    assert scores["SEG"] == scores["AP"] == 1.0
    code, out, _ = run("evaluate", out_folder, cells / "masks", cells / "masks")
    assert code == 0
    assert "second better" in out

    code, out, _ = run("info", model)
    assert code == 0
    assert "objects" in out
    code, out, _ = run("info", "--json")
    assert json.loads(out)["septum"]


def test_probabilities_are_probabilities(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "predict", model, cells / "images" / "cell1.png", "-o", tmp_path, "--output", "probabilities", "--json"
    )
    assert code == 0
    (done,) = json.loads(out)["done"]
    array = read_image(Path(done["output"])).array
    assert (array.shape, array.dtype) == ((1, 64, 96), np.float32)
    assert 0 <= array.min() < array.max() <= 1


def test_one_broken_image_among_many_is_named_at_the_end(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("not an image")
    code, out, err = run("predict", model, tmp_path / "bad.png", cells / "images", "-o", tmp_path / "out", "--quiet")
    assert code == 1
    assert "; 1 failed" in out
    assert err.startswith(f"failed: {tmp_path / 'bad.png'}: no image")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_bad_input_gets_a_sentence(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    forged = tmp_path / "forged.safetensors"
    forged.write_bytes(model.read_bytes()[:-1] + b"?")
    three = tmp_path / "three.png"
    write_image(three, np.zeros((3, 40, 40), np.uint8) + np.arange(40, dtype=np.uint8), axes="CYX")
    for arguments in (
        ["check", tmp_path / "missing"],
        ["check", empty],
        ["train", empty, "-o", tmp_path / "run"],
        ["train", cells, "-o", file / "run", *SMALL],
        ["train", cells, "-o", tmp_path / "run", *SMALL, "--device", "abacus"],
        ["predict", tmp_path / "missing.safetensors", cells / "images", "-o", tmp_path / "out"],
        ["predict", file, cells / "images", "-o", tmp_path / "out"],
        ["predict", forged, cells / "images", "-o", tmp_path / "out"],
        ["predict", model, empty, "-o", tmp_path / "out"],
        ["predict", model, three, "-o", tmp_path / "out"],
        ["predict", model, cells / "images", "-o", file / "out"],
        ["evaluate", cells / "masks", tmp_path / "missing"],
        ["evaluate", cells / "masks"],
        ["evaluate", cells / "masks", cells / "masks", "--metrics", "best"],
        ["info", file],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert "error: " in err, arguments
        assert "expected: " in err, arguments
        assert "Traceback" not in err
    assert not list(tmp_path.glob("out/*"))
    assert not list(tmp_path.glob("**/*.part*"))
