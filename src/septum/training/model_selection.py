"""The scores of held-out images that a training reports, and the one number that chooses.

That number decides which weights are kept, how probabilities become objects, and whether a training still gets better.
To change how a model is chosen, change this file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

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
"""Names of the scores whose mean chooses; the first group of which all scores exist.

SEG alone would ignore false objects, AP50 alone the fit of outlines. V_Rand detects gaps in lines, which hardly
change Dice.
"""

GAIN = 0.002
"""The selection score must rise by more than this to count as a gain; without gains a training reaches a plateau."""


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
