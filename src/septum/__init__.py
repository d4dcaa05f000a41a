"""Septum: U-Net segmentation that separates touching objects.

Two lines do the main job::

    model = septum.train("images/", "masks/")
    labels = septum.predict(model, image)

Heavy imports are delayed until first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from septum.version import __version__

if TYPE_CHECKING:
    from septum.api import open_model as open_model
    from septum.api import predict as predict
    from septum.api import train as train


__all__ = ["__version__", "open_model", "predict", "train"]


def __getattr__(name: str) -> object:
    """Import the functions of `septum.api` on first use: they import torch."""
    if name in ("open_model", "predict", "train"):
        from septum import api

        return getattr(api, name)
    raise AttributeError(f"module 'septum' has no attribute {name!r}")
