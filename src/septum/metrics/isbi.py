"""The scores of the ISBI 2012 EM segmentation challenge, over its eleven thresholds.

Official since 2016: V_Rand and V_Info after border thinning, each the best over thresholds of the mean over sections.
Older, and used in the table of the U-Net paper: Rand error and pixel error (one minus the best F over thresholds of
counts pooled over sections) and the warping error (the fewest splits and mergers over thresholds). Source:
Arganda-Carreras et al. 2015 and Fiji's Trainable_Segmentation, whose numbers these equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.metrics import contingency, information, pixel, rand, thinning, warping
from septum.metrics.contingency import Table
from septum.metrics.information import Information
from septum.metrics.pixel import ClassScores
from septum.metrics.rand import Rand

# Repeated addition, as in the program: the fourth is 0.30000000000000004, the last 0.9999999999999999.
THRESHOLDS = (0.0, *accumulate(repeat(0.1, 10)))
WARPING_THRESHOLDS = 10

SCORES = {
    "V_Rand": True,
    "V_Rand split": True,
    "V_Rand merge": True,
    "V_Info": True,
    "V_Info split": True,
    "V_Info merge": True,
    "warping error": False,
    "Rand error": False,
    "pixel error": False,
    "Rand error (2014)": False,
    "warping error (all)": False,
    "V_Rand (pooled)": True,
    "V_Info (not thinned)": True,
}
"""Scores of the challenge, and True if more is better.

``V_Rand`` and ``V_Info``: after thinning, mean of F over sections, best over thresholds. ``warping error``: splits and
mergers per pixel, pooled, least over the first ten thresholds; ``(all)``: every remaining mismatch, mean over sections.
``Rand error``: 1 - best F of pairs pooled over sections, not thinned; ``(2014)``: counted as until 2015. ``pixel
error``: 1 - best F of the inside pixels, pooled.
"""

_PARTS = ("split", "merge")
COLUMNS = (
    "sections",
    *(f"{s} {c}" for s in ("rand", "info") for c in ("f", "split", "split known", "merge", "merge known")),
    *(f"{s}{c}" for s in ("", "raw ", "2014 ") for c in ("joint", "both")),
    *("undefined", "info raw f", "tp", "wrong", "pixels", "warped", "torn"),
)


@dataclass(frozen=True)
class Level:
    """One section at one threshold.

    Attributes
    ----------
    rand_thinned, rand_raw, rand_2014
        Pair counts with thinned membranes, without thinning, and as counted until 2015 (not thinned).
    information_thinned, information_raw
        Entropies with thinned membranes, and without thinning.
    pixel
        Pixels of the inside class.
    mismatches, splits_and_mergers
        Mismatches that remain after warping, and those that split or merge objects; None without warping.
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
    """A score, and the threshold at which it is best."""

    value: float
    threshold: float


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
        ``(Y, X)`` bool, True inside cells, False on membranes.
    proposal
        ``(Y, X) float32``, probability of the inside in [0, 1]; a binary map holds 0 and 1.
    ignore
        ``(Y, X)`` bool, True where the truth is not known: no score counts these pixels, and warping keeps them.
    warp
        Also compute the warping error, which takes most of the time.

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
        # The order of warping depends on the threshold, so equal binary maps are warped again.
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
                splits_and_mergers=kinds[warping.Mismatch.SPLIT] + kinds[warping.Mismatch.MERGE] if kinds else None,
            )
        )
    return Section(tuple(levels), truth.size)


