"""Score the held-out images with the predictor that users get, and tune how probabilities become objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings, candidates, label_each, label_objects
from septum.axes import relative_spacing
from septum.metrics import ctc, matching, pixel
from septum.metrics.contingency import Table, table

if TYPE_CHECKING:
    from septum.jobs.load import Sample

Probabilities = NDArray[np.float16]


def score_objects(
    samples: Sequence[Sample], foreground: Iterable[Probabilities], settings: ObjectSettings
) -> dict[str, float]:
    """Score predicted objects.

    Parameters
    ----------
    samples
        The held-out images. Where gold truth exists, SEG is taken from it (it may name only some objects); the other
        scores need every object and are taken from the mask.
    foreground
        ``(*S)`` probability of the object class for each sample.
    settings
        How probabilities become objects.

    Returns
    -------
    dict
        ``SEG``, ``AP50`` and ``AP`` (mean over IoU 0.5 to 0.95), each in 0..1.
    """
    gold, full = [], []
    for sample, probabilities in zip(samples, foreground, strict=True):
        labels = label_objects(
            probabilities.astype(np.float32), **settings.model_dump(), spacing=relative_spacing(sample.spacing_um)
        )
        full.append(table(sample.mask, labels))
        gold.append(full[-1] if sample.gold is None else table(sample.gold, labels))
    return _object_scores(gold, full)


def _object_scores(gold: Sequence[Table], full: Sequence[Table]) -> dict[str, float]:
    found = matching.scores(full)
    seg = ctc.seg(gold)
    return {
        "SEG": 0.0 if np.isnan(seg) else seg,
        "AP50": found[0].ap,
        "AP": float(np.mean([s.ap for s in found])),
    }


def score_classes(samples: Sequence[Sample], maps: Iterable[NDArray[np.uint8]], classes: int) -> dict[str, float]:
    """Score predicted classes, pixels of all images pooled.

    Parameters
    ----------
    samples
        The held-out images.
    maps
        ``(*S) uint8`` class of each pixel for each sample.
    classes
        Number of classes.

    Returns
    -------
    dict
        ``dice`` and ``iou`` (mean over all classes but the first, the background) and ``pixel_error``, each in 0..1.
    """
    parts = [
        pixel.scores(sample.mask, predicted, classes=range(1, classes))
        for sample, predicted in zip(samples, maps, strict=True)
    ]
    pooled = pixel.pool(parts)
    return {"dice": pooled.mean("dice"), "iou": pooled.mean("iou"), "pixel_error": pooled.pixel_error}


def merit(scores: dict[str, float]) -> float:
    """Return the one number by which the best model is kept: mean of SEG and AP50 for objects, Dice for classes.

    SEG alone would not see false objects, AP50 alone not how well outlines fit.
    """
    if "SEG" in scores:
        return (scores["SEG"] + scores["AP50"]) / 2
    return scores["dice"] if np.isfinite(scores["dice"]) else 0.0


def tune_objects(
    samples: Sequence[Sample], foreground: Iterable[Probabilities], *, enough: Callable[[], bool] = lambda: False
) -> ObjectSettings:
    """Choose the object settings of highest `merit`; of equals the first.

    Parameters
    ----------
    samples
        Held-out images.
    foreground
        ``(*S)`` probability of the object class for each sample; taken one by one.
    enough
        Asked after each image; where it says yes, the images so far decide.
    """
    sizes = np.concatenate([np.unique(s.mask[s.mask > 0], return_counts=True)[1] for s in samples])
    choices = candidates(sizes)
    gold: list[list[Table]] = [[] for _ in choices]
    full: list[list[Table]] = [[] for _ in choices]
    for sample, probabilities in zip(samples, foreground, strict=True):
        spacing = relative_spacing(sample.spacing_um)
        made = label_each(probabilities.astype(np.float32), choices, spacing=spacing)
        for number, (_, labels) in enumerate(made):
            full[number].append(table(sample.mask, labels))
            gold[number].append(full[number][-1] if sample.gold is None else table(sample.gold, labels))
        if enough():
            break
    merits = [merit(_object_scores(g, f)) for g, f in zip(gold, full, strict=True)]
    return choices[int(np.argmax(merits))]
