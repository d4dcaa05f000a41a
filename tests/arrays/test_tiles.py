from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.arrays.geometry import Geometry, Padding
from septum.arrays.tiles import mirror_index, plan_tiles, read_mirrored

PADDINGS = st.sampled_from(["valid", "same"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(0, 3), st.integers(1, 60)), min_size=2, max_size=3), PADDINGS)
def test_each_pixel_is_written_once_from_the_grid_with_its_context(
    axes: list[tuple[int, int, int]], padding: Padding
) -> None:
    shape, depths, limits = (tuple(v) for v in zip(*axes, strict=True))
    geometry = Geometry(depths, padding)
    written = np.zeros(shape, dtype=int)
    tiles = plan_tiles(shape, geometry, limits)
    for tile in tiles:
        written[tile.write] += 1
        outputs = geometry.output([b - a for a, b in tile.read])
        for axis, (a, _) in enumerate(tile.read):
            write, keep = tile.write[axis], tile.keep[axis]
            assert write.start % geometry.grid[axis] == 0
            assert write.stop - write.start == keep.stop - keep.start
            assert write.start - a == geometry.contexts[axis]
            assert keep.stop <= outputs[axis]
            if padding == "same":  # equal context on both sides
                assert outputs[axis] - keep.stop >= geometry.contexts[axis]
    assert (written == 1).all()


def test_paper_tile_has_stride_384_because_388_is_off_the_pooling_grid() -> None:
    tiles = plan_tiles((1000, 388), Geometry((4, 4)), (388, 388))
    assert [t.write[0].start for t in tiles] == [0, 336, 672]  # three equal parts instead of 384, 384, 232
    assert [t.write[0].start for t in plan_tiles((1100, 388), Geometry((4, 4)), (388, 388))] == [0, 368, 736]
    assert plan_tiles((388, 388), Geometry((4, 4)), (388, 388))[0].read == ((-92, 480), (-92, 480))  # 572
    assert plan_tiles((512, 512), Geometry((4, 4)), (600, 600))[0].read == ((-92, 608), (-92, 608))  # 700


@given(st.integers(-300, 300), st.integers(1, 80), st.integers(2, 40))
def test_mirror_index_equals_numpy_reflection(start: int, count: int, length: int) -> None:
    index = mirror_index(start, start + count, length)
    far = 400
    padded = np.pad(np.arange(length), far, mode="reflect")
    np.testing.assert_array_equal(index, padded[start + far : start + far + count])


def test_mirror_index_of_one_pixel_repeats_it() -> None:
    assert mirror_index(-3, 4, 1).tolist() == [0] * 7


def test_read_mirrored_equals_padding_the_whole_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (2, 7, 1, 5)).astype(np.uint8)
    padded = np.pad(image, [(0, 0), (9, 9), (4, 4), (9, 9)], mode="reflect")
    part = read_mirrored(image, ((-9, 8), (-1, 3), (2, 14)))
    np.testing.assert_array_equal(part, padded[:, 0:17, 3:7, 11:23])


def test_read_inside_is_a_view() -> None:
    image = np.zeros((1, 20, 20), dtype=np.uint8)
    assert np.shares_memory(read_mirrored(image, ((2, 9), (3, 20))), image)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (4, 4, 4)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        plan_tiles(shape, Geometry((2, 2)), (16, 16))


def test_region_tiles_read_their_context_in_the_image() -> None:
    geometry = Geometry((2, 2))
    tiles = plan_tiles((10, 8), geometry, (4, 8), origin=(16, 4))
    assert [t.write for t in tiles] == [(slice(y, min(y + 4, 26)), slice(4, 12)) for y in (16, 20, 24)]
    context = geometry.contexts[0]
    assert all(t.read[0][0] == t.write[0].start - context for t in tiles)
    with pytest.raises(ValueError, match="pooling grid"):
        plan_tiles((10, 8), geometry, (4, 8), origin=(2, 0))


def test_only_necessary_pixels_are_read_once() -> None:
    class Counting:
        shape = (1, 50, 60)
        asked: list[tuple[slice, ...]] = []  # noqa: RUF012

        def __getitem__(self, index: tuple[slice, ...], /) -> np.ndarray:
            self.asked.append(index)
            return image[index]

    image = np.random.default_rng(0).normal(size=(1, 50, 60))
    part = read_mirrored(Counting(), ((-7, 12), (50, 64)))
    np.testing.assert_array_equal(part, np.pad(image, ((0, 0), (7, 0), (0, 4)), mode="reflect")[:, :19, 50:])
    assert Counting.asked == [(slice(None), slice(0, 12), slice(50, 60))]
