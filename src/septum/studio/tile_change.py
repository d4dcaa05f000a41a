"""What an edit changes in a tile, in the form in which it is stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.studio.tile_grid import SIDE, Place, Rect, changed_box, pack


@dataclass(frozen=True, eq=False)
class TileChange:
    """A change of a tile, ready to be stored.

    Attributes
    ----------
    place, box
        The tile, and the part of it that changes, relative to the tile.
    before, after
        The packed labels of the part.
    whole
        The packed labels of the whole tile after the change.
    held
        The labels in the tile after the change; see `held_in`.
    """

    place: Place
    box: Rect
    before: bytes
    after: bytes
    whole: bytes
    held: list[int]


def compare_tile(place: Place, before: NDArray[np.int32], after: NDArray[np.int32]) -> TileChange | None:
    """Return the change of a tile, None if there is none; both are ``(SIDE, SIDE)`` int32 labels."""
    box = changed_box(before, after)
    if box is None:
        return None
    part, whole = box.within(Rect(0, 0, SIDE, SIDE)), pack(after)
    changed = whole if box.sides == after.shape else pack(after[part])
    return TileChange(place, box, pack(before[part]), changed, whole, held_in(after))


def held_in(tile: NDArray[np.int32]) -> list[int]:
    """Return the labels in a tile of ``(SIDE, SIDE)`` int32: ids, and 0 where it holds background."""
    found = np.unique(tile)
    return [int(label) for label in found[found >= 0]]
