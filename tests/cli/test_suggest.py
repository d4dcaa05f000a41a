"""`septum suggest` on the command line: a table, one JSON document, pictures with frames in the right place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.cli.main import main
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.model import ModelHeader, save_model
from septum.report.pictures import CAPTION_PX, GAP_PX, TRUTH_COLOR
from septum.review.pictures import draw_suggestion
from septum.review.suggest import Box, Suggestion


@pytest.fixture
def model(tmp_path: Path) -> Path:
    settings = UNetSettings(depths=(1, 1), width=2)
    header = ModelHeader(
        network=settings,
        members=2,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(),
    )
    path = tmp_path / "model.safetensors"
    save_model(path, [UNet(settings, seed=1), UNet(settings, seed=2)], header)
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    folder.mkdir()
    for name in "abc":
        np.save(folder / f"{name}.npy", np.random.default_rng(ord(name)).normal(size=(40, 50)).astype(np.float32))
    return folder


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    text = capsys.readouterr()
    return int(left.value.code or 0), text.out, text.err


def test_a_table_names_images_and_places(model: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "suggest", model, new, "-n", 2, "--region", 16, "--device", "cpu")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 4)
    assert lines[0].split() == ["annotate", "next", "disagreement", "most", "of", "it", "in"]
    assert lines[1].startswith(f"{new}")
    assert lines[3] == "3 images, ranked by how much the 2 networks of the model disagree"
    assert "3/3 images" in err


def test_json_is_one_document_and_pictures_are_written(
    model: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (new / "bad.tif").write_bytes(b"no image")
    code, out, err = _run(capsys, "suggest", model, new, "-o", tmp_path / "next", "--json", "--device", "cpu")
    said = json.loads(out)
    assert (code, said["command"], said["judged"]) == (1, "suggest", 3)
    assert err.startswith(f"failed: {new / 'bad.tif'}: ")
    first = said["suggestions"][0]
    assert first["regions"][0]["start"] == [0, 0]
    assert first["regions"][0]["stop"] == [40, 50]
    assert first["regions"][0]["disagreement"] == pytest.approx(first["disagreement"], rel=1e-5)
    assert Path(first["picture"]) == tmp_path / "next" / f"01-{Path(first['image']).stem}.png"
    assert len(list((tmp_path / "next").iterdir())) == 3


def test_pictures_of_an_earlier_run_are_replaced_and_no_file_of_a_user(
    model: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("suggest", model, new, "-o", tmp_path / "next", "--device", "cpu")
    _run(capsys, *asked)
    first = min((tmp_path / "next").iterdir())
    code, _, err = _run(capsys, *asked, "-n", 1)
    assert (code, [path.name for path in (tmp_path / "next").iterdir()]) == (0, [first.name])
    assert "warning" not in err
    mine = {"02-mine.png": first.read_bytes(), "03-notes.png": b"no picture", "notes.txt": b"x", "10-b.npy": b"y"}
    for name, content in mine.items():  # the first is a renamed picture of Septum
        (tmp_path / "next" / name).write_bytes(content)
    (tmp_path / "next" / "05-link.png").symlink_to(first)
    with Image.open(first) as picture:  # painted on by a program that keeps the texts of a picture
        texts = PngInfo()
        texts.add_text("Septum", picture.info["Septum"])
        picture.putpixel((0, 0), (1, 2, 3))
        picture.save(first, pnginfo=texts)
    for path in new.glob("*.npy"):
        path.rename(new / f"new {path.name}")
    code, _, err = _run(capsys, *asked, "-n", 1)
    names = {path.name for path in (tmp_path / "next").iterdir()}
    assert names == {f"01-new {first.name[3:]}", first.name, *mine, "05-link.png"}
    assert all((tmp_path / "next" / name).read_bytes() == content for name, content in mine.items())
    assert f"warning: {tmp_path / 'next'} keeps 4 other pictures, such as {first.name}: Septum removes only" in err


def test_a_picture_shows_the_frame_where_the_region_is(tmp_path: Path) -> None:
    information = np.zeros((400, 400), np.float32)
    information[110, 120] = 0.5
    image = np.zeros((1, 400, 400), np.float32)
    one = Suggestion(tmp_path / "x.tif", {"T": 3}, 0.1, (Box((100, 80), (150, 130), 0.2),), image, information)
    path = draw_suggestion(one, 1, tmp_path)
    assert path.name == "01-x_t003.png"
    picture = np.asarray(Image.open(path))[CAPTION_PX:]
    for left in (0, 400 + GAP_PX):
        framed = (picture[:, left : left + 400] == TRUTH_COLOR).all(axis=-1)
        rows, columns = np.nonzero(framed)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 149, 80, 129)
        assert framed.sum() == 4 * 49
    assert tuple(picture[110, 400 + GAP_PX + 120]) == (255, 40, 0)


def test_picture_of_a_volume_shows_the_section_of_the_strongest_region(tmp_path: Path) -> None:
    information = np.zeros((20, 400, 400), np.float32)
    information[5] = 0.3
    one = Suggestion(
        tmp_path / "v.tif", {}, 0.1, (Box((2, 0, 0), (8, 9, 9), 0.2),), np.zeros((1, 20, 400, 400)), information
    )
    picture = np.asarray(Image.open(draw_suggestion(one, 2, tmp_path)))[CAPTION_PX:]
    assert tuple(picture[200, 400 + GAP_PX + 200]) == (255, 40, 0)
