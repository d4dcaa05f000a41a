"""Sample data: made cells that touch, with their truth."""

from __future__ import annotations

import numpy as np
from septum.demo.synthetic_cells import generate

from napari_septum.layers import LayerData

_UM = 0.5  # micrometers per pixel that the cells might have
_SEED = 4


def cells() -> list[LayerData]:
    """Return an image of cells ``(256, 256)`` uint8, and its truth."""
    return _layers(*_made(_SEED, (256, 256)), "cells", ("y", "x"))


def cells_3d() -> list[LayerData]:
    """Return a volume of cells ``(32, 128, 128)`` uint8, and its truth."""
    return _layers(*_made(_SEED, (32, 128, 128)), "cells 3D", ("z", "y", "x"))


def cells_in_time() -> list[LayerData]:
    """Return a time series of 6 images of cells ``(6, 192, 192)`` uint8, and its truth."""
    frames = [_made(_SEED + number, (192, 192)) for number in range(6)]
    image, truth = (np.stack(part) for part in zip(*frames, strict=True))
    return _layers(image, truth, "cells in time", ("t", "y", "x"))


def _made(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    image, labels = generate(seed, shape=shape)
    return image[0].astype(np.uint8), labels


def _layers(image: np.ndarray, truth: np.ndarray, name: str, axes: tuple[str, ...]) -> list[LayerData]:
    place = {
        "scale": tuple(1.0 if a == "t" else _UM for a in axes),
        "units": tuple("second" if a == "t" else "um" for a in axes),
        "axis_labels": axes,
    }
    return [(image, {**place, "name": name}, "image"), (truth, {**place, "name": f"{name}, truth"}, "labels")]
