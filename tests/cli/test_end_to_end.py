"""Every command for real, on made cells: check, train, predict, evaluate, info; and what bad input gets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

import septum
from septum.cli.main import main
from septum.cli.text import json_text
from septum.demo.synthetic_cells import generate
from septum.io.files import read_image, write_image
from septum.models.named import read_card
from septum.prediction import tile_plan

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


def test_check_prints_pairs_and_meaning_of_masks(run: Run, cells: Path) -> None:
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
    assert f"{tmp_path / 'mended'}: 4 files, 1 of them repaired; 2 left out" in out
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


def test_training_writes_a_run_and_resumes_when_repeated(run: Run, cells: Path, tmp_path: Path) -> None:
    code, out, err = run("train", cells, "-o", tmp_path / "run", *SMALL)
    assert code == 0
    spent, model = out.splitlines()
    assert spent.startswith("time: ")
    assert model.startswith(f"model: {tmp_path / 'run' / 'model.safetensors'}")
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
    assert f"{cells / 'masks'} is better" in out

    code, out, _ = run("info", model)
    assert code == 0
    assert "objects" in out
    code, out, _ = run("info", "--json")
    assert json.loads(out)["septum"]


def test_parts_of_an_image_are_counted_as_parts(
    run: Run, cells: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tile_plan.CHUNK, 2, (16, 16))
    monkeypatch.setitem(tile_plan.BLOCK_CHUNKS, 2, (1, 2))
    image, blocks = cells / "images" / "cell0.png", ("--in-blocks", "--format", "tif")
    for part in (1, 2):
        code, out, err = run("predict", model, image, "-o", tmp_path / "out", *blocks, "--shard", f"{part}/2")
        assert code == 0
        assert out.startswith("a part of 1 image in ")
        assert "put them together with the same command without --shard" in err
    code, out, _ = run("predict", model, image, "-o", tmp_path / "out", *blocks)
    assert out.startswith("1 image in ")


def test_blocks_of_a_format_without_pieces_are_refused_aloud(
    run: Run, cells: Path, model: Path, tmp_path: Path
) -> None:
    code, _, err = run("predict", model, cells / "images", "-o", tmp_path / "out", "--in-blocks")
    assert code == 0
    assert (
        err.count("cell0.png is written whole, so that --in-blocks has no effect: give --format tif or ome.zarr") == 1
    )
    assert err.count("no effect") == 1


def test_a_model_that_comes_with_septum_is_used_by_its_name(run: Run, cells: Path, tmp_path: Path) -> None:
    code, _, err = run("predict", "nuclei", cells / "images" / "cell0.png", "-o", tmp_path)
    assert code == 0
    assert "a model that comes with Septum, for nuclei in fluorescence microscopy, bright on dark" in err
    assert "trained on DSB 2018 (CC0)" in err
    assert read_image(tmp_path / "cell0.png", labels=True).array.max() > 1
    code, out, _ = run("info", "nuclei")
    assert code == 0 and out.startswith(read_card("nuclei"))
    assert json.loads(run("info", "nuclei", "--json")[1])["card"] == read_card("nuclei")
    assert "cells, membranes, nuclei" in run("info")[1]
    code, _, err = run("predict", "nucleus", cells / "images", "-o", tmp_path)
    assert code == 2 and "to do: did you mean: nuclei?" in err


def test_probabilities_are_probabilities(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "predict", model, cells / "images" / "cell1.png", "-o", tmp_path, "--output", "probabilities", "--json"
    )
    assert code == 0
    (done,) = json.loads(out)["done"]
    array = read_image(Path(done["output"])).array
    assert (array.shape, array.dtype) == ((1, 64, 96), np.float32)
    assert 0 <= array.min() < array.max() <= 1


def test_a_broken_image_among_many_is_named_at_the_end(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("not an image")
    code, out, err = run("predict", model, tmp_path / "bad.png", cells / "images", "-o", tmp_path / "out", "--quiet")
    assert code == 1
    assert "; 1 failed" in out
    assert err.startswith(f"failed: {tmp_path / 'bad.png'}: not an image")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_bad_input_prints_given_and_expected(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    forged = tmp_path / "forged.safetensors"
    forged.write_bytes(model.read_bytes()[:-1] + b"?")
    three = tmp_path / "three.png"
    write_image(three, np.arange(4800, dtype=np.uint16).reshape(3, 40, 40).astype(np.uint8), axes="CYX")
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


def test_python_and_the_command_give_the_same_scores(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    run("predict", model.parent, cells / "images", "-o", tmp_path / "out")
    for metrics in (None, ("pixels", "instances")):
        options = [] if metrics is None else ["--metrics", ",".join(metrics)]
        code, out, _ = run("evaluate", tmp_path / "out", cells / "masks", *options, "--json")
        found = septum.evaluate(tmp_path / "out", cells / "masks", metrics=metrics)
        assert code == 0
        assert json.loads(json_text({"command": "evaluate", **vars(found)})) == json.loads(out)


def test_a_run_folder_is_a_model(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    for given, folder in ((model, tmp_path / "file"), (model.parent, tmp_path / "run")):
        code, out, _ = run("predict", given, cells / "images" / "cell0.png", "-o", folder)
        assert (code, out[:7]) == (0, "1 image")
    first, second = (read_image(tmp_path / name / "cell0.png").array for name in ("file", "run"))
    np.testing.assert_array_equal(first, second)
    assert run("info", model, "--json")[1].replace(str(model), "") == run("info", model.parent, "--json")[1].replace(
        str(model.parent), ""
    )


def test_review_reads_the_data_from_the_run_or_from_the_command(run: Run, cells: Path, model: Path) -> None:
    code, out, _ = run("review", model.parent, "--device", "cpu", "--json")
    found = json.loads(out)
    assert (code, found["command"], found["judged"], found["unseen"]) == (0, "review", 1, 3)
    code, out, _ = run("review", model.parent, cells, "--device", "cpu", "--json")
    assert (code, json.loads(out)) == (0, found)
    code, out, err = run("review", cells, "--device", "cpu")
    assert (code, out) == (2, "")
    assert "not the folder of a run" in err


def test_quiet_and_verbose_check(run: Run, cells: Path, tmp_path: Path) -> None:
    assert run("check", cells, "-q")[1].splitlines() == ["nothing is wrong"]
    lines = run("check", cells, "-v")[1].splitlines()
    assert f"{cells / 'images' / 'cell3.png'} with {cells / 'masks' / 'cell3.png'}" in lines
    assert len(lines) == 4 + len(run("check", cells)[1].splitlines())


def test_verbose_evaluation_lists_each_image(run: Run, cells: Path) -> None:
    lines = run("evaluate", cells / "masks", cells / "masks", "-v")[1].splitlines()
    assert lines[0].split()[:3] == [str(cells / "masks"), "AP", "AP@0.75-0.95"]
    assert [line.split()[0] for line in lines[1:5]] == [f"cell{k}" for k in range(4)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes of two balls with their masks, as multi-page TIFF files that do not name their axes."""
    folder = tmp_path_factory.mktemp("pages")
    z, y, x = np.mgrid[:10, :24, :28]
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number in range(4):
        mask = np.zeros(z.shape, np.uint16)
        for k, center in enumerate(((4, 8, 8 + number), (5, 14, 19)), start=1):
            distance = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), center, (3, 5, 5), strict=True))
            mask[distance < 1] = 10 * number + k
        image = 60 + 90 * (mask > 0) + np.random.default_rng(number).normal(0, 8, mask.shape)
        tifffile.imwrite(folder / "images" / f"v{number}.tif", image.clip(0, 255).astype(np.uint8))
        tifffile.imwrite(folder / "masks" / f"v{number}.tif", mask)
    return folder


