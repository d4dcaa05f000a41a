"""What the session does by itself: it writes masks, makes coarser levels, and tries again what failed."""

from __future__ import annotations

import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.errors import FileError, SeptumError
from septum.io.files import open_image, read_mask, write_image
from septum.studio import masks
from septum.studio.label_store import EditConflictError, LabelStore
from septum.studio.project import Entry, Project
from septum.studio.pyramid import Pyramid
from septum.studio.session import Session
from septum.studio.settings import StudioSettings
from septum.studio.tile_grid import SIDE, empty_tile


def stroke(first: int, count: int, value: int, version: int = 0) -> dict[str, Any]:
    return {"kind": "paint", "tiles": [{"ty": 0, "tx": 0, "version": version, "runs": [first, count, value]}]}


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    session = Session(StudioSettings(folder=folder))
    yield session
    session.close()


def until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_mask_that_could_not_be_written_is_written_without_another_edit(
    session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("septum.studio.background._WRITE_AFTER_S", 0.05)
    monkeypatch.setattr("septum.studio.background.RETRY_S", 0.05)
    told: list[str] = []
    monkeypatch.setattr(session.hub, "send", lambda topic, **values: told.append(topic))
    entry = next(iter(session.project.entries.values()))
    (folder / "masks").write_bytes(b"a file in the way")
    session.edit(entry, 0, 0, stroke(0, 5, 7))
    until(lambda: "failure" in told)
    time.sleep(0.3)
    assert told.count("failure") == 1  # told once
    (folder / "masks").unlink()
    until(lambda: "written" in told)
    assert set(np.unique(read_mask(folder / "masks" / "a.tif").array)) == {-1, 7}


def test_a_training_does_not_begin_without_the_newest_masks(session: Session, folder: Path) -> None:
    entry = next(iter(session.project.entries.values()))
    (folder / "masks").write_bytes(b"a file in the way")
    session.edit(entry, 0, 0, stroke(0, 5, 7))
    with pytest.raises(SeptumError, match="masks"):
        session.start_job("train", {})
    with pytest.raises(SeptumError, match="masks"):
        session.newest_mask(entry)
    assert session.learning.job_state is None
    (folder / "masks").unlink()
    assert session.newest_mask(entry) == folder / "masks" / "a.tif"


def test_a_download_waits_for_a_mask_that_is_being_written(
    session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = next(iter(session.project.entries.values()))
    begun, go_on, write = threading.Event(), threading.Event(), masks.write_mask

    def slow(*given: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return write(*given)

    monkeypatch.setattr(masks, "write_mask", slow)
    session.edit(entry, 0, 0, stroke(0, 5, 7))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(session.newest_mask, entry)
        assert begun.wait(30)
        second = threads.submit(session.newest_mask, entry)
        time.sleep(0.2)
        early = second.done()
        go_on.set()
        assert first.result() == second.result() == folder / "masks" / "a.tif"
    assert not early


def test_a_mask_that_an_earlier_process_did_not_write_is_written(
    session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = next(iter(session.project.entries.values()))

    def full(*_: Any) -> None:
        raise FileError("a.tif: no space left on the drive", "free space", "delete something")

    session.edit(entry, 0, 0, stroke(0, 5, 7))
    with monkeypatch.context() as patched:
        patched.setattr(masks, "write_mask", full)
        session.close()
    assert not (folder / "masks" / "a.tif").exists()
    again = Session(StudioSettings(folder=folder))
    file = again.newest_mask(entry)
    again.close()
    assert file is not None and (read_mask(file).array == 7).sum() == 5


@pytest.mark.parametrize("most", [masks.MOST_PIXELS, 1000])
def test_a_mask_that_was_only_looked_at_is_not_written_and_is_the_one_to_download(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(masks, "MOST_PIXELS", most)
    (folder / "masks").mkdir()
    write_image(folder / "masks" / "a.png", np.ones((96, 128), np.uint8), axes="YX", labels=True)
    before = (folder / "masks" / "a.png").read_bytes()
    for _ in range(2):
        session = Session(StudioSettings(folder=folder))
        entry = next(iter(session.project.entries.values()))
        session.describe(entry)
        assert session.newest_mask(entry) == folder / "masks" / "a.png"
        session.close()
    assert [p.name for p in (folder / "masks").iterdir()] == ["a.png"]
    assert (folder / "masks" / "a.png").read_bytes() == before


def test_the_page_says_what_is_missing_before_learning_begins(session: Session) -> None:
    assert session.learning.live_state["text"] == "Paint two objects, and learning begins."
    session.learning.set_kind("classes")
    asked = "Paint two classes, or a class and background, and learning begins."
    assert session.learning.live_state["text"] == asked


class FakeChild:
    """Stands for a child process."""

    def __init__(self, task: dict[str, Any], receive: Any, ended: Any) -> None:
        self.task, self.ended, self.running = task, ended, True
        self.commands: list[str] = []

    def send(self, message: dict[str, Any]) -> None:
        self.commands.append(message["command"])

    def close(self) -> None:
        self.running = False


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    started: list[FakeChild] = []

    def start(*given: Any) -> FakeChild:
        started.append(FakeChild(*given))
        return started[-1]

    monkeypatch.setattr("septum.studio.learning.Child", start)
    return started


def add_masks(folder: Path, *names: str) -> None:
    """Write masks with two objects."""
    mask = np.zeros((96, 128), np.uint8)
    mask[:10], mask[50:60] = 1, 2
    (folder / "masks").mkdir(exist_ok=True)
    for name in names:
        write_image(folder / "masks" / name, mask, axes="YX", labels=True)


def counts(session: Session) -> list[int]:
    return [image["objects"] for image in session.overview()["images"]]


def test_learning_begins_with_masks_that_nobody_has_opened(
    folder: Path, children: list[FakeChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_masks(folder, "a.png", "b.png")
    before = {path: path.read_bytes() for path in (folder / "masks").iterdir()}
    session = Session(StudioSettings(folder=folder))
    told: list[tuple[str, Any]] = []
    monkeypatch.setattr(session.hub, "send", lambda topic, **values: told.append((topic, values.get("objects"))))
    session.begin()
    until(lambda: children)
    assert told.count(("labels", 2)) == 2 and counts(session) == [2, 2]
    assert [child.task["task"] for child in children] == ["live"]
    assert session.overview()["live"]["text"] == "Paint two objects, and learning begins."
    add_masks(folder, "a.png")  # changed by another program
    write_image(folder / "masks" / "a.png", np.zeros((96, 128), np.uint8), axes="YX", labels=True)
    until(lambda: counts(session) == [0, 2])
    until(lambda: children[0].commands == ["masks", "masks"])
    session.close()
    assert {path: path.read_bytes() for path in (folder / "masks").iterdir()}.keys() == before.keys()


def test_a_mask_that_cannot_be_read_and_a_large_one_are_named_and_the_others_learned(
    folder: Path, children: list[FakeChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("c.png", "d.png"):
        write_image(folder / "images" / name, np.zeros((96, 128), np.uint8), axes="YX")
    write_image(folder / "images" / "large.png", np.zeros((96, 200), np.uint8), axes="YX")
    add_masks(folder, "b.png", "d.png")
    (folder / "masks" / "a.png").write_bytes(b"this is no image")
    write_image(folder / "masks" / "c.png", np.zeros((20, 20), np.uint8), axes="YX", labels=True)
    write_image(folder / "masks" / "large.png", np.ones((96, 200), np.uint8), axes="YX", labels=True)
    monkeypatch.setattr("septum.studio.background.MOST_READ", 96 * 199)
    session = Session(StudioSettings(folder=folder))
    session.begin()
    until(lambda: children)
    assert counts(session) == [0, 2, 0, 2, 0]
    text = session.overview()["live"]["text"]
    assert "1 image with a large mask is not learned from yet: open it once.\nNot learned from:\n" in text
    assert "masks/a.png: " in text and "c.png: a mask of 20 x 20 pixels" in text and text.count("\n") == 3
    large = next(entry for entry in session.project.entries.values() if entry.name == "large.png")
    assert session.describe(large)["objects"] == 1
    until(lambda: "large mask" not in session.overview()["live"]["text"])
    add_masks(folder, "a.png")
    until(lambda: counts(session) == [2, 2, 0, 2, 1])
    until(lambda: "a.png" not in session.overview()["live"]["text"])
    assert "c.png: a mask of 20 x 20 pixels" in session.overview()["live"]["text"]
    session.close()


def test_a_mask_that_is_read_is_entered_with_the_note_that_it_was_read_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_masks(folder, "a.png")
    before = (folder / "masks" / "a.png").read_bytes()
    session = Session(StudioSettings(folder=folder))
    entry = next(iter(session.project.entries.values()))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(masks, "mark_written", killed)
        with pytest.raises(KeyboardInterrupt):
            session.describe(entry)
    assert session.store.counts() == {}
    session.close()
    again = Session(StudioSettings(folder=folder))
    assert again.describe(entry)["objects"] == 2
    again.close()
    assert [p.name for p in (folder / "masks").iterdir()] == ["a.png"]
    assert (folder / "masks" / "a.png").read_bytes() == before


def test_reading_in_the_background_does_not_undo_a_stroke(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_masks(folder, "a.png")
    session = Session(StudioSettings(folder=folder))
    entry = next(iter(session.project.entries.values()))
    found = masks.find_existing(session.project, session.store, entry, session.project.open(entry))
    assert found is not None
    session.edit(entry, 0, 0, stroke(0, 5, 7))
    with pytest.raises(EditConflictError):
        masks.enter_existing(session.store, found)
    assert counts(session)[0] == 1
    assert masks.unread(session.project, session.store, entry) is None  # the stroke is not written yet
    session.close()


@pytest.mark.parametrize("paused", [False, True])
def test_learning_goes_on_after_a_job_that_paused_it(session: Session, children: list[FakeChild], paused: bool) -> None:
    first, _ = session.project.entries.values()
    session.edit(first, 0, 0, stroke(0, 5, 7))
    session.edit(first, 0, 0, stroke(10, 5, 8, version=1))
    (live,) = children
    if paused:
        session.learning.command("pause", None)
    session.start_job("predict", {"model": "nuclei"})
    assert live.commands == ["pause"]
    children[-1].ended("")
    assert live.commands == (["pause"] if paused else ["pause", "resume"])


def test_suggested_images_are_kept_for_pages_that_are_opened_later(session: Session, children: list[FakeChild]) -> None:
    _, second = session.project.entries.values()
    session.start_job("suggest", {"model": "nuclei"})
    found = {"path": str(second.path), "place": {"Z": 3}, "disagreement": 0.5}
    session.learning._take_job({"text": "1 image ranked", "share": 1.0, "suggested": [found]}, b"")
    children[-1].ended("")
    children[-1].running = False
    expected = [{"id": second.id, "name": second.name, "t": 0, "z": 3, "disagreement": 0.5}]
    assert session.overview()["job"]["suggested"] == expected
    session.start_job("predict", {"model": "nuclei"})
    assert session.overview()["job"]["suggested"] == expected
    children[-1].running = False
    session.start_job("suggest", {"model": "nuclei"})
    assert session.overview()["job"]["suggested"] == []


def test_a_studio_that_is_closed_during_a_job_starts_no_learning(session: Session, children: list[FakeChild]) -> None:
    first, _ = session.project.entries.values()
    session.edit(first, 0, 0, stroke(0, 5, 7))
    session.edit(first, 0, 0, stroke(10, 5, 8, version=1))
    session.start_job("predict", {"model": "nuclei"})
    session.learning.close()
    children[-1].ended("killed")
    assert len(children) == 2


def test_a_studio_that_is_closed_while_it_reads_a_mask_starts_no_learning(
    folder: Path, children: list[FakeChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_masks(folder, "a.png", "b.png")
    reading, enter = threading.Event(), masks.enter_existing

    def slow(*given: Any) -> Any:
        done = enter(*given)
        if given[1].entry.name == "b.png":
            reading.set()
            time.sleep(0.3)
        return done

    monkeypatch.setattr(masks, "enter_existing", slow)
    session = Session(StudioSettings(folder=folder))
    session.begin()
    assert reading.wait(30)
    session.close()
    assert not children


def test_coarser_levels_are_tried_again_after_a_failure(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def build(entry: Entry, t: int, z: int, channel: int) -> Iterator[float]:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise FileError("slide.tif: not readable just now", "a drive that answers")
        yield 1.0

    monkeypatch.setattr("septum.studio.session.RETRY_S", 0.2)
    monkeypatch.setattr(session.pyramid, "build", build)
    entry = next(iter(session.project.entries.values()))

    def ask() -> bool:
        session.build_levels(entry, 0, 0, 0)
        return len(tries) > 1

    until(ask)
    assert tries[1] - tries[0] >= 0.2
    time.sleep(0.3)
    ask()
    session.build_levels(entry, 0, 0, 2)  # made together with the first
    assert len(tries) == 2
    session.build_levels(entry, 0, 0, 3)
    until(lambda: len(tries) == 3)


@pytest.mark.parametrize(("copied", "painted"), [(False, True), (True, True), (True, False)])
def test_edits_that_an_older_version_did_not_write_are_written(folder: Path, copied: bool, painted: bool) -> None:
    file = folder / "masks" / "a.tif"
    if copied:
        file.parent.mkdir()
        write_image(file, np.ones((96, 128), np.uint8), axes="YX", labels=True)
    session = Session(StudioSettings(folder=folder))
    entry = next(e for e in session.project.entries.values() if e.name == "a.tif")
    session.describe(entry)
    if not copied:
        session.edit(entry, 0, 0, stroke(30 * SIDE + 40, 8, 7))
    session.close()
    store = LabelStore(folder / ".studio" / "labels.sqlite")  # killed after an edit, by a version without these notes
    if painted:
        plane = store.plane("a.tif", 0, 0, (96, 128))
        labels = store.tile(plane, (0, 0)).copy()
        labels[30, 40:48] = 9
        store.write(plane, "brush", {(0, 0): labels})
    with sqlite3.connect(folder / ".studio" / "labels.sqlite") as db:
        db.execute("DELETE FROM note WHERE key LIKE 'written %'")
    store.close()
    Session(StudioSettings(folder=folder)).close()
    assert (read_mask(file).array[0, 30, 40:48] == (9 if painted else 1)).all()
    assert (folder / ".studio" / "originals" / "a.tif").is_file() == (copied and painted)


@pytest.fixture
def annotated(tmp_path: Path) -> tuple[Project, LabelStore, Entry]:
    """Return an image of 2 sections of 1100 x 1300 pixels with objects in three tiles."""
    write_image(tmp_path / "a.tif", np.zeros((2, 1100, 1300), np.uint8), axes="ZYX", pixel_size_um={"Y": 0.5, "X": 0.5})
    project = Project(tmp_path)
    store = LabelStore(project.work / "labels.sqlite")
    for z, place in ((0, (0, 0)), (1, (2, 2)), (1, (1, 0))):
        tile = empty_tile()
        tile[20:40, 10:70] = 3 + z
        tile[60:] = 0
        store.write(store.plane("a.tif", 0, z, (1100, 1300)), "brush", {place: tile})
    return project, store, next(iter(project.entries.values()))


def test_a_large_mask_is_written_in_parts_and_is_the_same(
    annotated: tuple[Project, LabelStore, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, store, entry = annotated
    shown = Pyramid(project).shown(entry)
    whole = masks.write_mask(project, store, entry, shown).path
    assert whole is not None
    before = read_mask(whole)
    monkeypatch.setattr(masks, "MOST_PIXELS", 1000)
    file = masks.write_mask(project, store, entry, shown).path
    assert file == whole
    after = read_mask(file)
    assert after.axes == before.axes and after.array.dtype == before.array.dtype == np.int32
    assert np.array_equal(after.array, before.array) and set(np.unique(after.array)) == {-1, 0, 3, 4}
    assert after.pixel_size_um == before.pixel_size_um
    assert not (project.work / "parts" / entry.id).exists()


def test_the_mask_of_a_large_image_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = (4096, 8192)
    write_image(tmp_path / "slide.tif", np.zeros(sides, np.uint8), axes="YX")
    project = Project(tmp_path)
    store = LabelStore(project.work / "labels.sqlite")
    entry = next(iter(project.entries.values()))
    tile = empty_tile()
    tile[:100] = 70_000
    store.write(store.plane("slide.tif", 0, 0, sides), "brush", {(3, 5): tile})
    shown = Pyramid(project).shown(entry)
    monkeypatch.setattr(masks, "MOST_PIXELS", 1000)
    tracemalloc.start()
    file = masks.write_mask(project, store, entry, shown).path
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file is not None and peak < 0.6 * 4 * sides[0] * sides[1]
    found = open_image(file)
    assert (found[0, 3 * SIDE : 3 * SIDE + 100, 5 * SIDE : 6 * SIDE] == 70_000).all()
