"""Learned decisions about whole objects: which regions of the watershed are one object, and which objects are true.

A watershed with strict seeds divides objects into too many regions. Each contact between two regions gets a score, the
probability that both belong to one object: a logistic regression on a few properties of the two regions and of their
contact. Contacts are merged, best first, while the score is above one half. Then each object gets a score, the
probability that it matches a true object with an IoU of one half: the *confidence*. Objects below a level are removed.

All properties are computed from the integer sums of `septum.arrays.regions`: blocks of an image give the same decisions
as the whole image. `septum.training.object_scores` fits the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from septum.arrays.regions import (
    BORDER_FACES,
    LEVEL,
    OPEN_FACES,
    OPEN_LEVEL,
    PIXELS,
    SEED,
    Regions,
    ellipsoid_share,
    merge_regions,
    moved_sums,
)
from septum.settings import Settings

Array = NDArray[np.float64]

_HIGHEST = float(np.iinfo(np.uint16).max)
_LIMIT = 6.0  # standardized properties beyond this are set to it: one extreme value must not decide

SAME_OBJECT = 0.5
"""Two regions whose contact has a higher score are one object."""


class LogisticScore(Settings):
    """A logistic regression: the logistic function of a weighted sum of standardized properties."""

    properties: tuple[str, ...]
    """Names of the properties, of `CONTACT_PROPERTIES` or `OBJECT_PROPERTIES`."""

    mean: tuple[float, ...]
    """Mean of each property in the fitted examples."""

    deviation: tuple[Annotated[float, Field(gt=0)], ...]
    """Standard deviation of each property in the fitted examples."""

    weights: tuple[float, ...]
    """Weight of each standardized property."""

    bias: float
    """Weight of the constant 1."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len({len(self.properties), len(self.mean), len(self.deviation), len(self.weights)}) > 1:
            raise ValueError("a mean, a deviation and a weight for each property")
        return self

    def __call__(self, values: Mapping[str, Array]) -> Array:
        """Compute the score, ``(N,) float64`` in 0 .. 1, from the properties by name, ``(N,) float64`` each."""
        total = np.full(len(next(iter(values.values()))), self.bias)
        for name, mean, deviation, weight in zip(self.properties, self.mean, self.deviation, self.weights, strict=True):
            total += weight * np.clip((values[name] - mean) / deviation, -_LIMIT, _LIMIT)
        return np.asarray(1 / (1 + np.exp(-total)))


class LearnedDecisions(Settings):
    """Scores of contacts and of objects, fitted on annotated images; see `septum.arrays.learned`."""

    size_px: float = Field(gt=0)
    """Median size of the true objects in pixels; properties of size are relative to it."""

    contact: LogisticScore | None = None
    """Score of a contact; None: regions are not merged."""

    confidence: LogisticScore
    """Score of an object."""

    least: float = Field(default=0.0, ge=0, le=1)
    """Objects with a lower confidence are removed."""

    gain: float = 0.0
    """Gain of the selection score on images that the scores were not fitted on; 0: only the confidence is used."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for score, known in ((self.contact, CONTACT_PROPERTIES), (self.confidence, OBJECT_PROPERTIES)):
            unknown = set(score.properties if score else ()) - set(known)
            if unknown:
                raise ValueError(f"properties among {', '.join(known)}")
        return self


def contact_properties(regions: Regions, size_px: float, shape: Sequence[int]) -> dict[str, Array]:
    """Compute the properties of contacts.

    Parameters
    ----------
    regions
        Regions of a whole image, from `septum.arrays.regions.join_regions`.
    size_px
        Median size of true objects, positive.
    shape
        Sides of the image.

    Returns
    -------
    dict
        By name (`CONTACT_PROPERTIES`) ``(M,) float64``, any finite values.
    """
    rank, sums, first = len(shape), regions.sums, regions.first
    surface = (rank - 1) / rank  # the surface of bodies of equal shape grows with this power of their volume
    one, two = np.searchsorted(regions.number, regions.pairs).T
    pixels = sums[:, PIXELS].astype(np.float64)
    level, alone = sums[:, LEVEL] / pixels / _HIGHEST, np.log(ellipsoid_share(sums, rank))
    both = sums[one] + moved_sums(sums[two], first[two], first[one], shape)
    joined, together, smaller = ellipsoid_share(both, rank), both[:, PIXELS], np.minimum(pixels[one], pixels[two])
    faces, (peak, depth) = regions.contacts[:, 0], np.minimum(regions.peaks[one], regions.peaks[two]).T
    return {
        "valley": regions.contacts[:, 1] / faces / _HIGHEST - np.minimum(level[one], level[two]),
        "saddle": regions.saddles[:, 0] / np.maximum(peak, 1),
        "neck": np.sqrt(regions.saddles[:, 1] / np.maximum(depth, 1)),
        "width": np.log(faces / smaller**surface),
        "smaller": np.log(smaller / size_px),
        "together": np.log(together / size_px),
        "shape": np.log(joined),
        "convexity": np.log(joined) - (pixels[one] * alone[one] + pixels[two] * alone[two]) / together,
        "open": np.log((both[:, OPEN_FACES] + 1) / together**surface),
    }


CONTACT_PROPERTIES = ("valley", "saddle", "neck", "width", "smaller", "together", "shape", "convexity", "open")
"""Names of the properties of a contact.

valley
    Mean level of the contact minus the lower mean level of the two regions.
saddle
    Highest level of the contact, relative to the lower of the two peaks.
neck
    Largest distance to the background at the contact, relative to the smaller of the largest distances of the regions.
width
    Faces of the contact, relative to the surface scale of the smaller region (logarithm).