def test_named_axes_make_volumes_of_pages(run: Run, pages: Path, tmp_path: Path) -> None:
    code, out, _ = run("check", pages)
    assert "24 x 28 pixels, 1 channel, uint8, 40 pages in all" in out
    assert "--axes ZYX" in out
    code, out, _ = run("check", pages, "--axes", "zyx")
    assert (code, out.splitlines()[1]) == (0, "images: 10 x 24 x 28 pixels, 1 channel, uint8")
    assert "2 per image" in out
    code, out, _ = run("check", pages, "--axes", "ZYX", "--fix", tmp_path / "named")
    assert "8 files, 8 of them repaired" in out
    assert run("check", tmp_path / "named")[1] == run("check", pages, "--axes", "ZYX")[1]


@pytest.mark.parametrize("axes", ["YX", "TZYX", "QYX", "ZZYX", "ZX"])
def test_axes_that_do_not_fit_are_refused(run: Run, pages: Path, tmp_path: Path, axes: str) -> None:
    for words in (
        ["check", pages],
        ["train", pages, "-o", tmp_path / "run", *SMALL],
        ["evaluate", pages / "masks", pages / "masks"],
    ):
        code, out, err = run(*words, "--axes", axes)
        assert (code, out) == (2, ""), words
        assert f"axes '{axes}'" in err and "TCZYX" in err


