"""Masks of the field of view, as data sets of retinal vessels have them: pixels outside are not annotated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.check.issues import IssueKind, Observation
from septum.check.pair_files import short_reason
from septum.check.reading import Files
from septum.check.statistics import PairStatistics
from septum.errors import SeptumError
from septum.pairing.pair import Pairing

FIELD_OF_VIEW = IssueKind(
    "field-of-view", "mended", "mask", "of the field of view", "pixels outside are read as not annotated"
)
FIELD_UNUSABLE = IssueKind(
    "field-unusable",
    "warning",
    "mask",
    "of the field of view that cannot be used",
    "left out",
    todo="export it again in the size of its image",
)
KINDS = (FIELD_OF_VIEW, FIELD_UNUSABLE)


def detect(pairing: Pairing) -> Iterator[Observation]:
    """Yield masks of the field of view that belong to no image."""
    for path, role in pairing.set_aside:
        if role == "field of view":
            yield Observation(FIELD_UNUSABLE, path, "no image of this name")


def detect_in_pair(pair: PairStatistics) -> Iterator[Observation]:
    """Yield the mask of the field of view of a pair: used, or not usable."""
    if pair.image_stats is None or pair.mask_stats is None:
        return
    if pair.field is not None:
        yield Observation(FIELD_OF_VIEW, pair.field)
    if pair.unusable_field is not None:
        path, reason = pair.unusable_field
        yield Observation(FIELD_UNUSABLE, path, short_reason(reason, path))


def with_usable_field(pair: PairStatistics, files: Files) -> PairStatistics:
    """Return the pair with its field of view only if the field fits image and mask, else with the reason."""
    if pair.field is None or pair.image_stats is None or pair.mask_stats is None:
        return pair
    try:
        inside = files.field(pair.field, pair.image_stats.sides)
        labels = files.labels(pair.mask, pair.grid)
    except SeptumError as error:
        return replace(pair, field=None, unusable_field=(pair.field, error.given))
    drawn = [frame.array > 0 for frame in labels if frame.array.shape == inside.shape]
    if 2 * sum(np.count_nonzero(d & inside) for d in drawn) >= sum(np.count_nonzero(d) for d in drawn):
        return pair
    return replace(pair, field=None, unusable_field=(pair.field, "most labeled pixels lie outside"))


def mark_outside(frames: NDArray[np.int32], path: Path, files: Files) -> NDArray[np.int32]:
    """Set pixels outside the field of view to `UNANNOTATED`.

    Parameters
    ----------
    frames
        ``(T, *S)`` int32, labels.
    path
        Mask of the field of view.
    files
        Reader of the data set.

    Returns
    -------
    frames
        ``(T, *S)`` int32, the same labels or `UNANNOTATED`.
    """
    return np.where(files.field(path, frames.shape[1:]), frames, np.int32(UNANNOTATED))
