"""The report of a run: one self-contained page with the numbers of metrics.json, and no foreign script."""

from __future__ import annotations

import html
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from septum.arrays.normalize import statistics
from septum.cli.main import main
from septum.errors import FileError
from septum.io.files import read_image, write_image
from septum.metrics import calibration, ctc, matching
from septum.metrics.contingency import table
from septum.pairing.parts import judged_parts
from septum.pairing.sample import Sample
from septum.prediction.in_memory import predict_image
from septum.prediction.model import open_model
from septum.prediction.tiled import image_probabilities
from septum.report import cases as drawing
from septum.report import collect as run_report
from septum.report import gallery as gallery_module
from septum.report import page as page_module
from septum.report.cases import CONFUSED_COLOR, draw, pictures
from septum.report.collect import TrainingLog, observe, rebuilt_command
from septum.report.events import Reporting
from septum.report.gallery import CASES, Case, Gallery, ScoredSample, estimates, own_scores
from septum.report.pictures import IGNORED_GRAY, PREDICTED_COLOR, TRUTH_COLOR, panel_size
from septum.report.summary import RunReport, merged_and_split, object_figures, reliability
from septum.training import loop as train_module
from septum.training import validation
from septum.training.events import Checked, Maps, Planned, Step
from septum.training.loop import train
from septum.training.settings import TrainSettings

HOSTILE = "<script>alert(\"{}\")</script> & 'x' \U0001f600\n<img src=http:x onerror=y>"
SMALL = {"steps": 3, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}


def disks(number: int, side: int = 44) -> tuple[np.ndarray, np.ndarray]:
    """An image of two touching disks, and their ids."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side]
    cy, cx = rng.uniform(14, 28, 2)
    first, second = ((y - cy) ** 2 + (x - cx - at) ** 2 < 49 for at in (0, 14))
    labels = np.where(first, 1, np.where(second, 2, 0)) + (number + 1) * 10 * (first | second)
    return (100.0 * (labels > 0) + rng.normal(50, 5, labels.shape)).astype(np.float32), labels.astype(np.uint16)


def save(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for kind, array in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        np.save(folder / kind / f"{name}.npy", array)


def run(folder: Path, **changes: object) -> tuple[TrainSettings, list[object]]:
    """Train on ``folder / "data"``, write the page; return the settings and all events."""
    seen = changes.pop("seen", lambda _: None)
    settings = TrainSettings.model_validate({"data": (folder / "data",), "out": folder / "run", **SMALL, **changes})
    events = []
    for event in observe(settings, train(settings)):
        seen(event)  # type: ignore[operator]
        events.append(event)
        if isinstance(event, RunReport):
            page_module.write_page(event)
    return settings, events


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    for number in range(10):
        save(folder / "data", HOSTILE.format(number).replace("/", "\u2215"), *disks(number))
    run(folder)
    return folder / "run"


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for number in range(4):
        image, labels = disks(number)
        save(folder / "data", f"c{number}", image, (np.where(labels % 10 == 1, 4, 7) * (labels > 0)).astype(np.uint8))
    run(folder, kind="classes")
    return folder / "run"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    for number in range(3):
        image, labels = disks(number, 40)
        for kind, array in (("images", image), ("masks", labels)):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            write_image(folder / "data" / kind / f"v{number}.tif", np.stack([array] * 17), axes="ZYX")
    run(folder, tile=20)
    return folder / "run"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    save(folder / "data", "only", *disks(1))
    run(folder)
    return folder / "run"


VOID = {"meta", "link", "img", "br", "input", "path", "circle", "rect"}


class Reader(HTMLParser):
    """Parse a page into elements, attributes and texts; refuse tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))
        if self.open and self.open[-1] == "data":
            last = self.elements[-1][1]
            self.numbers.append((str(last["data-key"]), str(last["value"]), data))


def read(folder: Path) -> tuple[str, Reader, dict]:
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Reader(text), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["objects", "classes", "volumes", "single"])
def test_a_page_loads_no_other_file(name: str, request: pytest.FixtureRequest) -> None:
    text, page, _ = read(request.getfixturevalue(name))
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "audio", "video")
        for attribute, value in attributes.items():
            assert not attribute.startswith("on")
            if attribute in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert value is not None
                assert value.startswith(("data:", "#"))
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
            assert attributes["alt"]
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "default-src 'none'" in text
    anchors = {a["href"] for tag, a in page.elements if tag == "a"}
    assert anchors <= {f"#{a['id']}" for _, a in page.elements if a.get("id")}


