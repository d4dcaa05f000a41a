"""Masks of the field of view, as sets of retinal vessels have them: what lies outside is not annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.check.analyze import read_mask
from septum.check.issues import format_shape
from septum.errors import DataError, SeptumError
from septum.io.paths import format_path

if TYPE_CHECKING:
    from pathlib import Path

    from septum.check.statistics import PairStatistics


def read_field(path: Path, sides: Sequence[int]) -> NDArray[np.bool_]:
    """Read the mask of a field of view.

    Parameters
    ----------
    path
        The file: what is brighter than half of its largest value is inside, so that the smears of JPEG do no harm.
    sides
        Those of the image.

    Returns
    -------
    inside
        ``(*sides)``.

    Raises
    ------
    FileError
        If it cannot be read.
    DataError
        If it has other sides, or nothing is inside.
    """
    from septum.io.open import read_image

    values = read_image(path, labels=True).array
    colors = values[: 1 if len(values) < 3 else 3]  # without alpha
    if colors.shape[1:] != tuple(sides):
        given = f"image {format_shape(sides)}, field of view {format_shape(colors.shape[1:])}"
        raise DataError(f"{format_path(path)}: {given}", "the size of its image", "leave it out")
    brightest = colors.max(axis=0)
    if not brightest.max(initial=0) > 0:
        raise DataError(
            f"{format_path(path)}: nothing is inside", "values above 0 where the image shows something", "leave it out"
        )
    return np.asarray(brightest > brightest.max() / 2)


def outside_unknown(frames: NDArray[np.int32], path: Path | None) -> NDArray[np.int32]:
    """Set what lies outside of the field of view of `path`, if there is one, to `UNANNOTATED` in ``(T, *S)`` labels."""
    if path is None:
        return frames
    return np.where(read_field(path, frames.shape[1:]), frames, np.int32(UNANNOTATED))


def with_field(item: PairStatistics) -> PairStatistics:
    """Keep the field of view of an item if it fits image and mask; else say why it does not."""
    if item.field is None or item.image_facts is None or item.mask_facts is None:
        return item
    try:
        inside = read_field(item.field, item.image_facts.sides)
        labels = read_mask(item.mask, item.image_facts.axes)[1]
    except SeptumError as error:
        return replace(item, field=None, unfit_field=(item.field, error.given))
    drawn = [found.array > 0 for found in labels if found.array.shape == inside.shape]
    if 2 * sum(np.count_nonzero(d & inside) for d in drawn) >= sum(np.count_nonzero(d) for d in drawn):
        return item
    return replace(item, field=None, unfit_field=(item.field, "most of what is drawn lies outside"))
