"""Coordinate field of a training tile: position, rotation, mirroring, scale and elastic displacement in one.

Tile pixel ``i`` shows the image at

    center + matrix (i - n // 2) + u(i - n // 2)

with ``n`` the sides of the tile. The tile's pixel ``n // 2`` lies on the center, so that an integer center, a matrix of
mirrors and quarter turns and no displacement give integer coordinates: an exact crop. A crop of the same tile about its
middle pixel has the same coordinates, whatever its sides.

The displacement ``u`` is given on a coarse grid and interpolated between its points by the cubic convolution kernel of
Keys (1981, "Cubic convolution interpolation for digital image processing", equation 15, a = -1/2; the usual bicubic),
along one axis after the other. Beyond its ends the grid is continued linearly. The kernel passes through the points, so
that they have the intended standard deviation, and the field is continuously differentiable.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.nn.device import send
from septum.nn.grid_sample import grid_scale

# Margin in pixels that keeps a coordinate inside its box after rounding to float32.
SLACK_PX = 0.01


@dataclass(frozen=True, eq=False)
class Deformation:
    """Position of each pixel of a tile in the image.

    Parameters
    ----------
    center
        ``(D,) float64``, image coordinate in pixels of the tile's pixel ``n // 2``.
    matrix
        ``(D, D) float64``, from pixels of the tile to pixels of the image.
    displacement
        ``(D, *G) float32``, displacement in pixels of the image at the points of a coarse grid.
    grid_px
        ``(D,)``, distance of grid points along each axis in pixels of the tile; the middle of the grid lies on the
        center.
    """

    center: NDArray[np.float64]
    matrix: NDArray[np.float64]
    displacement: NDArray[np.float32]
    grid_px: tuple[float, ...]


D = TypeVar("D", bound=Deformation)


def cubic_matrix(sides: int, grid_px: float, points: int) -> NDArray[np.float64]:
    """Compute the weights of `points` grid points for each pixel of an axis.

    Parameters
    ----------
    sides
        Length of the axis in pixels; the middle of the grid lies on pixel ``sides // 2``.
    grid_px
        Distance of grid points in pixels.
    points
        Number of grid points; with one point the displacement is constant.

    Returns
    -------
    ndarray
        ``(sides, points)`` float64; rows sum to 1. Source: Keys 1981, equation 15.
    """
    if points == 1:
        return np.ones((sides, 1))
    position = (np.arange(sides) - sides // 2) / grid_px + (points - 1) / 2
    cell = np.floor(position).clip(0, points - 2)
    t = np.abs(position[:, None] - cell[:, None] - np.arange(-1, 3))  # distance to the four points around
    weights = np.where(t < 1, (1.5 * t - 2.5) * t**2 + 1, np.where(t < 2, ((-0.5 * t + 2.5) * t - 4) * t + 2, 0.0))
    extended = np.zeros((sides, points + 2))  # one more point at either end
    np.put_along_axis(extended, cell[:, None].astype(np.int64) + np.arange(4), weights, axis=1)
    matrix = extended[:, 1:-1].copy()
    matrix[:, [0, 1]] += extended[:, :1] * [2, -1]
    matrix[:, [-1, -2]] += extended[:, -1:] * [2, -1]
    return matrix


def bounding_box(deformation: Deformation, sides: Sequence[int]) -> tuple[list[int], list[int]]:
    """Compute a box of the image that holds all pixels needed to interpolate a tile.

    The box follows from the deformation alone, without computing the field, and so without waiting for a device.

    Parameters
    ----------
    deformation
        Position of the tile.
    sides
        Sides of the tile in pixels.

    Returns
    -------
    low, sizes
        First pixel (may be negative) and side of the box along each axis.
    """
    offsets = np.array([[-(n // 2), n - 1 - n // 2] for n in sides])
    ends = deformation.matrix[:, :, None] * offsets  # (D, D, 2)
    # No interpolated value exceeds the largest displacement times the largest sum of absolute weights.
    points = deformation.displacement.shape[1:]
    gain = math.prod(_gain(n, px, g) for n, px, g in zip(sides, deformation.grid_px, points, strict=True))
    margin = gain * np.abs(deformation.displacement).reshape(len(sides), -1).max(axis=1) + SLACK_PX
    low = np.floor(deformation.center + ends.min(axis=2).sum(axis=1) - margin)
    high = np.floor(deformation.center + ends.max(axis=2).sum(axis=1) + margin) + 1
    return [int(v) for v in low], [int(v) for v in high - low + 1]


def image_window(deformation: Deformation, sides: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Compute the part of an image that a tile needs, including mirrored borders.

    ``image[:, *window]`` with ``translated(deformation, window)`` gives the same tile as the whole image, to the bit if
    the center is an integer: in this way tiles are read from images too large for the device or the memory.

    Parameters
    ----------
    deformation
        Position of the tile.
    sides
        Sides of the tile in pixels.
    shape
        Sides of the image in pixels.

    Returns
    -------
    tuple of slice
        One for each axis, inside the image and never empty.
    """
    part = []
    for low, size, length in zip(*bounding_box(deformation, sides), shape, strict=True):
        high, last = low + size - 1, length - 1
        if low < 0 and high > last:
            part.append(slice(0, length))
        elif low < 0:  # mirrored at the first pixel only: keep it, and the pixels that the mirror shows
            part.append(slice(0, min(length, max(high, -low) + 1)))
        elif high > last:
            part.append(slice(max(0, min(low, 2 * last - high)), length))
        else:
            part.append(slice(low, high + 1))
    return tuple(part)


