"""The engine equals PyTorch for any shape of network, any tile, any number of threads, in any process.

Probabilities are compared with those of the network in float64, unless the network in float32 computed them: large
logits have rounding errors in PyTorch too.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from septum.cpu.inference import Engine, unsupported, weight_bytes, working_bytes
from septum.nn.unet import UNet, UNetSettings, for_prediction


def _network(seed: int = 1, gain: float = 1.0, **shape: Any) -> UNet:
    """Return a network with nontrivial biases and normalization; normalized values are multiplied by the gain."""
    network = UNet(UNetSettings(**shape), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            tensor.uniform_(-0.3, 0.3, generator=generator)
            if name.endswith(("running_var", "weight")):
                tensor.add_(1)
            if name.endswith("weight"):
                tensor.mul_(gain)
    return for_prediction(network)


def _image(channels: int, *sides: int, seed: int = 2, batch: int = 1) -> Tensor:
    return torch.randn(batch, channels, *sides, generator=torch.Generator().manual_seed(seed))


def _difference(network: UNet, engine: Engine, x: Tensor) -> float:
    """Return the largest difference of the engine's probabilities from those of the network in float64."""
    with torch.inference_mode():
        found = engine(x)
        expected = network.double()(x.double())
        network.float()
        assert found.shape == expected.shape and found.dtype == torch.float32
        if torch.equal(found, network(x)):
            return 0.0
        return float((found.double().softmax(1) - expected.softmax(1)).abs().max())


def _difference_from_pytorch(network: UNet, engine: Engine, x: Tensor) -> float:
    """Return the largest difference of probabilities between the engine and PyTorch, both in float32."""
    with torch.inference_mode():
        return float((engine(x).softmax(1) - network(x).softmax(1)).abs().max())


@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(2, 5),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(["valid", "same"]),
    st.integers(1, 4),
    st.booleans(),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_engine_equals_the_network(
    width: int,
    channels: int,
    classes: int,
    leak: float,
    padding: str,
    depth: int,
    batch_norm: bool,
    wanted: tuple[int, int],
    threads: int,
) -> None:
    width = min(width, 120 >> depth)  # PyTorch is slow in float64
    network = _network(
        width=width,
        channels=channels,
        classes=classes,
        leak=leak,
        padding=padding,
        depths=(depth, depth),
        batch_norm=batch_norm,
    )
    sides = network.geometry.input_for(wanted)
    assert _difference(network, Engine(network, threads=threads), _image(channels, *sides)) < 1e-4


