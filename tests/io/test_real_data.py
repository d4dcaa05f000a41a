"""Facts of the real images that development uses; they are not part of the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from septum.errors import UsageError
from septum.io.files import read_image
from septum.pairing.find import find_pairs

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not here")


def test_isbi_sections() -> None:
    pairing = find_pairs([DATA / "isbi2012" / "train"])
    assert [(p.name, p.group, p.position) for p in pairing.pairs] == [(f"{n:02d}", "images", n) for n in range(30)]
    assert pairing.unmatched_images == pairing.unmatched_masks == ()
    for pair in pairing.pairs[::10]:
        image, mask = read_image(pair.image), read_image(pair.mask or pair.image, labels=True)
        assert image.array.shape == mask.array.shape == (1, 512, 512)
        assert image.array.dtype == mask.array.dtype == np.uint8
        assert set(np.unique(mask.array)) == {0, 255}
        assert 0.7 < (mask.array == 255).mean() < 0.9  # interiors, by far the larger part
        assert 100 < image.array.mean() < 150
    with pytest.raises(UsageError, match="in subfolders: train"):
        find_pairs([DATA / "isbi2012"])


@pytest.mark.parametrize(
    ("name", "frames", "gold", "shape", "micrometers"),
    [("DIC-C2DH-HeLa", 84, 9, (1, 512, 512), 0.19), ("PhC-C2DH-U373", 115, 15, (1, 520, 696), 0.65)],
)
def test_cell_tracking_sequences(name: str, frames: int, gold: int, shape: tuple[int, ...], micrometers: float) -> None:
    pairing = find_pairs([DATA / "ctc" / name])
    assert (pairing.layout, pairing.objects, len(pairing.pairs)) == ("ctc", True, frames)
    assert sum(p.gold is not None for p in pairing.pairs) == gold
    assert all(p.mask is not None and p.mask.parts[-3] == "01_ST" for p in pairing.pairs)
    assert {p.group for p in pairing.pairs} == {"01"}
    pair = next(p for p in pairing.pairs if p.gold)
    image = read_image(pair.image)
    assert (image.array.shape, image.array.dtype, image.axes) == (shape, np.uint8, "CYX")
    assert image.pixel_size_um == pytest.approx({"Y": micrometers, "X": micrometers}, rel=1e-3)
    for path in (pair.mask, pair.gold):
        assert path is not None
        mask = read_image(path, labels=True)
        assert (mask.array.shape, mask.array.dtype) == (shape, np.uint16)
        assert mask.array.min() == 0 and 2 <= len(np.unique(mask.array)) <= 40


def test_partial_gold() -> None:
    gold = read_image(DATA / "ctc" / "DIC-C2DH-HeLa" / "01_GT" / "SEG" / "man_seg067.tif", labels=True)
    silver = read_image(DATA / "ctc" / "DIC-C2DH-HeLa" / "01_ST" / "SEG" / "man_seg067.tif", labels=True)
    assert (len(np.unique(gold.array)) - 1, len(np.unique(silver.array)) - 1) == (3, 18)


def test_nuclei() -> None:
    pairing = find_pairs([DATA / "dsb2018" / "fluorescence"])
    assert (len(pairing.pairs), {p.group for p in pairing.pairs}) == (320, {""})
    for pair in pairing.pairs[::100]:
        image, mask = read_image(pair.image), read_image(pair.mask or pair.image, labels=True)
        assert image.array.shape[-2:] == mask.array.shape[-2:]
        assert mask.array.dtype == np.uint16
        ids = np.unique(mask.array)
        np.testing.assert_array_equal(ids, np.arange(len(ids)))
    stained = find_pairs([DATA / "dsb2018" / "brightfield"])
    shapes = {read_image(p.image).array.shape[0] for p in stained.pairs}
    assert shapes == {1, 3}
    both = find_pairs([DATA / "dsb2018"])
    assert len(both.pairs) == 380


def test_hippocampus_volumes() -> None:
    pairing = find_pairs([DATA / "hippocampus"])
    assert len(pairing.pairs) == 48
    kinds = set()
    for pair in pairing.pairs:
        image, mask = read_image(pair.image), read_image(pair.mask or pair.image, labels=True)
        assert image.axes == mask.axes == "CZYX"
        assert image.array.shape == mask.array.shape
        assert image.pixel_size_um == pytest.approx({"Z": 1000, "Y": 1000, "X": 1000})
        assert image.affine == mask.affine
        assert set(np.unique(mask.array)) == {0, 1, 2}
        kinds.add((image.array.dtype.name, mask.array.dtype.name))
    assert kinds == {("uint8", "uint8"), ("float32", "uint8")}
