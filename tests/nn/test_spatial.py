"""The coordinate field: definition, kernel, box, window."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.nn.augment import AugmentSettings, draw
from septum.nn.spatial import Deformation, bounding_box, coordinates, cubic_matrix, image_window, translated
from septum.seeding import generator


def keys(t: float) -> float:
    """Return the kernel of Keys 1981, equation 15."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def continued(points: np.ndarray, axis: int) -> np.ndarray:
    points = np.moveaxis(points, axis, 0)
    points = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])
    return np.moveaxis(points, 0, axis)


def by_definition(d: Deformation, sides: tuple[int, ...], pixel: tuple[int, ...]) -> np.ndarray:
    """Compute one coordinate by the formula of the module, in float64, point by point."""
    offset = np.array([i - n // 2 for i, n in zip(pixel, sides, strict=True)], dtype=np.float64)
    grid = d.displacement.astype(np.float64)
    for axis in range(1, grid.ndim):
        grid = continued(grid, axis)
    position = offset / d.grid_px + (np.array(d.displacement.shape[1:]) - 1) / 2 + 1
    moved = np.zeros(len(sides))
    for node in itertools.product(*map(range, grid.shape[1:])):
        moved += np.prod([keys(p - k) for p, k in zip(position, node, strict=True)]) * grid[(slice(None), *node)]
    return d.center + d.matrix @ offset + moved


@pytest.mark.parametrize(("sides", "points"), [((40, 31), 3), ((20, 14, 17), 3), ((40, 31), 5)])
def test_field_equals_its_definition(sides, points):
    choice = AugmentSettings(rotate=True, mirror=True, scale=(0.5, 2), elastic_sigma_px=4, elastic_grid=points)
    d = draw(choice, generator(3, "test"), center=[70.25] * len(sides), tile=sides)
    field = coordinates(d, sides).numpy()
    rng = np.random.default_rng(0)
    for pixel in [tuple(int(rng.integers(n)) for n in sides) for _ in range(25)] + [(0,) * len(sides)]:
        np.testing.assert_allclose(field[(slice(None), *pixel)], by_definition(d, sides, pixel), atol=5e-5)


def test_field_of_the_output_is_the_center_of_the_field_of_the_tile():
    d = draw(AugmentSettings.paper(), generator(0, "test"), center=[300, 300], tile=[188, 204])
    torch.testing.assert_close(
        coordinates(d, [4, 20]), coordinates(d, [188, 204])[:, 92:-92, 92:-92], atol=1e-4, rtol=0
    )


def test_cubic_interpolation_passes_through_points_and_keeps_straight_lines():
    matrix = cubic_matrix(101, 25.0, 5)
    np.testing.assert_allclose(matrix[::25], np.eye(5), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix @ np.arange(5), np.arange(101) / 25, atol=1e-12)
    inside = slice(25, 76)  # between inner points parabolas are reproduced as well (Keys 1981, section III)
    np.testing.assert_allclose((matrix @ np.arange(5) ** 2)[inside], ((np.arange(101) / 25) ** 2)[inside], atol=1e-12)
    assert np.array_equal(cubic_matrix(7, 10.0, 1), np.ones((7, 1)))


def test_cubic_interpolation_is_smooth():
    slope = np.diff(cubic_matrix(2001, 500.0, 5) @ np.array([0.0, 3, -2, 5, 1]))
    assert np.abs(np.diff(slope)).max() < 0.01 * np.abs(slope).max()  # a kink at a point would be of order 1


def test_paper_deformation_has_the_given_deviation_and_does_not_fold():
    sides, folded = (572, 572), 0
    vectors, areas = [], []
    only_elastic = AugmentSettings.paper().model_copy(update={"rotate": False})
    for i in range(40):
        d = draw(only_elastic, generator(0, "test", i), center=[286, 286], tile=sides)
        field = coordinates(d, sides).numpy()
        vectors.append(d.displacement)
        corner = field[:, 286, 286] - 286
        np.testing.assert_allclose(corner, d.displacement[:, 1, 1], atol=1e-4)
        (yy, yx), (xy, xx) = (np.gradient(field[a, ::8, ::8], 8) for a in range(2))
        area = yy * xx - yx * xy
        areas.append(area.mean())
        folded += int((area <= 0).any())
    assert folded == 0
    assert 0.95 < np.mean(areas) < 1.05
    assert 9 < np.std(vectors) < 11


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(9, 14), (33, 20), (1, 6), (7, 5, 6), (1, 9, 8)]), st.booleans())
def test_box_holds_every_coordinate_and_window_changes_nothing(number, sides, spaced):
    grid = {"elastic_grid": None, "elastic_spacing_px": 6.0} if spaced else {"elastic_grid": 3}
    choice = AugmentSettings(rotate=True, mirror=True, scale=(0.5, 2.0), elastic_sigma_px=3.0, **grid)
    rng = np.random.default_rng(number)
    shape = rng.integers(1, 40, size=len(sides))
    d = draw(choice, rng, center=rng.integers(-30, 60, size=len(sides)).tolist(), tile=sides)
    low, size = bounding_box(d, sides)
    field = coordinates(d, sides).numpy().reshape(len(sides), -1)
    assert (np.floor(field.min(axis=1)) >= low).all()
    assert (np.floor(field.max(axis=1)) + 1 <= np.array(low) + size - 1).all()
    part = image_window(d, sides, shape)
    assert all(0 <= s.start < s.stop <= n for s, n in zip(part, shape, strict=True))
    # The window shows the same pixels as the whole image.
    index = np.arange(np.prod(shape)).reshape(shape)
    there = tuple(fold(np.floor(field[a]).astype(int), n) for a, n in enumerate(shape))
    start = np.array([s.start for s in part])
    moved = coordinates(translated(d, part), sides).numpy().reshape(len(sides), -1)
    cut = index[part]
    here = tuple(fold(np.floor(field[a]).astype(int) - start[a], n) for a, n in enumerate(cut.shape))
    assert np.array_equal(index[there], cut[here])
    np.testing.assert_allclose(moved + start[:, None], field, atol=2e-5)


def fold(position: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.arange(length), 400, mode="reflect")[position + 400]


def test_window_of_a_large_image_is_small():
    d = draw(AugmentSettings.paper(), generator(0, "test"), center=[50_000, 60_000], tile=[572, 572])
    part = image_window(d, [572, 572], [100_000, 100_000])
    assert all(572 <= s.stop - s.start < 572 * 2**0.5 + 130 for s in part)
    assert part[0].start < 50_000 < part[0].stop
