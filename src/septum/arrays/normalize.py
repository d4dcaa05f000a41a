"""Intensities: one normalization per whole image, never per tile.

Statistics are taken once from the whole image (per channel) and applied to every tile of it, so a tile never changes
what another one sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.settings import Settings


class NormalizeSettings(Settings):
    """How intensities are brought to a common scale.

    ``standardize``: zero mean and unit standard deviation, both taken after cutting off the darkest and brightest 0.5 %
    of the pixels, so that a few hot pixels do not set the scale. ``range``: the image's smallest value becomes 0, its
    largest 1.
    """

    method: Literal["standardize", "range"] = "standardize"


# A regular sample of this many pixels per channel is enough for stable statistics, and keeps huge images affordable.
_SAMPLE = 4_000_000


def statistics(image: NDArray[np.generic], settings: NormalizeSettings) -> NDArray[np.float32]:
    """Take a whole image's statistics.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, finite.
    settings
        The method.

    Returns
    -------
    ndarray
        ``(C, 2) float32``: offset and scale of each channel; `normalize` computes ``(image - offset) / scale``. The
        scale of a constant channel is 1.
    """
    whole = (0,) * (image.ndim - 1)
    return join_samples([sample_intensities(image, whole, image.shape[1:], settings)], settings)


def sample_intensities(
    part: NDArray[np.generic], origin: Sequence[int], shape: Sequence[int], settings: NormalizeSettings
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Take from a part of an image what the statistics of the whole image need.

    Parameters
    ----------
    part
        ``(C, *part)``, any real dtype, finite.
    origin
        Where the part begins in the image, per spatial axis.
    shape
        Spatial sides of the whole image.
    settings
        The method.

    Returns
    -------
    values, places
        ``(C, n)`` in the image's dtype, and ``(n,) int64`` where in the image they stand, in scan order. For
        ``standardize`` every k-th pixel of the image's scan, k such that some four million are taken; for ``range`` the
        smallest and the largest value, with places -1.
    """
    channels = part.reshape(len(part), -1)
    if settings.method == "range":
        return np.stack([channels.min(axis=1), channels.max(axis=1)], axis=1), np.full(2, -1, np.int64)
    step = max(1, -(-prod(shape) // _SAMPLE))
    if part.shape[1:] == tuple(shape):
        return channels[:, ::step], np.arange(0, channels.shape[1], step)
    # A row of the part is contiguous in the image's scan: its pixels at multiples of `step` follow from its start.
    corners = np.indices(part.shape[1:-1]).reshape(len(shape) - 1, -1).T + np.asarray(origin[:-1])
    starts = np.ravel_multi_index(tuple(corners.T), tuple(shape[:-1])) * shape[-1] + origin[-1]
    values, places = [], []
    for row, start in zip(np.moveaxis(part, 0, -2).reshape(-1, len(part), part.shape[-1]), starts, strict=True):
        first = -int(start) % step
        values.append(row[:, first::step])
        places.append(np.arange(start + first, start + part.shape[-1], step))
    return np.concatenate(values, axis=1), np.concatenate(places).astype(np.int64)


def join_samples(
    parts: Sequence[tuple[NDArray[Any], NDArray[np.int64]]], settings: NormalizeSettings
) -> NDArray[np.float32]:
    """Make the statistics of a whole image from the samples of its parts; see `statistics`.

    The result is that of the whole image to the last bit, however it was divided.
    """
    order = np.argsort(np.concatenate([places for _, places in parts]), kind="stable")
    rows = []
    for channel in range(len(parts[0][0])):
        values = np.concatenate([part[channel] for part, _ in parts])
        if settings.method == "range":
            low, high = float(values.min()), float(values.max())
            offset, scale = low, high - low
        else:
            numbers = values[order].astype(np.float64)
            cut = np.clip(numbers, *np.quantile(numbers, [0.005, 0.995]))
            if cut.std() == 0:
                cut = numbers
            offset, scale = float(cut.mean()), float(cut.std())
        rows.append((offset, scale if scale > 0 else 1.0))
    return np.asarray(rows, dtype=np.float32)


def normalize(image: NDArray[np.generic], stats: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``(image - offset) / scale`` per channel.

    Parameters
    ----------
    image
        ``(C, *S)``, a whole image or a tile of it.
    stats
        ``(C, 2)`` from `statistics` of the whole image.

    Returns
    -------
    ndarray
        ``(C, *S) float32``.
    """
    column = (slice(None),) + (None,) * (image.ndim - 1)
    out = image.astype(np.float32)
    out -= stats[:, 0][column]
    out /= stats[:, 1][column]
    return out
