"""Predict a rectangle of a plane, on the grid on which the network sees images; results are on that of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings, label_objects, outline_threshold, quantize
from septum.arrays.resample import Region, Resampled, resample_labels, scaled_sides
from septum.arrays.tiles import Readable
from septum.prediction.tiled import TiledPredictor, region_probabilities
from septum.studio.tile_grid import Rect

_MARGIN = 2  # pixels around a part of the working grid, between which values are interpolated


def predict_view(
    tiler: TiledPredictor,
    image: Readable,
    stats: NDArray[np.float32],
    rect: Rect,
    *,
    scale: float,
    objects: ObjectSettings | None,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Predict a rectangle.

    Parameters
    ----------
    tiler
        The network.
    image
        ``(C, Y, X)``, raw intensities of any range.
    stats
        ``(C, 3) float32``, of the image on the working grid; see `septum.arrays.normalize.statistics`.
    rect
        Part of the image, in its own pixels.
    scale
        Pixels of the working grid for each pixel of the image.
    objects
        How objects are made; None: the result is classes.

    Returns
    -------
    labels
        ``(Y, X)`` int32, the sides of `rect`: object ids of 1 and more, 0 background; or classes.
    sure
        ``(Y, X)`` uint8, 0..255: 255 times the probability of an object, or of the most probable class.
    """
    sides = image.shape[1:]
    region = (slice(rect.y0, rect.y1), slice(rect.x0, rect.x1))
    grid = scaled_sides(sides, (scale, scale))
    seen = image if grid == sides else Resampled(image, grid)
    covered = region if grid == sides else _covering(region, sides, grid)
    *_, (probabilities, _) = region_probabilities(tiler, seen, stats, covered)
    made = None if objects is None else label_objects(probabilities[1], objects)
    if grid != sides:
        part = Resampled(_Part(probabilities, covered, grid), sides)[(slice(None), *region)]
        if objects is not None and made is not None:
            labels, levels = made, quantize(probabilities[1])

            def read(asked: Region) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
                inner = _shifted(asked, covered)
                return labels[inner], levels[inner]

            made = resample_labels(read, grid, sides, region, threshold=outline_threshold(objects))
        probabilities = part
    if made is None:
        return probabilities.argmax(axis=0).astype(np.int32), _in_256(probabilities.max(axis=0))
    return made, _in_256(probabilities[1])


def _in_256(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(probabilities, 0, 1) * 255).astype(np.uint8)


def _covering(region: Region, sides: Sequence[int], grid: Sequence[int]) -> Region:
    """Return the part of the grid under a region of the image, with a margin."""
    return tuple(
        slice(max(0, s.start * m // n - _MARGIN), min(m, -(-s.stop * m // n) + _MARGIN))
        for s, n, m in zip(region, sides, grid, strict=True)
    )


def _shifted(region: Region, part: Region) -> Region:
    return tuple(slice(s.start - p.start, s.stop - p.start) for s, p in zip(region, part, strict=True))


@dataclass(frozen=True)
class _Part:
    """A part of an image that is read by the coordinates of the whole."""

    values: NDArray[np.float32]
    region: Region
    sides: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.values), *self.sides)

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[np.float32]:
        return self.values[(index[0], *_shifted(index[1:], self.region))]
