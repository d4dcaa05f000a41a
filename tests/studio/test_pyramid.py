"""Images and labels of any size arrive in tiles, at any level."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from septum.io.files import open_image, write_image
from septum.io.selection import Selection
from septum.studio.label_levels import LabelLevels
from septum.studio.label_store import LabelStore
from septum.studio.project import Entry, Project
from septum.studio.pyramid import Pyramid
from septum.studio.tile_grid import SIDE, Rect, empty_tile, levels_of

SIDES = (4200, 1100)


@pytest.fixture
def large(tmp_path: Path) -> tuple[Pyramid, Entry, np.ndarray]:
    """Return an image of four levels and more, whose coarser tiles are kept on the disk."""
    root = tmp_path / "large"
    root.mkdir()
    image = np.random.default_rng(0).integers(0, 60_000, SIDES).astype(np.uint16)
    write_image(root / "slide.tif", image, axes="YX")
    project = Project(root)
    return Pyramid(project), next(iter(project.entries.values())), image


def means(image: np.ndarray) -> np.ndarray:
    padded = np.pad(image, [(0, n % 2) for n in image.shape], mode="edge").astype(np.uint32)
    sums = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    return ((sums + 2) // 4).astype(np.uint16)


def test_a_tile_of_the_finest_level_is_the_image(large: tuple[Pyramid, Entry, np.ndarray]) -> None:
    pyramid, entry, image = large
    assert pyramid.shown(entry).sides == SIDES and levels_of(SIDES) == 5
    tile = pyramid.tile(entry, (8, 2), t=0, z=0, channel=0, level=0)
    assert tile is not None and np.array_equal(tile, image[8 * SIDE :, 2 * SIDE :])
    part = pyramid.region(entry, 0, 0, Rect(100, 200, 110, 230))
    assert np.array_equal(part[0], image[100:110, 200:230])


def test_coarser_levels_are_means_and_are_made_once(large: tuple[Pyramid, Entry, np.ndarray]) -> None:
    pyramid, entry, image = large
    assert pyramid.tile(entry, (0, 0), t=0, z=0, channel=0, level=4) is None  # needs nearly all tiles: made later
    shares = list(pyramid.build(entry, 0, 0))
    assert shares == sorted(shares) and 0.9 < shares[-1] <= 1
    coarse = image
    for _ in range(4):
        coarse = means(coarse)
    for again in (pyramid, Pyramid(Project(entry.path.parent))):
        tile = again.tile(entry, (0, 0), t=0, z=0, channel=0, level=4)
        assert tile is not None and np.array_equal(tile, coarse)


def test_coarser_levels_of_a_channel_after_the_third_are_made_when_asked_for(tmp_path: Path) -> None:
    image = np.zeros((5, 40, 9 * SIDE), np.uint8)
    image[:] = 10 * np.arange(5, dtype=np.uint8)[:, None, None]
    write_image(tmp_path / "five.tif", image, axes="CYX")
    project = Project(tmp_path)
    pyramid, entry = Pyramid(project), next(iter(project.entries.values()))

    def coarsest(channel: int) -> int | None:
        tile = pyramid.tile(entry, (0, 0), t=0, z=0, channel=channel, level=4)
        return None if tile is None else int(tile.max())

    list(pyramid.build(entry, 0, 0, 1))
    assert [coarsest(n) for n in range(5)] == [0, 10, 20, None, None]
    list(pyramid.build(entry, 0, 0, 4))
    assert coarsest(3) is None and coarsest(4) == 40


def test_a_damaged_tile_of_the_cache_is_made_again(large: tuple[Pyramid, Entry, np.ndarray]) -> None:
    pyramid, entry, image = large
    first = pyramid.tile(entry, (1, 0), t=0, z=0, channel=0, level=1)
    (file,) = (entry.path.parent / ".studio" / "cache").rglob("1_0")
    file.write_bytes(b"damaged")
    again = Pyramid(Project(entry.path.parent)).tile(entry, (1, 0), t=0, z=0, channel=0, level=1)
    assert first is not None and again is not None
    assert np.array_equal(first, again) and np.array_equal(first, means(image)[SIDE : 2 * SIDE, :SIDE])


def test_levels_that_an_ome_zarr_holds_are_taken(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 60_000, SIDES).astype(np.uint16)
    write_image(tmp_path / "slide.ome.zarr", image, axes="YX")
    project = Project(tmp_path)
    pyramid, entry = Pyramid(project), next(iter(project.entries.values()))
    for level in (1, 3):
        stored = open_image(tmp_path / "slide.ome.zarr", selection=Selection(level=level))[0]
        tile = pyramid.tile(entry, (0, 0), t=0, z=0, channel=0, level=level)
        assert tile is not None and np.array_equal(tile, stored[:SIDE, :SIDE])
    assert not list((tmp_path / ".studio").rglob("*_0"))


def test_a_level_of_another_shape_is_not_taken(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 60_000, SIDES).astype(np.uint16)
    write_image(tmp_path / "slide.ome.zarr", image, axes="YX")
    shutil.rmtree(tmp_path / "slide.ome.zarr" / "1")
    write_image(tmp_path / "other.ome.zarr", image[:700, :300], axes="YX")
    shutil.move(tmp_path / "other.ome.zarr" / "0", tmp_path / "slide.ome.zarr" / "1")
    shutil.rmtree(tmp_path / "other.ome.zarr")
    project = Project(tmp_path)
    tile = Pyramid(project).tile(next(iter(project.entries.values())), (0, 0), t=0, z=0, channel=0, level=1)
    assert tile is not None and np.array_equal(tile, means(image)[:SIDE, :SIDE])


def test_a_level_that_was_rounded_down_is_filled_up(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 60_000, (1101, 701)).astype(np.uint16)
    write_image(tmp_path / "slide.ome.zarr", image, axes="YX")
    (level,) = (tmp_path / "slide.ome.zarr").glob("1")
    shutil.rmtree(level)
    write_image(tmp_path / "other.ome.zarr", image[:550, :350], axes="YX")
    shutil.move(tmp_path / "other.ome.zarr" / "0", level)
    shutil.rmtree(tmp_path / "other.ome.zarr")
    project = Project(tmp_path)
    tile = Pyramid(project).tile(next(iter(project.entries.values())), (1, 0), t=0, z=0, channel=0, level=1)
    assert tile is not None and tile.shape == (39, 351)
    assert np.array_equal(tile[:-1, :-1], image[SIDE:550, :350]) and np.array_equal(tile[-1], tile[-2])


def test_coarser_levels_of_a_file_that_was_replaced_are_made_again(large: tuple[Pyramid, Entry, np.ndarray]) -> None:
    pyramid, entry, image = large
    assert not pyramid.renew(entry)  # nothing was shown yet
    pyramid.tile(entry, (0, 0), t=0, z=0, channel=0, level=1)
    assert not pyramid.renew(entry)
    write_image(entry.path, image[::-1].copy(), axes="YX")
    later = Pyramid(Project(entry.path.parent)).tile(entry, (0, 0), t=0, z=0, channel=0, level=1)
    assert pyramid.renew(entry)
    again = pyramid.tile(entry, (0, 0), t=0, z=0, channel=0, level=1)
    assert again is not None and later is not None
    assert np.array_equal(again, means(image[::-1])[:SIDE, :SIDE]) and np.array_equal(later, again)


def test_real_values_are_shown_within_their_range(tmp_path: Path) -> None:
    image = np.linspace(-3, 5, 40 * 50).reshape(40, 50).astype(np.float32)
    write_image(tmp_path / "a.tif", image, axes="YX")
    project = Project(tmp_path)
    pyramid, entry = Pyramid(project), next(iter(project.entries.values()))
    shown = pyramid.shown(entry)
    tile = pyramid.tile(entry, (0, 0), t=0, z=0, channel=0, level=0)
    assert tile is not None and shown.bits == 16
    assert (np.diff(tile.reshape(-1).astype(int)) >= 0).all()
    low, high = shown.windows[0]
    assert 3000 < low < 7000 and 58_000 < high < 63_000


def test_sections_frames_and_channels_are_planes(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 2 * 20 * 30).reshape(2, 2, 3, 20, 30).astype(np.uint16)  # T C Z Y X
    write_image(tmp_path / "a.tif", stack, axes="TCZYX")
    project = Project(tmp_path)
    pyramid, entry = Pyramid(project), next(iter(project.entries.values()))
    shown = pyramid.shown(entry)
    assert (shown.frames, shown.sections, shown.channels, shown.sides) == (2, 3, 2, (20, 30))
    tile = pyramid.tile(entry, (0, 0), t=1, z=2, channel=1, level=0)
    assert tile is not None and np.array_equal(tile, stack[1, 1, 2])


def test_coarser_labels_are_ids_of_the_finest_level_and_follow_edits(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.sqlite")
    plane, levels = store.plane("a", 0, 0, (3000, 3000)), LabelLevels(store)
    tile = empty_tile()
    tile[:200, :200] = 70_000
    store.write(plane, "brush", {(3, 2): tile})
    coarse, version = levels.tile(plane, 2, (0, 0))
    assert version == 1 and set(np.unique(coarse)) == {-1, 70_000}
    assert (coarse[384 : 384 + 50, 256 : 256 + 50] == 70_000).all() and (coarse > 0).sum() == 2500
    store.undo("a")
    coarse, version = levels.tile(plane, 2, (0, 0))
    assert version == 2 and (coarse == -1).all()
    assert levels.tile(plane, 0, (5, 5))[1] == 0
