"""Outlines against edges: shifts, strangers and turned masks are told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from septum.check.boundary_agreement import agreement, turned


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
    found = agreement(image, np.roll(labels, shift, axis=(0, 1)))
    assert found is not None
    assert found.shift == (-shift[0], -shift[1])
    assert found.gain == pytest.approx(1.0) if shift == (0, 0) else found.gain > 1.03


def test_contrast_tells_own_masks_from_strangers() -> None:
    scenes = [scene(n) for n in range(6)]
    own = [agreement(*s) for s in scenes]
    others = [agreement(a[0], b[1]) for a, b in zip(scenes, scenes[1:] + scenes[:1], strict=True)]
    assert min(a.contrast for a in own if a) > 1.5 * max(a.contrast for a in others if a)


def test_nothing_is_said_without_outlines_or_edges() -> None:
    image, labels = scene(2)
    assert agreement(image, np.zeros_like(labels)) is None
    assert agreement(np.zeros_like(image), labels) is None
    assert agreement(image[:, :5, :5], labels[:5, :5]) is None


def test_turned_masks_are_told_from_transposed_ones() -> None:
    image, labels = scene(3)
    assert not turned(image, labels.T)
    assert turned(image, np.rot90(labels))
    assert turned(image, np.rot90(labels, 3))


def test_large_images_are_looked_at_in_the_middle() -> None:
    image, labels = scene(4)
    wide = np.zeros((1, 60, 1400))
    marks = np.zeros((60, 1400), np.int32)
    wide[0, :, 655:745], marks[:, 655:745] = image[0], labels
    found = agreement(wide, marks)
    assert found is not None
    assert found.contrast > 3
