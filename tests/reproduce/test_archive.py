"""Hostile and damaged archives are refused before, or without, a file outside the folder."""

import stat
import zipfile

import pytest

from septum.errors import FileError
from septum.reproduce import archive as archive_module
from septum.reproduce.archive import Arrived, unpack


def archive(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def test_files_are_unpacked_unchanged_and_bytes_are_counted(tmp_path):
    made = archive(tmp_path / "a.zip", {"set/": b"", "set/01/t000.tif": b"abc", "set/empty": b"", "top": b"x" * 5})
    out = tmp_path / "out"
    out.mkdir()
    counts = [(event.done, event.total) for event in unpack(made, out) if isinstance(event, Arrived)]
    assert counts == [(0, 8), (3, 8), (3, 8), (8, 8)]
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {"set/01/t000.tif": b"abc", "set/empty": b"", "top": b"x" * 5}


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/out.txt", "C:out.txt", "a\\..\\b", "a\nb"])
def test_names_that_lead_outside_are_refused_before_anything_is_written(tmp_path, name):
    made = archive(tmp_path / "a.zip", {"fine.txt": b"1", name: b"2"})
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    with pytest.raises(FileError, match="leads outside"):
        list(unpack(made, out))
    assert list(out.iterdir()) == []
    assert {p.name for p in tmp_path.rglob("*")} == {"a.zip", "deep", "out"}


def test_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(FileError, match="link"):
        list(unpack(tmp_path / "a.zip", tmp_path))


def test_names_that_differ_in_case_only_are_refused(tmp_path):
    made = archive(tmp_path / "a.zip", {"a.tif": b"1", "A.TIF": b"2"})
    with pytest.raises(FileError, match="twice"):
        list(unpack(made, tmp_path))


def test_a_bomb_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "MOST_UNPACKED", 1000)
    made = archive(tmp_path / "a.zip", {"a": b"\0" * 600, "b": b"\0" * 600})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FileError, match="1,000 bytes"):
        list(unpack(made, out))
    assert list(out.iterdir()) == []
    monkeypatch.setattr(archive_module, "MOST_FILES", 1)
    with pytest.raises(FileError, match="1 files"):
        list(unpack(archive(tmp_path / "b.zip", {"a": b"1", "b": b"2"}), out))


def test_a_bomb_that_states_a_small_size_is_refused(tmp_path):
    """Both headers state 8 bytes; the deflated data hold a million."""
    made = archive(tmp_path / "a.zip", {"a": b"\0" * 1_000_000})
    size, stated = (1_000_000).to_bytes(4, "little"), (8).to_bytes(4, "little")
    content = made.read_bytes()
    assert content.count(size) == 2
    made.write_bytes(content.replace(size, stated))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FileError, match="damaged"):
        list(unpack(made, out))
    assert sum(path.stat().st_size for path in out.rglob("*")) <= 8


def test_damaged_archives_are_refused(tmp_path):
    made = archive(tmp_path / "a.zip", {"a": bytes(range(256)) * 40})
    content = bytearray(made.read_bytes())
    content[60] ^= 0xFF
    made.write_bytes(content)
    with pytest.raises(FileError, match="damaged"):
        list(unpack(made, tmp_path))
    made.write_bytes(b"<html>not found</html>")
    with pytest.raises(FileError, match="damaged"):
        list(unpack(made, tmp_path))
