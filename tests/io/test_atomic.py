from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from septum.errors import FileError
from septum.io.atomic import remove_parts, whole_file
from septum.io.files import read_image, write_image
from septum.io.tensors import write_model
from septum.training.checkpoint import newest_checkpoint, save_checkpoint


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with whole_file(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError("ours"), KeyboardInterrupt(), OSError(errno.ENOSPC, "no space")])
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    wanted = FileError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(wanted), whole_file(path) as temporary:
        temporary.write_text("half of the n")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "your disk quota is used up"),
        (errno.EFBIG, "larger than files may be here"),
        (errno.EACCES, "may not be written"),
        (errno.EROFS, "may not be written"),
        (errno.EIO, "cannot be written (Input/output error)"),
    ],
)
def test_system_errors_are_explained(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(FileError) as raised, whole_file(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))
    assert message in raised.value.given and raised.value.todo


def test_missing_folder_long_name_and_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken.txt").mkdir()
    for path, message in [
        (tmp_path / "none" / "a.txt", "does not exist"),
        (tmp_path / ("n" * 300 + ".txt"), "too long"),
        (tmp_path / "taken.txt", "is a folder"),
    ]:
        with pytest.raises(FileError, match=message), whole_file(path) as temporary:
            temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken.txt"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with whole_file(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_link_may_point_to_another_disk_or_to_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link.txt").symlink_to("far/real.txt")
    with whole_file(tmp_path / "link.txt") as temporary:
        assert temporary.parent == tmp_path / "far"
        temporary.write_text("new")
    assert (tmp_path / "far" / "real.txt").read_text() == "new"


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_is_written_through_a_link(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.ome.zarr", tmp_path / "link.ome.zarr"
    if exists:
        write_image(real, np.zeros((8, 9), np.uint8), axes="YX")
    link.symlink_to("far/real.ome.zarr")
    write_image(link, np.full((8, 9), 7, np.uint8), axes="YX")
    assert link.is_symlink()
    assert (read_image(real).array == 7).all()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.parent.name in ("far", tmp_path.name)) == [
        "far",
        "link.ome.zarr",
        "real.ome.zarr",
    ]


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, done = tmp_path / "a.txt", []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        done.append((os.path.isdir(f"/proc/self/fd/{descriptor}"), path.exists()))  # noqa: PTH112
        sync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to look up descriptors in")
    monkeypatch.setattr(os, "fsync", watched)
    with whole_file(path) as temporary:
        temporary.write_text("x")
    assert done == [(False, False), (True, True)]


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".septum-part-0123.safetensors").write_text("half")
    (tmp_path / ".hidden").write_text("mine")
    remove_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".hidden"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = (
            os.name == "posix" and os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
        )
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk can only be mounted by root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".nii", ".nii.gz", ".npy"])
def test_a_full_disk_leaves_no_partial_image(small_disk: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)
    path = small_disk / f"image{suffix}"
    write_image(path, noise[:8, :8], axes="YX")
    before = path.read_bytes()
    with pytest.raises(FileError, match="the disk is full"):
        write_image(path, noise, axes="YX")
    assert path.read_bytes() == before
    assert list(small_disk.iterdir()) == [path]


def test_a_full_disk_leaves_model_and_checkpoints(small_disk: Path) -> None:
    write_model(small_disk / "model.safetensors", {"w": np.ones(3)}, {})
    before = (small_disk / "model.safetensors").read_bytes()
    save_checkpoint(small_disk / "runs", 1, {"w": np.ones(3)}, {"best": 0.5})
    with pytest.raises(FileError, match="the disk is full"):
        write_model(small_disk / "model.safetensors", {"w": np.ones(20000)}, {})
    with pytest.raises(FileError, match="the disk is full"):
        save_checkpoint(small_disk / "runs", 2, {"w": np.ones(20000)}, {"best": 0.5}, keep=1)
    assert (small_disk / "model.safetensors").read_bytes() == before
    newest, skipped = newest_checkpoint(small_disk / "runs")
    assert newest is not None and (newest.step, skipped) == (1, [])
    assert sorted(p.name for p in small_disk.rglob("*")) == ["model.safetensors", "runs", "step-00000001.safetensors"]


def test_a_full_disk_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model.safetensors", {"w": np.ones(3)}, {})
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="the disk is full"):
        write_model(tmp_path / "model.safetensors", {"w": np.zeros(3)}, {})
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
