"""Test-time augmentation: probabilities averaged over rotated and mirrored versions of the image.

The paper averages seven rotated versions of the input (section 4). The eight versions here are exact: quarter turns in
the plane, each also mirrored, so that no pixel is interpolated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.geometry import Geometry
from septum.arrays.tiles import Readable, plan_tiles
from septum.prediction.tiled import Region, TiledPredictor

Transform = tuple[int, bool]
"""A number of quarter turns, and whether the turned image is then mirrored along X."""


def tta_transforms(geometry: Geometry) -> list[Transform]:
    """Return the transforms to average over: quarter turns in the plane, each also mirrored.

    A network of unequal depths along Y and X allows half turns only.
    """
    turns = range(4) if geometry.depths[-1] == geometry.depths[-2] else (0, 2)
    return list(product(turns, (False, True)))


def averaged_probabilities(
    tiler: TiledPredictor, image: Readable, stats: NDArray[np.float32], region: Region
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predict a region as the mean over all transforms; see `septum.prediction.tiled.region_probabilities`.

    Parameters
    ----------
    tiler
        The network.
    image
        ``(C, *S)``, raw intensities of any range.
    stats
        ``(C, 3) float32``, any values, as for `septum.prediction.tiled.TiledPredictor.tiles`.
    region
        Begins and ends anywhere in the image.

    Yields
    ------
    probabilities, left
        After each tile the array that is being filled, ``(K, *region) float32`` in 0..1, and the number of tiles left;
        the values are final after the last tile.
    """
    return _mean_over(tiler, image, stats, region, tta_transforms(tiler.network.geometry))


def transformed_probabilities(
    tiler: TiledPredictor, image: Readable, stats: NDArray[np.float32], region: Region, transform: Transform
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predict a region from one transformed version of the image, transformed back; see `averaged_probabilities`.

    Parameters
    ----------
    tiler, region
        As in `averaged_probabilities`.
    image
        ``(C, *S)``, raw intensities of any range.
    stats
        ``(C, 3) float32``, any values.
    transform
        The version.

    Yields
    ------
    probabilities, left
        ``(K, *region) float32`` in 0..1, and the number of tiles left.
    """
    return _mean_over(tiler, image, stats, region, [transform])


def _mean_over(
    tiler: TiledPredictor,
    image: Readable,
    stats: NDArray[np.float32],
    region: Region,
    transforms: Sequence[Transform],
) -> Iterator[tuple[NDArray[np.float32], int]]:
    geometry = tiler.network.geometry
    shape = tuple(s.stop - s.start for s in region)
    out = np.zeros((tiler.network.settings.classes, *shape), np.float32)
    for number, transform in enumerate(transforms):
        turned = TransformedImage(image, transform)
        wanted = _turned_region(region, image.shape[1:], transform)
        view = turn(out, transform)  # tiles of the turned image, added to this view, arrive at their places in `out`
        for left in tiler.add_region(turned, stats, wanted, view, share_of=len(transforms)):
            later = len(transforms) - 1 - number
            yield out, left + later * len(plan_tiles(shape, geometry, tiler.max_output))


def turn(array: NDArray[Any], transform: Transform) -> NDArray[Any]:
    """Turn an array by quarter turns and then mirror it along X.

    Parameters
    ----------
    array
        ``(..., Y, X)`` of any dtype, any values.
    transform
        Number of quarter turns, and whether to mirror.

    Returns
    -------
    ndarray
        A view ``(..., Y', X')`` with the same dtype, any values; Y' = X and X' = Y after an odd number of turns.
    """
    quarters, mirrored = transform
    turned = np.rot90(array, quarters, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned


@dataclass(frozen=True)
class TransformedImage:
    """An image transformed as `turn` transforms arrays; only the parts that are asked for are read."""

    image: Readable
    transform: Transform

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides after the transform, channels first."""
        *front, y, x = self.image.shape
        return (*front, *((x, y) if self.transform[0] % 2 else (y, x)))

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]:
        quarters, mirrored = self.transform
        back = _turned_region(index[1:], self.shape[1:], (0, mirrored))
        back = _turned_region(back, self.shape[1:], (-quarters % 4, False))
        return turn(self.image[(index[0], *back)], self.transform)


def _turned_region(region: Region, shape: Sequence[int], transform: Transform) -> Region:
    """Return the place of a region, in an image of sides `shape`, after a transform."""
    y, x = region[-2:]
    height, width = shape[-2:]
    for _ in range(transform[0]):  # the last column becomes the first row
        y, x, height, width = slice(width - x.stop, width - x.start), y, width, height
    if transform[1]:
        x = slice(width - x.stop, width - x.start)
    return (*region[:-2], y, x)
