"""Describe a model file, and the installation."""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from pathlib import Path

from septum.models.named import NAMES, name_of, read_card
from septum.version import __version__


def installation(device: str = "auto") -> dict[str, str]:
    """Return versions, the device with the reason, the code that computes on a CPU, and the models of this version."""
    import numpy as np
    import torch

    from septum.nn.device import find_device
    from septum.prediction.backend import describe_rule

    chosen = find_device(device)
    return {
        "septum": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": chosen.name,
        "why": chosen.why,
        "prediction on CPU": describe_rule() if chosen.torch.type == "cpu" else "PyTorch",
        "training precision": "bfloat16 (weights float32)" if chosen.bfloat16 else "float32",
        "models": ", ".join(NAMES),
    }


def libraries() -> dict[str, str]:
    """Return the versions of the installed libraries that Septum requires, by name."""
    from importlib.metadata import PackageNotFoundError, requires, version

    found = {}
    for requirement in requires("septum") or []:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe_model(path: Path, device: str = "auto", *, curves: bool = False) -> dict[str, object]:
    """Return the content of a model file, after verifying that it works here.

    Verifying Septum's engine, if it computes the model, compiles it: seconds, once for a machine.

    Parameters
    ----------
    path
        A model file, a run folder, or the name of a model that comes with Septum.
    device
        See `septum.nn.device.find_device`.
    curves
        Hold the intensity quantiles and the hashes of the training images as well: hundreds of numbers.

    Returns
    -------
    dict
        Values that JSON can hold: the header of `septum.prediction.model.ModelHeader`, and ``parameters``,
        ``context_px``, ``device`` and ``computed_by``; ``card``, a text, of a model that comes with Septum.

    Raises
    ------
    ModelError
        If the file is missing, damaged, foreign, or does not reproduce its test pair; if the run has not ended.
    """
    from septum.nn.ensemble import members_of
    from septum.nn.unet import UNet
    from septum.prediction.model import model_file, open_model

    file = model_file(path)
    model, name = open_model(file, device), name_of(file)
    networks = [n for n in members_of(model.network) if isinstance(n, UNet)]
    choice = model.choose()
    hidden = {"domain": {"curves"}, "release": {"images"}}
    return {
        **({} if name is None else {"card": read_card(name)}),
        **model.header.model_dump(mode="json", exclude=None if curves else hidden),
        "parameters": sum(p.numel() for n in networks for p in n.parameters()),
        "context_px": list(model.network.geometry.contexts),
        "device": model.device.name,
        "computed_by": f"{choice.code}: {choice.why}",
    }
