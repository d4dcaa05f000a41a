"""Masks on the disk: no file of a person is lost, and masks of any form are read as the check reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from septum.check.check import check
from septum.errors import DataError
from septum.io.files import read_mask, write_image
from septum.io.tiff import stated_kind
from septum.pairing.drawn_masks import class_names
from septum.studio import masks
from septum.studio.project import Entry
from septum.studio.session import Session
from septum.studio.settings import StudioSettings
from septum.studio.tile_grid import SIDE

SIDES = (96, 128)  # of the images of the fixture `folder`


def square(value: int, y: int, x: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SIDES, np.uint16)
    mask[y : y + side, x : x + side] = value
    return mask


def paint(session: Session, entry: Entry, value: int, row: int = 0, z: int = 0) -> None:
    """Paint five pixels at the beginning of a row."""
    version = session.store.version(session.plane(entry, 0, z), (0, 0))
    tile = {"ty": 0, "tx": 0, "version": version, "runs": [row * SIDE, 5, value]}
    session.edit(entry, 0, z, {"kind": "paint", "tiles": [tile]})


def opened(folder: Path, name: str = "a.tif", axes: str | None = None) -> tuple[Session, Entry]:
    """Return a session whose page shows an image."""
    session = Session(StudioSettings(folder=folder, axes=axes))
    entry = next(e for e in session.project.entries.values() if e.name == name)
    session.describe(entry)
    return session, entry


def labels_of(session: Session, entry: Entry, z: int = 0) -> np.ndarray:
    plane = session.plane(entry, 0, z)
    return session.store.read(plane, plane.box)


@pytest.mark.parametrize("older", [False, True])
def test_the_original_mask_is_kept_after_the_folder_was_renamed(folder: Path, older: bool) -> None:
    (folder / "masks").mkdir()
    write_image(folder / "masks" / "a.tif", square(9, 50, 50), axes="YX")
    session, entry = opened(folder)
    paint(session, entry, 7)
    session.newest_mask(entry)
    if older:  # version 0.2 noted the whole path
        session.store.note("own a.tif", str(folder / "masks" / "a.tif"))
    session.close()
    renamed = folder.rename(folder.with_name("renamed"))
    session, entry = opened(renamed)
    session.edit(entry, 0, 0, {"kind": "delete", "object": 9})
    session.close()
    kept = renamed / ".studio" / "originals"
    assert [p.name for p in kept.iterdir()] == ["a.tif"]
    assert np.array_equal(read_mask(kept / "a.tif").array[0], square(9, 50, 50))
    assert set(np.unique(read_mask(renamed / "masks" / "a.tif").array)) == {0, 7}


def test_a_mask_that_another_program_changes_while_its_image_is_open_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, entry = opened(folder)
    paint(session, entry, 7)
    file = session.newest_mask(entry)
    assert file is not None
    told: list[str] = []
    monkeypatch.setattr(session.hub, "send", lambda topic, **values: told.append(str(values.get("text", ""))))
    for number, name in ((2, "a.tif"), (3, "a-2.tif")):
        write_image(file, square(number, 50, 50), axes="YX")
        paint(session, entry, 7, row=number)
        session.newest_mask(entry)
        kept = folder / ".studio" / "originals" / name
        assert np.array_equal(read_mask(kept).array[0], square(number, 50, 50))
        assert f"masks/a.tif was moved to .studio/originals/{name}: another program has changed it" in told
    session.close()
    assert set(np.unique(read_mask(file).array)) == {-1, 7}


@pytest.mark.parametrize("painted", [False, True])
def test_an_original_that_a_person_moved_back_is_kept_aside_again(folder: Path, painted: bool) -> None:
    file, kept = folder / "masks" / "a.tif", folder / ".studio" / "originals" / "a.tif"
    file.parent.mkdir()
    write_image(file, square(9, 50, 50), axes="YX")
    original = file.read_bytes()
    session, entry = opened(folder)
    if painted:
        paint(session, entry, 7)
    else:
        session.step(entry, undo=True)  # nothing is annotated any more
    session.close()
    assert kept.read_bytes() == original and file.exists() == painted
    kept.rename(file)
    session, entry = opened(folder)
    assert set(np.unique(labels_of(session, entry))) == {0, 9}
    paint(session, entry, 8)
    session.close()
    assert kept.read_bytes() == original
    assert set(np.unique(read_mask(file).array)) == {0, 8, 9}


def test_a_mask_of_the_studio_that_was_only_copied_is_not_moved_aside(folder: Path) -> None:
    session, entry = opened(folder)
    paint(session, entry, 7)
    session.close()
    os.utime(folder / "masks" / "a.tif", (1, 1))
    session, entry = opened(folder)
    paint(session, entry, 8, row=5)
    session.close()
    assert set(np.unique(read_mask(folder / "masks" / "a.tif").array)) == {-1, 7, 8}
    assert not (folder / ".studio" / "originals").exists()


def test_a_mask_with_rows_and_columns_exchanged_is_an_error(folder: Path) -> None:
    (folder / "masks").mkdir()
    write_image(folder / "masks" / "a.tif", square(9, 50, 50).T, axes="YX")
    with pytest.raises(DataError, match=r"a\.tif: a mask of 128 x 96 pixels .* for an image of 96 x 128 pixels"):
        opened(folder)


def test_a_mask_has_the_axes_that_are_named_for_its_image(tmp_path: Path) -> None:
    mask = np.zeros((3, 16, 20), np.uint16)
    mask[1, 2:5, 3:9] = 4
    for name, array in (("images", np.moveaxis(mask * 50, 0, 2)), ("masks", np.moveaxis(mask, 0, 2))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", array)
    session, entry = opened(tmp_path, "a.npy", axes="YXZ")
    assert [labels_of(session, entry, z).max() for z in range(3)] == [0, 4, 0]
    assert np.array_equal(labels_of(session, entry, 1), mask[1].astype(np.int32))
    paint(session, entry, 7, z=2)
    file = session.newest_mask(entry)
    session.close()
    assert file is not None
    written = read_mask(file)
    assert written.axes == "CZYX" and written.array.shape == (1, 3, 16, 20)
    mask[0, 1, 1] = 8
    write_image(file, mask, axes="ZYX")
    session, entry = opened(tmp_path, "a.npy", axes="YXZ")
    assert np.array_equal(labels_of(session, entry, 0), mask[0].astype(np.int32))
    session.close()


def test_a_stack_of_masks_that_is_read_is_one_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.tif", np.zeros((3, 40, 50), np.uint8), axes="ZYX")
    session, entry = opened(tmp_path)
    paint(session, entry, 7, z=1)
    file = session.newest_mask(entry)
    assert file is not None
    mask = np.zeros((3, 40, 50), np.uint16)
    mask[:, 5:9] = np.arange(1, 4)[:, None, None]
    write_image(file, mask, axes="ZYX")
    session.describe(entry)
    read = [labels_of(session, entry, z) for z in range(3)]
    assert np.array_equal(read, mask.astype(np.int32))
    session.close()
    session, entry = opened(tmp_path)
    told: list[tuple[int, list[list[int]]]] = []
    monkeypatch.setattr(
        session.hub, "send", lambda topic, **v: told.append((v["z"], v["tiles"])) if topic == "labels" else None
    )
    done = session.step(entry, undo=True)
    assert done is not None and done.name == "read mask"
    assert sorted(told) == [(0, [[0, 0, 2]]), (1, [[0, 0, 3]]), (2, [[0, 0, 2]])]
    before = [labels_of(session, entry, z) for z in range(3)]
    assert [set(np.unique(plane)) for plane in before] == [{-1}, {-1, 7}, {-1}]
    session.step(entry, undo=False)
    assert np.array_equal([labels_of(session, entry, z) for z in range(3)], mask.astype(np.int32))
    for _ in range(2):
        session.step(entry, undo=True)
    assert [labels_of(session, entry, z).max() for z in range(3)] == [-1, -1, -1]
    assert session.step(entry, undo=True) is None
    session.close()


def test_a_mask_states_what_its_values_are_and_the_check_reads_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("septum.studio.background._WRITE_AFTER_S", 0.01)
    (folder / "masks").mkdir()
    write_image(folder / "masks" / "b.png", square(3, 10, 10).astype(np.uint8), axes="YX", labels=True)
    untouched = (folder / "masks" / "b.png").read_bytes()
    session, entry = opened(folder)
    session.describe(next(e for e in session.project.entries.values() if e.name == "b.png"))
    for value, row in ((17, 0), (18, 4)):  # from the values alone their kind is a guess
        paint(session, entry, value, row=row)
    file = session.newest_mask(entry)
    assert file is not None and stated_kind(read_mask(file)) == "objects"
    report = check([folder / "images", folder / "masks"])
    assert report.label_kind.kind == "objects" and not report.label_kind.guess
    session.set_kind("classes")
    file = session.newest_mask(entry)
    session.close()
    assert file is not None and stated_kind(read_mask(file)) == "classes"
    report = check([folder / "images", folder / "masks"])
    assert (report.label_kind.kind, report.label_kind.values) == ("classes", (0, 3, 17, 18))
    assert not (folder / ".studio" / "originals").exists()
    assert (folder / "masks" / "b.png").read_bytes() == untouched


def test_the_kind_that_was_chosen_before_a_crash_is_stated_after_the_next_start(folder: Path) -> None:
    session, entry = opened(folder)
    paint(session, entry, 7)
    file = session.newest_mask(entry)
    assert file is not None
    session.store.note("kind", "classes")  # and nothing else was done
    session.close()
    session = Session(StudioSettings(folder=folder))
    assert session.newest_mask(entry) == file
    session.close()
    assert stated_kind(read_mask(file)) == "classes"


@pytest.mark.parametrize("most", [masks.MOST_PIXELS, 1000])
def test_other_programs_read_a_mask_that_states_its_kind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(masks, "MOST_PIXELS", most)
    session, entry = opened(folder)
    paint(session, entry, 7)
    file = session.newest_mask(entry)
    session.close()
    assert file is not None and stated_kind(read_mask(file)) == "objects"
    with tifffile.TiffFile(file) as tiff:
        assert tiff.is_ome
        assert tiff.asarray().shape == SIDES and (tiff.asarray()[0, :5] == 7).all()
    from skimage.io import imread

    assert imread(file).shape == SIDES


def test_what_another_program_has_corrected_is_read_before_the_kind_is_written(folder: Path) -> None:
    session, entry = opened(folder)
    paint(session, entry, 7)
    file = session.newest_mask(entry)
    assert file is not None
    write_image(file, square(2, 50, 50), axes="YX", labels="objects")
    session.set_kind("classes")
    assert session.newest_mask(entry) == file
    assert set(np.unique(read_mask(file).array)) == {0, 2}
    session.describe(entry)
    session.newest_mask(entry)
    assert set(np.unique(labels_of(session, entry))) == {0, 2}
    session.close()
    assert stated_kind(read_mask(file)) == "classes" and set(np.unique(read_mask(file).array)) == {0, 2}


def test_a_mask_of_the_studio_that_was_copied_states_the_kind_that_is_chosen_later(folder: Path) -> None:
    session, entry = opened(folder)
    paint(session, entry, 7)
    session.close()
    os.utime(folder / "masks" / "a.tif", (1, 1))
    session, entry = opened(folder)
    session.set_kind("classes")
    session.close()
    assert stated_kind(read_mask(folder / "masks" / "a.tif")) == "classes"


def draw(file: Path, *classes: str) -> None:
    """Write a square of each class, side by side, as QuPath does."""
    shapes = []
    for number, name in enumerate(classes):
        x = 10 + 20 * number
        ring = [[x, 10], [x + 10, 10], [x + 10, 20], [x, 20], [x, 10]]
        about = {"objectType": "annotation", "classification": {"name": name}}
        shape = {"type": "Polygon", "coordinates": [ring]}
        shapes.append({"type": "Feature", "geometry": shape, "properties": about})
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))


def test_the_classes_of_drawn_objects_are_read_once_for_all_images_and_again_after_a_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("c", "d"):
        write_image(folder / "images" / f"{name}.tif", np.zeros((60, 80), np.uint8), axes="YX")
    for name in ("a", "c", "d"):
        draw(folder / "masks" / f"{name}.geojson", "n", "p")
    read: list[str] = []

    def count(place: Path) -> frozenset[str]:
        read.append(place.name)
        return class_names(place)

    monkeypatch.setattr(masks, "class_names", count)
    session, _ = opened(folder)
    session.set_kind("classes")
    entries = [one for one in session.project.entries.values() if one.name != "b.png"]
    for entry in entries:
        session.describe(entry)
        assert session.store.objects(session.plane(entry, 0, 0)) == {1, 2}
    assert sorted(read) == ["a.geojson", "c.geojson", "d.geojson"]
    draw(folder / "masks" / "d.geojson", "a", "n", "p")
    session.describe(entries[-1])
    assert session.store.objects(session.plane(entries[-1], 0, 0)) == {1, 2, 3}
    assert len(read) == 4
    session.close()


def test_drawn_objects_are_read_again_as_classes_unless_a_person_has_edited_them(folder: Path) -> None:
    draw(folder / "masks" / "a.geojson", "b", "c", "c", "b", "c")
    session, entry = opened(folder)
    assert set(np.unique(labels_of(session, entry))) == {0, 1, 2, 3, 4, 5}
    session.set_kind("classes")
    session.describe(entry)
    assert set(np.unique(labels_of(session, entry))) == {0, 1, 2}
    session.set_kind("objects")
    session.describe(entry)
    assert session.store.objects(session.plane(entry, 0, 0)) == {1, 2, 3, 4, 5}
    session.edit(entry, 0, 0, {"kind": "delete", "object": 5})
    session.set_kind("classes")
    session.describe(entry)
    assert session.store.objects(session.plane(entry, 0, 0)) == {1, 2, 3, 4}
    session.close()