smaller, together
    Pixels of the smaller region, and of both, relative to the median size of true objects (logarithm).
shape, convexity
    How much larger than both together the ellipsoid of their moments is (logarithm), and the same minus that of each
    alone.
open
    Faces to background of both, relative to their surface scale (logarithm).
"""


def object_properties(regions: Regions, size_px: float, shape: Sequence[int]) -> dict[str, Array]:
    """Compute the properties of objects.

    Parameters
    ----------
    regions
        Objects of a whole image.
    size_px, shape
        As for `contact_properties`.

    Returns
    -------
    dict
        By name (`OBJECT_PROPERTIES`) ``(N,) float64``, any finite values.
    """
    rank, sums = len(shape), regions.sums
    pixels = sums[:, PIXELS].astype(np.float64)
    surface, size = pixels ** ((rank - 1) / rank), np.log(pixels / size_px)
    return {
        "mean": sums[:, LEVEL] / pixels / _HIGHEST,
        "edge": sums[:, OPEN_LEVEL] / np.maximum(sums[:, OPEN_FACES], 1) / _HIGHEST,
        "seed": sums[:, SEED] / pixels,
        "size": size,
        "smallness": np.minimum(size, 0) ** 2,
        "shape": np.log(ellipsoid_share(sums, rank)),
        "open": np.log((sums[:, OPEN_FACES] + 1) / surface),
        "cut": sums[:, BORDER_FACES] / surface,
    }


OBJECT_PROPERTIES = ("mean", "edge", "seed", "size", "smallness", "shape", "open", "cut")
"""Names of the properties of an object.

mean, edge
    Mean level of its pixels, and of those that touch background.
seed
    Share of its pixels above the seed level.
size, smallness
    Pixels relative to the median size of true objects (logarithm), and the square of that for smaller objects.
shape
    How much larger than the object the ellipsoid of its moments is (logarithm).
open
    Faces to background, relative to the surface scale (logarithm): a part of an object is enclosed by others.
cut
    Faces to the border of the image, relative to the surface scale.
"""


def merged_by(
    contact: LogisticScore | None, regions: Regions, size_px: float, shape: Sequence[int]
) -> tuple[Regions, NDArray[np.int64]]:
    """Merge regions while the score of a contact is above `SAME_OBJECT`.

    In each round, every contact is merged that is the best one of both of its regions; then the scores of the merged
    regions are computed anew.

    Parameters
    ----------
    contact
        Score of a contact; None: nothing is merged.
    regions, size_px, shape
        As for `contact_properties`.

    Returns
    -------
    objects
        The merged regions.
    root
        ``(N,)`` int64, >= 1: number of the object of each of the `regions`.
    """
    root = regions.number
    while contact is not None and len(regions.pairs):
        score = contact(contact_properties(regions, size_px, shape))
        place = np.empty(len(score), np.int64)
        place[np.argsort(-score, kind="stable")] = np.arange(len(score))
        one, two = np.searchsorted(regions.number, regions.pairs).T
        best = np.full(len(regions.number), len(score))
        for side in (one, two):
            np.minimum.at(best, side, place)
        chosen = (best[one] == place) & (best[two] == place) & (score > SAME_OBJECT)
        if not chosen.any():
            break
        into = regions.number.copy()
        into[two[chosen]] = into[one[chosen]]
        root = into[np.searchsorted(regions.number, root)]
        regions = merge_regions(regions, into, shape)
    return regions, root


def decide(
    regions: Regions, learned: LearnedDecisions, shape: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Decide which regions are one object, and which objects stay.

    Parameters
    ----------
    regions
        Regions 1 .. N of a whole image, numbered in scan order, from `septum.arrays.regions.join_regions`.
    learned
        The fitted scores.
    shape
        Sides of the image.

    Returns
    -------
    numbers
        ``(N + 1,)`` int64: number of the object of each region, 1 .. K in scan order; 0 for background and for objects
        that are removed.
    confidence
        ``(K,)`` float32 in 0 .. 1: confidence of each object.
    """
    numbers = np.zeros(len(regions.number) + 1, np.int64)
    if not len(regions.number):
        return numbers, np.zeros(0, np.float32)
    objects, root = merged_by(learned.contact, regions, learned.size_px, shape)
    confidence = learned.confidence(object_properties(objects, learned.size_px, shape))
    stays = confidence >= learned.least
    numbers[1:] = (np.cumsum(stays) * stays)[np.searchsorted(objects.number, root)]
    return numbers, confidence[stays].astype(np.float32)


def fit_score(values: dict[str, Array], true: NDArray[np.bool_], *, ridge: float = 1.0) -> LogisticScore:
    """Fit a logistic regression by Newton's method.

    Parameters
    ----------
    values
        Properties by name, ``(N,) float64`` each, any finite values; at least one example.
    true
        ``(N,)`` bool: what the score shall be the probability of.
    ridge
        Positive penalty of the squared weights of standardized properties.
    """
    table = np.stack(list(values.values()), axis=1)
    mean, deviation = table.mean(axis=0), table.std(axis=0) + 1e-6
    rows = np.column_stack([np.clip((table - mean) / deviation, -_LIMIT, _LIMIT), np.ones(len(table))])
    penalty = np.append(np.full(table.shape[1], ridge), 1e-6)
    weights = np.zeros(len(penalty))
    for _ in range(50):
        score = 1 / (1 + np.exp(-rows @ weights))
        curvature = (rows * (score * (1 - score))[:, None]).T @ rows + np.diag(penalty)
        step = np.linalg.solve(curvature, rows.T @ (score - true) + penalty * weights)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return LogisticScore(
        properties=tuple(values),
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        weights=tuple(weights[:-1].tolist()),
        bias=float(weights[-1]),
    )
