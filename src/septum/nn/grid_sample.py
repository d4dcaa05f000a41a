"""Values of an image at arbitrary coordinates, with mirrored borders.

Every image is thought of as mirrored without end at its border pixels, which are not repeated
(``numpy.pad(mode="reflect")``). A gather first lays the part of that endless image which it needs into a buffer and
then interpolates there with `torch.nn.functional.grid_sample`. In this way

- the border is found by integer arithmetic, exact at any distance and for axes of length 1,
- coordinates are small numbers relative to the buffer, however large the image is,
- the buffer's sides are powers of two (by strides, not by memory), so that the division and multiplication by the side
  inside ``grid_sample`` lose nothing: whole coordinates give the pixel values themselves, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["linear", "nearest"]


def mirrored(low: int, size: int, length: int, device: torch.device) -> Tensor:
    """Return the pixels of an axis of `length` that positions ``low .. low + size - 1`` mean, ``(size,) int64``."""
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
        ``(C, *S)``, any dtype.
    low
        First position of the box along each axis of ``*S``; may lie outside, at any distance.
    box
        ``(C, *sizes)``, written.
    """
    part = image
    for axis, start in enumerate(low[:-1], 1):
        size, length = box.shape[axis], image.shape[axis]
        if start >= 0 and start + size <= length:
            part = part.narrow(axis, start, size)
        else:
            part = part.index_select(axis, mirrored(start, size, length, image.device))
    start, size, length = low[-1], box.shape[-1], image.shape[-1]
    first = min(max(-start, 0), size)  # what lies inside the image along the last axis: first .. last - 1
    last = max(min(length - start, size), first)
    box[..., first:last] = part[..., start + first : start + last]
    for a, b in ((0, first), (last, size)):
        if a < b:
            index = mirrored(start + a, b - a, length, image.device)
            box[..., a:b] = torch.gather(part, -1, index.expand(*part.shape[:-1], b - a))


def buffer(channels: int, sizes: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return uninitialized room for a box.

    Returns
    -------
    room
        ``(channels, *P) float32``, ``P`` the powers of two that hold `sizes`: what `sample` reads. It exists by strides
        alone and takes little more memory than the box; outside the box it must not be read.
    box
        ``(channels, *sizes)``, its first corner: what is written.
    """
    sides = [_power_of_two(size) for size in sizes]
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    volume = math.prod(sizes)
    spill = sum((side - size) * stride for side, size, stride in zip(sides, sizes, strides, strict=True))
    memory = torch.empty(channels * volume + spill, dtype=torch.float32, device=device)
    return memory.as_strided((channels, *sides), (volume, *strides)), memory[: channels * volume].view(channels, *sizes)


def grid_scale(sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Return per axis the (factor, summand) that turn buffer pixels into ``grid_sample`` coordinates, without loss."""
    return [(2.0 / side, 1.0 / side - 1.0) for side in map(_power_of_two, sizes)]


def sample(room: Tensor, grid: Tensor, mode: Mode) -> Tensor:
    """Interpolate in a buffer.

    Parameters
    ----------
    room
        ``(C, *P) float32`` from `buffer`.
    grid
        ``(D, *T) float32``, coordinates scaled by `grid_scale`, last axis first (x, y, z). One plane for each axis is
        the layout that ``grid_sample`` reads fastest on a CPU.
    mode
        ``"linear"`` or ``"nearest"``.

    Returns
    -------
    Tensor
        ``(C, *T) float32``.
    """
    # "border" is never reached (the buffer holds every neighbor); it is the cheapest mode that is safe for any grid.
    kernel = "bilinear" if mode == "linear" else "nearest"
    return torch.nn.functional.grid_sample(
        room[None], grid.movedim(0, -1)[None], mode=kernel, padding_mode="border", align_corners=False
    )[0]


@torch.no_grad()
def gather(image: Tensor, coords: Tensor, mode: Mode = "linear") -> Tensor:
    """Return the values of an image at given coordinates.

    Parameters
    ----------
    image
        ``(C, *S)``, 2D or 3D; float32, or any integer type with values up to 2^24.
    coords
        ``(D, *T) float32``, coordinates in pixels of `image`, ``D = len(S) = len(T)``; whole numbers are pixel
        centers. Outside the image it is mirrored, at any distance.
    mode
        ``"linear"`` (bilinear, trilinear) or ``"nearest"``.

    Returns
    -------
    Tensor
        ``(C, *T)``; float32 for ``"linear"``, the dtype of `image` for ``"nearest"``.
    """
    axes = range(1, coords.ndim)
    low = [int(v) for v in coords.amin(tuple(axes)).floor()]
    high = [int(v) for v in coords.amax(tuple(axes)).floor()]
    sizes = [last - first + 2 for first, last in zip(low, high, strict=True)]
    room, box = buffer(image.shape[0], sizes, image.device)
    cut_box(image, low, box)
    scaled = [(coords[axis] - low[axis]) * factor + summand for axis, (factor, summand) in enumerate(grid_scale(sizes))]
    values = sample(room, torch.stack(scaled[::-1]), mode)
    return values if mode == "linear" else values.to(image.dtype)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
