"""Gradients of Winograd's convolutions equal those of PyTorch in float64, and repeat to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from septum.cpu import _ops as ops
from septum.cpu import _pixel_ops as pixels
from septum.cpu import _up_ops as up
from septum.cpu import training
from septum.cpu._autograd import Block
from septum.cpu._ir import LANES
from septum.cpu._volumes import VolumeBlock, VolumeHead, VolumeUpConvolution
from septum.cpu.training import for_training, step_threads, supports
from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.device import Device, find_device
from septum.nn.unet import UNet, UNetSettings, freeze_batchnorm
from septum.training.plan import OptimizerSettings
from septum.training.trainer import make_optimizer

WIDTH = LANES


@pytest.fixture
def device() -> Device:
    return find_device("cpu")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _innermost(*shape: int, seed: int = 0) -> Tensor:
    return _noise(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def _off(found: Tensor, expected: Tensor) -> float:
    """Return the relative error."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def _of_convolution(x: Tensor, weight: Tensor, margin: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the outputs, a gradient of them, and the gradients of inputs and weights, in float64."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    out = nn.functional.conv2d(x, weight, padding=margin)
    gradient = _noise(*out.shape, seed=9)
    out.backward(gradient.double())
    assert x.grad is not None and weight.grad is not None
    return out.detach(), gradient.contiguous(memory_format=torch.channels_last), x.grad, weight.grad


@pytest.mark.parametrize(
    ("inside", "outside", "sides", "margin"),
    [
        (1, 1, (30, 17), 0),
        (1, 2, (9, 50), 1),
        (3, 4, (13, 12), 1),
        (4, 3, (7, 9), 0),
        (5, 5, (3, 3), 0),
        (2, 1, (5, 4), 1),
    ],
)
def test_convolution_and_gradients_equal_float64(
    inside: int, outside: int, sides: tuple[int, int], margin: int
) -> None:
    x = _innermost(2, inside * WIDTH, *sides)
    weight = _innermost(outside * WIDTH, inside * WIDTH, 3, 3, seed=1)
    bias = _noise(outside * WIDTH, seed=2)
    out, gradient, of_input, of_weight = _of_convolution(x, weight, margin)
    assert _off(ops.convolve([x], weight, margin=margin, bias=bias), out + bias.view(1, -1, 1, 1)) < 2e-5
    assert _off(ops.convolve([gradient], weight, margin=2 - margin, backward=True), of_input) < 2e-5
    assert _off(ops.weight_gradient([x], gradient, margin=margin), of_weight) < 2e-5
    assert _off(pixels.feature_sums(gradient), gradient.double().sum((0, 2, 3))) < 1e-5
    leaky = ops.convolve([x], weight, margin=margin, leak=0.1)
    assert _off(leaky, nn.functional.leaky_relu(out, 0.1)) < 2e-5


def test_two_maps_are_one_convolution_of_their_features() -> None:
    maps = [_innermost(2, 2 * WIDTH, 9, 14)[:, :, 1:-1, 3:-3], _innermost(2, WIDTH, 7, 8, seed=1)]
    weight, joined = _innermost(WIDTH, 3 * WIDTH, 3, 3, seed=2), torch.cat(maps, 1)
    out, gradient, _, of_weight = _of_convolution(joined, weight, 1)
    assert _off(ops.convolve(maps, weight, margin=1), out) < 2e-5
    assert _off(ops.weight_gradient(maps, gradient, margin=1), of_weight) < 2e-5


@pytest.mark.parametrize(("inside", "outside", "sides"), [(2, 1, (9, 14)), (1, 3, (5, 1)), (6, 3, (40, 33))])
def test_up_convolution_and_gradients_equal_float64(inside: int, outside: int, sides: tuple[int, int]) -> None:
    x, weight = _innermost(2, inside * WIDTH, *sides), _innermost(inside * WIDTH, outside * WIDTH, 2, 2, seed=1)
    bias = _noise(outside * WIDTH, seed=2)
    exact = [one.double().requires_grad_() for one in (x, weight, bias)]
    out = nn.functional.conv_transpose2d(*exact, stride=2)
    # The gradient of one of two concatenated maps.
    gradient = _innermost(2, 2 * outside * WIDTH, *out.shape[2:], seed=3)[:, outside * WIDTH :]
    out.backward(gradient.double())
    found = [up.up_input_gradient(gradient, weight), *up.up_weight_gradient(x, gradient)]
    assert _off(up.up_convolve(x, weight, bias), out) < 2e-6
    assert all(_off(one, other.grad) < 2e-6 for one, other in zip(found, exact, strict=True) if other.grad is not None)


