"""Layers of the engine for training on volumes: 3D convolutions as 2D ones.

The planes of a volume are laid below each other in one tall image, with rows of zeros between them. A convolution of
side 3 along Z is then a 2D convolution of three windows of this image, each one plane further, with concatenated
features. Feature maps are ``(B, C, Z, Y, X) float32`` with features innermost, so that all layers that treat pixels or
rows alone (batch normalization, up-convolution within planes, 1x1x1 convolution) see them as ``(B, C, Z Y, X)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from septum.cpu import _ops as ops
from septum.cpu import _pixel_ops as pixels
from septum.cpu import _up_ops as up
from septum.cpu._autograd import image_convolved, normalized, rectified
from septum.cpu._ir import LANES
from septum.nn.unet import UNet


class VolumeUNet(UNet):
    """A U-Net for volumes whose layers the engine computes in training."""


class VolumeBlock(nn.Sequential):
    """Convolutions, each followed by (batch normalization and) ReLU; drop-out. In evaluation equal to its layers."""

    def forward(self, x: Tensor) -> Tensor:
        """Map features through the layers; gradients can be computed once, as activations are changed in place.

        Parameters
        ----------
        x
            ``(B, C, Z, Y, X) float32``, any finite values.

        Returns
        -------
        Tensor
            ``(B, F, Z, Y, X)`` float32, channels last, any finite values.
        """
        if not (self.training and torch.is_grad_enabled()):
            plain: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return plain
        layers = iter(self.children())
        for layer in layers:
            if not isinstance(layer, nn.Conv3d):
                x = layer(x)
                continue
            conv, layer = layer, next(layers)
            norm = layer if isinstance(layer, nn.BatchNorm3d) else None
            leak = float(getattr(layer if norm is None else next(layers), "negative_slope", 0.0))
            made = flat(_convolved(x, conv, 1.0 if norm else leak))
            if norm is None:
                made = rectified(made, leak)
            elif type(norm) is nn.BatchNorm3d:
                made = normalized(made, norm, leak)
            else:
                made = flat(nn.functional.leaky_relu_(norm(deep(made, x.shape[2])), leak))
            x = deep(made, x.shape[2])
        return x


def flat(x: Tensor) -> Tensor:
    """Return a volume as an image of its planes below each other.

    Parameters
    ----------
    x
        ``(B, C, Z, Y, X)``, any dtype, any values.

    Returns
    -------
    Tensor
        ``(B, C, Z Y, X)``, channels last, the same dtype, any values; a view if features are innermost.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    return x.permute(0, 2, 3, 4, 1).flatten(1, 2).permute(0, 3, 1, 2)


def deep(x: Tensor, planes: int) -> Tensor:
    """Undo `flat`.

    Parameters
    ----------
    x
        ``(B, C, Z Y, X)``, any dtype, any values.
    planes
        Number of planes Z.

    Returns
    -------
    Tensor
        ``(B, C, Z, Y, X)``, the same dtype, any values.
    """
    shape = (len(x), planes, -1, x.shape[3], x.shape[1])
    return x.permute(0, 2, 3, 1).reshape(shape).permute(0, 4, 1, 2, 3)


