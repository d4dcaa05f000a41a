"""Interpolate an image at arbitrary coordinates, with mirrored borders.

The image continues without end, mirrored at its border pixels, which are not repeated (``numpy.pad(mode="reflect")``).
The necessary part of that endless image is first copied into a buffer; then `torch.nn.functional.grid_sample`
interpolates there. In this way

- the border is handled by integer arithmetic, exact at any distance and for axes of length 1,
- coordinates are small numbers relative to the buffer, however large the image is,
- the sides of the buffer are powers of two (by strides, not by memory), so that the division and multiplication by the
  side inside ``grid_sample`` are exact: integer coordinates give the pixel values themselves, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["linear", "nearest"]


def mirrored_positions(low: int, size: int, length: int, device: torch.device) -> Tensor:
    """Return the pixel that each position of a mirrored axis shows.

    Parameters
    ----------
    low, size
        First position and number of positions; may lie outside of the axis.
    length
        Pixels of the axis.
    device
        Device of the result.

    Returns
    -------
    Tensor
        ``(size,)`` int64, indices 0 .. `length` - 1 of the positions ``low .. low + size - 1``.
    """
    last = length - 1
    if last == 0:
        return torch.zeros(size, dtype=torch.int64, device=device)
    positions = torch.arange(low, low + size, device=device).remainder_(2 * last)
    return last - (positions - last).abs_()


def cut_box(image: Tensor, low: Sequence[int], box: Tensor) -> None:
    """Copy a box from an image that is mirrored at its borders.

    Parameters
    ----------
    image
        ``(C, *S)``, any dtype, any values.
    low
        First position of the box along each axis of ``*S``; may lie outside, at any distance.
    box
        ``(C, *sizes)``, dtype that holds the image's values; overwritten with any values of the image.
    """
    part = image
    for axis, start in enumerate(low[:-1], 1):
        size, length = box.shape[axis], image.shape[axis]
        if start >= 0 and start + size <= length:
            part = part.narrow(axis, start, size)
        else:
            part = part.index_select(axis, mirrored_positions(start, size, length, image.device))
    start, size, length = low[-1], box.shape[-1], image.shape[-1]
    first = min(max(-start, 0), size)  # positions first .. last - 1 lie inside the image along the last axis
    last = max(min(length - start, size), first)
    box[..., first:last] = part[..., start + first : start + last]
    for a, b in ((0, first), (last, size)):
        if a < b:
            index = mirrored_positions(start + a, b - a, length, image.device)
            box[..., a:b] = torch.gather(part, -1, index.expand(*part.shape[:-1], b - a))


def buffer(channels: int, sizes: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Allocate an uninitialized buffer for a box.

    Returns
    -------
    padded
        ``(channels, *P) float32``, any values, ``P`` the powers of two that hold `sizes`: input of `sample`. It exists
        by strides only and needs little more memory than the box; it must not be read outside of the box.
    box
        ``(channels, *sizes)``, its first corner, to be written.
    """
    sides = [_power_of_two(size) for size in sizes]
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    volume = math.prod(sizes)
    spill = sum((side - size) * stride for side, size, stride in zip(sides, sizes, strides, strict=True))
    memory = torch.empty(channels * volume + spill, dtype=torch.float32, device=device)
    return memory.as_strided((channels, *sides), (volume, *strides)), memory[: channels * volume].view(channels, *sizes)


def grid_scale(sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Return per axis the (factor, summand) from buffer pixels to ``grid_sample`` coordinates, without rounding."""
    return [(2.0 / side, 1.0 / side - 1.0) for side in map(_power_of_two, sizes)]


def sample(padded: Tensor, grid: Tensor, mode: Mode) -> Tensor:
    """Interpolate in a buffer.

    Parameters
    ----------
    padded
        ``(C, *P) float32`` from `buffer`, any finite values.
    grid
        ``(D, *T) float32``, coordinates scaled by `grid_scale`, last axis first (x, y, z). One plane for each axis is
        the layout that ``grid_sample`` reads fastest on a CPU.
    mode
        ``"linear"`` or ``"nearest"``.

    Returns
    -------
    Tensor
        ``(C, *T) float32``, any finite values.
    """
    # "border" is never reached (the buffer holds every neighbor); it is the cheapest mode that is safe for any grid.
    kernel = "bilinear" if mode == "linear" else "nearest"
    return torch.nn.functional.grid_sample(
        padded[None], grid.movedim(0, -1)[None], mode=kernel, padding_mode="border", align_corners=False
    )[0]


@torch.no_grad()
def gather(image: Tensor, coords: Tensor, mode: Mode = "linear") -> Tensor:
    """Interpolate an image at given coordinates.

    Parameters
    ----------
    image
        ``(C, *S)``, 2D or 3D; float32 of any finite values, or any integer type with values up to 2^24.
    coords
        ``(D, *T) float32``, coordinates in pixels of `image`, ``D = len(S) = len(T)``; integers are pixel centers.
        Outside of the image it is mirrored, at any distance.
    mode
        ``"linear"`` (bilinear, trilinear) or ``"nearest"``.

    Returns
    -------
    Tensor
        ``(C, *T)``, within the range of the image's values (any finite values); float32 for ``"linear"``, the dtype of
        `image` for ``"nearest"``.
    """
    axes = range(1, coords.ndim)
    low = [int(v) for v in coords.amin(tuple(axes)).floor()]
    high = [int(v) for v in coords.amax(tuple(axes)).floor()]
    sizes = [last - first + 2 for first, last in zip(low, high, strict=True)]
    padded, box = buffer(image.shape[0], sizes, image.device)
    cut_box(image, low, box)
    scaled = [(coords[axis] - low[axis]) * factor + summand for axis, (factor, summand) in enumerate(grid_scale(sizes))]
    values = sample(padded, torch.stack(scaled[::-1]), mode)
    return values if mode == "linear" else values.to(image.dtype)


def _power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()
