"""Say what a model file holds, and what this installation computes with."""

from __future__ import annotations

import platform
from pathlib import Path

import septum


def installation() -> dict[str, str]:
    """Return versions and the device that would be used, with the reason."""
    import numpy as np
    import torch

    from septum.nn.device import find_device

    device = find_device()
    return {
        "septum": septum.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device.name,
        "why": device.why,
        "training precision": "bfloat16 (weights float32)" if device.bfloat16 else "float32",
    }


def describe_model(path: Path) -> dict[str, object]:
    """Return what a model file says of itself, after verifying that it works here.

    Parameters
    ----------
    path
        A model file.

    Returns
    -------
    dict
        Values that JSON can hold: the header of `septum.jobs.model.ModelHeader`, and ``parameters``, ``context_px`` and
        ``device``.

    Raises
    ------
    ModelError
        If the file is missing, damaged, foreign, or does not reproduce its test pair.
    """
    from septum.jobs.model import open_model

    model = open_model(path)
    return {
        **model.header.model_dump(mode="json", exclude={"seen": {"curves"}}),  # hundreds of numbers for no person
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "context_px": list(model.network.geometry.contexts),
        "device": model.device.name,
    }
