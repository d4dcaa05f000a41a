"""Disagreement between several predictions of an image: at each pixel, and the boxes that hold most of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, ...]

_LEAST = 1e-7  # smallest probability: the logarithm of 0 is infinite


def mutual_information(votes: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the disagreement at each pixel, and the uncertainty of the mean prediction.

    The disagreement is the mutual information between the class and the choice of one of the predictions: the entropy
    of their mean minus the mean of their entropies. It is 0 where all predictions are equal, also if all are one half;
    it is high where each prediction is sure of another class.

    Source: Houlsby, Huszár, Ghahramani and Lengyel 2011, "Bayesian active learning for classification and preference
    learning" (arXiv 1112.5745), equation 2, with the mean over an ensemble in place of the posterior.

    Parameters
    ----------
    votes
        ``(K, *S) float32`` probabilities each, with sum 1 over K; at least one. One is held in memory at a time.

    Returns
    -------
    information, entropy : ndarray
        ``(*S) float32`` in bits, 0..log2 K; the first is at most the second.
    """
    mean, each, count = np.zeros(0), np.zeros(0), 0
    for vote in votes:
        mean = vote.astype(np.float64) if count == 0 else mean + vote
        each = _entropy(vote) if count == 0 else each + _entropy(vote)
        count += 1
    assert count > 0
    entropy = _entropy(mean / count)
    information = np.clip(entropy - each / count, 0, None)
    return information.astype(np.float32), entropy.astype(np.float32)


def _entropy(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the entropy over the first axis in bits."""
    p = np.clip(probabilities.astype(np.float64), _LEAST, 1)
    return np.asarray(-(p * np.log2(p)).sum(axis=0))


def strongest_boxes(values: NDArray[np.float32], sides: Sequence[int], number: int) -> list[tuple[Region, float]]:
    """Return boxes of given sides with the highest means, the highest first; they do not overlap.

    Parameters
    ----------
    values
        ``(*S) float32``, non-negative.
    sides
        Sides of a box in pixels; those of the array where it is smaller.
    number
        Most boxes; fewer where no other box fits beside the ones before, or where all other values are 0.

    Returns
    -------
    list of (region, mean)
        Slices inside the array, and the mean of the values there.
    """
    box = [min(side, n) for side, n in zip(sides, values.shape, strict=True)]
    means = _box_means(values.astype(np.float64), box)
    boxes: list[tuple[Region, float]] = []
    while len(boxes) < number:
        place = np.unravel_index(int(np.argmax(means)), means.shape)
        mean = float(means[place])
        if not mean > 0:
            break
        boxes.append((tuple(slice(int(p), int(p) + b) for p, b in zip(place, box, strict=True)), mean))
        means[tuple(slice(max(0, int(p) - b + 1), int(p) + b) for p, b in zip(place, box, strict=True))] = -1
    return boxes


def _box_means(values: NDArray[np.float64], box: Sequence[int]) -> NDArray[np.float64]:
    """Compute the mean of the box that begins at each place where one fits, from running sums."""
    for axis, side in enumerate(box):
        sums = np.cumsum(np.concatenate([np.zeros_like(values.take([0], axis)), values], axis=axis), axis=axis)
        later, earlier = (sums.take(range(start, sums.shape[axis] - side + start), axis) for start in (side, 0))
        values = (later - earlier) / side
    return values
