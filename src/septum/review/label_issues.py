"""Where a mask and the prediction of a model that has not seen it disagree, the model being sure: labels to look at.

The three ways in which an object can be wrong (overlooked, not there, badly outlined) are those of Tkachenko,
Thyagarajan and Mueller 2023, "ObjectLab: automated diagnosis of mislabeled images in object detection data". How sure
the model is of what it says against the mask is the mean of its probability over the pixels that differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import connected_components
from septum.metrics.contingency import table

Kind = Literal["missing", "extra", "outline", "class"]

_APART = 0.25  # of an object: with less of it in any object of the other side it has no partner there
_WELL_OUTLINED = 0.8  # IoU


@dataclass(frozen=True)
class LabelDisagreement:
    """A place where the model contradicts the mask.

    Attributes
    ----------
    kind
        ``"missing"``: the model finds an object that the mask lacks. ``"extra"``: the mask has one that the model does
        not find. ``"outline"``: both have it, but differently. ``"class"``: another class.
    label, predicted
        Number in the mask, and in the prediction (or class); 0 for none.
    start, stop
        Box around the pixels that differ, ``(*S)``: the first pixel, and the one after the last.
    area_px
        Pixels that differ.
    confidence
        Mean probability that the model gives to what it says there, 0..1.
    strength
        What doubts are ranked by, 0..1: how sure the model is (0 at one half) times the area as a part of a usual
        object's, at most 1.
    """

    kind: Kind
    label: int
    predicted: int
    start: tuple[int, ...]
    stop: tuple[int, ...]
    area_px: int
    confidence: float
    strength: float


def object_disagreements(
    truth: NDArray[np.int32], predicted: NDArray[np.int32], foreground: NDArray[np.float32], *, usual_px: float
) -> list[LabelDisagreement]:
    """Compare numbered objects.

    Parameters
    ----------
    truth
        ``(*S)``, ids, 0 background, negative where nothing is known.
    predicted
        ``(*S)``, ids, 0 background.
    foreground
        ``(*S)`` probability of an object, 0..1.
    usual_px
        Size of a usual object, above 0.

    Returns
    -------
    list of Doubt
        The strongest first.
    """
    from scipy.ndimage import find_objects

    sure = np.where(predicted > 0, foreground, 1 - foreground)
    boxes = find_objects(np.maximum(truth, 0)), find_objects(predicted)
    found = []
    for kind, label, other in _pairs(truth, predicted):
        region = _around(boxes[0][label - 1] if label else None, boxes[1][other - 1] if other else None)
        true, said = (truth[region] == label) & (label > 0), (predicted[region] == other) & (other > 0)
        # Where both see objects, but not the same ones, the model errs as often as the mask: that is not judged.
        differs = (true & (predicted[region] == 0)) | (said & (truth[region] == 0))
        found.append(_doubt(kind, label, other, region, differs, sure[region], usual_px))
    return sorted((d for d in found if d is not None), key=lambda d: -d.strength)


def class_disagreements(
    truth: NDArray[np.int32], predicted: NDArray[np.int32], probabilities: NDArray[np.float32], *, usual_px: float
) -> list[LabelDisagreement]:
    """Compare classes: pieces in which one class is taken for another, but for rims of up to two pixels.

    Parameters
    ----------
    truth
        ``(*S)``, classes 0 .. K - 1, negative where nothing is known.
    predicted
        ``(*S)``, classes.
    probabilities
        ``(K, *S)``, or ``(1, *S)`` of the second of two classes.
    usual_px
        Size of a usual piece, above 0.

    Returns
    -------
    list of Doubt
        The strongest first.
    """
    from scipy.ndimage import binary_opening, find_objects

    if len(probabilities) == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities])
    sure = np.take_along_axis(probabilities, predicted[None], axis=0)[0]
    differs = (truth >= 0) & (truth != predicted)
    found = []
    for value in np.unique(truth[differs]):
        for other in np.unique(predicted[differs & (truth == value)]):
            pieces = connected_components(
                binary_opening(differs & (truth == value) & (predicted == other), np.ones((3,) * truth.ndim))
            )
            for number, region in enumerate(find_objects(pieces), start=1):
                part = pieces[region] == number
                found.append(_doubt("class", int(value), int(other), region, part, sure[region], usual_px))
    return sorted((d for d in found if d is not None), key=lambda d: -d.strength)


def _pairs(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> Iterator[tuple[Kind, int, int]]:
    """Return what to compare: objects without a partner, and pairs that are not outlined alike.

    A predicted object that holds several true ones is compared with the one that fits it best; 0 stands in its place
    for the others.
    """
    both = table(truth, predicted)
    row, column, shared, union = both.overlaps
    labels, sizes = both.truth_objects
    numbers, areas = both.predicted_objects
    covered, held = (np.bincount(k, shared, len(n)) for k, n in ((row, labels), (column, numbers)))
    for place in np.flatnonzero(held < _APART * areas):
        yield "missing", 0, int(numbers[place])
    for place in np.flatnonzero(covered < _APART * sizes):
        yield "extra", int(labels[place]), 0
    fit = shared / union
    for place in np.flatnonzero(covered >= _APART * sizes):
        mine = np.flatnonzero(row == place)
        best = mine[np.argmax(fit[mine])]
        if fit[best] < _WELL_OUTLINED:
            inside = np.flatnonzero(column == column[best])
            owns = best == inside[np.argmax(fit[inside])]
            yield "outline", int(labels[place]), int(numbers[column[best]]) if owns else 0


def _around(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """Return the box around one or two boxes."""
    if one is None or other is None:
        both = one or other
        assert both is not None
        return both
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _doubt(
    kind: Kind,
    label: int,
    predicted: int,
    region: tuple[slice, ...],
    differs: NDArray[np.bool_],
    sure: NDArray[np.floating[Any]],
    usual_px: float,
) -> LabelDisagreement | None:
    """Return the doubt of some pixels of a region; None where there are none."""
    area = int(differs.sum())
    if area == 0:
        return None
    confidence = float(sure[differs].mean(dtype=np.float64))
    places = np.argwhere(differs)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    strength = max(0.0, 2 * confidence - 1) * min(1.0, area / usual_px)
    start, stop = (tuple(int(s.start + v) for s, v in zip(region, end, strict=True)) for end in (low, high))
    return LabelDisagreement(kind, label, predicted, start, stop, area, confidence, strength)
