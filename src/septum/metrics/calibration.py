"""Calibration: of the pixels predicted with probability 0.8, are 80 % right.

Reliability curve and expected calibration error (ECE) over equal bins of confidence; source: Guo et al. 2017, equations
2 and 3. With one map the confidence is the probability of the foreground and "right" is foreground; with one map per
class it is the largest probability, and "right" means that this class is true.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


def columns(
    probability: NDArray[np.float32], truth: NDArray[Any], *, ignore: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return what one image adds to the reliability curve.

    Parameters
    ----------
    probability
        ``(K, *S) float32`` in [0, 1]. K = 1: of the foreground.
    truth
        ``(*S)``, class places 0 .. K-1 (K = 1: 0 background, 1 foreground); negative pixels do not count.
    ignore
        ``(*S)`` bool, true where a pixel does not count.

    Returns
    -------
    ``(BINS, 3) float64``: pixels, sum of their confidence, pixels that are right. Bin b holds confidences from
    b / BINS, the last one 1 as well.
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
    """Return the expected calibration error: the mean distance of confidence and share of right pixels.

    Parameters
    ----------
    totals
        ``(..., BINS, 3)``, sums of `columns`.

    Returns
    -------
    ``(...)`` in [0, 1], 0 is best; NaN without pixels.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(totals[..., 1] - totals[..., 2]).sum(axis=-1) / totals[..., 0].sum(axis=-1))
