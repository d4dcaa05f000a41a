"""The scores of the ISBI 2012 EM segmentation challenge, over its eleven thresholds.

Official since 2016: V_Rand and V_Info after border thinning, each the best over thresholds of the mean over sections.
Older, and those of the U-Net paper's table: Rand error and pixel error (one minus the best F over thresholds of counts
pooled over sections) and the warping error (the fewest splits and mergers over thresholds). Source: Arganda-Carreras et
al. 2015 and Fiji's Trainable_Segmentation, whose numbers these equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.metrics import contingency, information, pixel, rand, thinning, warping
from septum.metrics.information import Information
from septum.metrics.pixel import ClassScores
from septum.metrics.rand import Rand

# Repeated addition, as the program does it: the fourth is 0.30000000000000004, the last 0.9999999999999999.
THRESHOLDS = (0.0, *accumulate(repeat(0.1, 10)))
WARPING_THRESHOLDS = 10


@dataclass(frozen=True)
class Level:
    """One section at one threshold.

    Attributes
    ----------
    rand_thinned, rand_raw, rand_2014
        Pair counts with thinned membranes, as they are, and as counted until 2015 (not thinned).
    information_thinned, information_raw
        Entropies with thinned membranes and as they are.
    pixel
        Pixels of the inside class.
    mismatches, splits_and_mergers
        Pixels left by warping, in all, and those that split or merge objects; None where warping was not asked for.
    """

    threshold: float
    rand_thinned: Rand
    rand_raw: Rand
    rand_2014: Rand
    information_thinned: Information
    information_raw: Information
    pixel: ClassScores
    mismatches: int | None
    splits_and_mergers: int | None


@dataclass(frozen=True)
class Section:
    """One section at the eleven thresholds; `pixels` is its size."""

    levels: tuple[Level, ...]
    pixels: int


@dataclass(frozen=True)
class Best:
    """A score and the threshold at which it is reached; split and merge belong to the same threshold (means)."""

    value: float
    threshold: float
    split: float = float("nan")
    merge: float = float("nan")


@dataclass(frozen=True)
class Challenge:
    """Scores of a stack of sections. V_Rand and V_Info: 1 is best; errors: 0 is best; warping None where not asked."""

    v_rand: Best
    v_info: Best
    v_rand_pooled: Best
    v_info_raw: Best
    rand_error: Best
    rand_error_2014: Best
    pixel_error: Best
    warping_error: Best | None
    """Splits and mergers per pixel, pooled over sections, least over the first ten thresholds."""
    warping_full: Best | None
    """All mismatches left by warping per pixel, mean over sections, least over all thresholds."""


def section(
    truth: NDArray[np.bool_],
    proposal: NDArray[np.float32],
    *,
    ignore: NDArray[np.bool_] | None = None,
    warp: bool = True,
) -> Section:
    """Score one section at every threshold.

    Parameters
    ----------
    truth
        ``(Y, X)`` bool, true inside cells, false on membranes.
    proposal
        ``(Y, X) float32``, probability of the inside in [0, 1]; a binary map is 0 and 1.
    ignore
        ``(Y, X)`` bool, true where the truth is not known: no score counts these pixels, and warping leaves them.
    warp
        Also the warping error, which takes most of the time.

    Raises
    ------
    DataError
        If the shapes differ, the section is not 2D, or the proposal leaves [0, 1].
    """
    _check(truth, proposal)
    proposal = np.ascontiguousarray(proposal, np.float32)
    objects = thinning.components(truth)
    levels: list[Level] = []
    before: NDArray[np.bool_] | None = None
    for threshold in THRESHOLDS:
        white = proposal > threshold if threshold == 0 else proposal.astype(np.float64) > threshold
        if before is None or not np.array_equal(white, before):
            thinned = contingency.table(objects, thinning.thin(white), ignore=ignore)
            raw = contingency.table(objects, thinning.components(white), ignore=ignore)
            inside = pixel.scores(truth, white, classes=(1,), ignore=ignore).classes[0]
            before = white
        # The warping order depends on the threshold, so equal binary maps are warped anew.
        left = warping.warp(truth, proposal, threshold, ignore=ignore) if warp else None
        kinds = warping.pixels(warping.kinds(left)) if left else None
        levels.append(
            Level(
                threshold=threshold,
                rand_thinned=rand.score(thinned),
                rand_raw=rand.score(raw),
                rand_2014=rand.score_2014(raw),
                information_thinned=information.score(thinned),
                information_raw=information.score(raw),
                pixel=inside,
                mismatches=len(left.places) if left else None,
                splits_and_mergers=kinds[warping.Kind.SPLIT] + kinds[warping.Kind.MERGE] if kinds else None,
            )
        )
    return Section(tuple(levels), truth.size)


def combine(sections: Sequence[Section]) -> Challenge:
    """Return the challenge's scores of a stack; every score chooses one threshold for all its sections.

    Raises
    ------
    DataError
        If there is no section.
    """
    if not sections:
        raise DataError("no section", "at least one", "name a folder or stack that holds images")
    levels = list(zip(*(s.levels for s in sections), strict=True))
    pixels = np.array([s.pixels for s in sections], np.float64)
    warped = sections[0].levels[0].mismatches is not None
    thinned = [[x.rand_thinned for x in level] for level in levels]
    informed = [[x.information_thinned for x in level] for level in levels]
    return Challenge(
        v_rand=_with_parts([np.mean([x.f for x in level]) for level in thinned], thinned),
        v_info=_with_parts([np.mean([x.f for x in level]) for level in informed], informed),
        v_rand_pooled=_best([rand.pool(level).f for level in thinned]),
        v_info_raw=_best([float(np.mean([x.information_raw.f for x in level])) for level in levels]),
        rand_error=_least([1 - rand.pool(x.rand_raw for x in level).f for level in levels]),
        rand_error_2014=_least([rand.error_2014(x.rand_2014 for x in level) for level in levels]),
        pixel_error=_least([1 - _pixel_f([x.pixel for x in level]) for level in levels]),
        warping_error=_least(
            [sum(x.splits_and_mergers or 0 for x in level) / pixels.sum() for level in levels[:WARPING_THRESHOLDS]]
        )
        if warped
        else None,
        warping_full=_least([float(np.mean([x.mismatches or 0 for x in level] / pixels)) for level in levels])
        if warped
        else None,
    )


def _check(truth: NDArray[np.bool_], proposal: NDArray[np.float32]) -> None:
    if truth.shape != proposal.shape:
        given = " and ".join(" x ".join(map(str, a.shape)) for a in (truth, proposal))
        raise DataError(
            f"truth and prediction of {given} pixels", "the same size", "compare images that belong to each other"
        )
    if truth.ndim != 2 or not truth.size:
        raise DataError(
            f"an image of {truth.ndim} axes, {truth.size} pixels", "a 2D section", "score it slice by slice"
        )
    low, high = float(proposal.min()), float(proposal.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"prediction with values from {low:g} to {high:g}",
            "probabilities from 0 to 1, all of them numbers",
            "divide by the largest possible value",
        )


def _pixel_f(parts: Sequence[ClassScores]) -> float:
    tp, wrong = sum(p.tp for p in parts), sum(p.fp + p.fn for p in parts)
    return 2 * tp / (2 * tp + wrong) if tp else 0.0


def _with_parts(f: Sequence[float], levels: Sequence[Sequence[Rand | Information]]) -> Best:
    k = int(np.argmax(f))
    return Best(
        float(f[k]),
        THRESHOLDS[k],
        split=_mean_defined([part.split for part in levels[k]]),
        merge=_mean_defined([part.merge for part in levels[k]]),
    )


def _mean_defined(values: Sequence[float]) -> float:
    """Mean of the numbers among `values`, NaN without any."""
    defined = [v for v in values if v == v]
    return sum(defined) / len(defined) if defined else float("nan")


def _best(values: Sequence[float]) -> Best:
    k = int(np.argmax(values))
    return Best(float(values[k]), THRESHOLDS[k])


def _least(values: Sequence[float]) -> Best:
    k = int(np.argmin(values))
    return Best(float(values[k]), THRESHOLDS[k])
