"""Training losses: pixel-weighted cross entropy (paper, eq. 1) and soft Dice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from septum.arrays.targets import IGNORE_INDEX


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``sum over x of -w(x) log p_l(x)(x)`` and the number of annotated pixels.

    Source: Ronneberger et al. 2015, equation 1, with the sign that makes it an energy to minimize. The caller divides
    the sum by the number of annotated pixels of the whole batch (on all devices), so that neither tile size nor the
    share of annotated pixels changes the step.

    Parameters
    ----------
    logits
        ``(B, K, *S)`` floats; computed in float32 whatever the dtype.
    target
        ``(B, *S) uint8``, class indices; 255 is ignored.
    weight
        ``(B, *S) float32``, w(x) >= 0.

    Returns
    -------
    energy, annotated
        Two scalars, float32, >= 0.
    """
    energy = cross_entropy(logits, class_weights(target, weight, logits.shape[1]))
    return energy, count_annotated(target)


def count_annotated(target: Tensor) -> Tensor:
    """Return the number of annotated pixels of ``(B, *S) uint8`` targets, 255 where ignored: a scalar, float32 >= 0."""
    return (target != IGNORE_INDEX).sum().float()


def class_weights(target: Tensor, weight: Tensor, classes: int) -> Tensor:
    """Return the weight of each class at each pixel: that of the pixel for its own class, 0 for all others.

    Parameters
    ----------
    target
        ``(B, *S) uint8``, class indices; 255 is ignored.
    weight
        ``(B, *S) float32``, >= 0.
    classes
        Number of classes.

    Returns
    -------
    Tensor
        ``(B, classes, *S) float32``, >= 0.
    """
    return torch.stack([weight * (target == k) for k in range(classes)], dim=1)


def cross_entropy(logits: Tensor, weights: Tensor) -> Tensor:
    """Compute ``-sum over pixels and classes of weight times log-probability``.

    Parameters
    ----------
    logits
        ``(B, K, *S)`` floats; computed in float32 whatever the dtype.
    weights
        ``(B, K, *S)`` float32, >= 0, from `class_weights`, or sums of these over the pixels of each cell.

    Returns
    -------
    Tensor
        A scalar, float32, >= 0.
    """
    return -(torch.log_softmax(logits.float(), dim=1) * weights).sum()


def sum_of_cells(values: Tensor, factors: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Sum the pixels of each cell of a coarser map that has the same center; pixels beyond the edges count as 0.

    Parameters
    ----------
    values
        ``(B, K, *S)`` floats, any finite values.
    factors
        Sides of a cell: powers of two.
    sides
        Sides of the coarser map, which covers all pixels.

    Returns
    -------
    Tensor
        ``(B, K, *sides)`` floats, any finite values.
    """
    margins = [(n * f - s) // 2 for n, f, s in zip(sides, factors, values.shape[2:], strict=True)]
    if any(margins):
        values = torch.nn.functional.pad(values, [margin for margin in reversed(margins) for _ in range(2)])
    for axis, factor in enumerate(factors, start=2):
        while factor > 1:
            even, odd = (values[(*[slice(None)] * axis, slice(first, None, 2))] for first in range(2))
            values, factor = even + odd, factor // 2
    return values


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the soft Dice loss, summed over tiles and weighted by annotated pixels.

    For each tile 1 minus the mean soft Dice coefficient ``(2 sum p y + 1) / (sum p + sum y + 1)`` of the classes in it
    but the background, times its annotated pixels: like the energy it is divided by the annotated pixels of the batch.
    Each tile is treated on its own, so that the result does not depend on how tiles are distributed over devices.

    A class that is not in a tile has no overlap to measure, and is left to the cross entropy; a tile with background
    only adds 0. The coefficient of such a class, ``1 / (sum p + 1)``, would rise steeply as the last of its probability
    vanishes, and rare classes, absent from most tiles, would never be predicted.

    Source: Milletari et al. 2016 (V-Net), section 3, with sums in place of squares (Drozdzal et al. 2016).

    Parameters
    ----------
    logits
        ``(B, K, *S)`` floats; computed in float32 whatever the dtype.
    target
        ``(B, *S) uint8``, class indices; 255 is ignored.

    Returns
    -------
    Tensor
        A scalar, float32, from 0 (equal) to the number of annotated pixels.
    """
    known = target != IGNORE_INDEX
    p = torch.softmax(logits.float(), dim=1)
    axes = tuple(range(1, target.ndim))
    losses, present = [], []
    for k in range(1, logits.shape[1]):
        predicted, true = p[:, k] * known, target == k
        area = true.sum(axes)
        losses.append(1 - (2 * (predicted * true).sum(axes) + 1) / (predicted.sum(axes) + area + 1))
        present.append(area > 0)
    there = torch.stack(present)
    mean = (torch.stack(losses) * there).sum(0) / there.sum(0).clamp(min=1)
    return (mean * known.sum(axes)).sum()