def translated(deformation: D, part: Sequence[slice]) -> D:
    """Return the same deformation in coordinates of a part of the image, ``part`` from `image_window`."""
    return replace(deformation, center=deformation.center - np.array([s.start for s in part], dtype=np.float64))


@torch.no_grad()
def coordinates(deformation: Deformation, sides: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """Compute the image coordinates of each pixel of a tile.

    Parameters
    ----------
    deformation
        Position of the tile.
    sides
        Sides of the tile in pixels.
    device
        Device of the result.

    Returns
    -------
    Tensor
        ``(D, *sides) float32``, coordinates in pixels of the image, integers at pixel centers.
    """
    low, _ = bounding_box(deformation, sides)
    field = _field(deformation, sides, low, [(1.0, 0.0)] * len(sides), torch.device(device))
    first = torch.tensor(low, dtype=torch.float32, device=device).view(-1, *[1] * len(sides))
    return field.flip(0) + first


def grid(
    deformation: Deformation, sides: Sequence[int], *, low: Sequence[int], sizes: Sequence[int], device: torch.device
) -> Tensor:
    """Compute the coordinates of a tile in the form that `septum.nn.grid_sample.sample` takes.

    Parameters
    ----------
    deformation
        Position of the tile.
    sides
        Sides of the tile in pixels.
    low, sizes
        First pixel and sides of the box in the buffer, from `bounding_box`.
    device
        Device of the result.

    Returns
    -------
    Tensor
        ``(D, *sides) float32``, scaled coordinates of -1 to 1, last axis first.
    """
    return _field(deformation, sides, low, grid_scale(sizes), device)


def _field(
    deformation: Deformation,
    sides: Sequence[int],
    origin: Sequence[int],
    scale: Sequence[tuple[float, float]],
    device: torch.device,
) -> Tensor:
    """Compute ``factor * (coordinate - origin) + summand``, ``(D, *sides) float32``, last axis first."""
    rank = len(sides)
    factor, summand = np.array(scale).T
    # A linear map is a sum of one term per axis. Terms of mirrors and quarter turns are integers: nothing is rounded.
    matrix = deformation.matrix * factor[:, None]
    terms = [matrix[:, axis, None] * (np.arange(n) - n // 2) for axis, n in enumerate(sides)]
    terms[0] += ((deformation.center - origin) * factor + summand)[:, None]
    first, *others = (
        _tensor(term[::-1], device).view(rank, *[n if a == axis else 1 for a in range(rank)])
        for axis, (n, term) in enumerate(zip(sides, terms, strict=True))
    )
    if not deformation.displacement.any():
        return sum(others, first)
    field = _tensor((deformation.displacement * factor.reshape(-1, *[1] * rank))[::-1], device)
    for n, px in zip(sides, deformation.grid_px, strict=True):  # the first grid axis becomes the last pixel axis
        field = torch.tensordot(field, _cubic_tensor(n, px, field.shape[1], device), dims=([1], [1]))
    for term in (sum(others[:-1], first), others[-1]):
        field += term
    return field


@functools.lru_cache(maxsize=64)
def _cubic_tensor(sides: int, grid_px: float, points: int, device: torch.device) -> Tensor:
    """Return `cubic_matrix` as a float32 tensor on a device, cached."""
    return _tensor(cubic_matrix(sides, grid_px, points), device)


@functools.lru_cache(maxsize=64)
def _gain(sides: int, grid_px: float, points: int) -> float:
    """Return the largest sum of absolute weights of a pixel, 1 to 1.25 inside the grid."""
    return float(np.abs(cubic_matrix(sides, grid_px, points)).sum(axis=1).max())


def _tensor(array: NDArray[np.float64], device: torch.device) -> Tensor:
    """Return an array as a float32 tensor on a device."""
    return send(torch.from_numpy(array.astype(np.float32)), device)
