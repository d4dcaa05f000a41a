"""Calibration: whether 80 % of the pixels predicted with probability 0.8 are right.

Reliability curve and expected calibration error (ECE) over equal bins of confidence; source: Guo et al. 2017, equations
2 and 3. With one map the confidence is the probability of the foreground, and a pixel is right if it is foreground;
with one map per class it is the largest probability, and a pixel is right if that class is the true one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


def columns(
    probability: NDArray[np.float32], truth: NDArray[Any], *, ignore: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Compute what one image adds to the reliability curve.

    Parameters
    ----------
    probability
        ``(K, *S) float32`` in [0, 1]. With K = 1 it is the probability of the foreground.
    truth
        ``(*S)`` of any integer type: class indices 0..K-1 (K = 1: 0 background, 1 foreground); negative pixels do not
        count.
    ignore
        ``(*S)`` bool, True where a pixel does not count.

    Returns
    -------
    ndarray
        ``(BINS, 3) float64``, non-negative: number of pixels, sum of their confidence, number of right pixels. Bin b
        holds confidences from b / BINS; the last bin also holds 1.
    """
    if len(probability) == 1:
        confidence, right = probability[0], truth > 0
    else:
        confidence, right = probability.max(axis=0), probability.argmax(axis=0) == truth
    counted = truth >= 0
    if ignore is not None:
        counted &= ~ignore
    sure = confidence[counted].astype(np.float64)
    place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    hit = right[counted].astype(np.float64)
    return np.stack([np.bincount(place, w, BINS) for w in (np.ones_like(sure), sure, hit)], axis=1).astype(np.float64)


def finish(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the expected calibration error: the mean distance between confidence and share of right pixels.

    Parameters
    ----------
    totals
        ``(..., BINS, 3) float64``, non-negative sums of `columns`.

    Returns
    -------
    ndarray
        ``(...) float64`` in [0, 1], 0 is best; NaN without pixels.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(totals[..., 1] - totals[..., 2]).sum(axis=-1) / totals[..., 0].sum(axis=-1))
