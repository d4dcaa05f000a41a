"""Links to folders are followed, except those that lead back."""

from __future__ import annotations

from pathlib import Path

import pytest

from septum.folders import below, check_spelling, distinct


def files(folder: Path, **more: int) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in below(folder, lambda p: p.suffix == ".zarr", **more))


def test_files_below_a_folder_to_a_level_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("a.txt", "p/b.txt", "p/q/c.txt", ".d/e.txt", "p/.f.txt", "g.zarr/h.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files(tmp_path) == ["a.txt", "g.zarr", "p/b.txt", "p/q/c.txt"]
    assert files(tmp_path, most=1) == ["a.txt", "g.zarr", "p/b.txt"]
    assert files(tmp_path, most=0) == ["a.txt", "g.zarr"]


def test_links_to_the_folder_itself_or_above_are_not_entered(tmp_path: Path) -> None:
    (tmp_path / "data" / "p").mkdir(parents=True)
    (tmp_path / "data" / "p" / "a.txt").touch()
    (tmp_path / "b.txt").touch()
    for name, target in (("x", "."), ("y", "."), ("up", ".."), ("p/back", "..")):
        (tmp_path / "data" / name).symlink_to(target)
    assert files(tmp_path / "data") == ["p/a.txt"]


def test_a_folder_is_entered_by_each_of_its_names(tmp_path: Path) -> None:
    for name in ("elsewhere/a.txt", "elsewhere/s/c.txt", "data/p2/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    elsewhere = tmp_path / "elsewhere"
    for name, target in (("latest", "p2"), ("q", elsewhere), ("r", elsewhere), ("t", elsewhere / "s")):
        (tmp_path / "data" / name).symlink_to(target)
    expected = ["latest/b.txt", "p2/b.txt", "q/a.txt", "q/s/c.txt", "r/a.txt", "r/s/c.txt", "t/c.txt"]
    assert files(tmp_path / "data") == expected


def test_links_in_a_ring_end_where_they_lead_back(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
        (tmp_path / name / other).symlink_to(tmp_path / other)
    assert files(tmp_path) == ["a/a.txt", "a/b/b.txt", "b/a/a.txt", "b/b.txt"]


def test_distinct_folders_are_those_without_links_to_others_and_the_first_of_several_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "p2").mkdir(parents=True)
    for name, target in (("latest", "p2"), ("q", tmp_path / "elsewhere"), ("r", tmp_path / "elsewhere")):
        (tmp_path / "data" / name).symlink_to(target)
    assert [path.name for path in distinct(sorted((tmp_path / "data").iterdir()))] == ["p2", "q"]


def test_a_misspelled_path_is_answered_with_the_most_similar_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new/images").mkdir(parents=True)
    (tmp_path / "new/a.png").touch()
    monkeypatch.chdir(tmp_path)
    for given, meant in (
        ("new/imags", "new/images"),
        ("nwe/images", "new/images"),
        ("new/a.tif", "new/a.png"),
        (tmp_path / "new/A.png", tmp_path / "new/a.png"),
    ):
        assert check_spelling(Path(given)) == f"did you mean: {Path(meant)}?"
    (tmp_path / "new/im7.png").touch()
    for given in ("other", "nwe/nothing", "new/a.png/b", "new/im99.png"):
        assert check_spelling(Path(given)) == "check the spelling"
