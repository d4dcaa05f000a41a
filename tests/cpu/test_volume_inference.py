"""The engine predicts padded volumes as PyTorch does, with the same bits for any number of threads."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
import torch
from torch import Tensor

from septum.cpu import _packed_weights as packed
from septum.cpu import _volume_layers as layers
from septum.cpu.inference import Engine, unsupported, weight_bytes, working_bytes
from septum.nn.unet import UNet, UNetSettings, for_prediction


def _network(**shape: Any) -> UNet:
    """Return a network with nontrivial biases and normalization."""
    network = UNet(UNetSettings(padding="same", **shape), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            tensor.uniform_(-0.3, 0.3, generator=generator)
            if name.endswith(("running_var", "weight")):
                tensor.add_(1)
    return for_prediction(network)


def _volume(channels: int, *sides: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, channels, *sides, generator=torch.Generator().manual_seed(2))


def _difference(network: UNet, engine: Engine, x: Tensor) -> float:
    """Return the largest difference of the engine's probabilities from those of the network in float64."""
    with torch.inference_mode():
        found = engine(x)
        assert not torch.equal(found, network(x)), "PyTorch computed"
        expected = network.double()(x.double()).softmax(1)
        network.float()
        return float((found.double().softmax(1) - expected).abs().max())


@pytest.mark.parametrize(
    ("depths", "sides", "shape"),
    [
        ((1, 1, 1), (6, 10, 14), {"width": 16}),
        ((1, 1, 1), (2, 2, 2), {"width": 16, "leak": 0.1}),
        ((2, 2, 2), (12, 8, 20), {"width": 8, "channels": 2, "batch_norm": True}),
        ((1, 2, 2), (4, 12, 20), {"width": 20, "classes": 5}),  # 1x3x3 at the finest level
        ((0, 2, 2), (3, 12, 20), {"width": 5, "channels": 3, "leak": 0.1}),  # a volume of an odd number of planes
        ((1, 3, 3), (2, 16, 8), {"width": 33}),
    ],
)
def test_probabilities_of_volumes_equal_those_of_the_network(
    depths: tuple[int, ...], sides: tuple[int, ...], shape: dict[str, Any]
) -> None:
    network = _network(depths=depths, **shape)
    channels = shape.get("channels", 1)
    assert _difference(network, Engine(network), _volume(channels, *sides, batch=2)) < 1e-4


@pytest.mark.parametrize("wide", [10**9, 0])  # filters transformed in advance, and for each block
def test_bits_of_volumes_depend_neither_on_threads_nor_on_columns(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "WIDE_BYTES", wide)
    network, x = _network(width=16, depths=(1, 2, 2)), _volume(1, 14, 20, 28)
    first = Engine(network, threads=1)(x)
    for threads, cache in ((2, 700_000), (3, 1), (1, 10_000_000)):
        monkeypatch.setattr(layers, "_CACHE_BYTES", cache)
        engine = Engine(network, threads=threads)
        assert torch.equal(engine(x), first) and torch.equal(engine(x), first), (threads, cache)
    assert _difference(network, engine, x) < 1e-4


def test_volumes_of_changing_sizes_are_independent() -> None:
    network = _network(width=8, depths=(1, 1, 1))
    engine = Engine(network, threads=2)
    volumes = [_volume(1, *sides) for sides in ((4, 12, 8), (10, 4, 6), (4, 12, 8), (2, 2, 2))]
    first = [engine(x) for x in volumes]
    for x, before in zip(reversed(volumes), reversed(first), strict=True):
        assert torch.equal(engine(x), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_volumes_with_nan_or_too_large_numbers_are_computed_by_pytorch(value: float) -> None:
    network, x = _network(width=8, depths=(1, 1, 1)), _volume(1, 8, 8, 12)
    x[0, 0, 4, 4, 6] = value
    with torch.inference_mode():
        torch.testing.assert_close(Engine(network)(x), network(x), equal_nan=True, rtol=0, atol=0)


def test_unsupported_volumes_are_named() -> None:
    cases = [
        ({"depths": (2, 2, 2)}, "3D networks without padding"),
        ({"depths": (1, 2, 3), "padding": "same"}, "unequal depths"),
        ({"depths": (3, 2, 2), "padding": "same"}, "unequal depths"),
    ]
    for shape, words in cases:
        settings = UNetSettings.model_validate({"width": 2} | shape)
        assert words in str(unsupported(settings))
        with pytest.raises(ValueError, match=words):
            Engine(for_prediction(UNet(settings)))
    assert unsupported(UNetSettings(depths=(0, 2, 2), padding="same")) is None


@pytest.mark.parametrize("shape", [{"width": 3, "depths": (2, 2, 2)}, {"width": 48, "depths": (1, 2, 2)}])
@pytest.mark.parametrize("wide", [10**9, 0])
def test_memory_of_volumes_is_within_the_stated_bytes(
    shape: dict[str, Any], wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "WIDE_BYTES", wide)
    settings = UNetSettings(padding="same", channels=2, **shape)
    sides = (16, 24, 40)
    network, x = for_prediction(UNet(settings)), torch.zeros(1, 2, *sides)
    Engine(network, threads=2)(x)  # compiles
    gc.collect()
    tracemalloc.start()  # counts allocations by numpy
    engine = Engine(network, threads=2)
    engine(x)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    working_bytes.cache_clear()  # of the other division
    weights, working = weight_bytes(settings), working_bytes(settings, sides, 2)
    assert weights < taken <= 1.1 * weights + working
    assert weights + working < 2 * taken + 4_000_000
