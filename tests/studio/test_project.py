"""Which images a folder holds, which masks belong to them, and which files are passed over."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.check.check import check
from septum.errors import FileError, UsageError
from septum.io.files import read_mask, write_image
from septum.studio.label_store import LabelStore
from septum.studio.learning import Learning
from septum.studio.project import Entry, Project
from septum.studio.session import Session
from septum.studio.settings import StudioSettings
from septum.studio.tile_grid import SIDE

PIXELS = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)


def make_images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, PIXELS, axes="YX")


def make_mask(file: Path, value: int = 3) -> np.ndarray:
    mask = np.zeros(PIXELS.shape, np.uint8)
    mask[10:20, 10:20] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, mask, axes="YX")
    return mask


def names(project: Project) -> list[str]:
    return [entry.name for entry in project.entries.values()]


def entry_of(session: Session, name: str) -> Entry:
    return next(e for e in session.project.entries.values() if e.name == name)


def paint(session: Session, name: str, value: int = 7) -> Path | None:
    """Open an image, paint some pixels, and return the mask that is written."""
    entry = entry_of(session, name)
    session.describe(entry)
    version = session.store.version(session.plane(entry, 0, 0), (0, 0))
    tile = {"ty": 0, "tx": 0, "version": version, "runs": [30 * SIDE + 40, 8, value]}
    session.edit(entry, 0, 0, {"kind": "paint", "tiles": [tile]})
    return session.newest_mask(entry)


def objects(session: Session) -> dict[str, int]:
    return {one["name"]: one["objects"] for one in session.overview()["images"]}


@pytest.fixture(autouse=True)
def no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learning, "follow", lambda self: None)


@pytest.mark.parametrize(
    ("images", "painted"),
    [
        (("images/p1/a.png", "images/p2/b.png"), "p1/a.png"),
        (("a.png", "raw/r.png"), "a.png"),
        (("p1/a.png", "raw/r.png"), "p1/a.png"),
    ],
)
def test_images_keep_their_names_and_labels_after_a_mask_was_written(
    tmp_path: Path, images: tuple[str, ...], painted: str
) -> None:
    make_images(tmp_path, *images)
    session = Session(StudioSettings(folder=tmp_path))
    before = names(session.project)
    file = paint(session, painted)
    session.close()
    session = Session(StudioSettings(folder=tmp_path))
    assert names(session.project) == before
    assert objects(session)[painted] == 1
    assert session.project.mask_path(entry_of(session, painted)) == file
    session.close()


def test_labels_of_a_version_without_a_note_choose_the_folder_of_images(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png", "raw/r.png")
    session = Session(StudioSettings(folder=tmp_path))
    paint(session, "a.png")
    session.close()
    note = tmp_path / ".studio" / "folders.json"
    for other in (None, {"images": "raw", "masks": "masks"}):  # none, or a wrong one
        note.unlink()
        if other is not None:
            note.write_text(json.dumps(other), encoding="utf-8")
        session = Session(StudioSettings(folder=tmp_path))
        assert objects(session) == {"a.png": 1}
        paint(session, "a.png")
        session.close()
        assert json.loads(note.read_text(encoding="utf-8")) == {"images": ".", "masks": "masks"}


def test_images_that_were_moved_into_a_folder_keep_their_labels(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png", "b.png")
    session = Session(StudioSettings(folder=tmp_path))
    paint(session, "a.png")
    session.close()
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(tmp_path / "images" / name)
    session = Session(StudioSettings(folder=tmp_path))
    assert objects(session) == {"a.png": 1, "b.png": 0}
    assert session.project.images == tmp_path / "images"
    session.close()


def test_a_mask_beside_that_of_the_studio_is_named_and_moved_at_the_next_edit(tmp_path: Path) -> None:
    make_images(tmp_path, "images/p1/a.png", "images/p1/b.png")
    session = Session(StudioSettings(folder=tmp_path))
    own = paint(session, "p1/a.png")
    session.close()
    for name in ("a.png", "b.png"):
        make_mask(tmp_path / "masks" / "p1" / name)
    session = Session(StudioSettings(folder=tmp_path))
    assert objects(session) == {"p1/a.png": 1, "p1/b.png": 0}
    assert [e.mask for e in session.project.entries.values()] == [own, tmp_path / "masks" / "p1" / "b.png"]
    reason = "masks of images for which the studio wrote a mask; move one of the two away"
    assert session.project.passed_over == [f"masks/p1/a.png: {reason}"]
    assert paint(session, "p1/a.png", 9) == own
    assert session.overview()["passed_over"] == []
    session.close()
    assert (tmp_path / ".studio" / "originals" / "p1" / "a.png").is_file()
    assert (tmp_path / "masks" / "p1" / "b.png").is_file()


def test_a_mask_that_was_copied_in_while_its_image_was_open_is_moved(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png", "img_a.png")
    session = Session(StudioSettings(folder=tmp_path))
    session.describe(entry_of(session, "a.png"))
    make_mask(tmp_path / "masks" / "a_mask.png")
    other = paint(session, "img_a.png")
    assert (tmp_path / "masks" / "a_mask.png").is_file()  # that of a.png
    file = paint(session, "a.png")
    session.close()
    assert file is not None and other is not None
    assert sorted((tmp_path / "masks").iterdir()) == [file, other]
    assert (tmp_path / ".studio" / "originals" / "a_mask.png").is_file()
    Session(StudioSettings(folder=tmp_path)).close()


def test_images_in_a_subfolder_beside_other_images_are_named(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png")
    (tmp_path / "raw").mkdir()
    make_images(tmp_path / "raw", "r.png")
    project = Project(tmp_path)
    assert [entry.name for entry in project.entries.values()] == ["a.png"]
    assert project.passed_over == [
        "raw/r.png: in a subfolder, while other images lie in the folder itself; move it to them"
    ]


def test_the_mask_of_a_second_person_stays_where_it_is(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png")
    make_mask(tmp_path / "masks" / "a_manual1.png")
    make_mask(tmp_path / "masks" / "a_manual2.png")
    session = Session(StudioSettings(folder=tmp_path))
    session.describe(entry_of(session, "a.png"))
    paint(session, "a.png")
    session.close()
    assert (tmp_path / "masks" / "a_manual2.png").is_file()


@pytest.mark.parametrize(
    "note", ["", "[]", '{"images": "../..", "masks": "masks"}', '{"images": "gone", "masks": "m"}']
)
def test_a_note_of_folders_that_does_not_fit_is_left_out(folder: Path, note: str) -> None:
    (folder / ".studio").mkdir()
    (folder / ".studio" / "folders.json").write_text(note, encoding="utf-8")
    assert Project(folder).images == folder / "images"


def test_a_folder_that_may_not_be_written_is_an_error_that_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileError, match=r"\.studio: may not be written"):
        Session(StudioSettings(folder=folder))


@pytest.mark.parametrize("image", ["a.png", "p1/a.png", "images/a.png"])
def test_a_subfolder_that_may_not_be_read_is_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str
) -> None:
    def refuse(name: str) -> None:
        allowed = getattr(Path, name)

        def checked(self: Path) -> Any:
            if "lost+found" in (self if name == "iterdir" else self.parent).parts:
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return allowed(self)

        monkeypatch.setattr(Path, name, checked)

    make_images(tmp_path, image)
    (tmp_path / "images" / "lost+found" if image.startswith("images") else tmp_path / "lost+found").mkdir()
    for name in ("iterdir", "is_file"):  # a test may run as a user who may read everything
        refuse(name)
    project = Project(tmp_path)
    assert len(names(project)) == 1
    place = "images/lost+found" if image.startswith("images") else "lost+found"
    assert project.passed_over == [f"{place}: a folder that may not be read"]
    Session(StudioSettings(folder=tmp_path)).close()


def test_images_of_one_name_that_would_share_a_mask_are_passed_over_and_named(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png", "a.tif", "b.png", "c.png", "sub/a.png")
    project = Project(tmp_path)
    assert names(project) == ["b.png", "c.png"]
    assert project.passed_over == [
        "sub/a.png: in a subfolder, while other images lie in the folder itself; move it to them",
        "a.png, a.tif: images of one name would share one mask; rename them, or move one away",
    ]
    for name in ("b.png", "c.png"):
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=r"a\.png, a\.tif: images of one name"):
        project.scan()


def test_a_link_that_leads_nowhere_is_passed_over_and_its_mask_is_no_fault(tmp_path: Path) -> None:
    make_images(tmp_path, "b.png")
    (tmp_path / "a.png").symlink_to(".git/annex/objects/nothing.png")
    make_mask(tmp_path / "masks" / "a.png")
    project = Project(tmp_path)
    assert names(project) == ["b.png"]
    assert project.passed_over == ["a.png: a link that leads nowhere; fetch the file, as with `git annex get`"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_passed_over_and_named(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png", "b.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/zell\xe4.png"))
    session = Session(StudioSettings(folder=tmp_path))
    seen = session.overview()
    session.close()
    assert json.dumps(seen, ensure_ascii=False).encode()
    assert [one["name"] for one in seen["images"]] == ["b.png"]
    assert seen["passed_over"] == ["zell\\xe4.png: a name that is not UTF-8; rename the file"]


def test_masks_in_subfolders_are_shown_and_replaced(tmp_path: Path) -> None:
    make_images(tmp_path, "images/p1/a.png", "images/p2/a.png")
    mask = make_mask(tmp_path / "masks" / "p1" / "seg" / "a_mask.png")
    session = Session(StudioSettings(folder=tmp_path))
    assert [e.mask is not None for e in session.project.entries.values()] == [True, False]
    file = paint(session, "p1/a.png")
    session.close()
    assert file == tmp_path / "masks" / "p1" / "seg" / "a_mask.tif"
    expected = mask.astype(np.int32)
    expected[30, 40:48] = 7
    assert np.array_equal(read_mask(file).array[0], expected)
    pairing = check([tmp_path / "images", tmp_path / "masks"]).pairs
    assert [(pair.image.parent.name, pair.mask) for pair in pairing] == [("p1", file)]


def test_drawn_objects_are_shown_and_a_painted_mask_takes_their_place(tmp_path: Path) -> None:
    make_images(tmp_path, "images/a.png", "images/b.png")
    corners = [[5, 5], [20, 5], [20, 20], [5, 20], [5, 5]]
    one = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corners]}, "properties": {}}
    (tmp_path / "masks").mkdir()
    drawn = tmp_path / "masks" / "a.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": [one]}), encoding="utf-8")
    session = Session(StudioSettings(folder=tmp_path))
    entry = entry_of(session, "a.png")
    session.describe(entry)
    plane = session.plane(entry, 0, 0)
    expected = np.zeros(PIXELS.shape, np.int32)
    expected[5:20, 5:20] = 1
    assert np.array_equal(session.store.read(plane, plane.box), expected)
    file = paint(session, "a.png")
    assert drawn.is_file() and file == tmp_path / "masks" / "a.tif"
    session.edit(entry, 0, 0, {"kind": "delete", "object": 1})
    session.describe(entry)
    assert session.store.objects(plane) == {7}
    session.close()
    assert [pair.mask for pair in check([tmp_path / "images", tmp_path / "masks"]).pairs] == [file]


def test_classes_of_drawn_objects_are_shown_where_labels_are_classes(tmp_path: Path) -> None:
    make_images(tmp_path, "images/a.png")
    shapes = [
        {"label": label, "shape_type": "rectangle", "points": [[at, at], [at + 8, at + 8]]}
        for label, at in (("round", 2), ("flat", 20), ("round", 40))
    ]
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}), encoding="utf-8")
    session = Session(StudioSettings(folder=tmp_path))
    session.store.note("kind", "classes")
    entry = entry_of(session, "a.png")
    session.describe(entry)
    plane = session.plane(entry, 0, 0)
    shown = session.store.read(plane, plane.box)
    session.close()
    assert [shown[at + 4, at + 4] for at in (2, 20, 40)] == [2, 1, 2]  # in the order of their names


def test_masks_whose_names_fit_only_without_masks_of_the_studio_are_passed_over(tmp_path: Path) -> None:
    make_images(tmp_path, *(f"images/cell_{n}.png" for n in range(1, 4)))
    for n in (1, 2, 3):
        make_mask(tmp_path / "masks" / f"truth{n}.png")
    project = Project(tmp_path)
    assert [project.mask_path(e).name for e in project.entries.values()] == ["truth1.tif", "truth2.tif", "truth3.tif"]
    (tmp_path / "masks" / "truth3.png").unlink()
    project.scan()  # a mask cell_3.tif would take part in the comparison of names
    assert [e.mask for e in project.entries.values()] == [None, None, None]
    reason = "masks that fit no image by name; name them after their images"
    assert project.passed_over == [f"masks/truth1.png, masks/truth2.png: {reason}"]


def test_a_folder_of_masks_of_single_objects_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path, "images/a.png", "images/b.png")
    for n in (1, 2):
        make_mask(tmp_path / "masks" / "a" / f"{n}.png")
    with pytest.raises(UsageError, match="a file for each object"):
        Project(tmp_path)


def test_masks_beside_images_are_named(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png", "a_mask.png")
    project = Project(tmp_path)
    assert names(project) == ["a.png"]
    assert project.passed_over == ["a_mask.png: named as a mask; to show it, move it to masks/"]


def test_an_image_that_was_moved_away_is_said_and_new_ones_are_found(tmp_path: Path) -> None:
    make_images(tmp_path, "images/a.png", "images/b.png")
    session = Session(StudioSettings(folder=tmp_path))
    entry = entry_of(session, "a.png")
    session.describe(entry)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(FileError, match=r"a\.png: is not there any more"):
        session.describe(entry)
    make_images(tmp_path, "images/c.png")
    assert [one["name"] for one in session.overview()["images"]] == ["b.png", "c.png"]
    make_images(tmp_path, "images/c.tif")
    (tmp_path / "images" / "b.png").unlink()
    seen = session.overview()  # no image is left: the former list stays
    assert [one["name"] for one in seen["images"]] == ["b.png", "c.png"]
    assert "images/c.png, images/c.tif: images of one name" in seen["passed_over"][0]
    session.close()


def test_images_without_a_mask_are_ranked_also_those_that_were_copied_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[dict[str, Any]] = []

    class Child:
        running = False

        def __init__(self, task: dict[str, Any], *_: object) -> None:
            tasks.append(task)

        def close(self) -> None: ...

    monkeypatch.setattr("septum.studio.learning.Child", Child)
    make_images(tmp_path, "images/a.png")
    make_mask(tmp_path / "masks" / "a.png")
    session = Session(StudioSettings(folder=tmp_path))
    with pytest.raises(UsageError, match="every image has annotations"):
        session.start_job("suggest", {"model": "nuclei"})
    make_images(tmp_path, "images/b.png")
    session.start_job("suggest", {"model": "nuclei"})
    session.close()
    assert [task["inputs"] for task in tasks] == [[str(tmp_path / "images" / "b.png")]]


def test_a_training_takes_the_masks_of_a_plain_folder_and_no_results(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png", "b.png", "predictions/b.tif")
    corners = [[5, 5], [20, 5], [20, 20], [5, 20], [5, 5]]
    one = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corners]}, "properties": {}}
    drawn = json.dumps({"type": "FeatureCollection", "features": [one]})
    (tmp_path / "predictions" / "b.geojson").write_text(drawn, encoding="utf-8")
    session = Session(StudioSettings(folder=tmp_path))
    file = paint(session, "a.png")
    session.close()
    pairing = check([tmp_path, tmp_path / "masks"]).pairs
    assert [(pair.image.name, pair.mask) for pair in pairing] == [("a.png", file)]


def test_the_list_of_images_is_made_again_only_if_something_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "masks").mkdir()
    write_image(folder / "masks" / "a.png", np.ones((96, 128), np.uint8), axes="YX", labels=True)
    drawn = folder / "masks" / "b.geojson"
    drawn.write_text('{"type": "FeatureCollection", "features": []}')
    project = Project(folder)
    scanned: list[int] = []
    scan = project.scan
    monkeypatch.setattr(project, "scan", lambda: (scanned.append(1), scan()))

    def is_made_again() -> bool:
        scanned.clear()
        project.renew()
        return bool(scanned)

    assert not is_made_again()
    (folder / "masks" / "a.png").touch()  # which masks belong to which images is told by their names alone
    (folder / "runs").mkdir()
    assert is_made_again() and not is_made_again()
    (folder / "runs" / "live").mkdir()
    (folder / "predictions").mkdir()
    (folder / "predictions" / "a.tif").touch()
    assert is_made_again() and not is_made_again()  # for the new folder alone
    write_image(folder / "images" / "c.png", np.ones((96, 128), np.uint8), axes="YX")
    assert is_made_again() and len(project.entries) == 3
    drawn.write_text('{"type": "FeatureCollection", "features": [], "name": "changed"}')
    assert is_made_again() and not is_made_again()
    store = LabelStore(project.labels)
    store.note("own c.png", "masks/c.tif")
    store.close()
    assert is_made_again() and not is_made_again()
    (folder / "masks" / "a.png").unlink()
    assert is_made_again() and all(entry.mask in (None, drawn) for entry in project.entries.values())


def test_the_list_of_images_is_made_again_after_a_failure_and_with_links(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "masks").mkdir()
    project = Project(folder)
    for name in ("a.png", "a_mask.png"):  # two masks claim one image
        write_image(folder / "masks" / name, np.ones((96, 128), np.uint8), axes="YX", labels=True)
    for _ in range(2):
        project.renew()
        assert "a_mask.png" in "".join(project.passed_over)
    (folder / "masks" / "a_mask.png").unlink()
    project.renew()
    assert project.passed_over == [] and [entry.mask is not None for entry in project.entries.values()] == [True, False]
    outside = folder.parent / "outside.png"
    write_image(outside, np.ones((96, 128), np.uint8), axes="YX")
    (folder / "images" / "c.png").symlink_to(outside)
    project.renew()
    assert len(project.entries) == 2 and "c.png" in "".join(project.passed_over)
    outside.rename(folder / "kept.png")
    outside.symlink_to(folder / "images" / "b.png")  # the link leads into the folder now
    project.renew()
    assert len(project.entries) == 3
