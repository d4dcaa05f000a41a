"""The commands data and reproduce: what is said, what the page holds, exit codes."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from septum.cli.main import main
from septum.io.files import write_image
from septum.report.numbers import score_format
from septum.reproduce import datasets as public_data
from septum.reproduce.datasets import SETS
from septum.reproduce.page import write_reproduction
from septum.reproduce.protocols import PROTOCOLS
from septum.reproduce.results import Example, Reproduced, ResultLine, ResultTable, Training
from septum.reproduce.settings import ReproduceSettings

NAN = float("nan")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return int(left.value.code or 0), *capsys.readouterr()


@pytest.fixture
def found(tmp_path):
    image = np.arange(600, dtype=np.uint8).reshape(1, 20, 30)
    labels = np.zeros((20, 30), np.int32)
    labels[2:9, 2:9], labels[10:18, 12:25] = 1, 2
    return Reproduced(
        folder=tmp_path,
        protocol=PROTOCOLS["dic-hela"],
        results=(ResultTable("gold <frames>", 2, 7, (ResultLine("SEG", 0.81234, 0.7, 0.9, True, 0.7756, 0.46),)),),
        trainings=(Training("train-01", "trains on 9 frames", 1234, 61.0, {"SEG": 0.5}),),
        notes=("a note & a warning",),
        examples=(Example("t054 (worst)", 0.8, image, labels, labels[::-1].copy()),),
        seconds=70.0,
        created="2026-01-01 00:00 UTC",
        command="septum reproduce dic-hela",
        settings=ReproduceSettings(name="dic-hela", data=tmp_path, out=tmp_path),
        versions={"septum": "0", "device": "CPU"},
    )


def test_the_page_holds_our_figure_beside_the_papers_and_needs_nothing_else(found):
    page = write_reproduction(found).read_text()
    shown = re.findall(r'<td class="n"><data value="([^"]+)">([^<]+)</data>', page)[:3]
    assert shown == [("0.81234", "0.8123"), ("0.7756", "0.7756"), ("0.46", "0.4600")]
    assert "Gold &lt;frames&gt;: 2 images, 7 objects" in page
    assert "a note &amp; a warning" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_scores_that_the_paper_does_not_have_are_shown_without_a_rival(found):
    lines = (
        ResultLine("V_Rand", 0.95, NAN, NAN, True, None, None),
        ResultLine("V_Info", 0.98, 0.97, 0.99, True, None, None),
        ResultLine("warping error", 0.0004, 0.0003, 0.0005, False, 0.000353, 0.000355),
    )
    sections = ResultTable("sections", 30, None, lines)
    page = write_reproduction(
        dataclasses.replace(found, protocol=PROTOCOLS["isbi2012"], results=(sections,))
    ).read_text()
    assert re.findall(r'<p class="name">([^<]+)</p>', page) == ["V_Rand", "warping error"]
    assert "Sections: 30 images</h3>" in page
    assert page.count("no interval") == 2
    assert '<data value="0.000353">0.000353</data>' in page


def test_the_picture_shows_image_truth_and_prediction(found, tmp_path):
    page = write_reproduction(found).read_text()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(inside, np.asarray(Image.open(tmp_path / "pictures" / "worst.png")))
    assert inside.shape[1] > 3 * 0.9 * inside.shape[0]


def test_tiny_scores_keep_their_digits():
    assert [format(v, score_format(v)) for v in (0.000353, 0.0382, 0.97, 0.0)] == [
        "0.000353",
        "0.0382",
        "0.9700",
        "0.0000",
    ]


def test_data_that_are_there_are_not_fetched_and_their_terms_are_said(capsys, tmp_path):
    for part in ("train/images", "train/masks", "test/images"):
        (tmp_path / "isbi" / part).mkdir(parents=True)
    code, out, err = run(capsys, "data", "isbi2012", "-o", tmp_path / "isbi")
    assert code == 0
    isbi = tmp_path / "isbi"
    assert out == f"is there already: {isbi}; look at it with: septum check {isbi / 'train'}\n"
    assert SETS["isbi2012"].citation in err
    assert SETS["isbi2012"].terms in err
    code, out, _ = run(capsys, "data", "isbi2012", "-o", tmp_path / "isbi", "--json")
    assert json.loads(out)["citation"] == SETS["isbi2012"].citation


def test_a_server_that_is_not_there_is_said_without_a_traceback(capsys, tmp_path, monkeypatch):
    away = dataclasses.replace(SETS["dic-hela"], url="http://127.0.0.1:9/none.zip")
    monkeypatch.setitem(public_data.SETS, "dic-hela", away)
    code, out, err = run(capsys, "data", "dic-hela", "-o", tmp_path / "hela")
    assert (code, out) == (2, "")
    assert "cannot be downloaded" in err
    assert list(tmp_path.iterdir()) == []


def test_reproduce_without_the_data_says_how_to_get_them(capsys, tmp_path):
    code, _, err = run(capsys, "reproduce", "phc-u373", "--data", tmp_path, "-o", tmp_path / "out")
    assert code == 2
    assert "septum fetch phc-u373" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("isbi2012", "--variant", "gold"), "a variant of the truth exists for"),
        (("dic-hela", "--folds", "3"), "folds and a truth of test sections exist for"),
        (("dic-hela", "--steps", "3", "--budget", "3s"), "both --steps and --budget"),
    ],
)
def test_options_that_do_not_go_together_are_refused(capsys, tmp_path, words, message):
    code, _, err = run(capsys, "reproduce", *words, "--data", tmp_path)
    assert code == 2
    assert message in err


def test_reproduce_prints_our_figure_beside_the_papers(capsys, tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:44, :44]
    for place in ("01", "01_GT/SEG"):
        (tmp_path / "PhC-C2DH-U373" / place).mkdir(parents=True)
    for number in range(8):
        mask = ((y - 20) ** 2 + (x - 12 - number) ** 2 < 60).astype(np.uint16)
        image = (90 * mask + rng.normal(50, 3, mask.shape)).astype(np.uint8)
        write_image(tmp_path / "PhC-C2DH-U373" / "01" / f"t{number:03d}.tif", image, axes="YX")
        write_image(tmp_path / "PhC-C2DH-U373" / "01_GT" / "SEG" / f"man_seg{number:03d}.tif", mask, axes="YX")
    words = ("--variant", "gold", "--steps", "1", "--width", "2", "--device", "cpu", "-o", tmp_path / "out")
    code, out, err = run(capsys, "reproduce", "phc-u373", "--data", tmp_path, *words)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("gold frames at the end of the only sequence, unseen in training, 4 images, 4 objects")
    name, ours, unet, other = lines[1].split()
    said = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    assert (name, unet, other) == ("SEG", "0.9203", "0.8300")
    assert ours == f"{said['results'][0]['lines'][0]['value']:.4f}"
    assert f"report: {tmp_path / 'out' / 'report.html'}" in lines[-1]
    assert "part 1 of 1, train-01: trains on 4 frames of sequence 01 (gold truth), predicts 4 of 01" in err
    code, out, _ = run(capsys, "reproduce", "phc-u373", "--data", tmp_path, *words, "--json")
    assert json.loads(out)["results"] == said["results"]
