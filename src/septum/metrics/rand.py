"""Rand scores: the share of pixel pairs that belong together both in the truth and in the proposal.

Only pixels inside true objects count (foreground-restricted). A pixel there that is background in the proposal is an
object of its own. Source: Arganda-Carreras et al. 2015, section "Foreground-restricted Rand scoring"; the arithmetic is
that of the program of the challenge (Fiji's Trainable_Segmentation), which counts pairs with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.metrics.contingency import Table


@dataclass(frozen=True)
class Rand:
    """Pair counts of one image and the scores computed from them.

    Attributes
    ----------
    joint, truth, proposal
        Ordered pixel pairs that lie in one object of both, of the truth, of the proposal.
    pixels
        Pixels inside true objects; with 0 the scores are not defined.
    """

    joint: float
    truth: float
    proposal: float
    pixels: int

    @property
    def split(self) -> float:
        """Joint / truth, in [0, 1]: falls when true objects are split. The program's "recall". NaN without pixels."""
        return self.joint / self.truth if self.pixels else float("nan")

    @property
    def merge(self) -> float:
        """Joint / proposal, in [0, 1]: falls when true objects are merged. The program's "precision"."""
        return self.joint / self.proposal if self.pixels else float("nan")

    @property
    def f(self) -> float:
        """2 joint / (truth + proposal): the harmonic mean of split and merge, 1 is best; 0 without pixels."""
        return 2 * self.joint / (self.truth + self.proposal) if self.pixels and self.joint else 0.0

    @property
    def index(self) -> float:
        """1 - (truth + proposal - 2 joint) / pixels^2, the Rand index; NaN without pixels."""
        return 1 - (self.truth + self.proposal - 2 * self.joint) / self.pixels**2 if self.pixels else float("nan")


def score(table: Table) -> Rand:
    """Count the pairs of one image.

    Parameters
    ----------
    table
        Table of object labels in both; for V_Rand the labels of the proposal come from `thinning.thin`.
    """
    shared, sizes_true, sizes_proposed, single = foreground(table)
    lone = float(single)
    return Rand(_squares(shared) + lone, _squares(sizes_true), _squares(sizes_proposed) + lone, int(sizes_true.sum()))


def score_2014(table: Table) -> Rand:
    """Count the pairs of one image as the program of the challenge did until January 2015.

    Pairs are n choose 2, and background pixels of the proposal pair with nothing. Early tables of the challenge, and
    that of the U-Net paper, presumably hold one minus the best F of this count over thresholds.
    """
    shared, sizes_true, sizes_proposed, _ = foreground(table)
    joint, truth, proposal = ((_squares(n) - float(n.sum())) / 2 for n in (shared, sizes_true, sizes_proposed))
    return Rand(joint, truth, proposal, int(sizes_true.sum()))


def foreground(table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    """Count the pixels inside true objects: those of object pairs, of true and proposed objects, and single ones.

    Returns
    -------
    shared, sizes_true, sizes_proposed
        ``(Q,)``, ``(n,)``, ``(m,) float64``, each 1 or more.
    single
        Pixels of true objects that are background in the proposal.
    """
    _, column, shared, _ = table.overlaps
    sizes_proposed: NDArray[np.float64] = np.bincount(column, shared.astype(np.float64)).astype(np.float64)
    single = int(table.count[(table.truth > 0) & (table.predicted == 0)].sum())
    sizes_true = table.truth_objects[1].astype(np.float64)
    return shared.astype(np.float64), sizes_true, sizes_proposed[sizes_proposed > 0], single


def _squares(count: NDArray[np.float64]) -> float:
    return float(count @ count)
