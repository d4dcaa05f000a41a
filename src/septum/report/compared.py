"""A test image with its truth and the results of the model and of the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.events import Event


@dataclass(frozen=True, eq=False)
class Compared(Event):
    """One test image with its truth and what both methods found.

    Attributes
    ----------
    name : str
        The name of its files, without ending.
    image : ndarray
        ``(1, Y, X)`` float32, 0..255.
    truth, predicted, baseline : ndarray
        ``(Y, X)`` int32 object ids: the truth, the model's objects, those of Otsu and watershed.
    seg, ap50, baseline_seg, baseline_ap50 : float
        SEG and AP at IoU 0.5 of the model and of the baseline on this image, 0..1.
    """

    name: str
    image: NDArray[np.float32]
    truth: NDArray[np.int32]
    predicted: NDArray[np.int32]
    baseline: NDArray[np.int32]
    seg: float
    ap50: float
    baseline_seg: float
    baseline_ap50: float