def test_pooling_and_its_gradient_equal_pytorch() -> None:
    x = _innermost(2, 2 * WIDTH, 12, 16).round(decimals=0).requires_grad_()  # many pixels of a window are equal
    center, pooled = x[:, :, 2:-2, 3:-3], nn.functional.max_pool2d(x, 2)
    of_center, of_pooled = _innermost(2, 4 * WIDTH, 8, 10)[:, : 2 * WIDTH], _innermost(*pooled.shape, seed=1)
    (expected,) = torch.autograd.grad((center, pooled), x, (of_center, of_pooled))
    assert torch.equal(pixels.pool(x.detach()), pooled)
    assert torch.equal(pixels.pool_gradient(x.detach(), of_pooled, of_center), expected)


@pytest.mark.parametrize("classes", [2, 5])
def test_head_and_gradients_equal_float64(classes: int) -> None:
    x, weight, bias = _innermost(2, 2 * WIDTH, 7, 11), _noise(classes, 2 * WIDTH, 1, 1, seed=1), _noise(classes)
    exact = [one.double().requires_grad_() for one in (x, weight, bias)]
    out = nn.functional.conv2d(*exact)
    gradient = _noise(*out.shape, seed=3)
    out.backward(gradient.double())
    assert _off(pixels.classify(x, weight, bias), out) < 2e-6
    for one, other in zip(pixels.classify_gradients(x, gradient, weight), exact, strict=True):
        assert other.grad is not None and _off(one, other.grad) < 2e-6


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)])
@pytest.mark.parametrize("inside", [1, 2 * WIDTH])
@pytest.mark.parametrize("normalized", [False, True])
def test_block_of_a_volume_and_its_gradients_equal_float64(
    kernel: tuple[int, ...], inside: int, normalized: bool
) -> None:
    layers: list[nn.Module] = [nn.Conv3d(inside, WIDTH, kernel, padding=tuple(k // 2 for k in kernel))]
    layers += [nn.BatchNorm3d(WIDTH)] if normalized else []
    layers.append(nn.LeakyReLU(0.5))
    expected = copy.deepcopy(nn.Sequential(*layers)).double()
    _equal_in_training(VolumeBlock(*layers), expected, _noise(2, inside, 5, 7, 9))


@pytest.mark.parametrize("window", [(2, 2, 2), (1, 2, 2)])
def test_up_convolution_of_a_volume_and_its_gradients_equal_float64(window: tuple[int, int, int]) -> None:
    layer = nn.ConvTranspose3d(2 * WIDTH, WIDTH, window, stride=window)
    expected = copy.deepcopy(layer).double()
    layer.__class__ = VolumeUpConvolution
    _equal_in_training(layer, expected, _noise(2, 2 * WIDTH, 3, 5, 4))


def test_head_of_a_volume_and_its_gradients_equal_float64() -> None:
    layer = nn.Conv3d(WIDTH, 3, 1)
    expected = copy.deepcopy(layer).double()
    layer.__class__ = VolumeHead
    _equal_in_training(layer, expected, _noise(2, WIDTH, 3, 5, 4))


def _equal_in_training(layer: nn.Module, expected: nn.Module, x: Tensor) -> None:
    """Compare outputs and gradients; an image (one channel) has none."""
    inputs = [x.contiguous(memory_format=torch.channels_last_3d), x.double()]
    for one in inputs:
        one.requires_grad_(x.shape[1] > 1)
    found, exact = layer.train()(inputs[0]), expected.train()(inputs[1])
    gradient = _noise(*found.shape, seed=7)
    found.backward(gradient)
    exact.backward(gradient.double())
    assert _off(found, exact) < 2e-5
    pairs = [(inputs[0], inputs[1]), *zip(layer.parameters(), expected.parameters(), strict=True)]
    for one, other in pairs:
        if other.grad is not None and other.grad.abs().max() > 1e-9:  # a bias before normalization has none
            assert one.grad is not None and _off(one.grad, other.grad) < 2e-5


@pytest.mark.parametrize(("ranges", "most"), [(8, 10**9), (3, 10**9), (1000, 10**9), (1000, 500_000)])
def test_weight_gradient_is_correct_for_any_division_of_the_tiles(
    monkeypatch: pytest.MonkeyPatch, ranges: int, most: int
) -> None:
    """Partial sums of ranges of tiles; all tiles at once; some tiles at a time."""
    x, weight = _innermost(1, 5 * WIDTH, 60, 34), _innermost(6 * WIDTH, 5 * WIDTH, 3, 3, seed=1)
    _, gradient, _, expected = _of_convolution(x, weight, 0)
    monkeypatch.setattr(ops, "WEIGHT_SUMS", ranges)
    monkeypatch.setattr(ops, "MOST_SUMS_BYTES", most)
    monkeypatch.setattr(ops, "MOST_TILES_BYTES", most)
    assert _off(ops.weight_gradient([x], gradient, margin=0), expected) < 2e-5


def test_wide_convolution_transforms_filters_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("septum.cpu._packed_weights.WIDE_BYTES", 0)
    x, weight = _innermost(1, 2 * WIDTH, 40, 50), _innermost(3 * WIDTH, 2 * WIDTH, 3, 3, seed=1)
    out, gradient, of_input, _ = _of_convolution(x, weight, 1)
    assert _off(ops.convolve([x], weight, margin=1), out) < 2e-5
    assert _off(ops.convolve([gradient], weight, margin=1, backward=True), of_input) < 2e-5


@pytest.mark.parametrize("channels", [1, 3])
def test_first_convolution_and_its_gradient_equal_float64(channels: int) -> None:
    image, weight = _noise(2, channels, 31, 18), _noise(3 * WIDTH, channels, 3, 3, seed=1)
    out, gradient, _, of_weight = _of_convolution(image, weight, 0)
    assert _off(ops.convolve_image(image, weight, bias=None, leak=1.0), out) < 1e-6
    assert _off(ops.image_weight_gradient(image, gradient), of_weight) < 1e-5


def _network(**shape: Any) -> UNet:
    network = UNet(UNetSettings(width=WIDTH, **shape), seed=3)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            if parameter.ndim == 1:
                parameter.add_(_noise(len(parameter), seed=number) / 5)
    return network.train()


def _stepped(network: UNet, x: Tensor) -> Tensor:
    """Return the output after taking gradients."""
    network.seed_dropout([5] * len(x), x.shape[2:])
    out: Tensor = network(x)
    out.backward(_noise(*out.shape, seed=4).to(out.dtype))
    return out


# If rounding decides which of two pixels is larger, or whether one is above zero, gradients take a different path.
@pytest.mark.parametrize("shape", [{}, {"batch_norm": True}, {"padding": "same", "channels": 3, "dropout": 0.3}])
def test_gradients_of_a_network_equal_float64(shape: dict[str, Any], device: Device) -> None:
    plain = _network(depths=(1, 1), leak=0.5, **shape)
    expected = copy.deepcopy(plain).double()
    side = 24 if plain.settings.padding == "same" else 44
    x = _noise(2, plain.settings.channels, side, side)
    fast, order = for_training(plain, device, bfloat16=False)
    assert order == torch.channels_last and isinstance(fast.bottom, Block)
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in expected.named_parameters()]
    assert _off(_stepped(fast, x.contiguous(memory_format=order)), _stepped(expected, x.double())) < 1e-4
    for (name, one), other in zip(fast.named_parameters(), expected.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert one.grad.stride() == one.stride(), name  # otherwise several processes warn
        if other.grad.abs().max() > 1e-9:  # a bias before normalization has none
            assert _off(one.grad, other.grad) < 5e-3, name
    for (name, one), other in zip(fast.named_buffers(), expected.buffers(), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_gradients_of_a_block_with_relu_equal_float64(norm: bool, leak: float) -> None:
    def layers(inside: int) -> list[nn.Module]:
        conv = nn.Conv2d(inside, WIDTH, 3, padding=1, bias=not norm)
        return [conv, *([nn.BatchNorm2d(WIDTH)] if norm else []), nn.LeakyReLU(leak) if leak else nn.ReLU(inplace=True)]

    torch.manual_seed(2)
    block = Block(*layers(2), *layers(WIDTH)).to(memory_format=torch.channels_last)
    expected = nn.Sequential(*copy.deepcopy(block).double().children())
    x = _noise(1, 2, 9, 6)
    for one, given in ((block, x), (expected, x.double())):
        out = one(given)
        out.backward(_noise(*out.shape, seed=4).to(out.dtype))
    assert _off(block(x), expected(x.double())) < 1e-4
    for one, other in zip(block.parameters(), expected.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and _off(one.grad, other.grad) < 1e-4


def test_frozen_normalization_and_its_gradients_equal_float64(device: Device) -> None:
    plain = _network(depths=(1, 1), leak=0.5, padding="same", batch_norm=True)
    for number, norm in enumerate(m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(_noise(len(norm.running_mean), seed=number))
        norm.running_var.copy_(1 + _noise(len(norm.running_var), seed=number) ** 2)
    freeze_batchnorm(plain)
    expected, before = copy.deepcopy(plain).double(), copy.deepcopy(dict(plain.named_buffers()))
    x = _noise(2, 1, 24, 24)
    fast, order = for_training(plain, device, bfloat16=False)
    found = _stepped(fast, x.contiguous(memory_format=order))
    assert _off(found, _stepped(expected, x.double())) < 1e-4
    assert _off(found, copy.deepcopy(expected).eval()(x.double())) < 1e-4  # each image is normalized as in prediction
    for (name, one), other in zip(fast.named_parameters(), expected.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert _off(one.grad, other.grad) < 5e-3, name
    assert all(torch.equal(b, before[name]) for name, b in fast.named_buffers())


def test_other_normalization_modules_are_called() -> None:
    class Halved(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
            return input / 2

    conv = nn.Conv2d(WIDTH, WIDTH, 3, bias=False)
    x = _innermost(1, WIDTH, 6, 7)
    found = Block(conv, Halved(WIDTH), nn.ReLU())(x)
    assert _off(found, nn.functional.conv2d(x.double(), conv.weight.double()).relu() / 2) < 1e-5


def test_evaluation_equals_that_of_the_plain_network(device: Device) -> None:
    plain = _network(depths=(1, 1), batch_norm=True)
    x = _noise(1, 1, 44, 44)
    with torch.inference_mode():
        expected = plain.eval()(x)
        fast, _ = for_training(copy.deepcopy(plain), device, bfloat16=False)
        assert torch.allclose(fast(x), expected, atol=1e-5)


def test_training_step_repeats_to_the_bit(device: Device) -> None:
    def step() -> list[Tensor]:
        fast, order = for_training(_network(depths=(2, 2), batch_norm=True), device, bfloat16=False)
        out = _stepped(fast, _noise(2, 1, 76, 76).contiguous(memory_format=order))
        return [out, *(p.grad for p in fast.parameters() if p.grad is not None)]

    first = step()
    # This changes the contents of scratch memory.
    ops.convolve([_innermost(1, 4 * WIDTH, 40, 40)], _noise(WIDTH, 4 * WIDTH, 3, 3), margin=1)
    assert len(first) == 37 and all(torch.equal(a, b) for a, b in zip(step(), first, strict=True))


@pytest.mark.parametrize("count", [2, 3])
def test_loops_are_bit_identical_for_any_number_of_threads(count: int, threads: None) -> None:
    x, weight = _innermost(2, 2 * WIDTH, 37, 50), _innermost(4 * WIDTH, 2 * WIDTH, 3, 3, seed=1)
    image, table = _noise(1, 1, 39, 52), pixels.identity_table(2 * WIDTH)

    def compute() -> list[Tensor]:
        gradient = ops.convolve([x], weight, margin=0)
        mean, variance = pixels.moments(x)
        moments = [torch.from_numpy(v) for v in (mean, variance, *pixels.gradient_sums(x, x, table, 0.1))]
        more = [
            pixels.normalize(x, table, 0.1),
            pixels.batchnorm_gradient(x, x, table, 0.1),
            ops.image_weight_gradient(image, x[:1]),
        ]
        return [
            gradient,
            ops.convolve([gradient], weight, margin=2, backward=True),
            ops.weight_gradient([x], gradient, margin=0),
            *moments,
            *more,
        ]

    torch.set_num_threads(1)
    expected = compute()
    torch.set_num_threads(count)
    assert all(torch.equal(a, b) for a, b in zip(compute(), expected, strict=True))


@pytest.mark.parametrize("shape", [{}, {"depths": (1, 2, 2), "padding": "same"}])
def test_a_training_step_is_bit_identical_for_any_number_of_threads(
    shape: dict[str, Any], device: Device, threads: None
) -> None:
    def train(count: int) -> list[Tensor]:
        torch.set_num_threads(count)
        network = UNet(UNetSettings(**{"width": WIDTH, "depths": (2, 2), "batch_norm": True, **shape}), seed=1).train()
        network, order = for_training(network, device, bfloat16=False)
        supervised = DeeplySupervised(network, 0.5, seed=2)
        optimizer = make_optimizer(supervised, OptimizerSettings())
        sides = network.geometry.input_for((40,) * len(network.settings.depths))
        output = network.geometry.output(sides)
        x = _noise(1, 1, *sides).contiguous(memory_format=order)
        y, w = (_noise(1, *output, seed=3) > 0).to(torch.uint8), _noise(1, *output, seed=4).abs()
        for _ in range(2):
            optimizer.zero_grad()
            with step_threads(network):
                assert torch.get_num_threads() == 1
                energy, annotated = supervised.loss(supervised(x), y, w, dice=1.0)
                torch.autograd.backward(energy / annotated)
                optimizer.step(1e-3)
        assert torch.get_num_threads() == count
        return [p.detach().clone() for p in supervised.parameters()]

    expected = train(1)
    for count in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(train(count), expected, strict=True))


def test_moments_are_precise_far_from_zero() -> None:
    x = _innermost(2, WIDTH, 40, 50) + 1000
    mean, variance = pixels.moments(x)
    np.testing.assert_allclose(mean, x.double().mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(variance, x.double().var((0, 2, 3), unbiased=False), rtol=1e-3)


@pytest.mark.parametrize(
    "shape",
    [
        {"width": WIDTH + 1},
        {"depths": (1, 2)},
        {"depths": (1, 1, 1)},
        {"depths": (2, 1, 1), "padding": "same"},
        {"depths": (1, 1, 2), "padding": "same"},
    ],
)
def test_unsupported_networks_train_with_pytorch(shape: dict[str, Any], device: Device) -> None:
    settings = UNetSettings(**{"width": WIDTH, "depths": (1, 1), **shape})
    network, order = for_training(UNet(settings), device, bfloat16=False)
    assert not supports(settings) and order == torch.contiguous_format and type(network.bottom) is nn.Sequential


def test_bfloat16_trains_with_pytorch(device: Device) -> None:
    network, order = for_training(UNet(UNetSettings(width=WIDTH, depths=(1, 1))), device, bfloat16=True)
    assert order == torch.channels_last and type(network.bottom) is nn.Sequential


@pytest.mark.parametrize("broken", ["raises", "is wrong"])
def test_pytorch_computes_if_the_loops_fail(monkeypatch: pytest.MonkeyPatch, broken: str, device: Device) -> None:
    def convolve(x: list[Tensor], *_: Any, **__: Any) -> Tensor:
        if broken == "raises":
            raise RuntimeError("no code for this processor")
        return torch.zeros(1, WIDTH, 4, 4)

    monkeypatch.setattr(ops, "convolve", convolve)
    training.vector_lanes.cache_clear()
    network, order = for_training(UNet(UNetSettings(width=WIDTH, depths=(1, 1))), device, bfloat16=False)
    training.vector_lanes.cache_clear()
    assert order == torch.contiguous_format and type(network.bottom) is nn.Sequential
