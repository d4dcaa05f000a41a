"""Intensity normalization: one offset and scale per channel of a whole image, never of a tile.

Statistics are computed once for the whole image and applied to each of its tiles, so that the result of a tile does not
depend on the division into tiles. The intensity curve of an image is the distribution of its standardized intensities:
it compares images of different brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from septum.settings import Settings

Pair = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(gt=0, allow_inf_nan=False)]]


class NormalizeSettings(Settings):
    """Method of intensity normalization.

    Parameters
    ----------
    method
        ``"standardize"``: zero mean and unit standard deviation, both computed after clipping the darkest and brightest
        0.5 % of the pixels, so that a few hot pixels do not set the scale. ``"range"``: the smallest value of the image
        becomes 0, the largest 1. ``"common"``: the same offset and scale for all images, so that a gray value means the
        same in each of them.
    common
        Offset and scale of each channel for ``"common"``: ``(value - offset) / scale``.
    limit
        Normalized values are clipped to ``-limit .. limit``, so that a hot pixel is no brighter than the brightest
        structures of the training images; None: not clipped.
    skip_constant
        Leave pixels of the darkest and of the brightest value out of the statistics where they are not part of the
        picture (`constant_ends`): the black frame of a mosaic, a burnt-in scale bar.
    """

    method: Literal["standardize", "range", "common"] = "standardize"
    common: tuple[Pair, ...] = ()
    limit: float | None = Field(default=None, gt=0)
    skip_constant: bool = False

    @model_validator(mode="after")
    def _check_common(self) -> Self:
        if self.method == "common" and not self.common:
            raise ValueError("normalization.common: an offset and a scale for each channel, such as [[100, 20]]")
        return self


# Pixels per channel of the regular sample that statistics are computed from: stable, and affordable for huge images.
_SAMPLE = 4_000_000
# Pixels per channel of the regular sample of an intensity curve, and its quantiles.
_CURVE_SAMPLE = 200_000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Values count as added to a picture if this share of the pixels has exactly the smallest or the largest value, and if
# it lies further from the other values than half their range (between these quantiles).
_CONSTANT_SHARE, _OTHERS = (0.005, 0.8), (0.001, 0.999)


def statistics(image: NDArray[np.generic], settings: NormalizeSettings) -> NDArray[np.float32]:
    """Compute the normalization statistics of a whole image.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, finite.
    settings
        The method.

    Returns
    -------
    ndarray
        ``(C, 3) float32``: offset, scale and limit of each channel; `normalize` computes ``(image - offset) / scale``,
        clipped to ``-limit .. limit``. Offset and scale are finite; the scale is positive, 1 for a constant channel;
        the limit is infinite where nothing is clipped.
    """
    whole = (0,) * (image.ndim - 1)
    return join_samples([sample_intensities(image, whole, image.shape[1:], settings)], settings)


def sample_intensities(
    part: NDArray[np.generic], origin: Sequence[int], shape: Sequence[int], settings: NormalizeSettings
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Extract the pixels of a part of an image that the statistics of the whole image are computed from.

    Parameters
    ----------
    part
        ``(C, *part)``, any real dtype, finite.
    origin
        Position of the part in the image, per spatial axis.
    shape
        Spatial sides of the whole image.
    settings
        The method.

    Returns
    -------
    values, places
        ``(C, n)`` in the image's dtype, and ``(n,) int64``: scan-order index of each pixel in the image. For
        ``standardize`` every k-th pixel of the image's scan, with k such that about four million are used; for
        ``range`` the smallest and the largest value, with places -1; for ``common`` none.
    """
    channels = part.reshape(len(part), -1)
    if settings.method == "common":
        return channels[:, :0], np.zeros(0, np.int64)
    if settings.method == "range":
        return np.stack([channels.min(axis=1), channels.max(axis=1)], axis=1), np.full(2, -1, np.int64)
    step = max(1, -(-prod(shape) // _SAMPLE))
    if part.shape[1:] == tuple(shape):
        return channels[:, ::step], np.arange(0, channels.shape[1], step)
    # A row of the part is contiguous in the scan of the image: its start determines which pixels are sampled.
    corners = np.indices(part.shape[1:-1]).reshape(len(shape) - 1, -1).T + np.asarray(origin[:-1])
    starts = np.ravel_multi_index(tuple(corners.T), tuple(shape[:-1])) * shape[-1] + origin[-1]
    columns = (-starts % step)[:, np.newaxis] + np.arange(0, part.shape[-1], step)
    rows, inside = np.arange(len(starts))[:, np.newaxis], columns < part.shape[-1]
    values = part.reshape(len(part), -1)[:, (rows * part.shape[-1] + columns)[inside]]
    return values, (starts[:, np.newaxis] + columns)[inside].astype(np.int64)


def join_samples(
    parts: Sequence[tuple[NDArray[Any], NDArray[np.int64]]], settings: NormalizeSettings
) -> NDArray[np.float32]:
    """Compute the statistics of a whole image from the samples of its parts; see `statistics`.

    The result equals that of the whole image to the last bit, however the image was divided.

    Parameters
    ----------
    parts
        Results of `sample_intensities`: ``(C, n)`` values of any real dtype, finite, and ``(n,)`` int64 indices.
    settings
        The method.

    Returns
    -------
    ndarray
        ``(C, 3)`` float32, finite but for the limit: offset, scale and limit of each channel, as `statistics` returns
        them.
    """
    limit = np.inf if settings.limit is None else settings.limit
    if settings.method == "common":
        return np.asarray([(*pair, limit) for pair in settings.common], dtype=np.float32)
    order: Any = slice(None)  # one part has its pixels in the order of the scan already
    if len(parts) > 1:
        order = np.argsort(np.concatenate([places for _, places in parts]), kind="stable")
    rows = []
    for channel in range(len(parts[0][0])):
        values = np.concatenate([part[channel] for part, _ in parts])
        if settings.method == "range":
            low, high = float(values.min()), float(values.max())
            offset, scale = low, high - low
        else:
            numbers = values[order].astype(np.float64)
            if settings.skip_constant:
                numbers = numbers[~np.isin(numbers, constant_ends(numbers))]
            cut = np.clip(numbers, *quantiles(numbers, (0.005, 0.995)))
            offset, scale = float(cut.mean()), float(cut.std())
            if scale == 0:
                offset, scale = float(numbers.mean()), float(numbers.std())
        rows.append((offset, scale if scale > 0 else 1.0, limit))
    return np.asarray(rows, dtype=np.float32)


def quantiles(values: NDArray[Any], shares: Sequence[float]) -> NDArray[np.float64]:
    """Compute quantiles along the last axis: those that `numpy.quantile` computes of float64 to the bit, but faster.

    Sorting uses the vectors of the processor; what `numpy.quantile` does for several shares at once does not.

    Parameters
    ----------
    values
        ``(*A, n)``, any real dtype, finite, n > 0.
    shares
        Shares of the values that are smaller, 0 .. 1.

    Returns
    -------
    ndarray
        ``(*A, len(shares))`` float64, finite: linearly interpolated.
    """
    return _quantiles_of_sorted(_sorted(values), shares)


def _sorted(values: NDArray[Any]) -> NDArray[Any]:
    """Sort along the last axis; small integers as float32, which sorts ten times as fast and holds their values."""
    small = values.dtype.kind in "biu" and values.dtype.itemsize <= 2
    return np.sort(values.astype(np.float32) if small else values, axis=-1)


def _quantiles_of_sorted(ordered: NDArray[Any], shares: Sequence[float]) -> NDArray[np.float64]:
    places = (ordered.shape[-1] - 1) * np.asarray(shares, np.float64)
    before = np.floor(places).astype(np.intp)
    ends = (ordered[..., before], ordered[..., np.minimum(before + 1, ordered.shape[-1] - 1)])
    low, high = (end.astype(np.float64) for end in ends)
    part = places - before
    found: NDArray[np.float64] = np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))
    return found


