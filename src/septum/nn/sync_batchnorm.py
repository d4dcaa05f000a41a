"""Batch normalization with the statistics of the tiles of all processes, on any device.

`torch.nn.SyncBatchNorm` works on GPUs only. Here two all-reduce operations compute the statistics, so that processes on
CPUs normalize with the batch that one process would have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _Normalize(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + eps)`` with mean and variance over all processes.

    Source of the gradient: Ioffe and Szegedy 2015 (arXiv 1502.03167), section 3, with sums over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [0, *range(2, x.ndim)]
        # Mean first, then the variance around it: the difference of two large sums would lose precision.
        sums = torch.cat([x.sum(axes), x.new_full((1,), x.numel() / x.shape[1])])  # no copy, which a GPU would wait for
        distributed.all_reduce(sums)
        count = sums[-1]
        mean = sums[:-1] / count
        centered = x - _along_channels(mean, x)
        squares = centered.square().sum(axes)
        distributed.all_reduce(squares)
        variance = squares / count
        scale = torch.rsqrt(variance + eps)
        normalized = centered.mul_(_along_channels(scale, x))
        ctx.save_for_backward(normalized, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalized, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        normalized, scale, count = ctx.saved_tensors
        gradient = gradients[0]
        axes = [0, *range(2, gradient.ndim)]
        sums = torch.stack([gradient.sum(axes), (gradient * normalized).sum(axes)])
        distributed.all_reduce(sums)
        offset, slope = sums / count
        inner = gradient - _along_channels(offset, gradient) - normalized * _along_channels(slope, gradient)
        return inner * _along_channels(scale, gradient), None


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values, one per channel, to broadcast over ``(B, C, *S)``."""
    return values.reshape(1, -1, *([1] * (like.ndim - 2)))


def _normalize_shared(norm: nn.BatchNorm2d | nn.BatchNorm3d, x: Tensor) -> Tensor:
    """Normalize over the tiles of all processes in float32, and update the running statistics as PyTorch does."""
    assert norm.momentum is not None and norm.running_mean is not None and norm.running_var is not None
    normalized, mean, variance, count = _Normalize.apply(x.float(), norm.eps)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), norm.momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    scaled: Tensor = normalized * _along_channels(norm.weight, x) + _along_channels(norm.bias, x)
    return scaled.to(x.dtype)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the tiles of all processes; identical to it in evaluation."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        """Normalize ``(B, C, Y, X)`` floats of any finite values to the same shape and dtype, unbounded."""
        return _normalize_shared(self, input) if self.training else super().forward(input)


class SyncBatchNorm3d(nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` over the tiles of all processes; identical to it in evaluation."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        """Normalize ``(B, C, Z, Y, X)`` floats of any finite values to the same shape and dtype, unbounded."""
        return _normalize_shared(self, input) if self.training else super().forward(input)


def synchronize_batchnorm(network: nn.Module) -> None:
    """Replace the batch normalization of a network by one over all processes, in place; names and values stay.

    Parameters
    ----------
    network
        Its `torch.nn.BatchNorm2d` and `torch.nn.BatchNorm3d` modules are replaced.
    """
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if type(module) in (nn.BatchNorm2d, nn.BatchNorm3d):
                assert isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)
                kind = SyncBatchNorm2d if isinstance(module, nn.BatchNorm2d) else SyncBatchNorm3d
                shared = kind(module.num_features, eps=module.eps, momentum=module.momentum)
                shared.weight, shared.bias = module.weight, module.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(shared, buffer, getattr(module, buffer))
                setattr(parent, name, shared)
