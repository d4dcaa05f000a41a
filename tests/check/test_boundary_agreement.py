"""Agreement of outlines and edges: shifts, masks of other images, turned masks; placements worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from septum.check.boundary_agreement import Placement, apply_placement, is_rotated, measure_agreement, orientations


def scene(seed: int, sides: tuple[int, int] = (60, 90)) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy image ``(1, Y, X)`` of bright disks and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(sides, np.int32)
    grid = np.indices(sides)
    for number in range(9):
        center = rng.uniform(8, np.array(sides) - 8)
        labels[((grid - center[:, None, None]) ** 2).sum(axis=0) < rng.uniform(4, 8) ** 2] = number + 1
    image = ndimage.gaussian_filter(np.where(labels > 0, 100.0, 20.0), 0.7) + rng.normal(0, 4, sides)
    return image[None], labels


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -2), (-3, 2)])
def test_shift_is_found(shift: tuple[int, int]) -> None:
    image, labels = scene(1)
    found = measure_agreement(image, np.roll(labels, shift, axis=(0, 1)))
    assert found is not None
    assert found.shift == (-shift[0], -shift[1])
    assert found.gain == pytest.approx(1.0) if shift == (0, 0) else found.gain > 1.03


def test_contrast_of_right_masks_is_higher_than_of_masks_of_other_images() -> None:
    scenes = [scene(n) for n in range(6)]
    own = [measure_agreement(*s) for s in scenes]
    others = [measure_agreement(a[0], b[1]) for a, b in zip(scenes, scenes[1:] + scenes[:1], strict=True)]
    assert min(a.contrast for a in own if a) > 1.5 * max(a.contrast for a in others if a)


def test_agreement_is_none_without_outlines_or_edges() -> None:
    image, labels = scene(2)
    assert measure_agreement(image, np.zeros_like(labels)) is None
    assert measure_agreement(np.zeros_like(image), labels) is None
    assert measure_agreement(image[:, :5, :5], labels[:5, :5]) is None


def test_rotated_masks_are_distinguished_from_transposed_ones() -> None:
    image, labels = scene(3)
    assert not is_rotated(image, labels.T)
    assert is_rotated(image, np.rot90(labels))
    assert is_rotated(image, np.rot90(labels, 3))


def test_large_images_are_measured_in_the_middle() -> None:
    image, labels = scene(4)
    wide = np.zeros((1, 60, 1400))
    marks = np.zeros((60, 1400), np.int32)
    wide[0, :, 655:745], marks[:, 655:745] = image[0], labels
    found = measure_agreement(wide, marks)
    assert found is not None
    assert found.contrast > 3


UNMOVED = Placement((0, 1), (False, False), (0, 0))


def test_placements_worked_out_by_hand() -> None:
    mask = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    np.testing.assert_array_equal(apply_placement(mask, UNMOVED), mask)
    np.testing.assert_array_equal(apply_placement(mask, Placement((1, 0), (False, False), (0, 0))), mask.T)
    np.testing.assert_array_equal(apply_placement(mask, Placement((0, 1), (True, False), (0, 0))), mask[::-1])
    moved = apply_placement(mask, Placement((0, 1), (False, False), (1, -1)))
    np.testing.assert_array_equal(moved, [[-1, -1, -1], [2, 3, -1]])
    np.testing.assert_array_equal(
        apply_placement(mask > 5, Placement((0, 1), (False, False), (0, -2))), [[0, 0, 0], [1, 0, 0]]
    )


def test_placements_are_described_in_words() -> None:
    assert UNMOVED.words() == ""
    assert Placement((1, 0), (False, True), (0, 0)).words() == "transposed, mirrored along X"
    assert Placement((0, 1), (False, False), (-3, 0)).words() == "shifted by 3 pixels along Y"
    assert Placement((0, 1), (False, False), (0, -1)).words() == "shifted by 1 pixel along X"
    assert Placement((2, 1, 0), (False,) * 3, (0,) * 3).words() == "axes in the order XYZ"


@pytest.mark.parametrize(
    ("mask", "image", "count"),
    [
        ((5, 5), (5, 5), 8),
        ((5, 6), (5, 6), 4),
        ((6, 5), (5, 6), 4),
        ((6, 4), (5, 6), 0),
        ((4, 4, 4), (4, 4, 4), 6),
        ((4, 5, 6), (6, 5, 4), 1),
        ((4, 4, 6), (6, 4, 4), 2),
    ],
)
def test_orientations_give_the_sides_of_the_image(mask: tuple[int, ...], image: tuple[int, ...], count: int) -> None:
    found = list(orientations(mask, image))
    assert len(set(found)) == len(found) == count
    array = np.arange(np.prod(mask)).reshape(mask)
    assert all(apply_placement(array, p).shape == image for p in found)
    assert len({apply_placement(array, p).tobytes() for p in found}) == count
    if mask == image:
        assert not found[0].words()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-12, 12), st.integers(-12, 12))
def test_a_shift_and_its_inverse_keep_labels_inside(height: int, width: int, y: int, x: int) -> None:
    mask = np.arange(height * width, dtype=np.int32).reshape(height, width)
    there = apply_placement(mask, Placement((0, 1), (False, False), (y, x)))
    back = apply_placement(there, Placement((0, 1), (False, False), (-y, -x)))
    inside = max(0, height - abs(y)) * max(0, width - abs(x))
    assert (there >= 0).sum() == (back >= 0).sum() == inside
    np.testing.assert_array_equal(back[back >= 0], mask[back >= 0])


def test_of_shifts_that_fit_equally_well_the_shortest_is_the_best() -> None:
    image, labels = np.zeros((1, 96, 96)), np.zeros((96, 96), np.int32)
    labels[30:60, 30:60] = 1
    image[0, 26:64, 26:64] = np.indices((38, 38)).sum(axis=0) % 2  # edges all over and around the object
    found = measure_agreement(image, labels)
    assert found is not None and found.contrast > 2
    assert found.far == (0, 0) and found.shift == (0, 0)
    assert found.far_contrast == pytest.approx(found.contrast)


@pytest.mark.parametrize("shift", [(0, 0), (9, -14), (-20, 3)])
def test_the_best_far_shift_is_that_of_the_strongest_mean_of_edges(shift: tuple[int, int]) -> None:
    image, labels = scene(5, (120, 130))
    found = measure_agreement(image, np.roll(labels, shift, axis=(0, 1)))
    assert found is not None
    assert np.abs(np.array(found.far) + shift).max() <= 1
    assert found.far_contrast > (1.3 if any(shift) else 0.95) * found.contrast