@pytest.mark.parametrize("name", ["objects", "classes", "volumes", "single"])
def test_the_numbers_of_the_page_are_those_of_metrics_json(name: str, request: pytest.FixtureRequest) -> None:
    _, page, numbers = read(request.getfixturevalue(name))
    seen = set()
    for key, value, text in page.numbers:
        place: object = numbers
        for step in key.split("."):
            place = place[int(step)] if isinstance(place, list) else place[step]  # type: ignore[index]
        assert json.loads(value) == place
        figure, unit = text.replace(",", "").removesuffix("%"), 0.01 if text.endswith("%") else 1.0
        error = 0.5 * 10.0 ** -len(figure.partition(".")[2]) * unit
        assert float(figure) * unit == pytest.approx(float(place), abs=error + 1e-12)  # type: ignore[arg-type]
        seen.add(key)
    if numbers["scored"]:
        for score, value in numbers["scores"].items():
            assert (f"scores.{score}.value" in seen) == (value["value"] is not None)
        assert "calibration.error" in seen


def test_names_with_html_are_escaped(objects: Path) -> None:
    text, page, numbers = read(objects)
    assert "<script>alert" not in text
    assert "<img src=http" not in text
    name = numbers["images"][0]["name"]
    assert "alert(" in name
    assert "\n" in name
    assert any("alert(" in data and "\\n" in data for tag, data in page.texts if tag == "strong")
    alts = [str(a["alt"]) for tag, a in page.elements if tag == "img"]
    assert any("<script>" in alt for alt in alts)


def test_file_names_that_are_not_utf8_do_not_stop_the_page(tmp_path: Path, objects: Path) -> None:
    for number in range(3):
        save(tmp_path / "data", f"a{number}\udcff", *disks(number))
    _, events = run(tmp_path)
    assert any(isinstance(r, RunReport) for r in events)
    assert "\\udcff" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_command_that_predicts_is_quoted_for_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a run" / "it's"
    save(folder / "data", "a", *disks(0))
    run(folder)
    commands = re.findall(r"<code>(septum predict .*?)</code>", (folder / "run" / "report.html").read_text())
    words = shlex.split(html.unescape(commands[0]))
    assert words == ["septum", "predict", str(folder / "run" / "model.safetensors"), "IMAGES", "-o", "OUT"]


def test_images_are_predicted_by_predict_image_and_scored_by_the_metrics(objects: Path) -> None:
    _, _, numbers = read(objects)
    model = open_model(objects / "model.safetensors", "cpu")
    held = json.loads((objects / "plan.json").read_text())["held_out"]
    assert {line["name"] for line in numbers["images"]} == set(held)
    data, tables = objects.parent / "data", []
    for name in held:
        found = predict_image(model, read_image(data / "images" / f"{name}.npy"))[0]
        tables.append(table(np.load(data / "masks" / f"{name}.npy"), found))
        line = next(line for line in numbers["images"] if line["name"] == name)
        assert line["scores"]["SEG"] == pytest.approx(ctc.seg(tables[-1]))
        assert line["sides"] == list(found.shape)
    first = matching.scores(tables)[0]
    assert numbers["scores"]["SEG"]["value"] == pytest.approx(ctc.seg(tables))
    assert numbers["scores"]["AP50"]["value"] == pytest.approx(first.ap)
    assert numbers["scores"]["PQ"]["value"] == pytest.approx(first.panoptic_quality)
    counts = numbers["objects"]
    assert (counts["missed"], counts["false"]) == (first.fn, first.fp)
    assert sum(part["count"] for part in counts["by_size"]) == counts["true"] == 4
    assert numbers["held_out"] == numbers["scored"] == 2
    assert numbers["scores"]["SEG"]["low"] <= numbers["scores"]["SEG"]["value"] <= numbers["scores"]["SEG"]["high"]


