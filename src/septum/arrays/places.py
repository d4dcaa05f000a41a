"""Pixels around which training tiles are drawn: of each object, or of each class and each of its pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import IGNORE_INDEX, connected_components

# Pixels to draw tiles around: at most this many of each object and of each class, and one of each connected piece of a
# class that none of these lies in, for at most this many pieces.
_PLACES_PER_OBJECT, _PLACES_PER_CLASS, _MAX_PIECES = 8, 256, 4096


@dataclass(frozen=True)
class TilePlaces:
    """Pixels to draw tiles around: of one object (`value` 1) or of the class `value`.

    Attributes
    ----------
    value
        The class; 1 for an object.
    pixels
        ``(n, D)`` int32, 0 or more: coordinates of n >= 1 pixels along the D axes.
    """

    value: int
    pixels: NDArray[np.int32]


def draw_places(
    mask: NDArray[np.int32], target: NDArray[np.uint8], draw: np.random.Generator, *, objects: bool
) -> tuple[TilePlaces, ...]:
    """Draw pixels of each object, or of each class, to draw training tiles around.

    They include at least one pixel of every connected piece of a class, so that no piece is too small to be reached.

    Parameters
    ----------
    mask
        ``(*S)`` int32: ids of objects of 1 and more, or classes; smaller values are background or not annotated.
    target
        ``(*S)`` uint8: the class of each pixel, `IGNORE_INDEX` where it is not annotated.
    draw
        Random generator.
    objects
        True if the mask holds ids of objects.

    Returns
    -------
    tuple of TilePlaces
        One for each object, in the order of the ids, or for each class.
    """
    if objects:
        chosen = [(1, p[draw.integers(0, len(p), min(_PLACES_PER_OBJECT, len(p)))]) for p in _pixels_of(mask)]
    else:
        chosen = []
        for value in (int(v) for v in np.unique(target) if v != IGNORE_INDEX):
            pixels = np.flatnonzero(target == value)
            drawn = pixels[draw.integers(0, len(pixels), min(_PLACES_PER_CLASS, len(pixels)))]
            if value > 0:
                drawn = np.concatenate([drawn, _missed_pieces(connected_components(target == value), drawn, draw)])
            chosen.append((value, drawn))
    return tuple(
        TilePlaces(k, np.stack(np.unravel_index(c, mask.shape), axis=1).astype(np.int32)) for k, c in chosen if len(c)
    )


def _pixels_of(labels: NDArray[np.int32]) -> list[NDArray[np.intp]]:
    """Return the flat indices of the pixels of each label >= 1, in the order of the labels."""
    pixels = np.flatnonzero(labels > 0)
    if not len(pixels):
        return []
    owners = labels.reshape(-1)[pixels]
    if int(owners.max()) < 1 << 16:
        owners = owners.astype(np.uint16)  # sorted in linear time
    order = np.argsort(owners, kind="stable")
    return np.split(pixels[order], np.flatnonzero(np.diff(owners[order])) + 1)


def _missed_pieces(pieces: NDArray[np.int32], places: NDArray[np.intp], draw: np.random.Generator) -> NDArray[np.intp]:
    """Draw one pixel of each piece that contains none of `places`; if there are many, of `_MAX_PIECES` random ones."""
    reached = np.zeros(int(pieces.max(initial=0)) + 1, bool)
    reached[pieces.reshape(-1)[places]] = True
    missed = np.where(reached[pieces], np.int32(0), pieces)
    pixels = [p[int(draw.integers(len(p)))] for p in _pixels_of(missed)]
    return np.asarray(draw.permutation(pixels)[:_MAX_PIECES], np.intp)
