"""Feature maps of the engine and their layout in one arena of memory.

A tile needs many feature maps, but few at the same time: each map is alive from the chain of layers that fills it to
the last chain that reads it. `assign_addresses` lets maps that are never alive together share memory. Maps between two
convolutions of a level hold only a window of rows, which moves down with the computation (`FeatureMap.make_room`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from septum.cpu import _winograd as k
from septum.cpu._threads import Program
from septum.nn.unet import UNetSettings

_ALIGNMENT = 4096


@dataclass
class FeatureMap:
    """A feature map, channels last, of which a window of rows is in memory.

    Parameters
    ----------
    height, width
        Pixels without the border.
    chunks
        Vectors of a pixel.
    step
        Bytes of a vector.
    border
        Pixels of zeros around the map: 1 in networks with padding.
    rows
        Rows in memory, including the border.
    born, dies
        First and last chain of layers that use the map.
    """

    height: int
    width: int
    chunks: int
    step: int
    border: int
    rows: int
    born: int
    dies: int
    address: int = 0
    first: int = field(default=0, init=False)  # first row in memory; row 0 is the upper border
    filled: int = field(default=0, init=False)  # rows written so far, including the border

    @property
    def pixel_bytes(self) -> int:
        """Bytes from one pixel to the next."""
        return self.chunks * self.step

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return (self.width + 2 * self.border) * self.pixel_bytes

    @property
    def bytes(self) -> int:
        """Bytes of the rows in memory."""
        return self.rows * self.row_bytes

    def at(self, y: int, x: int) -> int:
        """Return the address of a pixel, not counting the border, as if all rows were in memory."""
        return self.address + (y + self.border - self.first) * self.row_bytes + (x + self.border) * self.pixel_bytes

    def begin(self, program: Program) -> None:
        """Reset the window to the first row; let the program set the border to zero."""
        self.first = self.filled = 0
        if self.border:
            side = self.border * self.pixel_bytes
            self._clear(program, self.address, 1, self.row_bytes)
            self._clear(program, self.address, self.rows, side)
            self._clear(program, self.address + self.row_bytes - side, self.rows, side)
            self._end_border(program)

    def make_room(self, program: Program, needed: int, end: int) -> None:
        """Move the window so that rows up to `end` (not counting the border) fit; rows before `needed` are dropped."""
        if self.rows == self.height + 2 * self.border:  # the whole map is in memory
            return
        if end + 2 * self.border - self.first > self.rows:
            kept = self.filled - needed
            if kept > 0:
                d = np.zeros(k.SIZE, np.int64)
                d[k.INPUT0] = self.address + (needed - self.first) * self.row_bytes
                d[k.OUTPUT], d[k.END] = self.address, kept * self.row_bytes // self.step
                program.add(k.MOVE, d)
            self.first = needed
            assert end + 2 * self.border - self.first <= self.rows, (needed, end, self)
            self._end_border(program)
        self.filled = end + self.border

    def _end_border(self, program: Program) -> None:
        """Set the lower border to zero if it is in the window."""
        last = self.height + 1
        if self.border and last - self.first < self.rows:
            self._clear(program, self.address + (last - self.first) * self.row_bytes, 1, self.row_bytes)

    def _clear(self, program: Program, address: int, rows: int, size: int) -> None:
        """Set the first `size` bytes of some rows to zero."""
        d = np.zeros(k.SIZE, np.int64)
        d[k.OUTPUT], d[k.OUT_ROW], d[k.HEIGHT], d[k.END] = address, self.row_bytes, rows, size // self.step
        program.add(k.CLEAR, d)


class Placed(Protocol):
    """Memory that layers `born` to `dies` use."""

    address: int
    born: int
    dies: int

    @property
    def bytes(self) -> int:
        """Bytes of the memory."""
        ...


def assign_addresses(maps: Sequence[Placed]) -> int:
    """Assign addresses from 0 on so that maps alive at the same time do not overlap; return the bytes needed.

    Greedy, largest first: each map takes the lowest gap between the maps already placed that are alive with it.
    """
    placed: list[Placed] = []
    for one in sorted(maps, key=lambda m: -m.bytes):
        others = sorted((m for m in placed if m.born <= one.dies and one.born <= m.dies), key=lambda m: m.address)
        one.address = 0
        for other in others:
            if one.address + one.bytes <= other.address:
                break
            end = other.address + other.bytes
            one.address = max(one.address, -(-end // _ALIGNMENT) * _ALIGNMENT)
        placed.append(one)
    return max((m.address + m.bytes for m in maps), default=0)


@dataclass(frozen=True)
class LevelMaps:
    """Maps of a level: `first`, `skip`, `pooled` while contracting, `enlarged`, `merged`, `out` while expanding.

    `first` and `skip` hold the two convolutions of the contracting path, `enlarged` the up-convolution, `merged` and
    `out` the two convolutions of the expanding path.
    """

    first: FeatureMap
    skip: FeatureMap
    pooled: FeatureMap | None = None
    enlarged: FeatureMap | None = None
    merged: FeatureMap | None = None
    out: FeatureMap | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """All maps of one tile.

    Parameters
    ----------
    levels
        From the finest to the bottom, whose `skip` is its second convolution.
    maps
        All maps.
    bands
        Rows that each level computes at a time.
    bytes
        Memory of all maps.
    """

    levels: tuple[LevelMaps, ...]
    maps: tuple[FeatureMap, ...]
    bands: tuple[int, ...]
    bytes: int


def plan_memory(settings: UNetSettings, sides: Sequence[int], *, lanes: int, band_pixels: int) -> MemoryPlan:
    """Plan the memory of one tile.

    Parameters
    ----------
    settings
        A 2D network of equal depths.
    sides
        Input sides of the tile.
    lanes
        Values of a vector: features are padded to multiples.
    band_pixels
        Levels are computed in bands of about this many pixels (rows in multiples of four), so that maps between two
        convolutions are not in memory as a whole.
    """
    levels, border, cut = max(settings.depths), int(settings.padding == "same"), 2 * (settings.padding == "valid")
    downs = [(sides[0], sides[1])]
    for _ in range(levels):
        downs.append(((downs[-1][0] - 2 * cut) // 2, (downs[-1][1] - 2 * cut) // 2))
    ups = [(downs[-1][0] - 2 * cut, downs[-1][1] - 2 * cut)]  # of the map before the up-convolution
    for _ in range(levels):
        ups.append((2 * ups[-1][0] - 2 * cut, 2 * ups[-1][1] - 2 * cut))
    bands = tuple(max(4, -(-band_pixels // (4 * w)) * 4) for _, w in downs)
    made: list[FeatureMap] = []

    def new(shape: tuple[int, int], features: int, born: int, dies: int, rows: int | None = None) -> FeatureMap:
        height, width = shape
        rows = height + 2 * border if rows is None else min(rows, height) + 2 * border
        chunks = -(-features // lanes)
        made.append(FeatureMap(height, width, chunks, 4 * lanes, border, rows, born, dies))
        return made[-1]

    level_maps = []
    for level in range(levels + 1):
        height, width = downs[level]
        features, up, window = settings.width << level, 2 * levels - level, bands[level] + 8
        first = new((height - cut, width - cut), features, level, level, window)
        if level == levels:
            level_maps.append(LevelMaps(first, new((height - 2 * cut, width - 2 * cut), features, level, level + 1)))
            break
        below = ups[levels - level - 1]
        joined = (2 * below[0], 2 * below[1])
        merged = (joined[0] - cut, joined[1] - cut)
        last = (joined[0] - 2 * cut, joined[1] - 2 * cut)
        level_maps.append(
            LevelMaps(
                first,
                new(joined, features, level, up),
                new(downs[level + 1], features, level, level + 1),
                new(joined, features, up, up, window),
                new(merged, features, up, up, window),
                new(last, features, up, up + (level > 0), None if level else window),
            )
        )
    return MemoryPlan(tuple(level_maps), tuple(made), bands, assign_addresses(made))