def test_a_part_is_normalized_as_its_whole_image(objects: Path) -> None:
    """An empty corner of a large image would otherwise be stretched to full contrast."""
    model = open_model(objects / "model.safetensors")
    side = 1600  # more than a part may have
    image = np.zeros((1, side, side), np.float32)
    image[:, 800:, 800:] = np.random.default_rng(0).integers(0, 3, (1, 800, 800))
    image[:, 0:800, 0:800] = 200
    labels = np.zeros((side, side), np.int32)
    sample = Sample("large", "", 0, image, labels, None, None)
    parts = judged_parts(sample, objects=True, affordable_px=1 << 20)
    assert len(parts) == 4
    stats = statistics(image, model.header.normalization)
    found, _ = gallery_module.predicted_sample(model, parts[-1])
    expected = image_probabilities(
        model.network,
        parts[-1].image,
        device=model.device,
        normalization=model.header.normalization,
        stats=stats,
    )
    np.testing.assert_allclose(found[0], expected[1], atol=1e-6)


def test_classes_are_shown_with_their_values(classes: Path) -> None:
    _, page, numbers = read(classes)
    assert numbers["kind"] == "classes"
    assert {"dice", "iou", "pixel_error", "dice 4", "dice 7"} == set(numbers["scores"])
    assert numbers["objects"] is None
    texts = " ".join(data for _, data in page.texts)
    assert "class 4" in texts
    assert "class 7" in texts
    one = numbers["images"][0]["scores"]
    assert numbers["scores"]["dice"]["low"] is None  # of one image there is no interval
    assert numbers["scores"]["dice"]["value"] == pytest.approx(one["dice"])


def test_one_held_out_image_is_not_said_to_have_intervals(classes: Path, objects: Path) -> None:
    text, _, numbers = read(classes)
    assert all(score["low"] is None for score in numbers["scores"].values())
    assert "Only 1 image was held out: the scores can be far from those of other images, and have no intervals." in text
    assert "bootstrap" not in text and "held-out image. This image also" in text
    text, _, _ = read(objects)
    assert "Only 2 images were held out: the scores can be far from those of other images, and the intervals" in text
    assert (
        "held-out images, with 95 % bootstrap intervals over images or whole groups of them. These images also" in text
    )


def test_the_middle_section_of_a_volume_is_shown(volumes: Path) -> None:
    text, _, numbers = read(volumes)
    assert numbers["images"][0]["sides"] == [17, 40, 40]
    assert "section 9 of 17" in text


def test_a_run_without_held_out_images_has_a_page(single: Path) -> None:
    text, _, numbers = read(single)
    assert (numbers["held_out"], numbers["scored"], numbers["scores"], numbers["images"]) == (0, 0, {}, [])
    assert "No image was held out" in text
    assert "<img" not in text
    assert numbers["calibration"] is None


def test_a_finished_run_gets_its_report_again_only_if_it_is_missing(tmp_path: Path) -> None:
    save(tmp_path / "data", "a", *disks(0))
    save(tmp_path / "data", "b", *disks(1))
    run(tmp_path)
    before = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert before["memory"]["peak_bytes"] > 10_000_000
    _, events = run(tmp_path)
    assert not any(isinstance(r, Reporting) for r in events)
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / "report.html").unlink()
    run(tmp_path)
    after = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert after["memory"]["peak_bytes"] is None  # this process did not train
    assert after["scores"] == before["scores"]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_missing_held_out_image_is_named_and_the_run_is_complete(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / "data", f"a{number}", *disks(number))
    settings = TrainSettings.model_validate({"data": (tmp_path / "data",), "out": tmp_path / "run", **SMALL})
    events = []
    for event in observe(settings, train(settings)):
        events.append(event)
        if isinstance(event, Checked):
            checked = event.report
        if isinstance(event, Reporting):
            checked.files.hold([])  # as if the held-out images did not fit into memory
            missing = json.loads((tmp_path / "run" / "plan.json").read_text())["held_out"][0]
            (tmp_path / "data" / "images" / f"{missing}.npy").unlink()
    found = events[-1]
    assert isinstance(found, RunReport)
    assert [line.name for line in found.images] != []
    assert len(found.images) == found.held_out - 1
    assert missing in found.warnings[-1]


