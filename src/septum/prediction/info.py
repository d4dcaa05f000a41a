"""Describe a model file, and the installation."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from septum.models.named import NAMES, name_of, read_card
from septum.version import __version__


def installation(device: str = "auto") -> dict[str, str]:
    """Return versions, the computer, the device with the reason, the code that computes on a CPU, extras and models."""
    import numpy as np
    import torch

    from septum.nn.device import find_device
    from septum.prediction.backend import describe_rule
    from septum.prediction.memory import total_bytes
    from septum.words import format_bytes

    chosen = find_device(device)
    return {
        "septum": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "memory": format_bytes(total_bytes()),
        "device": chosen.name,
        "why": chosen.why,
        "prediction on CPU": describe_rule() if chosen.torch.type == "cpu" else "PyTorch",
        "training precision": "bfloat16 (weights float32)" if chosen.bfloat16 else "float32",
        "extras": ", ".join(extras()),
        "models": ", ".join(NAMES),
    }


def libraries() -> dict[str, str]:
    """Return the versions of the installed libraries that Septum requires, by name."""
    return {name: version for name, _, version in _required() if version is not None}


def extras() -> list[str]:
    """Return the extras all of whose libraries are installed, without that of developers."""
    required = list(_required())
    lacking = {extra for _, extra, version in required if version is None}
    return [extra for extra in dict.fromkeys(extra for _, extra, _ in required) if extra not in {"", "dev", *lacking}]


def _required() -> Iterator[tuple[str, str, str | None]]:
    """Yield each library that Septum requires, its extra, ``""`` for none, and its version, None if not installed."""
    from importlib.metadata import PackageNotFoundError, requires, version

    for requirement in requires("septum") or []:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)", requirement)
        try:
            found = version(name)
        except PackageNotFoundError:
            found = None
        yield name, extra[1] if extra else "", found


def _processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    with suppress(OSError):
        names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if names:
            return str(names[0])
    return platform.processor() or platform.machine()


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
