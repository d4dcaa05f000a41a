"""Say what a model file holds, and what this installation computes with."""

from __future__ import annotations

import platform
from pathlib import Path

from septum.version import __version__


def installation() -> dict[str, str]:
    """Return versions and the device that would be used, with the reason."""
    import numpy as np
    import torch

    from septum.nn.device import find_device
    from septum.predict.backend import known_speeds

    device = find_device()
    measured = [f"{shape}: {speed.text}" for shape, speed in known_speeds().items()]
    engine = "Septum's engine where it is faster; " + ("; ".join(measured) or "`septum info MODEL` measures")
    return {
        "septum": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device.name,
        "why": device.why,
        "prediction on CPU": engine if device.torch.type == "cpu" else "PyTorch",
        "training precision": "bfloat16 (weights float32)" if device.bfloat16 else "float32",
    }


def describe_model(path: Path) -> dict[str, object]:
    """Return what a model file says of itself, after verifying that it works here.

    What computes it is chosen, if need be by measuring, which compiles Septum's engine: seconds, once for a machine.

    Parameters
    ----------
    path
        A model file.

    Returns
    -------
    dict
        Values that JSON can hold: the header of `septum.predict.model.ModelHeader`, and ``parameters``, ``context_px``,
        ``device`` and ``computed_by``.

    Raises
    ------
    ModelError
        If the file is missing, damaged, foreign, or does not reproduce its test pair.
    """
    from septum.nn.ensemble import members_of
    from septum.nn.unet import UNet
    from septum.predict.model import open_model

    model = open_model(path)
    networks = [n for n in members_of(model.network) if isinstance(n, UNet)]
    choice = model.choose()
    return {
        **model.header.model_dump(mode="json", exclude={"seen": {"curves"}}),  # hundreds of numbers for no person
        "parameters": sum(p.numel() for n in networks for p in n.parameters()),
        "context_px": list(model.network.geometry.contexts),
        "device": model.device.name,
        "computed_by": f"{choice.code}: {choice.why}",
    }
