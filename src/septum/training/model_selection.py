"""Model selection: the main scores of held-out images, the selection score, and the candidate settings.

The selection score decides which weights are kept, which candidate settings turn probabilities into objects, and
whether a training still improves. To change how a model is chosen, change this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike

from septum.arrays.instances import AREAS, ObjectSettings
from septum.settings import MaskKind

MAIN_SCORES: Mapping[MaskKind, tuple[str, ...]] = {
    "objects": ("SEG", "AP50", "AP"),
    "classes": ("V_Rand", "dice", "iou", "pixel_error"),
}
"""Names of the main scores by the kind of the masks; ``V_Rand`` exists only where lines part areas.

They are those of `septum.metrics.aggregate.finish_objects` and `septum.metrics.aggregate.finish_classes`. A model file,
the log of a run and the head of its report hold them.
"""

_CHOOSING = (("SEG", "AP50"), ("V_Rand", "dice"), ("dice",))
"""Names of the scores whose mean chooses: of the first group whose scores all exist; all are in `MAIN_SCORES`.

SEG alone would ignore false objects, AP50 alone the fit of outlines. V_Rand detects gaps in lines, which hardly
change Dice.
"""

GAIN = 0.002
"""The selection score must rise by more than this to count as a gain; without gains a training reaches a plateau."""

SEED_SHARES = (0.0, 0.15, 0.3, 0.45)
"""Values of `septum.arrays.instances.ObjectSettings.seed_share` that tuning tries."""

OUTLINE_LEVELS = (0.5, 0.65, 0.35, 0.2)
"""Values of `septum.arrays.instances.ObjectSettings.outline_level` that tuning tries; the first one until then.

So the threshold and the seed level are chosen by how well they separate objects, not by where outlines lie.
"""

# Ratio of neighboring candidates for `septum.arrays.instances.ObjectSettings.min_size_px`, at most.
_MIN_SIZE_STEP = 1.25


def main_scores(scores: Mapping[str, float], kind: MaskKind) -> dict[str, float]:
    """Return the main scores among `scores`, in the order of `MAIN_SCORES`."""
    return {name: scores[name] for name in MAIN_SCORES[kind] if name in scores}


def selection_names(scores: Collection[str]) -> tuple[str, ...]:
    """Return the names of the scores whose mean is the selection score; the first one is the most important."""
    return next(names for names in _CHOOSING if all(name in scores for name in names))


def selection_score(scores: Mapping[str, float]) -> float:
    """Compute the number by which models are compared, 0 (worst) to 1; a score that is not defined counts 0.

    It is the mean of SEG and AP50 for objects, of V_Rand and Dice where lines part areas, and Dice for other classes.
    """
    names = selection_names(scores)
    return sum(scores[name] if np.isfinite(scores[name]) else 0.0 for name in names) / len(names)


def untuned(*, lines: bool = False, fill_holes: bool = False) -> ObjectSettings:
    """Return the settings of objects, or of areas between `lines`, where no image can be held out for tuning."""
    if lines:
        return AREAS
    return ObjectSettings(outline_level=OUTLINE_LEVELS[0], contacts="valley", fill_holes=fill_holes)


def candidates(object_sizes: ArrayLike = (), *, fill_holes: bool = False) -> tuple[ObjectSettings, ...]:
    """List the settings that tuning tries.

    Parameters
    ----------
    object_sizes
        ``(N,)`` integers, 1 or more: sizes of the true objects in pixels. The smallest of them determine `min_size_px`.
    fill_holes
        Fill holes of objects.

    Returns
    -------
    choices
        A grid of 32 settings, ordered so that neighbors share most of the work in
        `septum.arrays.instances.label_each`.
    """
    same = untuned(fill_holes=fill_holes).model_copy(update={"min_size_px": min_size_candidates(object_sizes)[0]})
    grid = itertools.product((0.35, 0.5, 0.65, 0.8), (0.8, 0.95), (0.0, 0.5), (0, 1))
    names = ("threshold", "seed_level", "merge_ratio", "grow_px")
    return tuple(same.model_copy(update=dict(zip(names, values, strict=True))) for values in grid)


def area_candidates(area_sizes: ArrayLike = ()) -> tuple[ObjectSettings, ...]:
    """List the settings that tuning tries for areas separated by lines; the counterpart of `candidates`.

    The threshold sets how far areas extend; the seed level sets how faint a line may be and still separate two areas.

    Parameters
    ----------
    area_sizes
        ``(N,)`` integers, 1 or more: sizes of the true areas in pixels.
    """
    same = AREAS.model_copy(update={"min_size_px": min_size_candidates(area_sizes)[0]})
    grid = itertools.product((0.2, 0.35, 0.5, 0.65, 0.8), (0.5, 0.6, 0.7, 0.8, 0.9, 0.95))
    return tuple(same.model_copy(update={"threshold": t, "seed_level": s}) for t, s in grid if s >= t)


def min_size_candidates(object_sizes: ArrayLike = ()) -> list[int]:
    """List candidates for `ObjectSettings.min_size_px`: most false objects are smaller than the true ones.

    The list runs from a quarter of the size that 99 % of the true objects exceed up to the size that 90 % exceed. With
    the lowest value alone, many false objects remained on the held-out images of four public data sets; tuning over the
    list raised AP50 by 0.03 to 0.14 there. Steps are small, so that the lowest value that removes the false objects
    removes little else: new images may hold true objects smaller than these.

    Parameters
    ----------
    object_sizes
        ``(N,)`` integers, 1 or more: sizes of the true objects in pixels.

    Returns
    -------
    sizes
        Rising, in pixels, 1 or more.
    """
    sizes = np.asarray(object_sizes, np.float64)
    if not sizes.size:
        return [ObjectSettings().min_size_px]
    tiny, few = np.quantile(sizes, [0.01, 0.1])
    steps = int(np.ceil(np.log(4 * few / tiny) / np.log(_MIN_SIZE_STEP)))
    return sorted({max(1, int(round(size, 6))) for size in np.geomspace(tiny / 4, few, steps + 1)})
