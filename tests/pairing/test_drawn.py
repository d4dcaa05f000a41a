"""Files of drawn objects and their images, by names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from septum.errors import DataError
from septum.io.annotations.formats import read_drawing
from septum.io.files import write_image
from septum.pairing.find import find_pairs
from septum.pairing.pair import Pairing


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((8, 9), np.uint8), axes="YX")


def geojson(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    square = {"type": "Polygon", "coordinates": [[[1, 1], [5, 1], [5, 5], [1, 5], [1, 1]]]}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": square}]}))


def names(pairing: Pairing) -> list[tuple[str, str]]:
    return [(pair.image.name, pair.mask.name) for pair in pairing.pairs if pair.mask is not None]


@pytest.mark.parametrize("folders", [("", ""), ("images", "masks")], ids=["beside", "two folders"])
def test_a_file_of_another_name_is_not_given_to_the_image_that_is_left(
    tmp_path: Path, folders: tuple[str, str]
) -> None:
    for stem in ("a1", "a2", "a3"):
        image(tmp_path / folders[0] / f"{stem}.tif")
    for stem in ("a1", "a2", "project"):
        geojson(tmp_path / folders[1] / f"{stem}.geojson")
    pairing = find_pairs([tmp_path])
    assert names(pairing) == [("a1.tif", "a1.geojson"), ("a2.tif", "a2.geojson")]
    assert [path.name for path in pairing.unmatched_images] == ["a3.tif"]
    assert [path.name for path in pairing.unmatched_masks] == ["project.geojson"]


def test_a_file_of_another_name_fills_no_gap_between_mask_images(tmp_path: Path) -> None:
    for name in ("images/a1.tif", "images/a2.tif", "masks/a1.tif"):
        image(tmp_path / name)
    geojson(tmp_path / "images" / "old.geojson")
    pairing = find_pairs([tmp_path])
    assert names(pairing) == [("a1.tif", "a1.tif")]
    assert [path.name for path in pairing.unmatched_images] == ["a2.tif"]
    assert [path.name for path in pairing.unmatched_masks] == ["old.geojson"]


def test_the_only_file_belongs_to_the_only_image(tmp_path: Path) -> None:
    image(tmp_path / "two" / "images" / "a.tif")
    geojson(tmp_path / "two" / "masks" / "project.geojson")
    assert names(find_pairs([tmp_path / "two"])) == [("a.tif", "project.geojson")]
    for well in ("w1", "w2"):
        image(tmp_path / "wells" / well / f"{well}.tif")
        geojson(tmp_path / "wells" / well / "cells.geojson")
    assert names(find_pairs([tmp_path / "wells"])) == [("w1.tif", "cells.geojson"), ("w2.tif", "cells.geojson")]


def coco(path: Path, entries: list[dict[str, object]]) -> None:
    listed = [{"id": number, "height": 8, "width": 9, **one} for number, one in enumerate(entries)]
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    drawn = [{"id": n, "image_id": n, "category_id": 1, "segmentation": square} for n in range(len(entries))]
    categories = [{"id": 1, "name": "cell"}]
    path.write_text(json.dumps({"images": listed, "annotations": drawn, "categories": categories}))


@pytest.mark.parametrize(
    "names", [("a.png", "a.tif"), ("a  b.tif", "a b.tif"), ("a\nb.tif", "c.tif"), ("x" * 230 + ".tif",)]
)
def test_images_that_a_file_lists_have_their_objects_whatever_their_names(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        image(tmp_path / name)
    coco(tmp_path / "cells.json", [{"file_name": name} for name in names])
    pairs = find_pairs([tmp_path]).pairs
    assert [pair.image.name for pair in pairs] == sorted(names)
    for pair in pairs:
        assert pair.mask is not None
        assert read_drawing(pair.mask).image == pair.image.name


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (["a  b.tif", "c.tif "], ["a b.tif", "c.tif"]),
        (["a  b.tif", "a b.tif"], ["a b.tif"]),
        (["a  b.tif", "a   b.tif", "c.tif"], ["c.tif"]),
    ],
)
def test_names_that_differ_in_white_space_alone_fit_where_no_other_one_does(
    tmp_path: Path, listed: list[str], expected: list[str]
) -> None:
    for name in ("a b.tif", "c.tif"):
        image(tmp_path / name)
    coco(tmp_path / "cells.json", [{"file_name": name} for name in listed])
    pairing = find_pairs([tmp_path])
    assert [pair.image.name for pair in pairing.pairs] == expected
    assert len(pairing.unmatched_masks) == len(listed) - len(expected)


def test_labelme_names_its_image_also_with_other_white_space(tmp_path: Path) -> None:
    for name in ("a b.tif", "a  b.tif", "c.tif"):
        image(tmp_path / name)
    for name, stated in (("x", "a b.tif"), ("y", "a  b.tif"), ("z", "c.tif ")):
        content = {"shapes": [{"shape_type": "polygon", "points": [[1, 1], [5, 1], [5, 5]]}], "imagePath": stated}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert names(find_pairs([tmp_path])) == [("a  b.tif", "y.json"), ("a b.tif", "x.json"), ("c.tif", "z.json")]


@pytest.mark.parametrize("more", [[{}, {}], [{"t": 0, "z": 0}, {"t": 0, "z": 0}], [{"t": 0, "z": 0}, {"z": 1}]])
def test_a_file_that_lists_an_image_twice_says_so(tmp_path: Path, more: list[dict[str, int]]) -> None:
    image(tmp_path / "s.tif")
    coco(tmp_path / "cells.json", [{"file_name": "s.tif", **one} for one in more])
    with pytest.raises(DataError, match=r"cells\.json lists the image s\.tif 2 times: s\.tif, s\.tif") as raised:
        find_pairs([tmp_path])
    assert "move the objects to one of the entries" in raised.value.todo


def test_planes_of_a_stack_in_coco_are_one_image(tmp_path: Path) -> None:
    image(tmp_path / "s.tif")
    coco(tmp_path / "cells.json", [{"file_name": "s.tif", "t": t, "z": 0} for t in range(2)])
    (pair,) = find_pairs([tmp_path]).pairs
    assert pair.mask is not None
    assert [one.place for one in read_drawing(pair.mask).objects] == [{"T": 0, "Z": 0}, {"T": 1, "Z": 0}]


def test_the_only_plane_of_a_stack_in_coco_keeps_its_page(tmp_path: Path) -> None:
    image(tmp_path / "s.tif")
    coco(tmp_path / "cells.json", [{"file_name": "s.tif", "t": 0, "z": 2}])
    (pair,) = find_pairs([tmp_path]).pairs
    assert pair.mask is not None
    assert [one.place for one in read_drawing(pair.mask).objects] == [{"T": 0, "Z": 2}]


def test_frames_in_files_of_their_own_are_no_pages(tmp_path: Path) -> None:
    for t in range(3):
        image(tmp_path / f"f{t}.tif")
    coco(tmp_path / "cells.json", [{"file_name": f"f{t}.tif", "t": t, "z": 0} for t in range(3)])
    pairs = find_pairs([tmp_path]).pairs
    assert len(pairs) == 3
    for pair in pairs:
        assert pair.mask is not None
        assert [one.place for one in read_drawing(pair.mask).objects] == [{}]
