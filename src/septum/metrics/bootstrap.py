"""Bootstrap intervals over images: how far a score would move with other images of the same kind.

Every score of the package is a function of sums over images. A bootstrap sample draws as many images as there are, with
replacement, so its sums are the rows of the images weighted by how often each image was drawn. Where whole groups of
images are drawn, a row is the sum of a group. Percentile intervals; source: Efron and Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.seeding import generator

REPEATS = 1000
LEVEL = 0.95


def weights(number: int, *, seed: int, repeats: int = REPEATS) -> NDArray[np.float64]:
    """Draw how often each image occurs in each bootstrap sample.

    Parameters
    ----------
    number
        Number of images, or of whole groups of images.
    seed
        Seed of the run. Equal seeds and numbers give equal draws, so that two predictions of the same images are
        compared draw by draw.
    repeats
        Number of bootstrap samples.

    Returns
    -------
    ndarray
        ``(repeats, number) float64`` counts, 0 to `number`.
    """
    random = generator(seed, "bootstrap", 0)
    return random.multinomial(number, np.full(number, 1 / number), size=repeats).astype(np.float64)


def resample(columns: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the sums of each bootstrap sample.

    Parameters
    ----------
    columns
        ``(n, ...) float64``, one row per image or group, any finite values.
    drawn
        ``(repeats, n) float64`` counts from `weights`.

    Returns
    -------
    ndarray
        ``(repeats, ...) float64``, unbounded sums.
    """
    return np.tensordot(drawn, columns, axes=1)


def interval(values: NDArray[np.float64], *, level: float = LEVEL) -> tuple[float, float]:
    """Compute the percentile interval of the bootstrap values of a score; both ends are NaN where none is defined.

    Parameters
    ----------
    values
        ``(repeats,) float64`` scores; samples in which the score is not defined are NaN and left out.
    level
        Share of the samples inside the interval, 0..1.
    """
    defined = values[np.isfinite(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
