"""Intensities: one normalization per whole image, never per tile.

Statistics are taken once from the whole image (per channel) and applied to every tile of it, so a tile never changes
what another one sees.
"""

from __future__ import annotations

from typing import Literal

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
    rows = []
    for channel in image:
        values = channel.reshape(-1)
        if settings.method == "range":
            low, high = float(values.min()), float(values.max())
            offset, scale = low, high - low
        else:
            sample = values[:: max(1, -(-values.size // _SAMPLE))].astype(np.float64)
            cut = np.clip(sample, *np.quantile(sample, [0.005, 0.995]))
            if cut.std() == 0:
                cut = sample
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
