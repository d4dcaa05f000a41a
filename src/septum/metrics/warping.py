"""Warping error: the differences that remain when the truth is warped towards the proposal without changing topology.

Source: Jain et al. 2010; order, ties and kinds are those of the program of the challenge (Fiji's
Trainable_Segmentation).

A blank proposal, all membrane, has a splits-and-mergers error of nearly 0: every true object shrinks to one pixel. Do
not use this score without another one.
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


class Mismatch(IntEnum):
    """Meaning of a remaining mismatch."""

    OBJECT_ADDITION = 1
    OBJECT_DELETION = 2
    HOLE_ADDITION = 3
    HOLE_DELETION = 4
    MERGE = 5
    SPLIT = 6


@dataclass(frozen=True, eq=False)
class Warping:
    """The truth of one section, warped towards the proposal at one threshold.

    Attributes
    ----------
    warped
        ``(Y, X) bool``, the warped truth.
    places
        ``(n, 2) int64``, row and column of each remaining mismatch.
    all_white
        True if the truth had no black pixel before it was warped.
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
    """Warp the truth towards the proposal by flipping simple pixels, the most confident first.

    Parameters
    ----------
    truth
        ``(Y, X)`` bool, True inside objects.
    proposal
        ``(Y, X) float32``, probability of the inside, in [0, 1].
    threshold
        Proposal pixels above it are inside.
    ignore
        ``(Y, X)`` bool, True where mismatches are neither flipped nor counted.
    """
    from septum.metrics import _compiled

    wide = proposal.astype(np.float64)
    differs = truth != (wide > threshold)
    if ignore is not None:
        differs &= ~ignore
    # The program lists pixels column by column; the order decides between equally confident pixels.
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
    """Classify each remaining mismatch.

    Parameters
    ----------
    warping
        From `warp`.
    radius_px
        Half side of the window in which the program tests whether an object falls apart (20 in the challenge); None,
        or more than the height or width of the section, for the whole section.

    Returns
    -------
    ndarray
        ``(Y, X) uint8``: a `Mismatch` 1..6 at each mismatch, 0 elsewhere.
    """
    from septum.metrics import _compiled

    height, width = warping.warped.shape
    result = np.zeros((height, width), np.uint8)
    labels = components(warping.warped)
    if warping.all_white:
        # The conversion to 8 bits in the program turns a truth of a single value all black, so every mismatch is an
        # object addition.
        labels[:] = 0
    if radius_px is None or radius_px < 1 or radius_px > width or radius_px > height:
        radius_px = 0  # the whole section
    framed = np.pad(labels, 1, constant_values=-1)
    _compiled.kinds(framed, warping.places, radius_px, AROUND, result)
    return result


def pixels(kind: NDArray[np.uint8]) -> dict[Mismatch, int]:
    """Count the pixels of each kind in ``(Y, X) uint8`` kinds 0..6 from `kinds`."""
    count = np.bincount(kind.ravel(), minlength=len(Mismatch) + 1)
    return {k: int(count[k]) for k in Mismatch}


def clusters(warping: Warping, kind: NDArray[np.uint8]) -> dict[Mismatch, int]:
    """Count the connected groups of pixels of each kind in ``(Y, X) uint8`` kinds 0..6 from `kinds`.

    Merges, and hole additions at white pixels, are 8-connected, the others 4-connected; holes at black and at white
    pixels are counted separately and added, as in the program.
    """
    from scipy import ndimage

    counts = {}
    eight = np.ones((3, 3))
    for k in Mismatch:
        counts[k] = 0
        for white in (False, True):
            wide = k is Mismatch.MERGE or (k is Mismatch.HOLE_ADDITION and white)
            counts[k] += ndimage.label((kind == k) & (warping.warped == white), eight if wide else None)[1]
    return counts


@cache
def simple_points() -> NDArray[np.bool_]:
    """Compute the 256 neighborhoods whose center can flip without changing the topology.

    White is 4-connected and black 8-connected: exactly one white component must touch the center by an edge, and there
    must be exactly one black component among the neighbors.

    Returns
    -------
    ndarray
        ``(256,) bool``, True if the center can flip; bit k of the index is the k-th neighbor, row by row, without the
        center, 1 = white.
    """
    from scipy import ndimage

    simple = np.zeros(256, np.bool_)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.bool_)
    for bits in range(256):
        white = np.zeros((3, 3), np.bool_)
        for k, (y, x) in enumerate(AROUND + 1):
            white[y, x] = bits >> k & 1
        black = ~white
        black[1, 1] = False
        touching = np.unique(ndimage.label(white)[0][cross & white])
        simple[bits] = touching.size == 1 and ndimage.label(black, np.ones((3, 3)))[1] == 1
    return simple
