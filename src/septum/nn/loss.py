"""What training makes small: the paper's pixel-wise weighted cross entropy, and the overlap of areas beside it."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = 255


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``sum over x of -w(x) log p_l(x)(x)`` and the number of annotated pixels.

    Source: Ronneberger et al. 2015, equation 1, with the sign that makes it an energy to minimize. The caller divides
    the sum by the number of annotated pixels of the whole batch (on all devices), so that neither tile size nor the
    share of annotated pixels changes the step.

    Parameters
    ----------
    logits
        ``(B, K, *S)``; computed in float32 whatever comes in.
    target
        ``(B, *S) uint8``, class indices; 255 is ignored.
    weight
        ``(B, *S) float32``, w(x) >= 0.

    Returns
    -------
    energy, annotated
        Two scalars, float32.
    """
    known = target != IGNORED
    negative_log_p = torch.nn.functional.cross_entropy(
        logits.float(), target.long(), reduction="none", ignore_index=IGNORED
    )
    return (negative_log_p * weight).sum(), known.sum().float()


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return how little the areas of prediction and truth overlap, summed over tiles.

    For each tile 1 minus the mean soft Dice coefficient ``(2 sum p y + 1) / (sum p + sum y + 1)`` of all classes but
    the background, times its annotated pixels: like the energy it is divided by the annotated pixels of the batch, and
    tiles are apart, so that it does not matter which device has which. The 1 keeps it defined where a class is not in a
    tile.

    Source: Milletari et al. 2016 (V-Net), section 3, with sums in place of squares (Drozdzal et al. 2016).

    Parameters
    ----------
    logits
        ``(B, K, *S)``; computed in float32 whatever comes in.
    target
        ``(B, *S) uint8``, class indices; 255 is ignored.

    Returns
    -------
    Tensor
        A scalar, float32, 0 (equal) to the number of annotated pixels.
    """
    known = target != IGNORED
    p = torch.softmax(logits.float(), dim=1)
    axes = tuple(range(1, target.ndim))
    overlaps = []
    for k in range(1, logits.shape[1]):
        predicted, true = p[:, k] * known, target == k
        overlaps.append((2 * (predicted * true).sum(axes) + 1) / (predicted.sum(axes) + true.sum(axes) + 1))
    return ((1 - torch.stack(overlaps).mean(0)) * known.sum(axes)).sum()
