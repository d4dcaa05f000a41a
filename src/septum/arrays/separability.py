"""How well the intensity of a single pixel tells classes apart: the recall of a look-up table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pixels taken of each class of an image, and intervals of the intensities of a channel.
_MOST_PIXELS, _INTERVALS = 4096, 128
# Added to each count, so that an intensity that no training pixel of a class has does not exclude the class.
_PRIOR_COUNT = 0.5


def sample_classes(
    image: NDArray[Any], mask: NDArray[np.integer[Any]], *, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sample the pixels of each class at regular distances.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, finite.
    mask
        ``(*S)`` integers: classes 0 .. `classes` - 1; other values are left out.
    classes
        Number of classes K.

    Returns
    -------
    intensities, labels
        ``(C, n)`` float64, the range of `image`, and ``(n,)`` int64 in 0 .. `classes` - 1; at most 4096 pixels a class.
    """
    flat = mask.reshape(-1)
    rows = [np.flatnonzero(flat == k) for k in range(classes)]
    kept = [row[np.linspace(0, len(row) - 1, min(_MOST_PIXELS, len(row))).round().astype(int)] for row in rows]
    places = np.concatenate(kept)
    return image.reshape(len(image), -1)[:, places].astype(np.float64), flat[places].astype(np.int64)


def intensity_recall(
    images: Sequence[NDArray[np.float64]],
    labels: Sequence[NDArray[np.int64]],
    *,
    classes: int,
    varied: Sequence[tuple[float, float]] = ((1.0, 0.0),),
) -> float:
    """Compute the recall of the classes, as their mean, if a pixel is classified by its intensity alone.

    Half of the images (of one image half of the pixels) fill the table of the other half, and conversely: for each
    channel a histogram of each class, over intervals that hold equal parts of the pixels with all classes weighted
    alike. A pixel gets the class with the largest product of the frequencies of its intensities.

    Parameters
    ----------
    images
        ``(C, n)`` float64 each, any finite range: sampled pixels of an image, see `sample_classes`.
    labels
        ``(n,)`` int64 each: their classes, 0 .. `classes` - 1.
    classes
        Number of classes K.
    varied
        Pairs (gain, offset). The table is filled with ``gain v + offset`` for each intensity v and each pair, as if the
        images varied by these.

    Returns
    -------
    float
        0 to 1; NaN if no class is in both halves.
    """
    values, truth = np.concatenate(images, axis=1), np.concatenate(labels)
    if len(images) > 1:
        half = np.concatenate([np.full(len(label), number % 2) for number, label in enumerate(labels)])
    else:
        half = np.arange(len(truth)) % 2
    found = []
    for side in (0, 1):
        known, judged = half == side, half != side
        filled = np.tile(truth[known], len(varied))
        likelihood = np.zeros((classes, int(judged.sum())))
        for channel in values:
            seen = np.concatenate([gain * channel[known] + offset for gain, offset in varied])
            likelihood += _log_frequencies(seen, filled, channel[judged], classes)
        likelihood[np.bincount(filled, minlength=classes) == 0] = -np.inf
        best = likelihood.argmax(axis=0)
        for k in np.intersect1d(filled, truth[judged]):
            found.append(float((best[truth[judged] == k] == k).mean()))
    return float(np.mean(found)) if found else float("nan")


def _log_frequencies(
    seen: NDArray[np.float64], labels: NDArray[np.int64], judged: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Return ``(K, n)``: the logarithm of the frequency of each judged intensity in the histogram of each class."""
    if not len(seen):
        return np.zeros((classes, len(judged)))
    order = np.argsort(seen)
    share = np.cumsum(1 / np.bincount(labels, minlength=classes)[labels[order]])
    inner = np.linspace(0, share[-1], _INTERVALS + 1)[1:-1]
    edges = np.unique(seen[order][np.searchsorted(share, inner).clip(max=len(seen) - 1)])
    counts = np.full((classes, len(edges) + 1), _PRIOR_COUNT)
    np.add.at(counts, (labels, np.searchsorted(edges, seen, side="right")), 1)
    frequencies = np.log(counts / counts.sum(axis=1, keepdims=True))
    chosen: NDArray[np.float64] = frequencies[:, np.searchsorted(edges, judged, side="right")]
    return chosen
