"""Masks of any form are written as label images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from septum.convert.settings import ConvertSettings
from septum.convert.to_labels import Converted, NotConverted, write_labels
from septum.errors import FileError, UsageError
from septum.io.files import read_image

IDS = np.zeros((12, 14), np.uint8)
IDS[1:4, 2:6], IDS[6:10, 3:9] = 1, 2


def convert(*data: Path, out: Path) -> tuple[list[Converted], list[NotConverted]]:
    events = list(write_labels(ConvertSettings(data=data, out=out)))
    return [e for e in events if isinstance(e, Converted)], [e for e in events if isinstance(e, NotConverted)]


def objects(folder: Path) -> Path:
    """Write images with a mask file for each object."""
    for name in "ab":
        (folder / name / "images").mkdir(parents=True)
        (folder / name / "masks").mkdir()
        Image.fromarray(7 * IDS).save(folder / name / "images" / f"{name}.png")
        for number in (1, 2):
            Image.fromarray(255 * (number == IDS).astype(np.uint8)).save(folder / name / "masks" / f"{number}.png")
    return folder


def test_a_folder_of_object_masks_becomes_a_label_image(tmp_path: Path) -> None:
    written, failed = convert(objects(tmp_path / "data"), out=tmp_path / "out")
    assert [(one.written.relative_to(tmp_path).as_posix(), one.values) for one in written] == [
        ("out/a/images/a.png", 2),
        ("out/b/images/b.png", 2),
    ]
    assert not failed
    for one in written:
        assert np.array_equal(read_image(one.written, labels=True).array[0], IDS)


def test_what_has_no_partner_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for name, shape in (("a", (12, 14)), ("b", (9, 9)), ("c", (12, 14))):
        tifffile.imwrite(tmp_path / f"data/images/{name}.tif", np.zeros(shape, np.uint8))
    for name in "ab":
        tifffile.imwrite(tmp_path / f"data/masks/{name}.tif", IDS)
    written, failed = convert(tmp_path / "data", out=tmp_path / "out")
    assert [one.written.name for one in written] == ["a.tif"]
    assert [(one.source.name, one.reason.splitlines()[0].partition(": ")[2]) for one in failed] == [
        ("b.tif", "12 x 14 pixels, but its image 9 x 9"),
        ("c.tif", ""),
    ]
    assert failed[1].reason == "no partner"


def test_a_link_that_leads_nowhere_is_named_with_the_next_step(tmp_path: Path) -> None:
    data = objects(tmp_path / "data")
    (tmp_path / "data/a/images/a.png").unlink()
    (tmp_path / "data/a/images/a.png").symlink_to("../.git/annex/objects/nothing.png")
    written, (failed,) = convert(data, out=tmp_path / "out")
    assert [one.written.name for one in written] == ["b.png"]
    assert "a.png: a link that leads nowhere" in failed.reason
    assert "git annex get" in failed.reason


def test_a_folder_that_holds_files_is_not_written_to(tmp_path: Path) -> None:
    data = objects(tmp_path / "data")
    with pytest.raises(UsageError, match="a folder that holds files"):
        convert(data, out=data)


def test_axes_of_drawn_objects_alone_are_refused(tmp_path: Path) -> None:
    """They were ignored silently: a drawing has no axes, and its image is not there."""
    square = [[1, 1, 5, 1, 5, 4, 1, 4]]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 12, "width": 14}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": square, "iscrowd": 0}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    settings = ConvertSettings(data=(tmp_path / "a.json",), out=tmp_path / "out", axes="ZYX")
    with pytest.raises(UsageError, match=r"--axes ZYX with files of drawn objects alone"):
        list(write_labels(settings))
    assert not (tmp_path / "out").exists()
    written, failed = convert(tmp_path / "a.json", out=tmp_path / "out")
    assert [one.values for one in written] == [1] and not failed


def listing(path: Path, *images: str) -> Path:
    """Write COCO that lists images, each with an object one pixel wider than that of the last one."""
    listed = [{"id": n, "file_name": name, "height": 12, "width": 14} for n, name in enumerate(images)]
    drawn = [{"id": n, "image_id": n, "segmentation": [[1, 1, n + 2, 1, n + 2, 2, 1, 2]]} for n in range(len(images))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": listed, "annotations": drawn}))
    return path


@pytest.mark.parametrize(
    ("images", "written"),
    [
        (("p1/a.png", "p2/a.png"), ("p1/a.png", "p2/a.png")),
        (("train/a.png", "train/b.png"), ("a.png", "b.png")),
        (("a.png", "a.tif"), ("a.png.png", "a.tif.png")),
        (("../../p1/a.png", "/etc/a.png", "C:\\p\\a.png"), ("p1/a.png", "etc/a.png", "p/a.png")),
        (("a  b.png", "a b.png"), ("a  b.png", "a b.png")),
        (("a\0.png", "b\ud800.png"), ("a.png", "b?.png")),
    ],
)
def test_drawn_objects_alone_keep_the_folders_of_their_images_inside_of_the_output(
    tmp_path: Path, images: tuple[str, ...], written: tuple[str, ...]
) -> None:
    found, failed = convert(listing(tmp_path / "set" / "cells.json", *images), out=tmp_path / "out")
    assert not failed
    assert [one.written.relative_to(tmp_path / "out").as_posix() for one in found] == list(written)
    sizes = [int((read_image(one.written).array > 0).sum()) for one in found]
    assert sizes == list(range(1, len(images) + 1))


def test_files_of_several_folders_keep_them(tmp_path: Path) -> None:
    found, failed = convert(
        listing(tmp_path / "x" / "cells.json", "a.png"),
        listing(tmp_path / "y" / "cells.json", "a.png"),
        out=tmp_path / "out",
    )
    assert not failed
    assert [one.written.relative_to(tmp_path / "out").as_posix() for one in found] == ["x/a.png", "y/a.png"]


def test_a_name_that_no_file_can_have_fails_alone(tmp_path: Path) -> None:
    found, failed = convert(listing(tmp_path / "cells.json", "x" * 300 + ".png", "b.png"), out=tmp_path / "out")
    assert [one.written.name for one in found] == ["b.png"]
    assert [one.source.name for one in failed] == ["cells.json#" + "x" * 100]


def test_a_file_named_as_drawn_objects_that_holds_none_is_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.png")
    (tmp_path / "bad.json").write_text("{")
    for data in ((tmp_path / "bad.json",), (tmp_path / "a.png", tmp_path / "bad.json")):
        with pytest.raises(FileError, match=r"bad\.json: not a file of drawn objects\nexpected: Cellpose, ImageJ"):
            convert(*data, out=tmp_path / "out")