def test_masks_need_no_channels_of_the_named_axes(run: Run, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(2):
        mask = np.zeros((20, 30), np.uint8)
        mask[3:9, 4:12], mask[3:9, 15:25] = 1 + 2 * number, 2 + 2 * number
        image = np.random.default_rng(number).integers(0, 200, (20, 30, 7), dtype=np.uint8)
        np.save(tmp_path / "images" / f"{number}.npy", image)
        np.save(tmp_path / "masks" / f"{number}.npy", mask)
    code, out, _ = run("check", tmp_path, "--axes", "YXC")
    assert (code, out.splitlines()[1]) == (0, "images: 20 x 30 pixels, 7 channels, uint8")


def test_training_and_evaluation_read_named_axes(run: Run, pages: Path, tmp_path: Path) -> None:
    small = ("--steps", "1", "--width", "2", "--depth", "1", "--tile", "16", "--device", "cpu")
    code, _, _ = run("train", pages, "-o", tmp_path / "run", *small, "--axes", "ZYX", "-q")
    assert (code, septum.open_model(tmp_path / "run").rank) == (0, 3)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["axes"] == "ZYX"
    code, _, err = run("train", pages, "-o", tmp_path / "run", *small)
    assert (code, "other settings" in err) == (2, True)
    assert run("review", tmp_path / "run", "--device", "cpu")[0] == 0
    code, out, _ = run("evaluate", pages / "masks", pages / "masks", "--axes", "ZYX", "--json")
    images = json.loads(out)["results"][0]["images"]
    assert (code, [image["name"] for image in images]) == (0, ["v0", "v1", "v2", "v3"])
    code, out, _ = run("evaluate", pages / "masks", pages / "masks", "--json")
    assert len(json.loads(out)["results"][0]["images"]) == 40
    run("predict", tmp_path / "run", pages / "images", "-o", tmp_path / "out", "--axes", "ZYX", "--device", "cpu")
    assert run("evaluate", tmp_path / "out", pages / "masks", "--axes", "ZYX")[0] == 0


VERBOSITY = (("plain", ()), ("verbose", ("-v",)))


def test_quiet_and_verbose_info_and_prediction(run: Run, cells: Path, model: Path, tmp_path: Path) -> None:
    whole, quiet, verbose = (run("info", model, *more)[1] for more in ((), ("-q",), ("-v",)))
    assert len(quiet.splitlines()) == 1 and quiet.strip() in whole
    assert set(whole.splitlines()) <= set(verbose.splitlines()) or len(verbose) > len(whole)
    assert "numpy" in run("info", "-v")[1]
    started = [run("predict", model, cells / "images", "-o", tmp_path / name, *more)[2] for name, more in VERBOSITY]
    assert [text.count(" of memory") for text in started] == [1, len(list((cells / "images").iterdir()))]
