"""Parts in which large images are judged: chosen by size and place, normalized as the whole, without cut objects."""

from __future__ import annotations

import gc
import itertools
import math
import weakref

import numpy as np
import pytest

from septum.arrays.normalize import NormalizeSettings
from septum.arrays.targets import UNANNOTATED
from septum.pairing import parts
from septum.pairing.parts import boxes, describe_parts, judged_parts
from septum.pairing.sample import Sample, judged_objects


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an image of more than 1024 pixels be large, and divide it into parts of at most 256."""
    monkeypatch.setattr(parts, "LARGE_PX", 1024)
    monkeypatch.setattr(parts, "PART_PX", 16)
    monkeypatch.setattr(parts, "LEAST_PART", 64)


def _volume(sides: tuple[int, ...] = (16, 24, 24)) -> Sample:
    """Return a volume of cubes of 2 pixels, 6 apart, with noise; borders of parts cut some of them."""
    places = np.indices(sides)
    numbers = np.ravel_multi_index(tuple((p + 1) // 6 for p in places), tuple(side // 6 + 2 for side in sides))
    mask = np.where(((places + 1) % 6 < 2).all(axis=0), numbers + 1, 0).astype(np.int32)
    image = np.random.default_rng(0).normal(size=(1, *sides)).astype(np.float32)
    return Sample("volume", "", 0, image, mask, None, (2.0, 1.0, 1.0))


def test_parts_of_a_volume_have_no_more_pixels_than_those_of_an_image() -> None:
    for sides in ((40, 40), (8, 24, 24), (2, 100, 100), (64, 3, 3)):
        seen = np.zeros(sides, int)
        for box in boxes(sides):
            assert math.prod(s.stop - s.start for s in box) <= 16 * 16
            assert max(s.stop - s.start for s in box) <= 16
            seen[box] += 1
        assert (seen == 1).all()


def test_a_small_image_and_a_part_are_not_divided() -> None:
    small = _volume((8, 8, 16))
    assert judged_parts(small, objects=True) == (small,)
    part = judged_parts(_volume(), objects=True)[0]
    assert judged_parts(part, objects=True, affordable_px=1) == (part,)


def test_parts_cover_a_volume_and_are_normalized_as_the_whole() -> None:
    volume = _volume()
    divided = judged_parts(volume, objects=False)
    assert len({part.name for part in divided}) == len(divided) > 8
    assert sum(int(part.mask.sum()) for part in divided) == int(volume.mask.sum())
    assert sum(float(part.image.sum()) for part in divided) == pytest.approx(float(volume.image.sum()), rel=1e-3)
    assert all(part.sides == part.mask.shape == part.image.shape[1:] for part in divided)
    settings = NormalizeSettings()
    assert all(np.array_equal(part.statistics(settings), volume.statistics(settings)) for part in divided)
    assert {part.spacing_um for part in divided} == {volume.spacing_um}


def test_objects_that_a_border_cuts_do_not_count_and_large_ones_do() -> None:
    volume = _volume()
    whole = np.zeros(int(volume.mask.max()) + 1, int)
    for part in judged_parts(volume, objects=True):
        ids, sizes = np.unique(part.mask[part.mask > 0], return_counts=True)
        assert (sizes == np.bincount(volume.mask.ravel())[ids]).all(), "no object is in pieces"
        whole[ids] += 1
        labels = np.where(part.mask < 0, np.int32(9999), part.mask)  # a prediction that finds the cut objects as well
        assert set(np.unique(judged_objects(labels, part))) == {0, *ids}
    assert whole.max() == 1
    assert any((part.mask == UNANNOTATED).any() for part in judged_parts(volume, objects=True))
    large = Sample("one", "", 0, volume.image, np.full(volume.sides, 7, np.int32), None, None)
    assert all((part.mask == 7).all() for part in judged_parts(large, objects=True))


def test_short_time_makes_parts_smaller_and_repeats_them() -> None:
    volume = _volume()
    few = judged_parts(volume, objects=True, affordable_px=100)
    assert max(math.prod(part.sides) for part in few) <= 100
    assert [part.name for part in few] == [part.name for part in judged_parts(volume, objects=True, affordable_px=100)]
    assert min(math.prod(part.sides) for part in judged_parts(volume, objects=True, affordable_px=1)) > 20
    middling = _volume((4, 14, 14))  # more pixels than a part, fewer than a large image
    assert len(judged_parts(middling, objects=True)) == 1
    assert len(judged_parts(middling, objects=True, affordable_px=300)) > 1


def test_a_sentence_says_what_is_scored() -> None:
    volume = _volume()
    assert describe_parts([volume], 24) == ""
    divided = judged_parts(volume, objects=True)
    text = describe_parts(divided, 5)
    assert f"in {len(divided)} parts of up to 6 x 6 x 6 pixels" in text and "scores 5 " in text


def test_a_part_keeps_neither_the_image_nor_its_statistics_alive() -> None:
    def divided() -> tuple[Sample, weakref.ref[Sample]]:
        pixels, labels = np.ones((1, 3, 1600, 1600), np.float32), np.zeros((3, 1600, 1600), np.int32)
        sample = Sample("large", "", 0, pixels, labels, None, None)
        part = judged_parts(sample, objects=False, affordable_px=1 << 20)[0]
        part.statistics(NormalizeSettings())
        held = part.held()
        assert held.image.base is None and held.mask.base is None
        return held, weakref.ref(sample)

    held, whole = divided()
    assert whole() is not None  # of which the part gives the statistics
    del held
    gc.collect()
    assert whole() is None


@pytest.mark.parametrize("side", [4097, 5000, 20_000, 100_001])
def test_parts_of_full_size_begin_with_the_pieces_of_files(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_PX", 1536)
    rows = [box[0] for box in boxes((side, 100))]
    assert [rows[0].start, rows[-1].stop] == [0, side]
    assert all(one.stop == other.start and other.start % 512 == 0 for one, other in itertools.pairwise(rows))
    assert all(512 <= row.stop - row.start <= 1536 for row in rows)
