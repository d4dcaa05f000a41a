"""Learning curves: how a score grows with the number of training images, as an inverse power law.

s(n) = a - b n^-c: a the score that endless images would give, c how fast it is approached. Source: Figueroa,
Zeng-Treitler, Kandula and Ngo 2012, "Predicting sample size required for classification performance", BMC Medical
Informatics and Decision Making 12:8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Exponents that are tried. Deep networks on images show 0.1 to 1; beyond 2 the curve has ended after the first points.
_EXPONENTS = np.geomspace(0.1, 2.0, 60)


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Fitted curves.

    Attributes
    ----------
    a, b, c
        ``(repeats,) float64`` each; `b` is negative where scores fall with more images.
    """

    a: Array
    b: Array
    c: Array

    def at(self, images: Array) -> Array:
        """Return the scores at ``(k,)`` numbers of images: ``(repeats, k)``, not cut to 0..1."""
        return np.asarray(self.a[:, None] - self.b[:, None] * images[None] ** -self.c[:, None])


def fit_power_law(images: Array, scores: Array, weights: Array | None = None) -> PowerLaw:
    """Fit s(n) = a - b n^-c by weighted least squares.

    For a given exponent the law is a straight line in n^-c, fitted exactly; of 60 exponents from 0.1 to 2 the one with
    the smallest sum of squares is taken.

    Parameters
    ----------
    images
        ``(m,)``, numbers of training images, above 0, at least three different ones.
    scores
        ``(repeats, m)``, finite.
    weights
        ``(repeats, m)``, above 0; equal where not given.
    """
    w = np.ones_like(scores) if weights is None else weights
    w = w / w.sum(axis=1, keepdims=True)
    middle = (w * scores).sum(axis=1)
    best = np.full(len(scores), np.inf)
    a, b, c = (np.zeros(len(scores)) for _ in range(3))
    for exponent in _EXPONENTS:
        x = images**-exponent
        center = w @ x
        spread = (w * (x - center[:, None]) ** 2).sum(axis=1)
        slope = (w * (x - center[:, None]) * (scores - middle[:, None])).sum(axis=1) / spread
        level = middle - slope * center
        error = (w * (scores - level[:, None] - slope[:, None] * x) ** 2).sum(axis=1)
        # Of equals, as where all scores are the same, the first: rounding decides nothing.
        better = error < best - 1e-15
        best = np.where(better, error, best)
        a, b, c = (np.where(better, new, old) for new, old in ((level, a), (-slope, b), (exponent, c)))
    return PowerLaw(a, b, c)
