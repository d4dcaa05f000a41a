"""Intensity profile of an image: a few numbers to compare an image with those of the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import NormalizeSettings, statistics

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

_SAMPLE = 200_000  # pixels per channel
# Limits for the distance of an image to the nearest training image. Measured with four fifths of a set as training
# images and the rest as images to predict: of 515 images of electron, phase contrast, DIC and fluorescence microscopy,
# stained tissue and MR, 3 exceeded the limit. Of the same images inverted, these exceeded it: all of fluorescence and
# phase contrast, 57 of 60 of tissue, 21 of 30 of electron microscopy, 18 of 50 of MR, and none of DIC, which looks the
# same inverted.
_TIMES, _LEAST, _LEAST_OF_FEW = 3.0, 0.1, 1.2  # few training images show little of the usual variation


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
    pixels = pixels[:, :: max(1, -(-pixels.shape[1] // _SAMPLE))]
    stats = statistics(pixels, NormalizeSettings()).astype(np.float64)
    curve = np.quantile((pixels - stats[:, :1]) / stats[:, 1:], QUANTILES, axis=1).T
    return curve, max(len(np.unique(channel)) for channel in pixels)


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


def distance(curve: NDArray[np.float64], known: Sequence[NDArray[np.float64]]) -> float:
    """Compute the distance of a curve to the nearest known one: the mean absolute difference, in standard deviations.

    Parameters
    ----------
    curve
        ``(C, 7)`` float64, finite, from `intensity_curve`.
    known
        One or more curves, ``(C, 7)`` float64 each, finite.
    """
    return float(np.abs(np.stack(known) - curve).mean(axis=(1, 2)).min())


def typical_distance(known: Sequence[NDArray[np.float64]]) -> float:
    """Compute the `distance` up to which an image counts as similar to the training images.

    Parameters
    ----------
    known
        Curves of the training images, ``(C, 7)`` float64 each, finite.
    """
    least = _LEAST + _LEAST_OF_FEW / len(known)
    if len(known) < 3:
        return least
    curves = np.stack(known)
    apart = np.abs(curves[:, None] - curves).mean(axis=(2, 3))
    np.fill_diagonal(apart, np.inf)
    return max(least, _TIMES * float(np.quantile(apart.min(axis=1), 0.95)))


_SIDE = {2: 16, 3: 8}  # cells of a thumbnail along each axis


def thumbnail(image: NDArray[Any]) -> tuple[float, ...]:
    """Compute a standardized thumbnail of 16 x 16 (volumes 8 x 8 x 8) block means, nearly equal for copies.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, finite.

    Returns
    -------
    means
        In scan order; their mean is 0, the sum of their squares 1. Empty for constant images and for images with fewer
        than twice as many pixels along an axis.
    """
    means = image.mean(axis=0, dtype=np.float64)
    count = _SIDE[means.ndim]
    if min(means.shape) < 2 * count:
        return ()
    for axis, side in enumerate(means.shape):
        starts = np.arange(count) * side // count
        lengths = np.diff([*starts, side]).reshape([-1 if a == axis else 1 for a in range(means.ndim)])
        means = np.add.reduceat(means, starts, axis=axis) / lengths
    means -= means.mean()
    length = float(np.linalg.norm(means))
    return tuple((means / length).ravel().tolist()) if length > 0 else ()
