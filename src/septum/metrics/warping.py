"""Warping error: what is left of the differences once the truth is bent, without tearing it, towards the proposal.

Source: Jain et al. 2010; order, ties and kinds are those of the challenge's program (Fiji's Trainable_Segmentation).

A blank proposal, all membrane, has a splits-and-mergers error of nearly 0: every true object shrinks to one pixel. Do
not read the number without another one beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from septum.metrics.thinning import components

RADIUS_PX = 20
AROUND = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x], np.int64)


class Kind(IntEnum):
    """What a remaining mismatch stands for."""

    OBJECT_ADDITION = 1
    OBJECT_DELETION = 2
    HOLE_ADDITION = 3
    HOLE_DELETION = 4
    MERGE = 5
    SPLIT = 6


@dataclass(frozen=True, eq=False)
class Warping:
    """The truth of one section bent towards the proposal at one threshold.

    Attributes
    ----------
    warped
        ``(Y, X) bool``, the bent truth.
    places
        ``(n, 2) int64``, row and column of each remaining mismatch.
    all_white
        Whether the truth had no black pixel before it was bent.
    """

    warped: NDArray[np.bool_]
    places: NDArray[np.int64]
    all_white: bool

    @property
    def error(self) -> float:
        """Remaining mismatches per pixel of the section, 0 is best."""
        return len(self.places) / self.warped.size if self.warped.size else float("nan")


def warp(
    truth: NDArray[np.bool_],
    proposal: NDArray[np.float32],
    threshold: float,
    *,
    ignore: NDArray[np.bool_] | None = None,
) -> Warping:
    """Bend the truth towards the proposal by flipping simple pixels, the most confident first.

    Parameters
    ----------
    truth
        ``(Y, X)`` bool, true inside objects.
    proposal
        ``(Y, X) float32``, probability of the inside, in [0, 1].
    threshold
        Proposal pixels above it are inside.
    ignore
        ``(Y, X)`` bool; mismatches there are neither flipped nor counted.
    """
    from septum.metrics import _compiled

    wide = proposal.astype(np.float64)
    differs = truth != (wide > threshold)
    if ignore is not None:
        differs &= ~ignore
    # Columns are the outer loop of the program's list; the order decides between equally confident pixels.
    x, y = np.nonzero(differs.T)
    confidence = np.abs(wide[y, x] - threshold).astype(np.float32)
    order = np.argsort(-confidence, kind="stable")
    framed = np.pad(truth.astype(np.uint8), 1)
    width = framed.shape[1]
    places = (y[order] + 1) * width + x[order] + 1
    left = _compiled.relax(framed, places, simple_points())
    rest = places[:left]
    return Warping(
        warped=framed[1:-1, 1:-1].astype(np.bool_),
        places=np.stack([rest // width - 1, rest % width - 1], axis=1),
        all_white=bool(truth.all()),
    )


def kinds(warping: Warping, *, radius_px: int | None = RADIUS_PX) -> NDArray[np.uint8]:
    """Say what each remaining mismatch stands for.

    Parameters
    ----------
    warping
        From `warp`.
    radius_px
        Half side of the window in which the program looks whether an object falls apart (20 in the challenge); None,
        or more than the section's height or width: the whole section.

    Returns
    -------
    ``(Y, X) uint8``, a `Kind` at each mismatch, 0 elsewhere.
    """
    from septum.metrics import _compiled

    height, width = warping.warped.shape
    found = np.zeros((height, width), np.uint8)
    labels = components(warping.warped)
    if warping.all_white:
        # The program's conversion to 8 bits makes a truth of a single value all black, so every mismatch is an
        # object addition there.
        labels[:] = 0
    whole = radius_px is None or radius_px < 1 or radius_px > width or radius_px > height
    framed = np.pad(labels, 1, constant_values=-1)
    _compiled.kinds(framed, warping.places, 0 if whole else radius_px, AROUND, found)
    return found


def pixels(kind: NDArray[np.uint8]) -> dict[Kind, int]:
    """Return how many pixels are of each kind."""
    count = np.bincount(kind.ravel(), minlength=len(Kind) + 1)
    return {k: int(count[k]) for k in Kind}


def clusters(warping: Warping, kind: NDArray[np.uint8]) -> dict[Kind, int]:
    """Return how many connected groups of pixels are of each kind.

    Merges, and hole additions at white pixels, are 8-connected, the others 4-connected; holes at black and at white
    pixels are counted apart and added, as in the program.
    """
    from scipy import ndimage

    counts = {}
    eight = np.ones((3, 3))
    for k in Kind:
        counts[k] = 0
        for white in (False, True):
            wide = k is Kind.MERGE or (k is Kind.HOLE_ADDITION and white)
            counts[k] += ndimage.label((kind == k) & (warping.warped == white), eight if wide else None)[1]
    return counts


@cache
def simple_points() -> NDArray[np.bool_]:
    """Return which of the 256 neighborhoods let their center flip without changing the topology.

    White is 4-connected and black 8-connected: exactly one white component must touch the center by an edge, and there
    must be exactly one black component among the neighbors.

    Returns
    -------
    ``(256,) bool``; bit k of the index is the k-th neighbor, row by row, center left out, 1 = white.
    """
    from scipy import ndimage

    found = np.zeros(256, np.bool_)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.bool_)
    for bits in range(256):
        white = np.zeros((3, 3), np.bool_)
        for k, (y, x) in enumerate(AROUND + 1):
            white[y, x] = bits >> k & 1
        black = ~white
        black[1, 1] = False
        touching = np.unique(ndimage.label(white)[0][cross & white])
        found[bits] = touching.size == 1 and ndimage.label(black, np.ones((3, 3)))[1] == 1
    return found
