"""Resampling of an image to another grid, and of results back to the image's own grid.

Pixels are squares: pixel ``i`` of ``n`` covers the part from ``i / n`` to ``(i + 1) / n`` of a side, on every grid of
that side. Each value of a resampled image is a sum over its neighbors on the other grid, with weights and an order of
summation that follow from its coordinates alone. A region therefore equals the same region of the whole resampled image
bit for bit, whatever part is read at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, floor, prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import LEVELS
from septum.arrays.tiles import Readable

Region = tuple[slice, ...]
IntT = TypeVar("IntT", bound=np.integer[Any])

# Values that are read or resampled at a time; larger regions are divided.
_PIECE = 1 << 20
# Memory of a piece: float32 copies along one axis and the next, for each value beside the value as it is read.
_PIECE_BYTES = 16


def scaled_sides(sides: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
    """Return the sides of a grid that is finer by a factor for each axis: rounded, at least 1."""
    return tuple(max(1, floor(side * factor + 0.5)) for side, factor in zip(sides, scale, strict=True))


def resampling_bytes(itemsize: int) -> int:
    """Return the memory that `Resampled` takes beside its result, for an image of `itemsize` bytes a value."""
    return _PIECE * (itemsize + _PIECE_BYTES)


@dataclass(frozen=True)
class Resampled:
    """An image on another grid of the same extent; only the parts that are asked for are read and computed.

    Along an axis that shrinks, a pixel is the mean of its neighbors with weights that fall linearly to zero over the
    width of one pixel of the result to each side (a triangle filter, which admits no finer structure than the result
    can hold); along an axis that grows, it is interpolated linearly between the two nearest pixels. Outside of the
    image there are no neighbors, and the weights of those inside add up to 1.

    Parameters
    ----------
    image
        ``(C, *S)``.
    sides
        Spatial sides of the grid, 1 and more.
    """

    image: Readable
    sides: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, *sides)``."""
        return (self.image.shape[0], *self.sides)

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[np.float32]:
        channels, region = index[0], tuple(slice(*s.indices(n)) for s, n in zip(index[1:], self.sides, strict=True))
        count = len(range(self.shape[0])[channels])
        out = np.empty((count, *(s.stop - s.start for s in region)), np.float32)
        for piece in _pieces(region, lambda part: count * self._read_size(part)):
            place = tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(piece, region, strict=True))
            out[(slice(None), *place)] = self._resample(channels, piece)
        return out

    def _taps(self, region: Region) -> list[_Taps]:
        before = self.image.shape[1:]
        return [_taps(n, m, s, max(1.0, n / m)) for n, m, s in zip(before, self.sides, region, strict=True)]

    def _read_size(self, region: Region) -> int:
        return prod(taps.stop - taps.start for taps in self._taps(region))

    def _resample(self, channels: slice, region: Region) -> NDArray[np.float32]:
        axes = self._taps(region)
        part = self.image[(channels, *(slice(taps.start, taps.stop) for taps in axes))].astype(np.float32)
        for axis, taps in enumerate(axes, start=1):
            part = taps.apply(part, axis)
        return part


