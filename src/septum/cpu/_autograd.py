"""Layers of the engine for training: PyTorch modules and autograd functions around the compiled operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from septum.cpu import _ops as ops
from septum.cpu import _pixel_ops as pixels
from septum.cpu._ir import LANES


class Block(nn.Sequential):
    """Convolutions, each followed by (batch normalization and) ReLU; drop-out. In evaluation equal to its layers.

    Batch normalization over several processes stays its own module.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map features through the layers; gradients can be computed once, as activations are changed in place.

        Parameters
        ----------
        x
            ``(B, C, Y, X) float32``, channels last, any finite values.

        Returns
        -------
        Tensor
            ``(B, F, Y, X)`` float32, channels last, any finite values.
        """
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
    """Compute a convolution and a leaky ReLU whose gradient is added separately; images need no gradient."""
    kind = _Convolution if conv.in_channels % LANES == 0 else _ImageConvolution
    made: Tensor = kind.apply(x, conv.weight, conv.bias, int(conv.padding[0]), leak)  # type: ignore[no-untyped-call]
    return made


class _ImageConvolution(torch.autograd.Function):
    """3x3 convolution of an image with bias; the ReLU after it is a function of its own in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, margin: int, leak: float) -> Tensor:
        image = nn.functional.pad(x.contiguous(), (margin,) * 4)
        ctx.save_for_backward(image)
        return ops.convolve_image(image, weight, bias=bias, leak=leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        assert not ctx.needs_input_grad[0]
        (image,) = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        bias = pixels.feature_sums(gradient) if ctx.needs_input_grad[2] else None
        return None, ops.image_weight_gradient(image, gradient), bias, None, None


class _Convolution(torch.autograd.Function):
    """3x3 convolution with bias; the ReLU after it is a function of its own in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, margin: int, leak: float) -> Tensor:
        x = channels_last(x)
        ctx.save_for_backward(x, weight)
        ctx.margin = margin
        return ops.convolve(x, weight, margin=margin, bias=bias, leak=leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        bias = pixels.feature_sums(gradient) if ctx.needs_input_grad[2] else None
        of_weight = ops.weight_gradient(x, gradient, margin=ctx.margin)
        inner = (
            ops.convolve(gradient, weight, margin=2 - ctx.margin, backward=True) if ctx.needs_input_grad[0] else None
        )
        return inner, of_weight, bias, None, None


class _Rectified(torch.autograd.Function):
    """Gradient of a leaky ReLU that the convolution has already applied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leak: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.leak = leak
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return pixels.batchnorm_gradient(
            channels_last(gradients[0]), x, pixels.identity_table(x.shape[1]), ctx.leak
        ), None


class _Normalized(torch.autograd.Function):
    """Batch normalization and leaky ReLU; with the running statistics if the norm itself is in evaluation mode.

    Source of the gradient: Ioffe and Szegedy 2015 (arXiv 1502.03167), section 3.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, leak: float) -> Tensor:
        ctx.fixed = not norm.training
        if ctx.fixed:
            mean, variance = _running(norm)
        else:
            mean, variance = pixels.moments(x)
            _follow(norm, mean, variance, x.numel() // x.shape[1])
        ctx.scale, ctx.leak, ctx.table = 1 / np.sqrt(variance + norm.eps), leak, pixels.identity_table(x.shape[1])
        ctx.table[0] = weight.numpy() * ctx.scale
        ctx.table[1] = bias.numpy() - mean * ctx.table[0]
        ctx.table[2] = mean
        ctx.save_for_backward(x)
        return pixels.normalize(x, ctx.table, leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        gradient, count = channels_last(gradients[0]), x.numel() // x.shape[1]
        sums, products = pixels.gradient_sums(gradient, x, ctx.table, ctx.leak)
        if not ctx.fixed:  # the statistics depend on these pixels, and have a gradient
            ctx.table[3], ctx.table[4] = sums / count, products * ctx.scale**2 / count
        weight, bias = (torch.from_numpy(v.astype(np.float32)) for v in (products * ctx.scale, sums))
        return pixels.batchnorm_gradient(gradient, x, ctx.table, ctx.leak), weight, bias, None, None


class UpConvolution(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with a faster gradient of the bias."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002 - PyTorch's name
        """Map ``(B, C, Y, X)`` float32 of any finite values to twice the sides, likewise float32 and finite."""
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
        x, weight = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        sides = ([2, 2], [0, 0], [1, 1], True, [0, 0], 1)
        inner, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, *sides, [True, True, False]
        )
        return inner, of_weight, pixels.feature_sums(gradient)


def channels_last(x: Tensor) -> Tensor:
    """Return ``(B, C, Y, X)`` of any dtype and any values in channels-last format: the same shape, dtype and values."""
    return x.contiguous(memory_format=torch.channels_last)


def _running(norm: nn.BatchNorm2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the running mean and variance, as in prediction."""
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.numpy().astype(np.float64), norm.running_var.numpy().astype(np.float64)


def _follow(norm: nn.BatchNorm2d, mean: NDArray[np.float64], variance: NDArray[np.float64], count: int) -> None:
    """Update the running statistics, as PyTorch does."""
    assert norm.momentum is not None and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.lerp_(torch.from_numpy(mean.astype(np.float32)), norm.momentum)
    unbiased = variance * (count / max(1, count - 1))
    norm.running_var.lerp_(torch.from_numpy(unbiased.astype(np.float32)), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
