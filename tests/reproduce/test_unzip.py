import stat
import zipfile

import pytest

from septum.errors import FileError
from septum.reproduce.unzip import unpack


def archive(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def test_files_come_out_as_they_went_in_and_bytes_are_counted(tmp_path):
    made = archive(tmp_path / "a.zip", {"set/": b"", "set/01/t000.tif": b"abc", "set/empty": b"", "top": b"x" * 5})
    out = tmp_path / "out"
    out.mkdir()
    assert list(unpack(made, out, most_bytes=8)) == [(3, 8), (8, 8)]
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {"set/01/t000.tif": b"abc", "set/empty": b"", "top": b"x" * 5}


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/out.txt", "C:out.txt", "a\\..\\b", "a\nb"])
def test_names_that_lead_outside_are_refused_before_anything_is_written(tmp_path, name):
    made = archive(tmp_path / "a.zip", {"fine.txt": b"1", name: b"2"})
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    with pytest.raises(FileError, match="leads outside"):
        list(unpack(made, out, most_bytes=100))
    assert list(out.iterdir()) == []
    assert {p.name for p in tmp_path.rglob("*")} == {"a.zip", "deep", "out"}


def test_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(FileError, match="link"):
        list(unpack(tmp_path / "a.zip", tmp_path, most_bytes=100))


def test_two_names_that_some_systems_take_for_one_are_refused(tmp_path):
    made = archive(tmp_path / "a.zip", {"a.tif": b"1", "A.TIF": b"2"})
    with pytest.raises(FileError, match="twice"):
        list(unpack(made, tmp_path, most_bytes=100))


def test_more_than_the_limit_is_refused_before_it_is_written(tmp_path):
    made = archive(tmp_path / "a.zip", {"a": b"\0" * 600, "b": b"\0" * 600})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FileError, match="1,000 bytes"):
        list(unpack(made, out, most_bytes=1000))
    assert list(out.iterdir()) == []


def test_a_disk_that_is_too_small_is_said(tmp_path, monkeypatch):
    made = archive(tmp_path / "a.zip", {"a": b"\0" * 600})
    monkeypatch.setattr("septum.reproduce.unzip.shutil.disk_usage", lambda _: type("Usage", (), {"free": 599}))
    with pytest.raises(FileError, match="free"):
        list(unpack(made, tmp_path, most_bytes=1000))


def test_damage_is_said(tmp_path):
    made = archive(tmp_path / "a.zip", {"a": bytes(range(256)) * 40})
    content = bytearray(made.read_bytes())
    content[60] ^= 0xFF
    made.write_bytes(content)
    with pytest.raises(FileError, match="damaged"):
        list(unpack(made, tmp_path, most_bytes=100_000))
    made.write_bytes(b"<html>not found</html>")
    with pytest.raises(FileError, match="damaged"):
        list(unpack(made, tmp_path, most_bytes=100_000))
