"""Information scores: information of the labels of the proposal on those of the truth, and vice versa.

The counts are those of the Rand score: pixels inside true objects; each background pixel of the proposal is an object
of its own. Natural logarithm. Source: Arganda-Carreras et al. 2015, section "Information theoretic scoring".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.metrics.contingency import Table
from septum.metrics.rand import foreground


@dataclass(frozen=True)
class Information:
    """Entropies of one image in nats, and the scores computed from them.

    Attributes
    ----------
    truth, proposal, joint
        H(T), H(S) and H(S, T), 0 or more; all NaN where no pixel counts.
    """

    truth: float
    proposal: float
    joint: float

    @property
    def mutual(self) -> float:
        """I = H(T) + H(S) - H(S, T), 0 or more."""
        return max(0.0, self.truth + self.proposal - self.joint) if self.truth == self.truth else self.truth

    @property
    def split(self) -> float:
        """I / H(S), in [0, 1]: falls when true objects are split; NaN where the proposal is one object."""
        return _share(self.mutual, self.proposal)

    @property
    def merge(self) -> float:
        """I / H(T), in [0, 1]: falls when true objects are merged; NaN where the truth is one object."""
        return _share(self.mutual, self.truth)

    @property
    def f(self) -> float:
        """2 I / (H(S) + H(T)), 1 is best; 0 where an entropy is 0, even for a perfect proposal, or no pixel counts."""
        if not (self.truth > 0 and self.proposal > 0):
            return 0.0
        return 2 * self.mutual / (self.truth + self.proposal)

    @property
    def variation(self) -> float:
        """H(S, T) - H(T) + H(S, T) - H(S): the variation of information, in nats, 0 is best."""
        return 2 * self.joint - self.truth - self.proposal


def score(table: Table) -> Information:
    """Compute the entropies of one image.

    Parameters
    ----------
    table
        Table of object labels in both; for V_Info the labels of the proposal come from `thinning.thin`.
    """
    shared, sizes_true, sizes_proposed, _ = foreground(table)
    pixels = float(sizes_true.sum())
    if not pixels:
        return Information(math.nan, math.nan, math.nan)
    return Information(*(_entropy(count, pixels) for count in (sizes_true, sizes_proposed, shared)))


def _entropy(count: NDArray[np.float64], pixels: float) -> float:
    # -sum p log p = log n - sum c log c / n: objects of one pixel drop out, and a single object gives exactly 0.
    return max(0.0, math.log(pixels) - float(count @ np.log(count)) / pixels)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
