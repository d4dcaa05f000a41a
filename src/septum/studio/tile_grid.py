"""The grid of tiles over an image, and run lengths of changed pixels inside a tile.

Labels and images travel to the page in tiles of `SIDE` pixels. Level 0 is the image itself; a pixel of level L stands
for 2^L x 2^L pixels. Values of labels: object ids (or classes) of 1 and more, 0 background, -1 not annotated.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.errors import UsageError

SIDE = 512
"""Sides of a tile in pixels."""

HIGHEST_ID = 2**31 - 1
"""Largest object id: labels are int32."""

Place = tuple[int, int]
"""Row and column of a tile."""


@dataclass(frozen=True)
class Rect:
    """A rectangle of pixels: first row and column, and one after the last."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def sides(self) -> tuple[int, int]:
        """Return height and width in pixels; 0 where it is empty."""
        return max(0, self.y1 - self.y0), max(0, self.x1 - self.x0)

    @property
    def empty(self) -> bool:
        """Return True if it holds no pixel."""
        return 0 in self.sides

    def clip(self, other: Rect) -> Rect:
        """Return the part of this box inside another one."""
        return Rect(max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1))

    def grow(self, margin: int) -> Rect:
        """Return this box with a margin on each side."""
        return Rect(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)

    def within(self, outer: Rect) -> tuple[slice, slice]:
        """Return the slices of this box in an array that covers `outer`."""
        return slice(self.y0 - outer.y0, self.y1 - outer.y0), slice(self.x0 - outer.x0, self.x1 - outer.x0)

    def places(self) -> Iterator[Place]:
        """Yield the tiles that the box touches, row by row."""
        if self.empty:
            return
        for ty in range(self.y0 // SIDE, (self.y1 - 1) // SIDE + 1):
            for tx in range(self.x0 // SIDE, (self.x1 - 1) // SIDE + 1):
                yield ty, tx


def tile_box(place: Place) -> Rect:
    """Return the pixels of a tile, also those beyond the border of the image."""
    ty, tx = place
    return Rect(ty * SIDE, tx * SIDE, (ty + 1) * SIDE, (tx + 1) * SIDE)


def image_box(sides: Sequence[int]) -> Rect:
    """Return the pixels of an image of height and width `sides`."""
    return Rect(0, 0, sides[0], sides[1])


def levels_of(sides: Sequence[int]) -> int:
    """Return the number of levels of an image: the coarsest fits into one tile."""
    levels = 1
    while max(sides) > SIDE << (levels - 1):
        levels += 1
    return levels


def empty_tile() -> NDArray[np.int32]:
    """Return a tile that is not annotated: ``(SIDE, SIDE)`` int32 labels, all -1."""
    return np.full((SIDE, SIDE), UNANNOTATED, np.int32)


def apply_runs(tile: NDArray[np.int32], runs: Sequence[int]) -> NDArray[np.int32]:
    """Return a copy of a tile with runs of pixels changed.

    Parameters
    ----------
    tile
        ``(SIDE, SIDE)`` int32 labels.
    runs
        Triples one after the other: index of the first pixel in scan order, number of pixels, label.

    Returns
    -------
    ndarray
        ``(SIDE, SIDE)`` int32 labels.

    Raises
    ------
    UsageError
        If a run lies outside of the tile or a label is out of range.
    """
    if len(runs) % 3:
        raise UsageError(
            f"runs of {len(runs)} numbers", "triples of index, number of pixels and label", "reload the page"
        )
    table = np.asarray(runs, np.int64).reshape(-1, 3)
    start, length, value = table[:, 0], table[:, 1], table[:, 2]
    if len(table) and (
        start.min() < 0
        or length.min() < 1
        or (start + length).max() > SIDE**2
        or value.min() < UNANNOTATED
        or value.max() > HIGHEST_ID
    ):
        raise UsageError("runs outside of a tile", f"indices below {SIDE**2}, labels of -1 and more", "reload the page")
    flat = tile.reshape(-1).copy()
    for first, count, label in table.tolist():
        flat[first : first + count] = label
    return flat.reshape(tile.shape)


def changed_box(before: NDArray[np.int32], after: NDArray[np.int32]) -> Rect | None:
    """Return the smallest box that holds all changed pixels of a tile, relative to the tile; None if there are none.

    Parameters
    ----------
    before, after
        ``(SIDE, SIDE)`` int32 labels.
    """
    changed = before != after
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not len(rows):
        return None
    return Rect(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def clip_tile(tile: NDArray[np.int32], place: Place, sides: tuple[int, int]) -> NDArray[np.int32]:
    """Return a tile whose pixels beyond the border of the image are not annotated.

    Parameters
    ----------
    tile
        ``(SIDE, SIDE)`` int32 labels.
    place
        Where it lies.
    sides
        Height and width of the image.

    Returns
    -------
    ndarray
        ``(SIDE, SIDE)`` int32 labels.

    Raises
    ------
    UsageError
        If the tile lies outside of the image.
    """
    whole = tile_box(place)
    part = whole.clip(image_box(sides))
    if part.empty:
        raise UsageError(
            f"tile {place} of an image of {sides[0]} x {sides[1]} pixels", "a tile of the image", "reload the page"
        )
    if part == whole:
        return tile
    kept = empty_tile()
    kept[part.within(whole)] = tile[part.within(whole)]
    return kept


def pack(labels: NDArray[np.int32]) -> bytes:
    """Return ``(Y, X)`` int32 labels of any sides as compressed bytes."""
    return zlib.compress(np.ascontiguousarray(labels, "<i4").tobytes(), 1)


def unpack(data: bytes, sides: tuple[int, int]) -> NDArray[np.int32]:
    """Return the labels that `pack` was given, ``(Y, X)`` int32 with these sides, any values."""
    return np.frombuffer(zlib.decompress(data), "<i4").reshape(sides).astype(np.int32)