def test_train_writes_the_page_or_warns_that_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "data", "a", *disks(0))
    save(tmp_path / "data", "b", *disks(1))
    words = [f"--{k}={v}" for k, v in SMALL.items()]
    full = FileError("report.html: the disk is full", "a file that can be written", "free some space")
    with monkeypatch.context() as patch:
        patch.setattr(page_module, "page", lambda _: (_ for _ in ()).throw(full))
        with pytest.raises(SystemExit) as left:
            main(["train", str(tmp_path / "data"), "-o", str(tmp_path / "run"), *words])
    assert not left.value.code
    out, err = capsys.readouterr()
    assert "warning: no report of this run: report.html: the disk is full" in err
    assert out.splitlines()[-1].startswith("model: ")
    assert not (tmp_path / "run" / "metrics.json").exists()
    with pytest.raises(SystemExit) as left:
        main(["train", str(tmp_path / "data"), "-o", str(tmp_path / "run"), *words, "--json"])
    assert json.loads(capsys.readouterr().out)["report"] == str(tmp_path / "run" / "report.html")


def test_the_command_in_the_page_repeats_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainSettings] = []
    monkeypatch.setattr(train_module, "train", lambda settings, _: asked.append(settings) or iter(()))
    for changes in (
        {"data": (Path("it's"), Path("a b\n")), "out": tmp_path / "r", "steps": 5, "width": 3, "kind": "classes"},
        {"data": (Path("d"),), "out": Path("r"), "budget_s": 90.5, "seed": 3, "preset": "paper", "device": "cpu"},
        {"data": (Path("d"),), "out": Path("r"), "depth": 2, "tile": 64, "batch": 4, "deterministic": True},
        {"data": (Path("d"),), "out": Path("r"), "precision": "float32", "compile": True},
        {"data": (Path("d"),), "out": Path("r"), "budget_s": None, "ignore_values": (0, -7), "from_model": Path("m n")},
        {"data": (Path("d"),), "out": Path("r"), "until_plateau": True, "set": ("weights.w0=5", "tile=[64, 64]")},
    ):
        settings = TrainSettings.model_validate(changes)
        with pytest.raises(SystemExit) as left:
            main(shlex.split(rebuilt_command(settings))[1:])
        assert not left.value.code
        assert asked.pop() == settings


def scored(truth: np.ndarray, found: np.ndarray, group: str = "") -> ScoredSample:
    both = table(truth, found)
    sure = calibration.columns((found > 0).astype(np.float32)[None], truth)
    return ScoredSample("n", group, truth.shape, 0.5, both, both, sure)


def strip(*runs: tuple[int, int]) -> np.ndarray:
    """A picture of one row: (label, length) one after the other."""
    return np.array([np.concatenate([np.full(n, label) for label, n in runs])], np.int32)


def test_merged_split_missed_and_false_objects_are_counted() -> None:
    truth = strip((1, 6), (2, 6), (0, 2), (3, 8), (0, 2), (4, 4), (0, 6))
    found = strip((9, 12), (0, 2), (5, 4), (6, 4), (0, 2), (0, 4), (0, 2), (7, 4))
    assert merged_and_split(table(truth, found)) == (2, 1)
    figures = object_figures([scored(truth, found)])
    assert (figures.true, figures.predicted) == (4, 4)
    # 9 covers 1 and 2 with IoU 1/2 each, so one of them is matched; so is 3 with one of its halves.
    assert (figures.missed, figures.false) == (2, 2)
    assert figures.iou.tolist() == [0.5, 0.5, 0.5, 0.0]
    assert figures.diameter_px.tolist() == pytest.approx([2 * (n / np.pi) ** 0.5 for n in (6, 6, 8, 4)])
    assert [(p.count, p.found) for p in figures.by_size] == [(1, 0), (2, 1), (1, 1)]


def test_an_image_without_objects_ranks_by_its_false_objects() -> None:
    empty, full = strip((0, 9)), strip((1, 9))
    assert own_scores(scored(empty, empty), "objects", values=(0, 1))[1] == 1
    assert own_scores(scored(empty, full), "objects", values=(0, 1))[1] == 0
    assert own_scores(scored(full, full), "objects", values=(0, 1))[1] == 1
    assert own_scores(scored(empty, empty), "classes", values=(0, 1))[1] == 1


