"""Compare what several candidate settings make of a prediction with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from septum.arrays import targets
from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import ObjectSettings, label_each
from septum.arrays.targets import connected_components
from septum.metrics import isbi
from septum.metrics.aggregate import class_columns, object_columns
from septum.metrics.contingency import table
from septum.pairing.sample import Sample, judged_objects, measured


def candidate_columns(
    sample: Sample, foreground: NDArray[np.float16], choices: Sequence[ObjectSettings], *, lines: bool = False
) -> NDArray[np.float64]:
    """Make the objects, or the areas between lines, of each candidate setting and compare them with the truth.

    Parameters
    ----------
    sample
        A held-out image.
    foreground
        ``(*S) float16`` probability of the object class, or of the inside of areas.
    choices
        Candidate settings; neighbors in the list should share much (see `septum.arrays.instances.label_each`).
    lines
        True if the two classes are lines and areas.

    Returns
    -------
    ndarray
        ``(candidates, 11, 4) float64`` of `septum.metrics.aggregate.object_columns`, non-negative; with `lines`
        ``(candidates, 4, 3)`` of `septum.metrics.aggregate.class_columns`.
    """
    sample = sample.held()
    made = label_each(foreground.astype(np.float32), choices, spacing=sample.spacing_um)
    columns = []
    for _, labels, _ in made:
        if lines:
            classes = (draw_boundaries(labels) > 0).astype(np.int32)
            areas = isbi.areas(sample.mask, classes)
            columns.append(class_columns(table(sample.mask, classes), classes=2, areas=areas))
            continue
        full = table(sample.mask, judged_objects(labels, sample))
        columns.append(object_columns(full if sample.gold is None else table(sample.gold, labels), full))
    return np.stack(columns)


def object_sizes(samples: Sequence[Sample], *, lines: bool = False) -> NDArray[np.float64]:
    """Compute the sizes of all objects, or of all areas between lines.

    Parameters
    ----------
    samples
        Images with their masks.
    lines
        True if the two classes are lines and areas.

    Returns
    -------
    ndarray
        ``(n,) float64`` in pixels, 1 or more.
    """
    labels = (connected_components(s.mask > 0) if lines else s.mask for s in measured(samples))
    return np.concatenate([np.zeros(0), *map(targets.object_sizes, labels)])