def _convolved(x: Tensor, conv: nn.Conv3d, leak: float) -> Tensor:
    """Compute a convolution and a leaky ReLU whose gradient is added separately; images need no gradient."""
    if conv.in_channels % LANES == 0:
        made: Tensor = _VolumeConvolution.apply(x, conv.weight, conv.bias, leak)  # type: ignore[no-untyped-call]
        return made
    depth = conv.kernel_size[0]
    stacked = torch.cat(_windows(_tall(x.detach(), depth // 2), depth), dim=1)
    out = image_convolved(stacked, _filters(conv.weight), conv.bias, margin=1, leak=leak)
    return _planes(out, *x.shape[2:4])


class _VolumeConvolution(torch.autograd.Function):
    """3x3x3 or 1x3x3 convolution with bias and a margin of zeros; the ReLU after it has its own backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, leak: float) -> Tensor:
        depth = weight.shape[2]
        ctx.save_for_backward(weight, x)  # the tall image is larger, and is made again
        out = ops.convolve(_windows(_tall(x, depth // 2), depth), _filters(weight), margin=1, bias=bias, leak=leak)
        return _planes(out, *x.shape[2:4]).contiguous(memory_format=torch.channels_last_3d)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        (gradient,), depth = gradients, weight.shape[2]
        bias = pixels.feature_sums(flat(gradient)) if ctx.needs_input_grad[2] else None
        slopes = _windows(_tall(gradient, depth // 2), depth)
        of_filters = ops.weight_gradient(_windows(_tall(x, depth // 2), depth), slopes[depth // 2], margin=1)
        of_weight = of_filters.reshape(len(weight), depth, -1, 3, 3).transpose(1, 2)
        turned = weight.flip(2).permute(2, 0, 1, 3, 4).flatten(0, 1)
        inner = ops.convolve(slopes, turned, margin=1, backward=True)
        volume = _planes(inner, *gradient.shape[2:4]).contiguous(memory_format=torch.channels_last_3d)
        return volume, of_weight.contiguous(memory_format=torch.channels_last_3d), bias, None


def _filters(weight: Tensor) -> Tensor:
    """Return filters ``(O, C, D, 3, 3)`` as those of D concatenated planes, ``(O, D C, 3, 3)``."""
    return weight.transpose(1, 2).flatten(1, 2)


def _tall(x: Tensor, halo: int) -> Tensor:
    """Lay the planes of ``(B, C, Z, Y, X)`` below each other, with `halo` empty planes above and below them.

    Returns
    -------
    Tensor
        ``(B, C, Z + 2 halo, P, X)``, channels last: Y rows of a plane, then at least one of zeros; P is a multiple of
        the four rows of a tile.
    """
    batch, features, planes, height, width = x.shape
    shape = (batch, features, planes + 2 * halo, -(-(height + 1) // 4) * 4, width)
    tall = torch.empty(shape, memory_format=torch.channels_last_3d)
    tall[:, :, :halo] = 0
    tall[:, :, halo + planes :] = 0
    tall[:, :, halo : halo + planes, height:] = 0
    tall[:, :, halo : halo + planes, :height] = x
    return tall


def _windows(tall: Tensor, depth: int) -> list[Tensor]:
    """Return the windows of a tall image, each one plane below the one before, as ``(B, C, Z P, X)``."""
    count = tall.shape[2] - depth + 1
    rows, pitch = flat(tall), tall.shape[3]
    return [rows[:, :, first * pitch : (first + count) * pitch] for first in range(depth)]


def _planes(rows: Tensor, planes: int, height: int) -> Tensor:
    """Return the volume ``(B, C, Z, Y, X)`` of an image of planes below each other, without the rows between them."""
    return deep(rows, planes)[:, :, :, :height]


class VolumeUpConvolution(nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` of sides and strides (1 or 2, 2, 2); in evaluation computed by PyTorch."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002 - PyTorch's name
        """Map ``(B, C, Z, Y, X)`` float32 of any finite values to larger sides, likewise float32 and finite."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input, output_size)
        made: Tensor = _Enlarged.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return made


class _Enlarged(torch.autograd.Function):
    """Up-convolution: each plane gives one or two planes, by an up-convolution of its own for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = flat(x)
        made = [deep(up.up_convolve(rows, one, bias), x.shape[2]) for one in weight.unbind(2)]
        return torch.stack(made, dim=3).flatten(2, 3).contiguous(memory_format=torch.channels_last_3d)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        rows, depth = flat(x), weight.shape[2]
        slopes = [flat(gradients[0][:, :, first::depth]) for first in range(depth)]
        inner = [up.up_input_gradient(slope, one) for slope, one in zip(slopes, weight.unbind(2), strict=True)]
        weights, biases = zip(*(up.up_weight_gradient(rows, slope) for slope in slopes), strict=True)
        of_weight = torch.stack(weights, dim=2).contiguous(memory_format=torch.channels_last_3d)
        return deep(torch.stack(inner).sum(0), x.shape[2]), of_weight, torch.stack(biases).sum(0)


class VolumeHead(nn.Conv3d):
    """1x1x1 convolution to volumes of classes; in evaluation computed by PyTorch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        """Map ``(B, C, Z, Y, X)`` to ``(B, K, Z, Y, X)``, float32 of any finite values."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        made: Tensor = _Classified.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return made


class _Classified(torch.autograd.Function):
    """1x1x1 convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(flat(x), weight)
        made = pixels.classify(flat(x), weight.squeeze(2), bias)
        return made.reshape(len(x), -1, *x.shape[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        rows, weight = ctx.saved_tensors
        (gradient,) = gradients
        inner, of_weight, of_bias = pixels.classify_gradients(rows, gradient.flatten(2, 3), weight.squeeze(2))
        of_weight = of_weight.unsqueeze(2).contiguous(memory_format=torch.channels_last_3d)
        return deep(inner, gradient.shape[2]), of_weight, of_bias
