"""2D networks in training on processors in float32, nearly twice as fast as with PyTorch's layers.

Each 3x3 convolution, forward and backward, is Winograd's F(4x4, 3x3), and batch normalization with ReLU is one pass,
computed by loops like those of the prediction engine (`septum.cpu.inference`). Features lie innermost (channels-last).
Which code computes depends on the network's shape and the machine only, and what it gives on nothing but its inputs, so
that a training repeats to the last bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from septum.nn.device import Device
from septum.nn.unet import UNet, UNetSettings


def for_training(network: UNet, device: Device, *, bfloat16: bool) -> tuple[UNet, torch.memory_format]:
    """Return the network on a device, and the order in which its images should lie in memory.

    Parameters
    ----------
    network
        It is changed: its layers are exchanged for faster ones where there are such. Names and values stay.
    device
        Where it trains.
    bfloat16
        Whether it multiplies in bfloat16.

    Returns
    -------
    UNet
        The same network.
    torch.memory_format
        Features innermost or outermost.
    """
    order = device.memory_format(len(network.settings.depths), bfloat16)
    network = network.to(device.torch)
    if device.torch.type == "cpu" and not bfloat16 and supports(network.settings):
        order = torch.channels_last
        _exchange(network)
    placed: UNet = network.to(memory_format=order)  # type: ignore[call-overload]
    return placed, order


def supports(settings: UNetSettings) -> bool:
    """Say whether networks of this shape are computed here: 2D, of equal depths, in whole vectors of features."""
    flat = len(settings.depths) == 2 and settings.depths[0] == settings.depths[1]
    return flat and _lanes() > 0 and settings.width % _lanes() == 0


@cache
def _lanes() -> int:
    """Return how many values a vector has here, 0 if loops cannot be compiled or are not right."""
    try:
        from septum.cpu import _ops as t
        from septum.cpu._ir import LANES as lanes  # noqa: N811 - a number here

        x, weight = torch.linspace(-9, 9, 36 * lanes).sin(), torch.linspace(-7, 7, 9 * lanes**2).sin()
        x, weight = _innermost(x.view(1, lanes, 6, 6)), weight.view(lanes, lanes, 3, 3)
        out = nn.functional.conv2d(x, weight)
        given = (out, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])
        inner, of_weight, _ = torch.ops.aten.convolution_backward(*given)
        pairs = (
            (t.convolve(x, weight, margin=0), out),
            (t.convolve(_innermost(out), weight, margin=2, backward=True), inner),
            (t.weight_gradient(x, _innermost(out), margin=0), of_weight),
        )
        right = all(torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(b) for a, b in pairs)
    except Exception:  # of numba or LLVM, whatever it is: PyTorch can do without
        return 0
    return lanes if right else 0


def _exchange(network: UNet) -> None:
    for blocks in (network.down, network.merge):
        for number, block in enumerate(blocks):
            blocks[number] = Block(*block.children())
    network.bottom = Block(*network.bottom.children())
    for layer in network.up:
        layer.__class__ = _UpConvolution


class Block(nn.Sequential):
    """Convolutions, each followed by (batch normalization and) ReLU; drop-out; in evaluation the same as its layers.

    Batch normalization over several processes is left to its own module.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, Y, X) float32``, features innermost; gradients can be taken once."""
        if not (self.training and torch.is_grad_enabled()):
            plain: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return plain
        layers = iter(self.children())
        for layer in layers:
            if not isinstance(layer, nn.Conv2d):
                x = layer(x)
                continue
            conv, layer = layer, next(layers)
            norm = layer if isinstance(layer, nn.BatchNorm2d) else None
            leak = float(getattr(layer if norm is None else next(layers), "negative_slope", 0.0))
            if norm is None:
                x = _Rectified.apply(_convolved(x, conv, leak), leak)  # type: ignore[no-untyped-call]
            elif type(norm) is nn.BatchNorm2d:
                x = _Normalized.apply(_convolved(x, conv, 1.0), norm.weight, norm.bias, norm, leak)  # type: ignore[no-untyped-call]
            else:
                x = nn.functional.leaky_relu_(norm(_convolved(x, conv, 1.0)), leak)
        return x


def _convolved(x: Tensor, conv: nn.Conv2d, leak: float) -> Tensor:
    """Return leaky ReLU of a convolution of which the gradient does not know; images need no gradient."""
    kind = _Convolution if conv.in_channels % _lanes() == 0 else _ImageConvolution
    made: Tensor = kind.apply(x, conv.weight, conv.bias, int(conv.padding[0]), leak)  # type: ignore[no-untyped-call]
    return made


class _ImageConvolution(torch.autograd.Function):
    """3x3 convolution of an image with bias; ReLU after it has a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, margin: int, leak: float) -> Tensor:
        from septum.cpu import _ops as t

        image = nn.functional.pad(x.contiguous(), (margin,) * 4)
        ctx.save_for_backward(image)
        return t.convolve_image(image, weight, bias=bias, leak=leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from septum.cpu import _ops as t

        assert not ctx.needs_input_grad[0]
        (image,) = ctx.saved_tensors
        gradient = _innermost(gradients[0])
        bias = t.feature_sums(gradient) if ctx.needs_input_grad[2] else None
        return None, t.image_weight_gradient(image, gradient), bias, None, None


class _Convolution(torch.autograd.Function):
    """3x3 convolution with bias; ReLU after it has a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, margin: int, leak: float) -> Tensor:
        from septum.cpu import _ops as t

        x = _innermost(x)
        ctx.save_for_backward(x, weight)
        ctx.margin = margin
        return t.convolve(x, weight, margin=margin, bias=bias, leak=leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from septum.cpu import _ops as t

        x, weight = ctx.saved_tensors
        gradient = _innermost(gradients[0])
        bias = t.feature_sums(gradient) if ctx.needs_input_grad[2] else None
        of_weight = t.weight_gradient(x, gradient, margin=ctx.margin)
        inner = t.convolve(gradient, weight, margin=2 - ctx.margin, backward=True) if ctx.needs_input_grad[0] else None
        return inner, of_weight, bias, None, None


class _Rectified(torch.autograd.Function):
    """The gradient of a leaky ReLU that was applied before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leak: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.leak = leak
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        from septum.cpu import _ops as t

        (x,) = ctx.saved_tensors
        return t.batchnorm_gradient(_innermost(gradients[0]), x, t.identity_table(x.shape[1]), ctx.leak), None


class _Normalized(torch.autograd.Function):
    """Batch normalization and leaky ReLU; with the running statistics where the norm itself is in evaluation mode.

    Source of the gradient: Ioffe and Szegedy 2015 (arXiv 1502.03167), section 3.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, leak: float) -> Tensor:
        from septum.cpu import _ops as t

        ctx.fixed = not norm.training
        if ctx.fixed:
            mean, variance = _running(norm)
        else:
            mean, variance = t.moments(x)
            _follow(norm, mean, variance, x.numel() // x.shape[1])
        ctx.scale, ctx.leak, ctx.table = 1 / np.sqrt(variance + norm.eps), leak, t.identity_table(x.shape[1])
        ctx.table[0] = weight.numpy() * ctx.scale
        ctx.table[1] = bias.numpy() - mean * ctx.table[0]
        ctx.table[2] = mean
        ctx.save_for_backward(x)
        return t.normalize(x, ctx.table, leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from septum.cpu import _ops as t

        (x,) = ctx.saved_tensors
        gradient, count = _innermost(gradients[0]), x.numel() // x.shape[1]
        sums, products = t.gradient_sums(gradient, x, ctx.table, ctx.leak)
        if not ctx.fixed:  # the statistics are of these pixels, and have a gradient
            ctx.table[3], ctx.table[4] = sums / count, products * ctx.scale**2 / count
        weight, bias = (torch.from_numpy(v.astype(np.float32)) for v in (products * ctx.scale, sums))
        return t.batchnorm_gradient(gradient, x, ctx.table, ctx.leak), weight, bias, None, None


class _UpConvolution(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with a faster gradient of the bias."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002 - PyTorch's name
        """Map ``(B, C, Y, X)`` to twice the sides."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input, output_size)
        made: Tensor = _Enlarged.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return made


class _Enlarged(torch.autograd.Function):
    """Up-convolution of side and stride 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.conv_transpose2d(x, weight, bias, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        from septum.cpu import _ops as t

        x, weight = ctx.saved_tensors
        gradient = _innermost(gradients[0])
        sides = ([2, 2], [0, 0], [1, 1], True, [0, 0], 1)
        inner, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, *sides, [True, True, False]
        )
        return inner, of_weight, t.feature_sums(gradient)


def _innermost(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _running(norm: nn.BatchNorm2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance as they are in prediction."""
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.numpy().astype(np.float64), norm.running_var.numpy().astype(np.float64)


def _follow(norm: nn.BatchNorm2d, mean: NDArray[np.float64], variance: NDArray[np.float64], count: int) -> None:
    """Let the running statistics follow, as PyTorch does."""
    assert norm.momentum is not None and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.lerp_(torch.from_numpy(mean.astype(np.float32)), norm.momentum)
    unbiased = variance * (count / max(1, count - 1))
    norm.running_var.lerp_(torch.from_numpy(unbiased.astype(np.float32)), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
