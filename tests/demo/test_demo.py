"""The demo from end to end, on few images and for a few seconds: files and events, not quality."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from septum.demo.demo import BASELINE, DemoDone, demo, write_studio_images
from septum.demo.otsu_watershed import otsu_watershed
from septum.demo.settings import DemoSettings
from septum.demo.synthetic_cells import generate
from septum.errors import FileError, UsageError
from septum.events import Event, Warned
from septum.experiments.events import ReportWritten
from septum.metrics import ctc
from septum.metrics.contingency import table
from septum.prediction.events import ImageDone, Predicted
from septum.report.pictures import Compared, draw_demo
from septum.seeding import number
from septum.training.events import Step, Trained


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "deep" / "folder"
    return out, list(demo(DemoSettings(out=out, budget_s=3.0, training=3, tests=2, device="cpu")))


def read(path: Path):
    return np.asarray(Image.open(path))


def of(events, kind):
    return [r for r in events if isinstance(r, kind)]


def test_images_and_masks_are_those_of_the_generator_and_differ(ran):
    out, _ = ran
    for folder, name, count in (("training", "cells", 3), ("test", "test", 2)):
        assert len(list((out / folder / "images").iterdir())) == count
        for index in range(count):
            image, labels = generate(number(0, f"demo {name}", index))
            file = f"{name}-{index + 1:02d}.png"
            assert np.array_equal(read(out / folder / "images" / file), image[0])
            assert np.array_equal(read(out / folder / "masks" / file), labels)
    assert not np.array_equal(
        read(out / "training" / "images" / "cells-01.png"), read(out / "test" / "images" / "test-01.png")
    )


def test_a_budget_that_is_too_short_is_told_with_an_option_that_the_demo_has(ran):
    _, events = ran
    (told,) = [
        r.text for r in events if isinstance(r, Warned) and "next to nothing" in r.text and "Ctrl-C" not in r.text
    ]
    assert "give --budget" in told
    assert "--steps" not in told


def test_events_are_in_order_training_prediction_comparison(ran):
    _, events = ran
    kinds = [type(r) for r in events]
    assert all(isinstance(r, Event) for r in events)
    assert kinds.count(Step) >= 1
    assert kinds.index(Trained) < kinds.index(ImageDone) < kinds.index(Predicted) < kinds.index(Compared)
    assert kinds[-3:] == [Compared, Compared, DemoDone]


def test_compared_arrays_are_those_of_the_files(ran):
    out, events = ran
    for event in of(events, Compared):
        assert np.array_equal(event.image[0], read(out / "test" / "images" / f"{event.name}.png"))
        assert np.array_equal(event.truth, read(out / "test" / "masks" / f"{event.name}.png"))
        assert np.array_equal(event.predicted, read(out / "predicted" / f"{event.name}.png"))
        assert np.array_equal(event.baseline, otsu_watershed(event.image))
        assert event.seg == ctc.seg(table(event.truth, event.predicted))
        assert event.baseline_seg == ctc.seg(table(event.truth, event.baseline))


def test_the_rows_are_over_all_test_images(ran):
    _, events = ran
    compared, done = of(events, Compared), events[-1]
    assert [row[0] for row in done.rows] == ["Septum", BASELINE]
    assert done.rows[0][1] == ctc.seg([table(r.truth, r.predicted) for r in compared])
    assert done.rows[1][1] == ctc.seg([table(r.truth, r.baseline) for r in compared])
    assert 0.4 < done.rows[1][1] < 0.85  # a fair baseline
    assert 0.4 < done.rows[1][2] < 0.85


def test_the_run_has_its_log_and_report(ran):
    out, events = ran
    with (out / "run" / "log.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(of(events, Step))
    assert of(events, ReportWritten) == [ReportWritten(out / "run" / "report.html")]


def test_a_picture_is_drawn_of_each_test_image(ran, tmp_path):
    _, events = ran
    for event in of(events, Compared):
        path = draw_demo(event, tmp_path / "pictures")
        assert path == tmp_path / "pictures" / f"{event.name}.png"
        height, width, _ = read(path).shape
        assert height > 2 * 256  # enlarged twice, with a caption
        assert width > 4 * 2 * 256


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_demo_of_another_seed_is_refused_before_any_file_is_changed(ran):
    out, _ = ran
    before = contents(out)
    asked = DemoSettings(out=out, budget_s=3.0, training=3, tests=2, device="cpu", seed=1)
    with pytest.raises(UsageError, match=r"cells-01\.png exists and is not the file that this demo makes") as refused:
        next(iter(demo(asked)))
    assert "another -o, or the --seed of the demo" in str(refused.value)
    assert contents(out) == before


def test_images_with_painted_masks_are_not_replaced(tmp_path):
    asked = DemoSettings(out=tmp_path, training=3, studio=True)
    folder = write_studio_images(asked)
    assert sorted(path.name for path in folder.iterdir()) == ["images"]
    (folder / "masks").mkdir()
    (folder / "masks" / "cells-01.png").write_bytes(b"painted")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"\(3 files\)"):
        write_studio_images(asked.model_copy(update={"seed": 7}))
    assert contents(tmp_path) == before
    (folder / "images" / "cells-02.png").unlink()
    written = (folder / "images" / "cells-01.png").stat().st_mtime_ns
    assert write_studio_images(asked) == folder, "the same demo goes on"
    assert contents(tmp_path) == before
    assert (folder / "images" / "cells-01.png").stat().st_mtime_ns == written


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        next(iter(demo(DemoSettings(out=tmp_path / "file"))))


def test_the_code_of_the_docs_runs():
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "demo.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 1
    names: dict = {}
    exec(blocks[0], names)  # noqa: S102 - our own page
    assert names["found"].max() > 30
    assert names["volume"].shape == (1, *names["cells"].shape)
