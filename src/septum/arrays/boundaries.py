"""Borders of labeled areas: lines of one pixel that part areas, gaps that are closed step by step, contacts.

Models of earlier versions close the gaps between objects like this; later ones as
`septum.arrays.instances.finish_contacts` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import spread
from septum.axes import pixels_within

IntT = TypeVar("IntT", bound=np.integer[Any])


def draw_boundaries(labels: NDArray[IntT]) -> NDArray[IntT]:
    """Draw background lines, one pixel wide, so that no two areas touch, not even diagonally.

    A pixel of the result depends on its direct neighbors only.

    Parameters
    ----------
    labels
        ``(*S)`` integers: area ids, 0 background.

    Returns
    -------
    labels
        ``(*S)``, the dtype of `labels`: 0 at pixels beside an area with a lower id. The line is taken from one of the
        two areas; an area one pixel wide can vanish.
    """
    own = (labels - 1).astype(f"u{labels.itemsize}")  # unsigned wrap: background becomes the largest value
    lowest = own.copy()
    for axis in range(labels.ndim):
        spread(lowest, axis, 1, np.minimum)
    lined: NDArray[IntT] = labels * (lowest == own)
    return lined


def close_gaps(labels: NDArray[np.int32], grow_px: int, sizes: Sequence[float]) -> NDArray[np.int32]:
    """Assign background pixels within `grow_px` of two objects to the nearer one, in a tie to the higher label.

    Distance counts steps between face neighbors inside the gap: connecting through corners would leave single pixels
    along the border. A pixel of the result depends only on pixels within `close_gaps_reach`.

    Parameters
    ----------
    labels
        ``(*S)`` int32, 0 background.
    grow_px
        In pixels of the finest axis.
    sizes
        Pixel size along each axis in pixels of the finest.

    Returns
    -------
    labels
        ``(*S)`` int32, 0 background.
    """
    windows = pixels_within(grow_px, sizes)
    if max(windows) == 0 or int(labels.max(initial=0)) < 2:
        return labels
    highest, lowest = (
        labels.copy(),
        (labels - 1).astype(np.uint32),
    )  # unsigned wrap: background becomes the largest value
    for axis, window in enumerate(windows):
        spread(highest, axis, window, np.maximum)
        spread(lowest, axis, window, np.minimum)
    gap = (labels == 0) & ((highest - 1).astype(np.uint32) > lowest)
    del highest, lowest
    ringed = np.pad(labels, 1)
    flat = ringed.ravel()
    open_pixels = np.flatnonzero(np.pad(gap, 1))
    strides = [stride // ringed.itemsize for stride in ringed.strides]
    steps = [step for s, w in zip(strides, windows, strict=True) if w for step in (-s, s)]
    for _ in range(sum(windows)):
        nearby = flat[open_pixels]
        for step in steps:
            np.maximum(nearby, flat[open_pixels + step], out=nearby)
        flat[open_pixels] = nearby
        open_pixels = open_pixels[nearby == 0]
    return np.ascontiguousarray(ringed[(slice(1, -1),) * labels.ndim])


def touching_ids(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the ids of the objects that share the face of a pixel with another object.

    Parameters
    ----------
    labels
        ``(*S)`` int32: ids of 1 and more; 0 and less are not objects.

    Returns
    -------
    ndarray
        ``(n,)`` int32: ids of 1 and more, rising.
    """
    ids = [np.zeros(0, np.int32)]
    for axis in range(labels.ndim):
        one = np.moveaxis(labels, axis, 0)
        a, b = one[:-1], one[1:]
        differ = a != b
        a, b = a[differ], b[differ]
        both = (a > 0) & (b > 0)
        ids += [a[both], b[both]]
    return np.unique(np.concatenate(ids)).astype(np.int32)


def close_gaps_reach(grow_px: int, sizes: Sequence[float]) -> tuple[int, ...]:
    """Return how far around a pixel `close_gaps` looks along each axis, in pixels."""
    windows = pixels_within(grow_px, sizes)
    return tuple(window + min(1, window) * sum(windows) for window in windows)
