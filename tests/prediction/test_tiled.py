"""Tiled inference equals inference on the whole image."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from septum.arrays.normalize import NormalizeSettings, statistics
from septum.arrays.tiles import plan_tiles
from septum.errors import DataError
from septum.nn.device import find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.tiled import (
    TiledPredictor,
    halved_text,
    image_probabilities,
    largest_output,
    region_probabilities,
)

DEVICE = find_device("cpu")
PLAIN = NormalizeSettings()


def _network(depths: tuple[int, ...], padding: str, *, batch_norm: bool = False) -> UNet:
    settings = UNetSettings(channels=2, classes=3, depths=depths, width=4, padding=padding, batch_norm=batch_norm)
    return for_prediction(UNet(settings, seed=1))


def _whole(network: UNet, image: np.ndarray) -> np.ndarray:
    """The network on the whole mirrored image, built without the tile planner."""
    geometry, shape = network.geometry, image.shape[1:]
    sides = geometry.input_for(shape)
    pads = [(c, side - n - c) for n, c, side in zip(shape, geometry.contexts, sides, strict=True)]
    values = image.astype(np.float64)
    for channel in values:
        cut = np.clip(channel, *np.quantile(channel, [0.005, 0.995]))
        cut = cut if cut.std() else channel.copy()
        channel -= cut.mean()
        channel /= cut.std() or 1.0
    padded = values
    for axis, pad in enumerate(pads, start=1):
        width = [(0, 0)] * padded.ndim
        width[axis] = pad
        padded = np.pad(padded, width, mode="reflect" if shape[axis - 1] > 1 else "edge")
    with torch.no_grad():
        out = torch.softmax(network.double()(torch.from_numpy(padded[None])), dim=1)[0].numpy()
    network.float()
    keep = tuple(slice(c, c + n) for c, n in zip(geometry.crop, shape, strict=True))
    return out[(slice(None), *keep)]


CASES = [
    ((4, 4), (70, 1), 16),
    ((3, 3), (61, 97), 24),
    ((2, 2), (1, 1), 8),
    ((2, 3), (33, 50), 16),
    ((1, 1), (7, 64), 2),
    ((2, 2, 2), (9, 17, 5), 8),
    ((0, 2, 2), (3, 21, 30), 8),
    ((1, 2, 2), (1, 13, 26), 4),
]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("depths", "shape", "limit"), CASES)
def test_tiled_equals_whole(depths: tuple[int, ...], shape: tuple[int, ...], limit: int, padding: str) -> None:
    image = np.random.default_rng(0).normal(100, 20, (2, *shape)).astype(np.float32)
    network = _network(depths, padding)
    tiled = image_probabilities(network, image, device=DEVICE, normalization=PLAIN, max_output=(limit,) * len(shape))
    assert tiled.dtype == np.float32
    assert np.abs(tiled - _whole(network, image)).max() <= 1e-5
    np.testing.assert_allclose(tiled.sum(axis=0), 1, atol=1e-5)
    assert np.ptp(tiled) > 0.05 or image[0].size == 1  # not constant, so that equality means something


def test_the_result_does_not_depend_on_the_size_of_tiles() -> None:
    image = np.random.default_rng(1).integers(0, 60_000, (2, 90, 75)).astype(np.uint16)
    network = _network((3, 3), "valid", batch_norm=True)
    assert len(plan_tiles((90, 75), network.geometry, (16, 16))) == 30
    results = [
        image_probabilities(network, image, device=DEVICE, normalization=PLAIN, max_output=(n, n))
        for n in (16, 40, 500)
    ]
    assert max(np.abs(results[0] - r).max() for r in results[1:]) <= 1e-5


def test_largest_output_shrinks_with_width_and_is_never_below_the_grid() -> None:
    sides = [largest_output(UNetSettings(width=w), DEVICE)[0] for w in (16, 64, 100_000)]
    assert sides[0] > sides[1] > sides[2] == 16


def test_a_tile_that_covers_the_short_side_of_a_volume_is_longer_along_the_others() -> None:
    settings = UNetSettings(width=16, depths=(2, 3, 3), padding="same")
    cube, flat = largest_output(settings, DEVICE), largest_output(settings, DEVICE, (20, 1000, 1000))
    assert flat[0] >= 20 and flat[1] == flat[2] > cube[1]
    assert math.prod(settings.geometry.input_for(flat)) <= 1.2 * math.prod(settings.geometry.input_for(cube))
    small = (40, 50, 60)
    assert all(n >= side for n, side in zip(largest_output(settings, DEVICE, small), small, strict=True)), "one tile"
    assert largest_output(settings, DEVICE, (5000, 5000, 5000)) == cube


class _Small(torch.nn.Module):
    """A device on which only small tiles find room."""

    def __init__(self, network: UNet, most: int, error: Exception) -> None:
        super().__init__()
        self.network, self.most, self.error, self.failed = network, most, error, 0
        self.geometry, self.settings = network.geometry, network.settings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x[0, 0].numel() > self.most:
            self.failed += 1
            raise self.error
        return self.network(x)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: 7"),
        MemoryError(),
    ],
)
def test_tiles_are_halved_if_memory_runs_out(error: Exception) -> None:
    image = np.random.default_rng(4).normal(size=(2, 90, 90)).astype(np.float32)
    network = _network((2, 2), "valid")
    stats, whole = statistics(image, PLAIN), (slice(0, 90), slice(0, 90))
    small = _Small(network, 70 * 70, error)
    tiler = TiledPredictor(small, DEVICE, (90, 90))  # type: ignore[arg-type]
    *_, (found, _) = region_probabilities(tiler, image, stats, whole)
    expected = image_probabilities(network, image, device=DEVICE, normalization=PLAIN)
    assert np.abs(found - expected).max() <= 1e-5
    assert tiler.halved == [(44, 44), (16, 16)]
    assert "16 x 16" in halved_text(Path("a.tif"), tiler)
    list(region_probabilities(tiler, image, stats, whole))
    assert small.failed == 2  # the smaller tiles are kept: nothing is tried in vain again


def test_a_device_without_memory_for_the_smallest_tile_is_reported() -> None:
    image = np.zeros((2, 20, 20), np.float32)
    tiler = TiledPredictor(_Small(_network((2, 2), "valid"), 0, MemoryError()), DEVICE, (20, 20))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="smallest tile"):
        list(region_probabilities(tiler, image, statistics(image, PLAIN), (slice(0, 20), slice(0, 20))))


def test_other_errors_of_the_device_are_raised() -> None:
    image = np.zeros((2, 20, 20), np.float32)
    tiler = TiledPredictor(_Small(_network((2, 2), "valid"), 0, RuntimeError("wrong")), DEVICE, (20, 20))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="wrong"):
        list(region_probabilities(tiler, image, statistics(image, PLAIN), (slice(0, 20), slice(0, 20))))
    assert tiler.halved == []


def test_tiles_read_ahead_are_the_same_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = _network((1, 1), "valid"), np.random.default_rng(4).random((2, 64, 64)).astype(np.float32)
    stats, whole = statistics(image, PLAIN), (slice(0, 64), slice(0, 64))
    tiler = TiledPredictor(network, DEVICE, (16, 16))
    one = list(tiler.tiles(image, stats, whole))
    monkeypatch.setattr(TiledPredictor, "reads_ahead", True)
    ahead = list(tiler.tiles(image, stats, whole))
    assert [(write, left) for write, _, left in ahead] == [(write, left) for write, _, left in one]
    assert all(np.array_equal(a, b) for (_, a, _), (_, b, _) in zip(one, ahead, strict=True))
    # Memory runs out in the middle: the tile read ahead is discarded, and each pixel is yielded exactly once.
    real, calls = TiledPredictor._compute, []

    def short(self: TiledPredictor, part: np.ndarray, tile: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return real(self, part, tile)  # type: ignore[arg-type]

    monkeypatch.setattr(TiledPredictor, "_compute", short)
    filled = np.full((3, 64, 64), np.nan, np.float32)
    for write, part, _ in tiler.tiles(image, stats, whole):
        assert np.isnan(filled[(slice(None), *write)]).all()
        filled[(slice(None), *write)] = part
    assert tiler.halved == [(8, 8)]
    expected = image_probabilities(network, image, device=DEVICE, normalization=PLAIN)
    assert np.abs(filled - expected).max() < 1e-5


def test_an_error_of_reading_ahead_is_raised_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn:
        shape = (2, 60, 70)

        def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
            if index[1].stop > 40:
                raise DataError("a torn file", "a whole one")
            return np.zeros([2, *(s.stop - s.start for s in index[1:])], np.float32)

    monkeypatch.setattr(TiledPredictor, "reads_ahead", True)
    stats = statistics(np.random.default_rng(4).random((2, 9, 9)).astype(np.float32), PLAIN)
    before = threading.active_count()
    with pytest.raises(DataError, match="torn"):
        list(
            TiledPredictor(_network((1, 1), "valid"), DEVICE, (16, 16)).tiles(
                Torn(), stats, (slice(0, 60), slice(0, 70))
            )
        )
    assert threading.active_count() == before