@dataclass(frozen=True)
class _Taps:
    """The neighbors of each pixel of an axis: places ``(n, k)`` from `start` on, weights ``(n, k) float32``."""

    start: int
    stop: int
    places: NDArray[np.intp]
    weights: NDArray[np.float32]

    def apply(self, part: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Compute the weighted sums along an axis, of the neighbors in their order."""
        column = (slice(None),) + (None,) * (part.ndim - 1 - axis)
        total = np.zeros(1, np.float32)
        for k in range(self.places.shape[1]):
            total = total + np.take(part, self.places[:, k], axis=axis) * self.weights[:, k][column]
        return total


def _taps(before: int, after: int, part: slice, reach: float) -> _Taps:
    """Return the neighbors within `reach` pixels of each pixel of a `part` of an axis.

    Parameters
    ----------
    before, after
        Pixels of the axis, on the grid of the neighbors and on that of the result.
    part
        Pixels of the result.
    reach
        Distance at which the weight becomes zero, in pixels of the grid of the neighbors.
    """
    centers = (np.arange(part.start, part.stop) + 0.5) * (before / after) - 0.5
    first = np.floor(centers - reach).astype(np.intp) + 1
    places = first[:, None] + np.arange(1 if before == after else ceil(2 * reach))
    weights = np.maximum(0, 1 - np.abs(places - centers[:, None]) / reach)
    weights[(places < 0) | (places >= before)] = 0
    total = np.zeros(len(centers))
    for k in range(weights.shape[1]):  # in the same order for any part
        total += weights[:, k]
    inside = np.clip(places, 0, before - 1)
    start = int(inside.min())
    return _Taps(start, int(inside.max()) + 1, inside - start, (weights / total[:, None]).astype(np.float32))


def _pieces(region: Region, size: Callable[[Region], int]) -> Iterator[Region]:
    """Divide a region along its longest side until each part has at most `_PIECE` values, or one pixel."""
    sides = [s.stop - s.start for s in region]
    if max(sides) <= 1 or size(region) <= _PIECE:
        yield region
        return
    axis = sides.index(max(sides))
    middle = region[axis].start + sides[axis] // 2
    for half in (slice(region[axis].start, middle), slice(middle, region[axis].stop)):
        yield from _pieces((*region[:axis], half, *region[axis + 1 :]), size)


def resample_labels(
    read: Callable[[Region], tuple[NDArray[IntT], NDArray[np.uint16]]],
    before: Sequence[int],
    sides: Sequence[int],
    region: Region,
    *,
    threshold: int,
) -> NDArray[IntT]:
    """Bring a region of labels to another grid, with smooth outlines.

    A pixel is foreground where the level, interpolated linearly between its nearest pixels on the grid of the labels,
    is above the threshold. It then takes the label whose pixels have the largest sum of weights among these, in a tie
    the lower one. Where a label and the level disagree the label decides: the level counts as full inside of objects
    (gaps that were closed), and as zero above the threshold outside of them (objects that were removed).

    Parameters
    ----------
    read
        Reads a region of the grid of the labels: ``(*region)`` integers, object ids, 0 background; and ``(*region)``
        uint16, 0 to 65535, from `septum.arrays.instances.quantize`.
    before, sides
        Sides of the grid of the labels, and of that of the result.
    region
        Part of the result.
    threshold
        Level above which a pixel is foreground, from `septum.arrays.instances.outline_threshold`.

    Returns
    -------
    labels
        ``(*region)``, the dtype that `read` gives: object ids, 0 background.
    """

    def taps(part: Region) -> list[_Taps]:
        return [_taps(n, m, s, 1.0) for n, m, s in zip(before, sides, part, strict=True)]

    def resample(piece: Region) -> NDArray[IntT]:
        axes = taps(piece)
        labels, levels = read(tuple(slice(t.start, t.stop) for t in axes))
        return _resample_labels(labels, levels, axes, threshold)

    pieces = list(_pieces(region, lambda part: max(prod(len(t.places) for t in taps(part)), _covered(taps(part)))))
    if len(pieces) == 1:
        return resample(region)
    out: NDArray[IntT] | None = None
    for piece in pieces:
        made = resample(piece)
        if out is None:
            out = np.empty([s.stop - s.start for s in region], made.dtype)
        out[tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(piece, region, strict=True))] = made
    assert out is not None
    return out


def _covered(axes: Sequence[_Taps]) -> int:
    return prod(t.stop - t.start for t in axes)


def _resample_labels(
    labels: NDArray[IntT], levels: NDArray[np.uint16], axes: Sequence[_Taps], threshold: int
) -> NDArray[IntT]:
    corners = list(product(*(range(t.places.shape[1]) for t in axes)))
    first = labels[np.ix_(*(t.places[:, k] for t, k in zip(axes, corners[0], strict=True)))]
    mixed = np.zeros(first.shape, np.bool_)
    for corner in corners[1:]:
        mixed |= labels[np.ix_(*(t.places[:, k] for t, k in zip(axes, corner, strict=True)))] != first
    out = np.ascontiguousarray(first)
    where = np.nonzero(mixed)
    near, weights, level = [], [], np.zeros(len(where[0]), np.float32)
    for corner in corners:
        place = tuple(t.places[w, k] for t, w, k in zip(axes, where, corner, strict=True))
        weight = np.ones(len(level), np.float32)
        for t, w, k in zip(axes, where, corner, strict=True):
            weight = weight * t.weights[w, k]
        label, value = labels[place], levels[place]
        value = np.where((value > threshold) == (label > 0), value, np.where(label > 0, LEVELS, 0))
        level = level + weight * value.astype(np.float32)
        near.append(label)
        weights.append(weight)
    best, most = np.zeros(len(level), labels.dtype), np.zeros(len(level), np.float32)
    for label in near:
        votes = np.zeros(len(level), np.float32)
        for other, weight in zip(near, weights, strict=True):
            votes = votes + np.where(other == label, weight, np.float32(0))
        better = (label > 0) & ((votes > most) | ((votes == most) & (label < best)))
        best, most = np.where(better, label, best), np.where(better, votes, most)
    out[where] = np.where(level > threshold, best, 0)
    return out
