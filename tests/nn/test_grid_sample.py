"""Interpolation at coordinates: mirrored borders, exactness, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from septum.nn.grid_sample import cut_box, gather


def cut(image: torch.Tensor, low: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
    box = torch.full((image.shape[0], *sizes), torch.nan)
    cut_box(image, low, box)
    return box


def mesh(*axes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 3))
def test_box_equals_numpy_reflection_at_any_distance(data, rank):
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * rank))
    low = data.draw(st.tuples(*[st.integers(-20, 20)] * rank))
    sizes = data.draw(st.tuples(*[st.integers(1, 9)] * rank))
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    padded = np.pad(image, [(0, 0)] + [(20, 30)] * rank, mode="reflect")
    expected = padded[(slice(None), *(slice(20 + a, 20 + a + n) for a, n in zip(low, sizes, strict=True)))]
    assert np.array_equal(cut(torch.from_numpy(image), low, sizes).numpy(), expected)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 3), st.sampled_from(["linear", "nearest"]))
def test_integer_coordinates_give_the_pixels_to_the_bit(data, rank, mode):
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * rank))
    low = data.draw(st.tuples(*[st.integers(-12, 12)] * rank))
    sizes = data.draw(st.tuples(*[st.integers(1, 9)] * rank))
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32))
    coords = mesh(*(np.arange(a, a + n) for a, n in zip(low, sizes, strict=True)))
    assert torch.equal(gather(image, coords, mode), cut(image, low, sizes))


@pytest.mark.parametrize("shape", [(31, 44), (13, 17, 11)])
def test_linear_and_nearest_agree_with_scipy(shape):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    coords = rng.uniform(-40, 80, size=(len(shape), *[9] * len(shape))).astype(np.float32)
    found = gather(torch.from_numpy(image), torch.from_numpy(coords)).numpy()
    expected = np.stack([ndimage.map_coordinates(c, coords.astype(np.float64), order=1, mode="mirror") for c in image])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    labels = rng.integers(0, 256, size=(1, *shape)).astype(np.uint8)
    found = gather(torch.from_numpy(labels), torch.from_numpy(coords), "nearest")
    assert found.dtype == torch.uint8
    clear = (np.abs(coords % 1 - 0.5) > 1e-3).all(axis=0)  # half-way between two pixels either is correct
    expected = ndimage.map_coordinates(labels[0], coords.astype(np.float64), order=0, mode="mirror")
    assert clear.mean() > 0.98
    assert np.array_equal(found[0].numpy()[clear], expected[clear])


def test_coordinates_near_ten_thousand_are_accurate():
    ramp = torch.arange(12_000, dtype=torch.float32).expand(1, 3, 12_000).contiguous()
    wanted = np.linspace(9_000, 10_500, 401)
    found = gather(ramp, mesh(np.array([1.0, 1.5]), wanted))[0]
    assert np.abs(found.numpy() - wanted).max() < 2e-3


def test_constant_image_stays_constant():
    coords = torch.from_numpy(np.random.default_rng(3).uniform(-99, 99, size=(2, 20, 20)).astype(np.float32))
    found = gather(torch.full((1, 7, 5), 3.25), coords)
    torch.testing.assert_close(found, torch.full((1, 20, 20), 3.25), atol=1e-6, rtol=0)
