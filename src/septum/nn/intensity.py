"""Intensity augmentation of a training tile: blur, a curve from black to white, gamma, noise.

A few numbers drawn beforehand determine the change, so that a tile is the same wherever it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from septum.nn.device import send
from septum.seeding import generator


@dataclass(frozen=True)
class IntensityTransform:
    """Changes to the intensities of one tile, applied in this order; the defaults change nothing.

    Parameters
    ----------
    blur_px
        Standard deviation in pixels along each axis of the tile, 0 to 0.7; empty for none.
    gain, offset
        ``v -> gain v + offset``.
    bend
        ``v -> v + bend c (1 - c) (2 c - 1)`` with ``c`` the value clipped to [0, 1], before gain and offset: 0 and 1
        are fixed, the slope at 1/2 grows by ``bend / 2``.
    gamma
        ``c -> c^gamma`` with ``c`` the value scaled to [0, 1] between the tile's smallest and largest, per channel.
    noise
        Standard deviation of Gaussian noise, in units of the values.
    noise_seed
        Seed of the noise; it is drawn on the CPU and is the same on any device.
    """

    blur_px: tuple[float, ...] = ()
    gain: float = 1.0
    offset: float = 0.0
    bend: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0


@torch.no_grad()
def transform_intensity(tile: Tensor, change: IntensityTransform) -> None:
    """Change the intensities of a tile in place.

    Parameters
    ----------
    tile
        ``(C, *S) float32``, any range (`IntensityTransform.bend` takes 0 for black and 1 for white).
    change
        The changes; the same for all channels, except for noise, which is drawn per channel.
    """
    if any(change.blur_px):
        _blur(tile, change.blur_px)
    if change.bend:
        u = tile.clamp(0, 1).sub_(0.5)  # c (1 - c) (2 c - 1) = u (1/2 - 2 u^2)
        tile.addcmul_(u, u.square().mul_(-2).add_(0.5), value=change.bend)
    if (change.gain, change.offset) != (1.0, 0.0):
        tile.mul_(change.gain).add_(change.offset)
    if change.gamma != 1.0:
        spatial = tuple(range(1, tile.ndim))
        low = tile.amin(spatial, keepdim=True)
        span = tile.amax(spatial, keepdim=True).sub_(low)
        span = torch.where(span > 0, span, 1.0)  # a constant tile stays as it is
        tile.sub_(low).div_(span).pow_(change.gamma).mul_(span).add_(low)
    if change.noise:
        noise = generator(change.noise_seed, "noise").standard_normal(tuple(tile.shape), dtype=np.float32)
        tile.add_(send(torch.from_numpy(noise), tile.device), alpha=change.noise)


def _blur(tile: Tensor, sigma_px: Sequence[float]) -> None:
    """Blur with the kernel (a, 1 - 2a, a), whose variance is 2a, along each axis; border pixels are repeated."""
    for axis, sigma in enumerate(sigma_px, 1):
        n = tile.shape[axis]
        if sigma == 0 or n < 2:
            continue
        step = tile.narrow(axis, 1, n - 1) - tile.narrow(axis, 0, n - 1)
        a = sigma**2 / 2
        tile.narrow(axis, 0, n - 1).add_(step, alpha=a)
        tile.narrow(axis, 1, n - 1).sub_(step, alpha=a)