def test_estimates_pool_all_images_and_have_intervals_over_images() -> None:
    good = scored(strip((1, 10), (0, 5)), strip((1, 10), (0, 5)))
    bad = scored(strip((1, 10), (0, 5)), strip((0, 15)))
    found = estimates([good] * 3 + [bad], "objects", values=(0, 1), seed=0)
    assert found["SEG"].value == pytest.approx(0.75)
    assert found["recall"].value == pytest.approx(0.75)
    assert found["precision"].value == pytest.approx(1.0)
    assert 0 < found["SEG"].low < 0.75 < found["SEG"].high <= 1
    one = estimates([good], "objects", values=(0, 1), seed=0)["SEG"]
    assert (one.value, np.isnan(one.low)) == (1.0, True)
    classes = estimates([good, bad], "classes", values=(0, 5), seed=0)
    assert classes["dice"].value == pytest.approx(20 / 30)
    assert classes["pixel_error"].value == pytest.approx(10 / 30)


def test_images_of_one_group_each_have_an_interval() -> None:
    """Ten images in ten subfolders vary as ten images in one folder."""
    truth = strip((1, 10), (0, 5))
    found = [strip((1, 10 - k % 5), (0, 5 + k % 5)) for k in range(10)]
    apart, together = (
        estimates([scored(truth, f, g.format(k)) for k, f in enumerate(found)], "objects", values=(0, 1), seed=0)
        for g in ("plate {}", "")
    )
    assert apart == together
    assert apart["SEG"].low < apart["SEG"].value < apart["SEG"].high


def test_parts_of_one_image_are_drawn_together() -> None:
    good, bad = (scored(strip((1, 10), (0, 5)), strip((label, 10), (0, 5))) for label in (1, 0))
    parts = [
        replace(part, name=f"{name}_y{place}", part_of=name) for name in "ab" for place, part in enumerate((good, bad))
    ]
    found = estimates(parts, "objects", values=(0, 1), seed=0)["SEG"]
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5), "each image holds a good and a bad part"
    one = estimates(parts[:2], "objects", values=(0, 1), seed=0)["SEG"]
    assert (one.value, np.isnan(one.low), np.isnan(one.high)) == (0.5, True, True), "one image does not vary"


def test_reliability_pools_all_pixels() -> None:
    found = reliability([scored(strip((1, 6), (0, 4)), strip((1, 4), (0, 6)))])
    assert (found.confidence, found.right) == ((0.0, 1.0), (pytest.approx(2 / 6), 1.0))
    assert found.share == (0.6, 0.4)
    assert found.error == pytest.approx(0.2)


def case(image: np.ndarray, truth: np.ndarray, found: np.ndarray, *, missed=(), false=(), rank=0.0, name="n") -> Case:
    return Case(name, rank, {}, image[None].astype(np.float32), truth, found, missed, false, None)


