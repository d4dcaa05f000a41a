from __future__ import annotations

from pathlib import Path
from threading import Thread

from septum.kept import KeptArrays

A, B = Path("a.tif"), Path("b.tif")


def test_arrays_of_dropped_files_make_room_for_others() -> None:
    kept = KeptArrays(limit_bytes=10)
    kept.keep("image", A, "image of a", 4)
    kept.keep("mask", A, "mask of a", 4)
    kept.keep("image", B, "image of b", 2)
    kept.drop([A, A])
    assert (kept.find("image", A), kept.find("mask", A), kept.find("image", B)) == (None, None, "image of b")
    kept.keep("mask", B, "mask of b", 8)
    found = []
    other = Thread(target=lambda: found.append(kept.find("mask", B)))  # what does not fit is kept for its thread alone
    other.start()
    other.join()
    assert found == ["mask of b"]


def test_of_arrays_beyond_the_limit_the_latest_is_kept_until_its_file_is_dropped() -> None:
    kept = KeptArrays(limit_bytes=1)
    kept.keep("image", A, "a", 5)
    kept.keep("image", B, "b", 5)
    assert (kept.find("image", A), kept.find("image", B)) == (None, "b")
    kept.drop([A])
    assert kept.find("image", B) == "b"
    kept.drop([B])
    assert kept.find("image", B) is None


def test_arrays_are_dropped_by_their_role() -> None:
    kept = KeptArrays(limit_bytes=100)
    for path in (A, B):
        kept.keep("image", path, f"image of {path}", 1)
        kept.keep("labels", path, f"labels of {path}", 1)
    kept.drop_where(lambda role, path: role == "labels" and path == A)
    assert [kept.find("labels", path) for path in (A, B)] == [None, "labels of b.tif"]
    assert kept.find("image", A) == "image of a.tif"
