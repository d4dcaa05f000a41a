from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from septum.errors import DataError, FileError, UsageError
from septum.io.files import list_images, open_image, read_image, write_image
from septum.io.formats import format_path, image_stem, is_image, natural_key
from septum.pairing.find import find_pairs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_known_by_their_suffix() -> None:
    for name in (
        "a.png",
        "a.PNG",
        "a.Tif",
        "a.tiff",
        "a.ome.tif",
        "a.nii",
        "a.nii.gz",
        "a.NII.GZ",
        "a.jpeg",
        "a.npy",
        "a.zarr",
    ):
        assert is_image(Path(name)), name
    for name in ("a.txt", "a.gz", "png", ".png", "a.tif.txt", "a.zar", "a.npz", "a.tif~"):
        assert not is_image(Path(name)), name
    assert [image_stem(Path(n)) for n in ("a.b.png", "a.ome.tif", "a.nii.gz", "a.tar.gz")] == ["a.b", "a", "a", "a.tar"]


def test_natural_order() -> None:
    names = ["t10", "t2", "T1", "t1", "t01", "a", "t2b", "t2a10", "t2a9", "10", "9", "²", "t٣"]
    ordered = sorted(names, key=natural_key)
    assert ordered == ["9", "10", "a", "T1", "t01", "t1", "t2", "t2a9", "t2a10", "t2b", "t٣", "t10", "²"]
    assert sorted(set(names), key=natural_key) == ordered


def test_names_in_messages_stay_on_one_line() -> None:
    assert format_path(Path("cells 🔬.tif")) == "cells 🔬.tif"
    assert format_path("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
    assert format_path("bad\udcff") == r"'bad\udcff'"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("suffix", [".tif", ".png", ".nii.gz", ".npy", ".ome.zarr"])
def test_names_that_are_not_utf8_are_written_and_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())
    values = np.arange(72, dtype=np.uint8).reshape(8, 9)
    write_image(path, values, axes="YX")
    np.testing.assert_array_equal(read_image(path).array.squeeze(), values)
    assert list_images([tmp_path]) == [path]


def test_a_tiff_of_an_ordinary_name_keeps_its_identifier(tmp_path: Path) -> None:
    write_image(tmp_path / "é.tif", np.zeros((8, 9), np.uint8), axes="YX")
    assert str(uuid.uuid5(uuid.NAMESPACE_URL, "septum:é.tif")).encode() in (tmp_path / "é.tif").read_bytes()


def test_list_files_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(
        tmp_path,
        "in/t10.tif",
        "in/t2.tif",
        "in/t1.tif",
        "in/notes.txt",
        "in/.hidden.tif",
        "in/._t1.tif",
        "in/deep/x.tif",
    )
    touch(tmp_path, "one[1].png", "one1.png", "in/folder.png/y.png")
    monkeypatch.chdir(tmp_path)

    def names(*given: str) -> list[str]:
        return [p.as_posix() for p in list_images(given)]

    assert names("in") == ["in/t1.tif", "in/t2.tif", "in/t10.tif"]
    assert names("in/t*.tif") == ["in/t1.tif", "in/t2.tif", "in/t10.tif"]
    assert names("in/*") == ["in/t1.tif", "in/t2.tif", "in/t10.tif"]
    assert names("in/**/*.tif") == ["in/deep/x.tif", "in/t1.tif", "in/t2.tif", "in/t10.tif"]
    assert names("one[1].png") == ["one[1].png"]
    assert names("one?.png") == ["one1.png"]
    assert names("in/t10.tif", "in") == ["in/t10.tif", "in/t1.tif", "in/t2.tif"]
    assert names(str(tmp_path / "in" / "t?.tif")) == [str(tmp_path / "in" / n) for n in ("t1.tif", "t2.tif")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.tif", "does not exist"),
        ("*.jpg", "not an image"),
        ("notes.txt", "not an image"),
        ("empty", "without images"),
    ],
)
def test_inputs_without_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    touch(tmp_path, "notes.txt", "a.png")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as raised:
        list_images(["a.png", given])
    assert given in raised.value.given and raised.value.todo


def test_missing_permission_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="too long"):
        list_images(["n" * 300 + ".png"])

    def forbidden(_: Path) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    for call in (list_images, find_pairs):
        with pytest.raises(UsageError, match="Permission denied"):
            call([tmp_path])


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_image(tmp_path / "a.png", array, axes="YX")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], array)


def test_single_planes_and_frames_are_dropped_unless_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(1, 2, 3))
    assert read_image(tmp_path / "a.npy").axes == "CYX"
    image = read_image(tmp_path / "a.npy", axes="ZYX")
    assert (image.axes, image.array.shape, image.file_axes) == ("CZYX", (1, 1, 2, 3), "ZYX")


def test_named_axes_reorder(tmp_path: Path) -> None:
    array = np.arange(120).reshape(2, 3, 4, 5)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FileError, match=r"\(2, 3, 4, 5\)"):
        read_image(tmp_path / "a.npy")
    image = read_image(tmp_path / "a.npy", axes="YXTC")
    assert image.axes == "TCYX"
    np.testing.assert_array_equal(image.array, array.transpose(2, 3, 0, 1))


def test_unnamed_dimensions_of_npy(tmp_path: Path) -> None:
    for shape, axes in [
        ((5, 6), "CYX"),
        ((4, 5, 6), "TCYX"),
        ((5, 6, 3), "CYX"),
        ((5, 6, 2), "TCYX"),
        ((3, 4, 3), "TCYX"),
    ]:
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        assert read_image(tmp_path / "a.npy").axes == axes, shape


@pytest.mark.parametrize("array", [np.array([[1j]]), np.array([["a"]]), np.zeros((0, 4)), np.zeros((1, 1), "M8[s]")])
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FileError):
        read_image(tmp_path / "a.npy")


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match="Python objects"):
        read_image(tmp_path / "a.npy")


def test_half_and_foreign_byte_order_become_native(tmp_path: Path) -> None:
    for given, wanted in [("<f2", "float32"), (">u2", "uint16"), (">f8", "float64"), ("<i8", "int64")]:
        np.save(tmp_path / "a.npy", np.array([[1, 2]], given))
        image = read_image(tmp_path / "a.npy")
        assert image.array.dtype == np.dtype(wanted) and image.array.dtype.isnative
        assert image.array.tolist() == [[[1, 2]]]


def test_other_suffixes_are_refused_for_writing(tmp_path: Path) -> None:
    for name in ("a.jpg", "a", "a.txt", "a.gif"):
        with pytest.raises(UsageError, match="are not written"):
            write_image(tmp_path / name, np.zeros((2, 2), np.uint8), axes="YX")
    assert list(tmp_path.iterdir()) == []


def test_integers_of_more_than_32_bits_are_refused_for_tiff(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"values from -1 to 4294967296[\s\S]*\.npy"):
        write_image(tmp_path / "a.tif", np.array([[-1, 2**32]]), axes="YX")


def test_file_errors_are_not_data_errors() -> None:
    assert not issubclass(FileError, DataError)


def test_a_file_that_becomes_shorter_or_vanishes_after_it_was_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((40, 50), np.uint8))
    with open_image(path) as image:
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(FileError, match=r"a\.npy: has become shorter since it was opened"):
            image[...]
        path.unlink()
        with pytest.raises(FileError, match=r"a\.npy: cannot be read any more \(No such file"):
            image[...]
