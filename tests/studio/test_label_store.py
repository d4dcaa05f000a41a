"""Labels are saved edit by edit, can be undone after a restart, and two windows do not overwrite each other."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.errors import FileError
from septum.studio.label_store import READ, EditConflictError, LabelStore, Plane
from septum.studio.tile_grid import SIDE, Rect, empty_tile


@pytest.fixture
def plane(store: LabelStore) -> Plane:
    return store.plane("a", 0, 0, (600, 700))


def painted(value: int, y: int, x: int, side: int = 10) -> np.ndarray:
    tile = empty_tile()
    tile[y : y + side, x : x + side] = value
    return tile


def test_nothing_is_annotated_at_first(store: LabelStore, plane: Plane) -> None:
    assert (store.tile(plane, (0, 0)) == -1).all()
    assert store.version(plane, (0, 0)) == 0
    assert store.planes() == []


def test_an_edit_is_there_after_the_file_is_opened_again(tmp_path: Path, store: LabelStore, plane: Plane) -> None:
    done = store.write(plane, "brush", {(0, 0): painted(70_000, 5, 5), (0, 1): painted(0, 0, 0)})
    assert done.versions == {(0, 0): 1, (0, 1): 1}
    store.close()
    again = LabelStore(tmp_path / "labels.sqlite")
    assert np.array_equal(again.tile(plane, (0, 0)), painted(70_000, 5, 5))
    assert again.objects(plane) == {70_000}
    assert again.places_of(plane, 0) == [(0, 1)]
    assert again.counts() == {"a": 1}
    assert again.plane("a", 0, 0, (600, 700)) == plane


def test_undo_and_redo_reach_back_over_a_restart(tmp_path: Path, store: LabelStore, plane: Plane) -> None:
    for value in (1, 2, 3):
        store.write(plane, f"stroke {value}", {(0, 0): painted(value, 0, 0)})
    store.close()
    again = LabelStore(tmp_path / "labels.sqlite")
    names = [again.undo("a").name for _ in range(3)]  # type: ignore[union-attr]
    assert names == ["stroke 3", "stroke 2", "stroke 1"]
    assert (again.tile(plane, (0, 0)) == -1).all()
    assert again.objects(plane) == set()
    assert again.undo("a") is None
    assert again.redo("a").name == "stroke 1"  # type: ignore[union-attr]
    assert np.array_equal(again.tile(plane, (0, 0)), painted(1, 0, 0))


def test_a_new_edit_ends_what_can_be_done_again(store: LabelStore, plane: Plane) -> None:
    store.write(plane, "one", {(0, 0): painted(1, 0, 0)})
    store.undo("a")
    store.write(plane, "two", {(0, 0): painted(2, 0, 0)})
    assert store.redo("a") is None
    assert store.undo("a").name == "two"  # type: ignore[union-attr]
    assert store.undo("a") is None


def test_undo_is_of_the_image_that_is_shown(store: LabelStore, plane: Plane) -> None:
    other = store.plane("b", 0, 0, (600, 700))
    store.write(other, "in b", {(0, 0): painted(1, 0, 0)})
    store.write(plane, "in a", {(0, 0): painted(1, 0, 0)})
    assert store.undo("b").name == "in b"  # type: ignore[union-attr]
    assert store.objects(plane) == {1}


def test_an_edit_on_an_older_state_is_refused_as_a_whole(store: LabelStore, plane: Plane) -> None:
    store.write(plane, "first window", {(0, 0): painted(1, 0, 0)}, {(0, 0): 0})
    with pytest.raises(EditConflictError, match="another window"):
        changes = {(0, 1): painted(2, 0, 0), (0, 0): painted(2, 0, 0)}
        store.write(plane, "second window", changes, {(0, 1): 0, (0, 0): 0})
    assert store.objects(plane) == {1}
    assert store.version(plane, (0, 1)) == 0


def test_pixels_beyond_the_border_are_never_annotated(store: LabelStore, plane: Plane) -> None:
    full = np.full((SIDE, SIDE), 4, np.int32)
    store.write(plane, "brush", {(1, 1): full})
    tile = store.tile(plane, (1, 1))
    assert (tile[: 600 - SIDE, : 700 - SIDE] == 4).all()
    assert (tile == 4).sum() == (600 - SIDE) * (700 - SIDE)


def test_an_edit_without_a_change_is_no_edit(store: LabelStore, plane: Plane) -> None:
    assert store.write(plane, "brush", {(0, 0): empty_tile()}).versions == {}
    assert store.undo("a") is None


def test_reading_crosses_tiles(store: LabelStore, plane: Plane) -> None:
    left, right = empty_tile(), empty_tile()
    left[100:110, -5:], right[100:110, :5] = 9, 9
    store.write(plane, "brush", {(0, 0): left, (0, 1): right})
    labels = store.read(plane, Rect(95, SIDE - 10, 115, SIDE + 10))
    assert (labels == 9).sum() == 100
    assert (labels[5:15, 5:15] == 9).all()


def test_reserved_ids_are_given_once(store: LabelStore, plane: Plane) -> None:
    store.write(plane, "brush", {(0, 0): painted(40, 0, 0)})
    assert store.reserve("a", 3) == 41
    assert store.reserve("a") == 44
    assert store.reserve("b") == 1


KILLED = """
import sys
import numpy as np
from pathlib import Path
from typing import Any
from septum.studio.label_store import LabelStore
from septum.studio.tile_grid import empty_tile
store = LabelStore(Path(sys.argv[1]))
plane = store.plane("a", 0, 0, (512, 512))
for number in range(1, 10_000):
    tile = store.tile(plane, (0, 0)).copy()
    tile[number // 500, number % 500] = number
    store.write(plane, "dot", {(0, 0): tile}, {(0, 0): number - 1})
    print(number, flush=True)
"""


def test_a_killed_process_loses_no_edit_that_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "killed.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 25:
            break
    os.kill(process.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    said = [25, *(int(line) for line in process.stdout.read().split())]
    process.wait()
    process.stdout.close()
    store = LabelStore(path)
    plane = store.plane("a", 0, 0, (512, 512))
    saved = store.objects(plane)
    assert saved >= set(range(1, said[-1] + 1))
    assert saved == set(range(1, len(saved) + 1))
    assert store.undo("a").name == "dot"  # type: ignore[union-attr]
    assert store.objects(plane) == saved - {len(saved)}
    store.close()


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "labels.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(FileError, match=r"labels\.sqlite: file is not a database"):
        LabelStore(tmp_path / "labels.sqlite")


def test_after_an_edit_for_which_the_disk_was_too_full_the_next_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    opened: list[sqlite3.Connection] = []

    def keep(*given: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*given, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", keep)
    store = LabelStore(tmp_path / "labels.sqlite")
    plane = store.plane("a.tif", 0, 0, (SIDE, SIDE))
    noise = np.random.default_rng(0).integers(1, 9, (SIDE, SIDE)).astype(np.int32)
    opened[0].execute("PRAGMA max_page_count=20")
    with pytest.raises(FileError, match=r"labels\.sqlite: database or disk is full"):
        store.write(plane, "brush", {(0, 0): noise})
    assert store.version(plane, (0, 0)) == 0
    opened[0].execute("PRAGMA max_page_count=100000")
    store.write(plane, "brush", {(0, 0): noise})
    assert np.array_equal(LabelStore(tmp_path / "labels.sqlite").tile(plane, (0, 0)), noise)


def test_an_image_of_which_only_a_mask_was_read_is_not_edited(store: LabelStore, plane: Plane) -> None:
    other = store.plane("b", 0, 0, (600, 700))
    assert not store.is_edited("a")
    store.write(plane, READ, {(0, 0): painted(1, 5, 5)})
    store.write(other, "brush", {(0, 0): painted(1, 5, 5)})
    assert (store.is_edited("a"), store.is_edited("b")) == (False, True)
    assert store.edited() == {other.id}
    store.write(plane, "eraser", {(0, 0): painted(-1, 5, 5)})
    assert store.is_edited("a")
