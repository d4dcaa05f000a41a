"""Objects of a binary map, with membranes as they are or thinned to one pixel.

This is the border thinning of the ISBI 2012 challenge (Fiji's Trainable_Segmentation): the black pixels are flooded
from the objects in a fixed order. The order decides where a dam of even width stands, so it is the same to the pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def components(white: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label the connected components of `white`; pieces that touch only at a corner (or an edge in 3D) are separate.

    Parameters
    ----------
    white
        ``(*S)`` bool, True inside objects.

    Returns
    -------
    ndarray
        ``(*S) int32``: 0 background, ids 1, 2, ...
    """
    from scipy import ndimage

    labels = np.empty(white.shape, np.int32)
    ndimage.label(white, output=labels)
    return labels


def thin(white: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label the objects of a binary section with membranes thinned, in most places to one pixel.

    Components of `white` (4-connected) grow into the black pixels from a first-in-first-out queue. A pixel that two
    components reach becomes a dam; so does a pixel that only dams reach, so that a dam can be thicker than a pixel. A
    section without any white pixel becomes one object.

    Parameters
    ----------
    white
        ``(Y, X)`` bool, True inside objects.

    Returns
    -------
    ndarray
        ``(Y, X) int32``: 0 on dams, ids 1, 2, ... elsewhere.
    """
    if not white.any():
        return np.ones(white.shape, np.int32)
    labels = components(white)
    _flood(labels)
    return labels


def _flood(labels: NDArray[Any]) -> None:
    from septum.metrics import _compiled

    _compiled.flood(labels)
