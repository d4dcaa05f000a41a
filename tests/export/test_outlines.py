"""Outlines along the corners of pixels: filled by centers, they are the same objects again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from septum.export.outlines import ObjectOutline, trace_outlines
from septum.export.runs import complete_objects, split_labels
from septum.io.image import Image

rasterio = pytest.importorskip("rasterio.features")
shapely = pytest.importorskip("shapely")


def outlines_of(labels: NDArray[np.integer], height: int | None = None) -> list[ObjectOutline]:
    (frame,) = split_labels(Image.from_array(labels[None], "CYX"))
    return [outline for runs in complete_objects(frame, height=height) for outline in trace_outlines(runs)]


def filled(outline: ObjectOutline, sides: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an outline by the centers of pixels: inside, a line to the left crosses an odd number of sides."""
    crossings = np.zeros((sides[0], sides[1] + 1), np.int64)
    for ring in (ring for polygon in outline.polygons for ring in polygon):
        for (x, y), (other, below) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if x == other:
                crossings[min(y, below) : max(y, below), x] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def noise(seed: int, share: float, sides: tuple[int, int] = (40, 50)) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(sides) < share, rng.integers(1, 4, sides), 0).astype(np.int32)


def cells(seed: int, sides: tuple[int, int] = (120, 150)) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=sides), 3)
    return ndimage.label(smooth > np.quantile(smooth, 0.5))[0].astype(np.int32)


IMAGES = {
    "one pixel": np.pad(np.ones((1, 1), np.int32), 2),
    "whole image": np.ones((3, 4), np.int32),
    "diagonal": np.eye(5, dtype=np.int32),
    "ring that touches itself": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], np.int32),
    "two holes that touch": np.array([[1] * 4, [1, 0, 1, 1], [1, 1, 0, 1], [1] * 4], np.int32),
    "island in a hole": np.array([[1] * 5, [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1] * 5], np.int32),
    "other object in a hole": np.array([[1] * 4, [1, 2, 2, 1], [1, 2, 2, 1], [1] * 4], np.int32),
    **{f"noise of {share}": noise(3, share) for share in (0.3, 0.6, 0.9)},
    "one label of noise": (noise(5, 0.6) > 0).astype(np.int32),
    "cells": cells(1),
}


@pytest.mark.parametrize("name", IMAGES)
def test_filled_outlines_are_the_same_pixels(name: str) -> None:
    labels = IMAGES[name]
    outlines = outlines_of(labels)
    assert sorted(o.label for o in outlines) == sorted(set(labels[labels > 0].tolist()))
    for outline in outlines:
        own = labels == outline.label
        assert outline.pixels == own.sum()
        np.testing.assert_array_equal(filled(outline, labels.shape), own)
        shape = shapely.MultiPolygon([(p[0], p[1:]) for p in outline.polygons])
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == own.sum()
        drawn = rasterio.rasterize([shape], out_shape=labels.shape, all_touched=False)
        np.testing.assert_array_equal(drawn > 0, own)
        assert len(outline.polygons) == ndimage.label(own)[1]


@pytest.mark.parametrize("seed", range(25))
def test_noise_of_any_density_gives_valid_outlines(seed: int) -> None:
    labels = noise(seed, 0.2 + 0.03 * seed, (23, 31))
    for outline in outlines_of(labels):
        shape = shapely.MultiPolygon([(p[0], p[1:]) for p in outline.polygons])
        assert shape.is_valid
        np.testing.assert_array_equal(filled(outline, labels.shape), labels == outline.label)


def test_outlines_equal_those_of_another_tracer() -> None:
    labels = cells(4)
    ours = {o.label: shapely.MultiPolygon([(p[0], p[1:]) for p in o.polygons]) for o in outlines_of(labels)}
    theirs: dict[int, list[object]] = {}
    for shape, label in rasterio.shapes(labels, mask=labels > 0, connectivity=4):
        theirs.setdefault(int(label), []).append(shapely.geometry.shape(shape))
    assert ours.keys() == theirs.keys()
    for label, shapes in theirs.items():
        assert ours[label].normalize() == shapely.MultiPolygon(shapes).normalize()


def test_outer_rings_go_clockwise_and_no_corner_lies_on_a_straight_line() -> None:
    for outline in outlines_of(cells(2)):
        for outer, *holes in outline.polygons:
            for ring, sign in ((outer, 1), *((hole, -1) for hole in holes)):
                x, y = ring.T
                assert np.sign(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) == sign
                steps = np.roll(ring, -1, axis=0) - ring
                assert ((steps == 0).sum(axis=1) == 1).all()
                turns = (steps == 0) != (np.roll(steps, -1, axis=0) == 0)
                assert turns.all()


@pytest.mark.parametrize("height", [1, 7, 64])
def test_outlines_in_bands_equal_those_of_the_whole_image_in_the_same_order(height: int) -> None:
    labels = noise(9, 0.5) + 10 * (cells(3)[:40, :50] > 0)
    whole, bands = outlines_of(labels), outlines_of(labels, height)
    assert [o.label for o in whole] == [o.label for o in bands]
    for one, other in zip(whole, bands, strict=True):
        assert one.box == other.box
        for polygon, again in zip(one.polygons, other.polygons, strict=True):
            for ring, same in zip(polygon, again, strict=True):
                np.testing.assert_array_equal(ring, same)


def test_the_slices_of_a_volume_are_traced_one_by_one() -> None:
    labels = np.stack([cells(1), np.zeros_like(cells(1)), cells(2)])
    (frame,) = split_labels(Image.from_array(labels[None], "CZYX"))
    found = [o for runs in complete_objects(frame, height=30) for o in trace_outlines(runs)]
    assert {o.z for o in found} == {0, 2}
    for outline in found:
        np.testing.assert_array_equal(filled(outline, labels.shape[1:]), labels[outline.z] == outline.label)
