"""Axes, pixel sizes and units."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image
from septum.errors import UsageError

from napari_septum.axes import layer_axes, name_axes, pixel_size_um
from napari_septum.layers import axes_of, layer_pixel_size


@pytest.mark.parametrize(
    ("rank", "labels", "color", "asked", "axes"),
    [
        (2, (), False, "", "YX"),
        (2, (), True, "", "YXC"),
        (3, ("axis -3", "axis -2", "axis -1"), False, "", "ZYX"),
        (3, ("t", "y", "x"), False, "", "TYX"),
        (3, ("T", "Y", "X"), True, "", "TYXC"),
        (3, ("t", "y", "x"), False, " zyx ", "ZYX"),
        (3, ("c", "y", "x"), False, "", "CYX"),
        (4, (), False, "", "TZYX"),
        (3, ("y", "y", "x"), False, "", "ZYX"),
        (5, ("t", "c", "z", "y", "x"), False, "", "TCZYX"),
    ],
)
def test_axes_are_those_asked_for_or_stated_or_follow_from_the_rank(
    rank: int, labels: tuple[str, ...], color: bool, asked: str, axes: str
) -> None:
    assert name_axes(rank, labels, color=color, asked=asked) == axes


@pytest.mark.parametrize(("rank", "asked"), [(5, ""), (3, "YX"), (3, "ZYQ"), (2, "ZY")])
def test_axes_that_cannot_be_are_refused(rank: int, asked: str) -> None:
    with pytest.raises(UsageError, match=r"axes|dimensions"):
        name_axes(rank, (), color=False, asked=asked, name="cells")


@pytest.mark.parametrize(("unit", "factor"), [("um", 1.0), ("nm", 1e-3), ("mm", 1e3)])
def test_pixel_sizes_are_micrometers(unit: str, factor: float) -> None:
    layer = Image(np.zeros((2, 4, 4)), scale=(2.0, 0.5, 0.25), units=(unit,) * 3)
    assert layer_pixel_size(layer, axes_of(layer)) == pytest.approx(
        {"Z": 2 * factor, "Y": 0.5 * factor, "X": 0.25 * factor}
    )


def test_pixels_without_a_length_have_no_size() -> None:
    assert pixel_size_um((0.5, 0.5), ("pixel", "pixel"), "YX") == {}
    assert layer_pixel_size(Image(np.zeros((4, 4)), scale=(3, 3)), "YX") == {}


def test_what_a_layer_states_comes_back() -> None:
    size = {"Y": 0.5, "X": 0.25}
    layer = Image(np.zeros((3, 4, 4)), **layer_axes("TYX", size))
    assert axes_of(layer) == "TYX"
    assert layer_pixel_size(layer, "TYX") == size
