"""Bootstrap intervals over images: how far would a score move with other images of the same kind.

Every score here is a function of sums over images. A bootstrap sample draws as many images as there are, with
replacement, so its sums are the images' rows weighted by how often each was drawn. Percentile intervals; source: Efron
and Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septum.seeding import generator

REPEATS = 1000
LEVEL = 0.95


def weights(strata: NDArray[np.int64], *, seed: int, repeats: int = REPEATS) -> NDArray[np.float64]:
    """Draw how often each image is in each bootstrap sample.

    Parameters
    ----------
    strata
        ``(n,)``: images of one number are drawn among themselves (the frames of a sequence).
    seed
        Seed of the run; the same seed, images and strata give the same draws, so two predictions of the same images
        can be compared pair by pair.
    repeats
        Bootstrap samples.

    Returns
    -------
    ``(repeats, n) float64``, whole numbers.
    """
    drawn = np.zeros((repeats, strata.size))
    for k, stratum in enumerate(np.unique(strata)):
        members = np.flatnonzero(strata == stratum)
        random = generator(seed, "bootstrap", k)
        drawn[:, members] = random.multinomial(members.size, np.full(members.size, 1 / members.size), size=repeats)
    return drawn


def resample(columns: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of each bootstrap sample.

    Parameters
    ----------
    columns
        ``(n, ...)``, one row per image, whose sums the score is a function of.
    drawn
        ``(repeats, n)`` from `weights`.

    Returns
    -------
    ``(repeats, ...)``.
    """
    return np.tensordot(drawn, columns, axes=1)


def interval(values: NDArray[np.float64], *, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of a score's bootstrap values, both NaN where none is defined.

    Parameters
    ----------
    values
        ``(repeats,)``; samples in which the score is not defined are NaN and left out.
    level
        Share of the samples inside.
    """
    defined = values[np.isfinite(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