@pytest.mark.parametrize("gain", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_engine_equals_the_network_if_values_grow_from_layer_to_layer(gain: float, classes: int) -> None:
    """Without the check of rounding the engine was off by up to 3e-4 at a gain of 1, and 0.2 at a gain of 2."""
    shape = {"width": 3, "channels": 4, "classes": classes, "padding": "same", "leak": 0.1, "batch_norm": True}
    network = _network(gain=gain, **shape)
    engine = Engine(network, threads=1)
    assert not engine.rounding.accurate and engine.rounding.difference > 1e-4
    for wanted in ((1, 1), (17, 33), (40, 40)):
        x = _image(4, *network.geometry.input_for(wanted))
        assert _difference_from_pytorch(network, engine, x) < 1e-4


@given(st.integers(0, 10**6), st.floats(0.3, 2.0), st.integers(1, 4), st.floats(0.01, 100.0), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_probabilities_equal_pytorch_at_any_gain(
    seed: int, gain: float, depth: int, contrast: float, smooth: int
) -> None:
    network = _network(seed, gain, width=4, depths=(depth, depth), padding="same", classes=3, batch_norm=True)
    x = contrast * nn.functional.avg_pool2d(_image(1, *network.geometry.input_for((40, 40)), seed=seed), smooth, 1)
    x = nn.functional.pad(x, (0, smooth - 1, 0, smooth - 1), mode="reflect")
    assert _difference_from_pytorch(network, Engine(network), x) < 1e-4


def test_images_with_too_large_logits_are_computed_by_pytorch_one_by_one() -> None:
    network = _network(width=8, depths=(2, 2))
    engine = Engine(network)
    assert engine.rounding.accurate
    x = _image(1, 76, 60, batch=3)
    x[1] *= 1e4
    with torch.inference_mode():
        found = engine(x)
        assert torch.equal(found[1:2], network(x[1:2]))
        for i in (0, 2):
            alone = engine(x[i : i + 1])
            assert torch.equal(found[i : i + 1], alone) and not torch.equal(alone, network(x[i : i + 1]))


@pytest.mark.parametrize("width", range(1, 41))
def test_engine_equals_the_network_at_every_width(width: int) -> None:
    padding = ("valid", "same")[width % 2]
    network = _network(width=width, depths=(1, 1), padding=padding, leak=0.1 * (width % 3 == 0))
    engine = Engine(network)
    for wanted in ((1, 1), (30, 17)):
        assert _difference(network, engine, _image(1, *network.geometry.input_for(wanted))) < 1e-4


def test_paper_network_is_within_tolerance() -> None:
    network = _network(width=64)
    assert _difference(network, Engine(network), _image(1, 188, 188)) < 1e-4


def test_tiles_of_changing_sizes_and_batches_are_independent() -> None:
    network = _network(width=6, depths=(2, 2), padding="same")
    engine = Engine(network, threads=2)
    images = [_image(1, *sides, seed=i, batch=b) for i, (sides, b) in enumerate([((40, 64), 1), ((120, 8), 3)])]
    images = [*images, torch.full((1, 1, 40, 64), 9.0), *images]
    with torch.inference_mode():
        for x in images:
            torch.testing.assert_close(engine(x), network(x), rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_threads_or_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    from septum.cpu import _packed_weights as packed
    from septum.cpu import inference as module

    for padding in ("valid", "same"):
        network = _network(width=20, depths=(2, 2), padding=padding)
        x = _image(1, *network.geometry.input_for((90, 41)))
        for wide in (10**9, 0):  # filters transformed in advance, and for each block
            with monkeypatch.context() as changed:
                changed.setattr(packed, "WIDE_BYTES", wide)
                first = Engine(network, threads=1)(x)
                for threads, pixels in ((2, 8_000), (5, 100), (1, 1)):
                    changed.setattr(module, "BAND_PIXELS", pixels)
                    engine = Engine(network, threads=threads)
                    for _ in range(3):
                        assert torch.equal(engine(x), first), (padding, wide, threads, pixels)
            assert _difference(network, engine, x) < 1e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_nan_and_infinity_spread_as_in_pytorch(value: float, padding: str) -> None:
    network = _network(width=4, depths=(2, 2), padding=padding)
    x = _image(1, 76, 92)
    x[0, 0, 30, 40] = value
    with torch.inference_mode():
        expected = network(x)
        torch.testing.assert_close(Engine(network)(x), expected, equal_nan=True, rtol=1e-4, atol=1e-4)
    assert value == 3e38 or not torch.isfinite(expected).all()


def test_tile_of_wrong_size_is_refused() -> None:
    engine = Engine(_network(width=2, depths=(2, 2)))
    with pytest.raises(ValueError, match="side 45 does not fit depth 2"):
        engine(torch.zeros(1, 1, 44, 45))
    assert engine(torch.zeros(1, 1, 44, 44)).shape == (1, 2, 4, 4)


def test_unsupported_networks_are_named() -> None:
    assert unsupported(UNetSettings()) is None
    shape = UNetSettings(width=2, depths=(2, 3))
    assert "unequal depths" in str(unsupported(shape))
    with pytest.raises(ValueError, match="unequal depths"):
        Engine(for_prediction(UNet(shape)))


_OTHER_PROCESSOR = """
import sys, torch
import llvmlite.binding as llvm
features = llvm.FeatureMap({"4": {}, "8": {"avx2": True, "fma": True}}[sys.argv[1]])
llvm.get_host_cpu_features = lambda: features
from septum.cpu.inference import Engine
from septum.cpu._ir import LANES
from septum.nn.unet import UNet, UNetSettings, for_prediction
assert LANES == int(sys.argv[1])
network = for_prediction(UNet(UNetSettings(width=9, depths=(2, 2), padding=sys.argv[2])))
x = torch.randn(1, 1, 76, 60, generator=torch.Generator().manual_seed(1))
torch.testing.assert_close(Engine(network)(x), network(x).detach(), rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow  # compiles all loops
@pytest.mark.parametrize(("lanes", "padding"), [("4", "valid"), ("8", "same")])
def test_engine_computes_with_vectors_of_other_processors(lanes: str, padding: str, tmp_path: Any) -> None:
    # Code compiled for such vectors must not enter the usual cache: it is stored elsewhere.
    changed = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    if lanes == "4":
        changed |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-c", _OTHER_PROCESSOR, lanes, padding]
    done = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tile_allocates_little_beside_its_result() -> None:
    network = _network(width=8, depths=(2, 2))
    engine = Engine(network, threads=2)
    x = _image(1, 252, 252)
    for _ in range(2):
        engine(x)
    gc.collect()
    tracemalloc.start()  # counts allocations by numpy
    engine(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(("width", "padding"), [(3, "same"), (20, "valid"), (48, "same")])
def test_memory_is_within_the_stated_bytes(width: int, padding: str) -> None:
    shape = UNetSettings(width=width, padding=padding, depths=(3, 3), channels=2)
    sides = shape.geometry.input_for((60, 200))
    network = for_prediction(UNet(shape))
    x = torch.zeros(1, 2, *sides)
    Engine(network, threads=2)(x)  # compiles
    gc.collect()
    tracemalloc.start()  # counts allocations by numpy
    engine = Engine(network, threads=2)
    engine(x)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    weights, working = weight_bytes(shape), working_bytes(shape, sides, 2)
    assert weights < taken <= 1.1 * weights + working  # weights of other layers are a tenth at most
    assert weights + working < 2 * taken + 4_000_000
