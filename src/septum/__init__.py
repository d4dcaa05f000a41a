"""Septum: U-Net segmentation that keeps touching objects apart.

Two lines do the main job::

    model = septum.train("images/", "masks/")
    labels = septum.predict(model, image)

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from septum.jobs.python import open_model as open_model
    from septum.jobs.python import predict as predict
    from septum.jobs.python import train as train

__version__ = "0.1.0"
__all__ = ["__version__", "open_model", "predict", "train"]


def __getattr__(name: str) -> object:
    """Import the verbs on first use: they bring torch."""
    if name in ("open_model", "predict", "train"):
        from septum.jobs import python

        return getattr(python, name)
    raise AttributeError(f"module 'septum' has no attribute {name!r}")
