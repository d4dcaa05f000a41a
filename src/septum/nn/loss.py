"""The energy of the paper: pixel-wise soft-max with weighted cross entropy."""

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