def areas(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Table:
    """Compute the table of V_Rand: pixels that true areas share with predicted areas whose lines are thinned.

    Parameters
    ----------
    truth, predicted
        ``(Y, X)`` integers, > 0 inside areas, 0 on lines; negative where the truth is not known.
    """
    return contingency.table(thinning.components(truth > 0), thinning.thin(predicted > 0), ignore=truth < 0)


def columns(part: Section) -> NDArray[np.float64]:
    """Compute what one section adds to the scores of a stack: ``(11, len(COLUMNS)) float64``, non-negative or NaN."""
    return np.array([_row(level, part.pixels) for level in part.levels])


def finish(totals: NDArray[np.float64]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.intp]]]:
    """Turn sums of `columns` over sections into the scores of the stack.

    Every score chooses one threshold for all its sections; split and merge are means over the sections where they are
    defined, at the threshold of their F.

    Parameters
    ----------
    totals
        ``(..., 11, len(COLUMNS)) float64``, non-negative or NaN; leading axes are stacks of their own (one per section,
        one per bootstrap sample).

    Returns
    -------
    dict
        By name, one of `SCORES`: the scores ``(...) float64`` in [0, 1], and the indices of their thresholds in
        `THRESHOLDS` ``(...) intp``.
    """
    at = {name: totals[..., k] for k, name in enumerate(COLUMNS)}
    with np.errstate(divide="ignore", invalid="ignore"):
        means = {n: at[n] / at["sections"] for n in ("rand f", "info f", "info raw f", "warped")}
        raw = np.where(at["undefined"] > 0, 0.0, 2 * at["raw joint"] / at["raw both"])
        thinned = np.where(at["undefined"] > 0, 0.0, 2 * at["joint"] / at["both"])
        error_2014 = np.where(at["2014 both"] > 0, 1 - 2 * at["2014 joint"] / at["2014 both"], 0.0)
        pixel_f = np.where(at["tp"] > 0, 2 * at["tp"] / (2 * at["tp"] + at["wrong"]), 0.0)
        parts = {(s, part): at[f"{s} {part}"] / at[f"{s} {part} known"] for s in ("rand", "info") for part in _PARTS}
        torn = at["torn"] / at["pixels"]
    best = {
        "V_Rand": _most(means["rand f"]),
        "V_Info": _most(means["info f"]),
        "warping error": _most(-torn[..., :WARPING_THRESHOLDS]),
        "Rand error": _most(np.nan_to_num(raw) - 1),
        "pixel error": _most(pixel_f - 1),
        "Rand error (2014)": _most(-error_2014),
        "warping error (all)": _most(-means["warped"]),
        "V_Rand (pooled)": _most(np.nan_to_num(thinned)),
        "V_Info (not thinned)": _most(means["info raw f"]),
    }
    scores = {name: (value if SCORES[name] else 0.0 - value, k) for name, (value, k) in best.items()}
    for (s, part), values in parts.items():
        name = "V_Rand" if s == "rand" else "V_Info"
        k = best[name][1]
        scores[f"{name} {part}"] = np.take_along_axis(values, k[..., None], axis=-1)[..., 0], k
    return {name: scores[name] for name in SCORES}


def combine(sections: Sequence[Section]) -> dict[str, Best]:
    """Compute the scores of a stack, by the names in `SCORES`.

    The warping errors are NaN without warping.

    Raises
    ------
    DataError
        If there is no section.
    """
    if not sections:
        raise DataError("no section to score", "at least one", "name a folder or stack that holds images")
    scores = finish(np.sum([columns(s) for s in sections], axis=0))
    return {name: Best(float(value), THRESHOLDS[int(k)]) for name, (value, k) in scores.items()}


def _row(level: Level, pixels: int) -> tuple[float, ...]:
    row: list[float] = [1.0]
    for score in (level.rand_thinned, level.information_thinned):
        row.append(score.f)
        for value in (score.split, score.merge):
            row += [value, 1.0] if value == value else [0.0, 0.0]
    pairs = (level.rand_thinned, level.rand_raw, level.rand_2014)
    row += [v for p in pairs for v in (p.joint, p.truth + p.proposal)]
    nan = float("nan")
    return (
        *row,
        float(level.rand_raw.pixels == 0),
        level.information_raw.f,
        level.pixel.tp,
        level.pixel.fp + level.pixel.fn,
        pixels,
        nan if level.mismatches is None else level.mismatches / pixels,
        nan if level.splits_and_mergers is None else level.splits_and_mergers,
    )


def _check(truth: NDArray[np.bool_], proposal: NDArray[np.float32]) -> None:
    if truth.shape != proposal.shape:
        given = " and ".join(" x ".join(map(str, a.shape)) for a in (truth, proposal))
        raise DataError(
            f"truth and prediction of {given} pixels", "the same size", "compare images that belong to each other"
        )
    if truth.ndim != 2 or not truth.size:
        raise DataError(f"an array of shape {truth.shape}", "a 2D section with pixels", "score it slice by slice")
    low, high = float(proposal.min()), float(proposal.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"prediction with values from {low:g} to {high:g}",
            "probabilities from 0 to 1, all of them numbers",
            "divide by the largest possible value",
        )


def _most(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the largest value along the thresholds and its index; the first of equals."""
    k = np.argmax(values, axis=-1)
    return np.take_along_axis(values, k[..., None], axis=-1)[..., 0], k
