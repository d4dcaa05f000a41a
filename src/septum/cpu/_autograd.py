"""Layers of the engine for training: PyTorch modules and autograd functions around the compiled operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from septum.cpu import _ops as ops
from septum.cpu import _pixel_ops as pixels
from septum.cpu import _up_ops as up
from septum.cpu._ir import LANES
from septum.nn.unet import UNet, center_crop

_Norm = nn.BatchNorm2d | nn.BatchNorm3d


class Block(nn.Sequential):
    """Convolutions, each followed by (batch normalization and) ReLU; drop-out. In evaluation equal to its layers.

    Batch normalization over several processes stays its own module.
    """

    def forward(self, *sources: Tensor) -> Tensor:
        """Map features through the layers; gradients can be computed once, as activations are changed in place.

        Parameters
        ----------
        *sources
            One or two maps of equal sides whose features are concatenated, without a copy of them: ``(B, C, Y, X)
            float32``, features innermost, any finite values.

        Returns
        -------
        Tensor
            ``(B, F, Y, X)`` float32, channels last, any finite values.
        """
        if not (self.training and torch.is_grad_enabled()):
            (x,) = sources
            plain: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return plain
        layers = iter(self.children())
        for layer in layers:
            if not isinstance(layer, nn.Conv2d):
                sources = (layer(*sources),)
                continue
            conv, layer = layer, next(layers)
            norm = layer if isinstance(layer, nn.BatchNorm2d) else None
            leak = float(getattr(layer if norm is None else next(layers), "negative_slope", 0.0))
            if norm is None:
                x = rectified(_convolved(sources, conv, leak), leak)
            elif type(norm) is nn.BatchNorm2d:
                x = normalized(_convolved(sources, conv, 1.0), norm, leak)
            else:
                x = nn.functional.leaky_relu_(norm(_convolved(sources, conv, 1.0)), leak)
            sources = (x,)
        (x,) = sources
        return x


def _convolved(sources: tuple[Tensor, ...], conv: nn.Conv2d, leak: float) -> Tensor:
    """Compute a convolution and a leaky ReLU whose gradient is added separately; images need no gradient."""
    if conv.in_channels % LANES:
        (image,) = sources
        return image_convolved(image, conv.weight, conv.bias, margin=int(conv.padding[0]), leak=leak)
    made: Tensor = _Convolution.apply(conv.weight, conv.bias, int(conv.padding[0]), leak, *sources)  # type: ignore[no-untyped-call]
    return made


def image_convolved(image: Tensor, weight: Tensor, bias: Tensor | None, *, margin: int, leak: float) -> Tensor:
    """Compute a 3x3 convolution of an image, which has no gradient, and a leaky ReLU without that of the ReLU.

    Parameters
    ----------
    image
        ``(B, C, Y, X)`` float32, any finite values.
    weight, bias
        ``(O, C, 3, 3)`` and ``(O,)`` float32 weights.
    margin
        Pixels of zeros around the image.
    leak
        Slope below zero; `rectified` adds its gradient.

    Returns
    -------
    Tensor
        ``(B, O, Y + 2 margin - 2, X + 2 margin - 2)`` float32, channels last, any finite values.
    """
    made: Tensor = _ImageConvolution.apply(weight, bias, margin, leak, image)  # type: ignore[no-untyped-call]
    return made


def rectified(x: Tensor, leak: float) -> Tensor:
    """Add the gradient of a leaky ReLU that ``(B, C, Y, X)`` float32, any finite values, has passed already."""
    made: Tensor = _Rectified.apply(x, leak)  # type: ignore[no-untyped-call]
    return made


def normalized(x: Tensor, norm: _Norm, leak: float) -> Tensor:
    """Compute batch normalization and leaky ReLU: ``(B, C, Y, X)`` float32, any finite values; of the same shape."""
    made: Tensor = _Normalized.apply(x, norm.weight, norm.bias, norm, leak)  # type: ignore[no-untyped-call]
    return made


class _ImageConvolution(torch.autograd.Function):
    """3x3 convolution of an image with bias; the ReLU after it is a function of its own in the backward pass."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, margin: int, leak: float, x: Tensor) -> Tensor:
        image = nn.functional.pad(x.contiguous(), (margin,) * 4)
        ctx.save_for_backward(image)
        return ops.convolve_image(image, weight, bias=bias, leak=leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        assert not ctx.needs_input_grad[4]
        (image,) = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        bias = pixels.feature_sums(gradient) if ctx.needs_input_grad[1] else None
        return ops.image_weight_gradient(image, gradient), bias, None, None, None


class _Convolution(torch.autograd.Function):
    """3x3 convolution with bias; the ReLU after it is a function of its own in the backward pass."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, margin: int, leak: float, *sources: Tensor) -> Tensor:
        sources = tuple(map(ops.features_innermost, sources))
        ctx.save_for_backward(weight, *sources)
        ctx.margin = margin
        return ops.convolve(sources, weight, margin=margin, bias=bias, leak=leak)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, *sources = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        bias = pixels.feature_sums(gradient) if ctx.needs_input_grad[1] else None
        of_weight = ops.weight_gradient(sources, gradient, margin=ctx.margin)
        inner: list[Tensor | None] = [None] * len(sources)
        if any(ctx.needs_input_grad[4:]):
            whole = ops.convolve([gradient], weight, margin=2 - ctx.margin, backward=True)
            inner[:] = torch.split(whole, [x.shape[1] for x in sources], dim=1)
        return of_weight, bias, None, None, *inner


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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: _Norm, leak: float) -> Tensor:
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
    """`torch.nn.ConvTranspose2d` of side and stride 2; in evaluation computed by PyTorch."""

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
        return up.up_convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return up.up_input_gradient(gradients[0], weight), *up.up_weight_gradient(x, gradients[0])


class Head(nn.Conv2d):
    """1x1 convolution to planes of classes; in evaluation computed by PyTorch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        """Map ``(B, C, Y, X)`` to ``(B, K, Y, X)``, float32 of any finite values."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        made: Tensor = _Classified.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return made


class _Classified(torch.autograd.Function):
    """1x1 convolution to planes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = channels_last(x)
        ctx.save_for_backward(x, weight)
        return pixels.classify(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return pixels.classify_gradients(ctx.saved_tensors[0], gradients[0], ctx.saved_tensors[1])


class TrainedUNet(UNet):
    """A U-Net that pools, crops and concatenates without copies of maps; in evaluation equal to `UNet`."""

    def contract(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute the contracting path and the bottom; the skip connections are cropped already.

        Parameters
        ----------
        x
            ``(B, C, *tile)`` float32, normalized.

        Returns
        -------
        bottom, skips
            As of `UNet.contract`: ``(B, F, *S)`` float32, any finite values.
        """
        if not (self.training and torch.is_grad_enabled()):
            return super().contract(x)
        skips = []
        for block, sides in zip(self.down, self._joined_sides(x.shape[2:]), strict=True):
            skip, x = _Pooled.apply(block(x), sides)  # type: ignore[no-untyped-call]
            skips.append(skip)
        return self.bottom(x), skips

    def _joined_sides(self, tile: Sequence[int]) -> list[list[int]]:
        """Return the sides of the maps that are concatenated at each level, the finest first."""
        cut, levels, sides = 4 * (self.settings.padding == "valid"), len(self.down), list(tile)
        for _ in range(levels):
            sides = [(side - cut) // 2 for side in sides]
        joined: list[list[int]] = []
        for _ in range(levels):
            sides = [2 * (side - cut) for side in sides]
            joined.insert(0, sides)
        return joined

    def expand(self, x: Tensor, skip: Tensor, level: int) -> Tensor:
        """Compute one level of the expanding path.

        Parameters
        ----------
        x
            ``(B, F, *S)`` float32, any finite values: features of the level below.
        skip
            ``(B, F / 2, *S)`` float32, any finite values, from `contract`.
        level
            Index of the level, 0 for the finest.

        Returns
        -------
        Tensor
            ``(B, F / 2, *S)`` float32, any finite values: features of the level.
        """
        if not (self.training and torch.is_grad_enabled()):
            return super().expand(x, skip, level)
        merged: Tensor = self.merge[level](skip, self.up[level](x))
        return merged


class _Pooled(torch.autograd.Function):
    """The center of a map, and its maxima in windows of 2x2 pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return center_crop(x, sides), pixels.pool(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return pixels.pool_gradient(x, gradients[1], gradients[0]), None


def channels_last(x: Tensor) -> Tensor:
    """Return ``(B, C, Y, X)`` of any dtype and any values in channels-last format: the same shape, dtype and values."""
    return x.contiguous(memory_format=torch.channels_last)


def _running(norm: _Norm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the running mean and variance, as in prediction."""
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.numpy().astype(np.float64), norm.running_var.numpy().astype(np.float64)


def _follow(norm: _Norm, mean: NDArray[np.float64], variance: NDArray[np.float64], count: int) -> None:
    """Update the running statistics, as PyTorch does."""
    assert norm.momentum is not None and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.lerp_(torch.from_numpy(mean.astype(np.float32)), norm.momentum)
    unbiased = variance * (count / max(1, count - 1))
    norm.running_var.lerp_(torch.from_numpy(unbiased.astype(np.float32)), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
