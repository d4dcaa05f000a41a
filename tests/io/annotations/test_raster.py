"""Drawn objects are filled by the centers of pixels; the later one lies on top; nothing is lost in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import FileError
from septum.io.annotations.drawing import Bitmap, Drawing, DrawnObject, ellipse, rectangle, ring
from septum.io.annotations.raster import fill, list_names

HERE = Path("a.json")


def polygon(name: str, *corners: tuple[float, float], **more: object) -> DrawnObject:
    return DrawnObject(name, ((ring(corners),),), **more)  # type: ignore[arg-type]


def plain(*objects: DrawnObject, sides: tuple[int, int] = (6, 8)) -> np.ndarray:
    return fill(Drawing("test", objects), HERE, (1, 1), sides).labels[0, 0]


def test_a_rectangle_of_corners_is_its_pixels() -> None:
    expected = np.zeros((6, 8), int)
    expected[1:3, 2:6] = 1
    assert np.array_equal(plain(DrawnObject("a", ((rectangle(2, 1, 6, 3),),))), expected)


def test_a_center_on_the_outline_belongs_to_the_object_on_the_right_and_below() -> None:
    expected = np.zeros((6, 8), int)
    expected[1:3, 2:6] = 1
    assert np.array_equal(plain(DrawnObject("a", ((rectangle(2.5, 1.5, 6.5, 3.5),),))), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 11), st.floats(-3, 9)), min_size=3, max_size=9))
def test_the_fill_is_that_of_the_crossing_rule(corners: list[tuple[float, float]]) -> None:
    """Compare with the rule worked out pixel by pixel."""
    shape = ring(corners)
    center = (shape.min(axis=0) + shape.max(axis=0)) / 2
    if not (0 <= center[0] <= 8 and 0 <= center[1] <= 6):
        return
    found = plain(DrawnObject("a", ((shape,),)))
    for y in range(6):
        for x in range(8):
            odd = False
            for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
                if (ay, ax) > (by, bx):
                    ax, ay, bx, by = bx, by, ax, ay
                if ay <= y + 0.5 < by:
                    odd ^= x + 0.5 >= ax + (y + 0.5 - ay) * ((bx - ax) / (by - ay))
            assert found[y, x] == odd


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 30), st.floats(1, 30)), min_size=2, max_size=6))
def test_neighbors_with_a_common_border_share_no_pixel_and_leave_none(border: list[tuple[float, float]]) -> None:
    border = sorted(border, key=lambda p: p[1])
    left = polygon("left", (0, 0), *[(x, y) for x, y in border], (0, 32))
    right = polygon("right", (32, 32), *reversed(border), (32, 0))
    filled = fill(Drawing("test", (left, right)), HERE, (1, 1), (32, 32))
    assert filled.overlap_px == 0
    assert all((filled.labels[0, 0, y] > 0).all() for y in range(int(border[0][1]) + 1, int(border[-1][1])))


def test_a_hole_is_outside_and_an_island_in_it_inside() -> None:
    part = (rectangle(0, 0, 8, 6), rectangle(1, 1, 7, 5), rectangle(3, 2, 5, 4))
    expected = np.ones((6, 8), int)
    expected[1:5, 1:7] = 0
    expected[2:4, 3:5] = 1
    assert np.array_equal(plain(DrawnObject("a", (part,))), expected)


def test_parts_of_an_object_that_overlap_are_joined() -> None:
    parts = ((rectangle(0, 0, 4, 4),), (rectangle(2, 2, 6, 6),))
    assert np.count_nonzero(plain(DrawnObject("a", parts))) == 16 + 16 - 4


def test_an_ellipse_holds_the_centers_within_it() -> None:
    y, x = np.mgrid[:40, :40] + 0.5
    expected = ((x - 20.3) / 11.2) ** 2 + ((y - 18.7) / 7.9) ** 2 < 1
    found = plain(DrawnObject("a", ((ellipse((20.3, 18.7), (11.2, 7.9)),),)), sides=(40, 40)) > 0
    assert np.count_nonzero(found != expected) <= 1


def test_the_later_object_is_on_top_and_counted() -> None:
    objects = (
        DrawnObject("big", ((rectangle(0, 0, 6, 4),),)),
        DrawnObject("small", ((rectangle(1, 1, 3, 3),),)),
        DrawnObject("cover", ((rectangle(1, 1, 4, 3),),)),
    )
    filled = fill(Drawing("test", objects), HERE, (1, 1), (6, 8))
    expected = np.zeros((6, 8), int)
    expected[0:4, 0:6] = 1
    expected[1:3, 1:4] = 3
    assert np.array_equal(filled.labels[0, 0], expected)
    assert (filled.objects, filled.overlapping, filled.overlap_px) == (2, 2, 4 + 6)
    assert filled.hidden == ("small",)


def test_shapes_around_no_center_are_refused_by_name() -> None:
    objects = (polygon("a", (0, 0), (4, 0), (4, 4)), polygon("speck", (1.1, 1.1), (1.4, 1.1), (1.4, 1.4)))
    filled = fill(Drawing("test", objects, (("point", "p"), ("point", "q"))), HERE, (1, 1), (6, 8))
    assert list_names(filled.refused) == "2 points (p, q), 1 outline around no center of a pixel (speck)"


def test_a_file_of_points_alone_is_refused() -> None:
    with pytest.raises(FileError, match=r"no shape with an area: 1 point \(p\)"):
        fill(Drawing("test", (), (("point", "p"),)), HERE, (1, 1), (6, 8))


def test_an_object_outside_of_the_image_is_refused_by_name_and_one_on_the_border_is_cut() -> None:
    with pytest.raises(FileError, match=r"far lies outside of the image \(x 20 to 30, y 1 to 4; the image has 6 x 8"):
        plain(DrawnObject("far", ((rectangle(20, 1, 30, 4),),)))
    filled = fill(Drawing("test", (DrawnObject("edge", ((rectangle(-3, -3, 4, 4),),)),)), HERE, (1, 1), (6, 8))
    assert filled.cut == ("edge",)
    assert np.count_nonzero(filled.labels) == 16


def test_a_drawing_of_another_size_is_refused() -> None:
    with pytest.raises(FileError, match="drawn on 7 x 8 pixels, the image has 6 x 8"):
        fill(Drawing("test", size=(7, 8)), HERE, (1, 1), (6, 8))


def test_bitmaps_are_cut_by_the_border() -> None:
    inside = np.ones((3, 4), bool)
    found = plain(DrawnObject("a", bitmap=Bitmap(-1, 4, inside)))
    expected = np.zeros((6, 8), int)
    expected[4:6, 0:3] = 1
    assert np.array_equal(found, expected)


def test_pages_without_an_object_are_not_annotated() -> None:
    objects = (
        DrawnObject("a", ((rectangle(0, 0, 2, 2),),), place={"page": 1}),
        DrawnObject("b", ((rectangle(4, 0, 6, 2),),), place={"Z": 1}),
    )
    labels = fill(Drawing("test", objects), HERE, (1, 3), (6, 8)).labels[0]
    assert (labels[[0, 2]] == -1).all()
    assert np.array_equal(np.unique(labels[1]), [0, 1, 2])
    assert np.array_equal(fill(Drawing("test", objects), HERE, (3, 1), (6, 8)).labels[:, 0], labels)


def test_a_page_that_the_image_lacks_and_no_page_of_a_stack_are_refused_by_name() -> None:
    one = DrawnObject("a", ((rectangle(0, 0, 2, 2),),), place={"page": 3})
    with pytest.raises(FileError, match="a lies on page 4, and the image has 3 x 1"):
        fill(Drawing("test", (one,)), HERE, (3, 1), (6, 8))
    with pytest.raises(FileError, match="a states no page, and the image has 3"):
        fill(Drawing("test", (DrawnObject("a", one.parts),)), HERE, (3, 1), (6, 8))


def test_classes_are_filled_by_name() -> None:
    objects = (
        DrawnObject("a", ((rectangle(0, 0, 2, 2),),), label="nerve"),
        DrawnObject("b", ((rectangle(4, 0, 6, 2),),), label="gland"),
        DrawnObject("c", ((rectangle(4, 4, 6, 6),),), label="nerve"),
    )
    labels = fill(Drawing("test", objects), HERE, (1, 1), (6, 8), {"gland": 1, "nerve": 2}).labels[0, 0]
    assert (labels[0, 0], labels[0, 4], labels[5, 5]) == (2, 1, 2)


def test_an_outline_that_claims_too_many_crossings_is_refused() -> None:
    zigzag = [(float(i % 7), float(1e5 * (i % 2))) for i in range(9000)]
    with pytest.raises(FileError, match="a: an outline that crosses"):
        plain(polygon("a", *zigzag), sides=(100_000, 8))
