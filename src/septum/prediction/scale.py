"""The scale of an image: the factor by which the network must see it resized, so that objects look as in training."""

from __future__ import annotations

from typing import Literal

from septum.errors import UsageError
from septum.prediction.frames import Scale
from septum.prediction.model import ModelHeader


def asked_factor(scale: float | Literal["auto"], object_size: float | None, header: ModelHeader) -> float | None:
    """Return the factor that the user asks for; None: it is to be found.

    Raises
    ------
    UsageError
        If the width of objects is given for a model that does not know that of its training objects.
    """
    if object_size is None:
        return None if scale == "auto" else scale
    if header.domain is None or header.domain.object_px is None:
        given = f"--object-size {object_size:g} with a model that does not know how wide its training objects are"
        raise UsageError(given, "a model of objects", "give the factor itself with --scale")
    return header.domain.object_px / object_size


def working_scale(factors: Scale, header: ModelHeader) -> Scale | None:
    """Return the scale of the working grid: the factors by which an image is resized, times that of the training.

    Parameters
    ----------
    factors
        For each axis of a frame: training objects are wider than those of the image by this factor.
    header
        Header of the model.

    Returns
    -------
    scale
        None for the image's own grid.
    """
    scale = tuple(factor * header.scale for factor in factors)
    return None if all(factor == 1 for factor in scale) else scale
