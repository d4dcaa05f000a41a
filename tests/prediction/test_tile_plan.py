"""Tiles and blocks are as large as pays off, and never exceed the memory limit."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import UsageError
from septum.nn.unet import UNetSettings
from septum.prediction.memory import tile_bytes
from septum.prediction.tile_plan import CHUNK, Request, TilePlan, block_regions, plan_prediction

GB = 1 << 30
HELD = 350 << 20


def _plan(
    shape: tuple[int, ...], network: UNetSettings, limit: int, *, device_limit: int | None = None, **more: object
) -> TilePlan:
    request = Request(network=network, shape=shape, **more)  # type: ignore[arg-type]
    return plan_prediction(request, held=HELD, limit=limit, device_limit=device_limit)


def test_the_plan_of_averaged_networks_includes_the_memory_of_their_sum() -> None:
    network = UNetSettings(width=16)
    one, five = (_plan((3000, 3000), network, 3 * GB, members=n) for n in (1, 5))
    assert five.peak_bytes <= 3 * GB
    assert five.peak_bytes >= HELD + tile_bytes(network, five.sides, members=5)
    if one.tile == five.tile:
        assert one.peak_bytes < five.peak_bytes < 1.1 * one.peak_bytes


@given(
    st.integers(1, 50_000),
    st.integers(1, 50_000),
    st.sampled_from([4, 16, 64]),
    st.integers(700 << 20, 8 * GB),
    st.booleans(),
)
def test_the_limit_is_kept_and_blocks_cover_the_image(y: int, x: int, width: int, limit: int, objects: bool) -> None:
    network = UNetSettings(width=width)
    try:
        layout = _plan((y, x), network, limit, objects=objects)
    except UsageError as error:
        assert "at least" in str(error)
        return
    assert layout.peak_bytes <= limit
    assert layout.peak_bytes >= HELD + tile_bytes(network, layout.sides)
    if layout.block is not None:
        assert all(b % c == 0 for b, c in zip(layout.block, CHUNK[2], strict=True))
        regions = block_regions((y, x), layout.block)
        assert sum(prod(s.stop - s.start for s in r) for r in regions) == y * x


def test_a_small_image_is_held_in_memory_and_a_large_one_is_not() -> None:
    network = UNetSettings(width=16)
    assert _plan((512, 512), network, 2 * GB).block is None
    huge = _plan((40_000, 40_000), network, 2 * GB)
    assert huge.block is not None
    assert huge.pixels < 1.5 * 40_000**2  # the context costs less than half of the image again


def test_blocks_are_used_for_any_size_on_request() -> None:
    assert _plan((512, 512), UNetSettings(width=16), 2 * GB, blocks=True).block == (512, 512)


def test_more_memory_is_never_more_computing() -> None:
    network = UNetSettings(width=32)
    works = [_plan((9000, 9000), network, limit * GB, blocks=True).pixels for limit in (1, 2, 4, 16)]
    assert works[0] > works[-1]
    assert all(later <= 1.04 * earlier for earlier, later in pairwise(works))


def test_a_requested_tile_is_used() -> None:
    layout = _plan((3000, 3000), UNetSettings(width=16), 8 * GB, tile=388)
    assert layout.sides == (572, 572)


def test_a_gpu_has_its_own_memory_limit() -> None:
    network = UNetSettings()
    layout = _plan((3000, 3000), network, 16 * GB, device_limit=GB)
    assert tile_bytes(network, layout.sides) <= GB
    assert layout.sides < _plan((3000, 3000), network, 16 * GB, device_limit=8 * GB).sides


def test_volumes_get_blocks_that_fit() -> None:
    network = UNetSettings(width=8, depths=(2, 3, 3))
    layout = _plan((300, 1500, 1500), network, 3 * GB)
    assert layout.block is not None
    assert layout.peak_bytes <= 3 * GB


def test_too_little_memory_is_refused_with_the_needed_amount() -> None:
    with pytest.raises(
        UsageError, match=r"a prediction in 400 MB of memory\nexpected: at least \d+ MB: 350 MB are held already"
    ):
        _plan((5000, 5000), UNetSettings(), 400 << 20)