def test_the_difference_shows_missed_and_false_objects() -> None:
    truth, found = np.zeros((400, 400), np.int32), np.zeros((400, 400), np.int32)
    truth[50:100, 50:100], found[50:100, 50:100] = 1, 8  # found
    truth[200:250, 50:100] = 2  # missed
    found[200:250, 200:250] = 9  # false
    truth[350:, 350:] = -1
    change = draw(case(truth * 0, truth, found, missed=(2,), false=(9,)), "objects", 640)["difference"]
    assert change[50, 75].tolist() == [255, 255, 255]
    assert change[200, 75].tolist() == list(TRUTH_COLOR)
    assert change[225, 75].tolist() == [v // 2 for v in TRUTH_COLOR]
    assert change[225, 225].tolist() == [v // 2 for v in PREDICTED_COLOR]
    assert change[75, 75].tolist() == [0, 0, 0]
    assert change[380, 380].tolist() == [IGNORED_GRAY] * 3
    kinds = draw(case(truth * 0, np.minimum(truth, 2), np.where(found == 8, 2, found > 0), name="c"), "classes", 640)
    dim = [int(0.75 * v) for v in CONFUSED_COLOR]
    assert kinds["difference"][75, 75].tolist() == dim
    assert kinds["difference"][225, 75].tolist() == [int(0.75 * v) for v in TRUTH_COLOR]
    assert kinds["difference"][225, 225].tolist() == [int(0.75 * v) for v in PREDICTED_COLOR]


def test_pictures_of_large_images_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).uniform(0, 255, (700, 900))
    labels = (noise > 128).astype(np.int32)
    monkeypatch.setattr(drawing, "MOST_BYTES", 100_000)
    drawn, longest = pictures([case(noise, labels, labels)], "classes")
    assert longest < 640
    assert sum(len(p.uri) for p in drawn[0]) < 100_000 * 4 / 3 + 200
    assert {max(p.width, p.height) for p in drawn[0]} == {longest}
    assert [p.title for p in drawn[0]] == ["image", "truth", "prediction", "difference"]
    assert drawn[0][3].alt == "difference of n: 0 of 630000 pixels are wrong"
    assert panel_size((256, 256), largest=640) == (512, 512)
    assert panel_size((256, 256), largest=400) == (256, 256)


def test_the_report_predicts_no_image_that_objects_were_tuned_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        save(tmp_path / "data", f"c{number}", *disks(number))
    predict, predicted = validation.image_probabilities, list[bytes]()

    def counted(network: object, image: np.ndarray, **options: object) -> np.ndarray:
        predicted.append(image.tobytes())
        return predict(network, image, **options)  # type: ignore[arg-type]

    def step(event: object) -> None:
        if isinstance(event, Step):
            predicted.clear()

    again: list[str] = []
    monkeypatch.setattr(validation, "image_probabilities", counted)
    monkeypatch.setattr(gallery_module, "predicted_sample", lambda _, sample: again.append(sample.name))
    _, events = run(tmp_path, seen=step)
    held = json.loads((tmp_path / "run/plan.json").read_text())["held_out"]
    assert len(held) == 2 and again == []
    for name in held:
        assert predicted.count(np.load(tmp_path / "data/images" / f"{name}.npy").tobytes()) == 1
    report = next(event for event in events if isinstance(event, RunReport))
    assert [line.name for line in report.images] == held
    assert all(line.seconds > 0 for line in report.images)
    for name, score in report.model_scores.items():
        assert report.scores[name].value == pytest.approx(score, abs=1e-9)
    assert next(event for event in events if isinstance(event, Reporting)).count == 0
    assert not any(isinstance(event, Maps) for event in events), "nobody else has to carry the maps"


def test_the_worst_and_the_best_are_kept(monkeypatch: pytest.MonkeyPatch, objects: Path) -> None:
    model = open_model(objects / "model.safetensors", "cpu")
    gallery = Gallery(model)
    quality = {f"s{n:02d}": n for n in range(20)}

    def predicted(_: object, sample: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
        found = np.zeros_like(sample.mask)
        found[: quality[sample.name] + 20] = 1
        return found[None].astype(np.float32), found

    def sample(_: object, name: str) -> SimpleNamespace:
        mask = np.zeros((44, 44), np.int32)
        mask[:40] = 1
        return SimpleNamespace(
            name=name, group="", image=mask[None].astype(np.float32), mask=mask, gold=None, whole=None, sides=(44, 44)
        )

    monkeypatch.setattr("septum.report.gallery.predicted_sample", predicted)
    monkeypatch.setattr("septum.report.gallery.open_sample", sample)
    assert list(gallery.fill(None, list(quality), 60.0)) == []  # type: ignore[arg-type]
    assert [c.name for c in gallery.worst] == ["s00", "s01", "s02", "s03"]
    assert [c.name for c in gallery.best] == ["s19", "s18", "s17", "s16"]
    assert [line.name for line in gallery.lines()] == sorted(quality)
    assert len(gallery.worst) == CASES
    short = Gallery(model)
    problems = list(short.fill(None, list(quality), 0.0))  # type: ignore[arg-type]
    assert len(short.images) == 1
    assert problems == ["the report shows 1 of 20 held-out images, to keep the time"]


def test_the_device_is_named_beside_images_that_stay_in_their_files() -> None:
    log = TrainingLog()
    assert log.device == ""
    log.add(Planned(("4 images", "a reason", "device: CPU (no GPU)", "images are read from their files")))
    assert log.device == "CPU (no GPU)"


def test_the_report_takes_at_most_the_time_left_by_the_training(tmp_path: Path) -> None:
    trained = SimpleNamespace(seconds=100.0)
    base = {"data": (tmp_path,), "out": tmp_path}
    left = run_report._seconds_left
    assert left(TrainSettings(**base, budget_s=110), trained) == 9.0  # type: ignore[arg-type]
    assert left(TrainSettings(**base, budget_s=90), trained) == 1.0  # type: ignore[arg-type]
    assert left(TrainSettings(**base, steps=9), trained) == 60.0  # type: ignore[arg-type]