def constant_ends(values: NDArray[np.floating[Any]]) -> list[float]:
    """Return the values at the ends of the intensities that were added to a picture: black frames, burnt-in bars.

    Such a value is the smallest or the largest one, is exactly that of 0.5 % to 80 % of the pixels, and is separated
    from all others by a gap of more than half their range. A background that a program has set to 0 below a threshold
    usually fills more of an image, and a saturated object has neighbors of all gray values: neither has a gap.

    Parameters
    ----------
    values
        ``(n,)`` floats, finite: pixels of one channel.

    Returns
    -------
    ends
        None, one or both of the smallest and the largest value.
    """
    ends: list[float] = []
    for end in (float(values.min()), float(values.max())):
        constant = values == end
        others = values[~constant]
        if not _CONSTANT_SHARE[0] <= constant.mean() <= _CONSTANT_SHARE[1]:
            continue
        low, high = quantiles(others, _OTHERS)
        if low < high and 2 * min(abs(end - low), abs(end - high)) > high - low:
            ends.append(end)
    return ends


def finite_pixels(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values are finite in float32, the type in which networks compute.

    Parameters
    ----------
    image
        ``(*A)`` of any shape, any real dtype and any values, NaN and infinity among them.

    Returns
    -------
    ndarray
        ``(*A)`` bool, True for finite values.
    """
    if image.dtype.kind != "f":
        return np.ones(image.shape, np.bool_)
    with np.errstate(over="ignore"):
        finite: NDArray[np.bool_] = np.isfinite(image.astype(np.float32, copy=False))
    return finite


def normalize(image: NDArray[np.generic], stats: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``(image - offset) / scale`` per channel, clipped to its limit.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, finite: a whole image or a tile of it.
    stats
        ``(C, 3)`` float32, finite but for the limit: offset, scale and limit, from `statistics` of the whole image.

    Returns
    -------
    ndarray
        ``(C, *S) float32``, finite.
    """
    column = (slice(None),) + (None,) * (image.ndim - 1)
    out = image.astype(np.float32)
    out -= stats[:, 0][column]
    out /= stats[:, 1][column]
    if np.isfinite(stats[:, 2]).any():
        np.clip(out, -stats[:, 2][column], stats[:, 2][column], out=out)
    return out


def intensity_curve(image: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
    """Compute the quantiles of the standardized intensities of an image, and count its gray values.

    Parameters
    ----------
    image
        ``(C, *S)`` or ``(C, n)``, any real dtype, finite: the whole image, or a representative sample of its pixels.

    Returns
    -------
    curve
        ``(C, 7)`` float64, finite: the `QUANTILES` of each channel after standardization; brightness and contrast do
        not change them.
    levels
        Distinct values of the channel that has most of them, counted on a regular sample of 200,000 pixels.
    """
    pixels = image.reshape(len(image), -1)
    pixels = pixels[:, :: max(1, -(-pixels.shape[1] // _CURVE_SAMPLE))]
    stats, ordered = statistics(pixels, NormalizeSettings()).astype(np.float64), _sorted(pixels)
    curve = (_quantiles_of_sorted(ordered, QUANTILES) - stats[:, :1]) / stats[:, 1:2]
    return curve, 1 + int(np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1).max())


def inverted(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the curve of the inverted image, bright where it was dark.

    Parameters
    ----------
    curve
        ``(C, 7)`` float64, finite, from `intensity_curve`.

    Returns
    -------
    curve
        ``(C, 7)`` float64, finite.
    """
    return -curve[:, ::-1]
