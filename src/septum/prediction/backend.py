"""Which code computes a network: by a written rule, Septum's CPU engine or PyTorch.

The engine (`septum.cpu.inference`) computes on a CPU 2D networks, and 3D networks with padding, of equal depths along Y
and X. It is used by default

- on the processors, and from the network width on, that `LEAST_WIDTH` lists: measured, it is faster there;
- from `LEAST_OPERATIONS` on: loading the compiled code must pay off;
- where its memory fits into the limit;
- where its probabilities equal those of PyTorch within `septum.nn.rounding.TOLERANCE`, verified for each network.

Nothing is timed or stored, so the same command takes the same code each time.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch

from septum.errors import UsageError
from septum.nn.device import Device
from septum.nn.ensemble import Ensemble, Network, members_of
from septum.nn.rounding import TOLERANCE
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.settings import Backend

# The least width from which the engine is used, by the vector instructions of an x86-64 processor. Processor seconds of
# PyTorch divided by those of the engine, one thread, by benchmarks/engine_rule.py: width 2: 0.6 to 0.9, 4: 1.2 to 1.5,
# 6: 1.4 to 1.9, 8: 1.8 to 2.5, 16: 2.5 to 2.8, 32: 2.4 to 3.4. Widths below 8 gain less, of a time that is short; as
# the same rule scores validation images, a lower bound would also change the scores of such trainings. Volumes, with
# AVX-512: width 8: 6.6 to 7.1, 16: 2.3 to 4.4, 32: 2.1.
# Other processors were not measured: there PyTorch computes unless the engine is asked for.
LEAST_WIDTH = {"AVX512": 8, "AVX2": 8}

# PyTorch computes about 1e11 operations a second on one core. Loading the compiled engine takes 0.6 s, once in a
# process: the engine saves more from 1.2e11 operations on. Compiling takes about 5 s, once on a machine.
LEAST_OPERATIONS = 3e11

_LOADING_BYTES = 100_000_000
# Share of the memory left that the weights of the engine may take: the rest is for images and tiles.
_MEMORY_SHARE = 1 / 3


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine, and how far its probabilities may differ from those of PyTorch for usual images."""

    engine: Network
    difference: float

    @property
    def right(self) -> bool:
        """Return True if the difference is rounding."""
        return self.difference <= TOLERANCE


@dataclass(frozen=True)
class Choice:
    """The code that computes a network, and the reason."""

    name: Literal["torch", "septum"]
    why: str

    @property
    def code(self) -> str:
        """The name for messages."""
        return {"torch": "PyTorch", "septum": "Septum's engine"}[self.name]


def verified_engine(network: Network) -> VerifiedEngine:
    """Build the engine of a network, which measures its rounding against PyTorch.

    Parameters
    ----------
    network
        From `septum.nn.unet.for_prediction`, or several of them, on the CPU.
    """
    from septum.cpu.inference import Engine

    engines = [Engine(member) for member in members_of(network) if isinstance(member, UNet)]
    engine: Network = engines[0] if len(engines) == 1 else Ensemble(engines)
    return VerifiedEngine(engine, max(one.rounding.difference for one in engines))


@dataclass
class Workload:
    """What a model has computed, and its engine as soon as it is built.

    A copy, also one for another process, builds its own engine, which has threads.
    """

    operations: float = 0.0
    engine: VerifiedEngine | None = None

    def __reduce__(self) -> tuple[type[Workload], tuple[float]]:
        return Workload, (self.operations,)

    def verified(self, network: Network) -> VerifiedEngine:
        """Return the engine of the network, which is always the same one."""
        self.engine = self.engine or verified_engine(network)
        return self.engine


def select_backend(
    network: Network,
    device: Device,
    *,
    wanted: Backend = "auto",
    work: float = inf,
    room: float = inf,
    make: Callable[[], VerifiedEngine] | None = None,
) -> Choice:
    """Choose the code that computes a network.

    Parameters
    ----------
    network
        For prediction, on `device`.
    device
        Where the network is.
    wanted
        ``"torch"`` or ``"septum"`` as the user asked; ``"auto"``: by the rule of this module.
    work
        Number of operations to compute.
    room
        Bytes that the process may still take, for images and tiles too.
    make
        Builds and verifies the engine; `verified_engine` by default.

    Raises
    ------
    UsageError
        If the engine is asked for but does not compute this network on this device, or computes it wrongly.
    """
    refusal = "asked for" if wanted == "torch" else _unsupported(network.settings, device)
    if refusal is None and wanted == "auto":
        refusal = slower(network.settings) or _too_little(work) or _too_large(network, room)
    if refusal is None and not (verified := (make or (lambda: verified_engine(network)))()).right:
        refusal = f"Septum's engine differs from PyTorch by up to {verified.difference:.1g} in a probability here"
    if refusal is None:
        return Choice("septum", "asked for" if wanted == "septum" else f"faster from width {_least_width()} on")
    if wanted == "septum":
        raise UsageError(f"--engine septum: {refusal}", "a network that the engine computes", "leave --engine out")
    return Choice("torch", refusal)


def for_scores(network: UNet, device: Device) -> Network:
    """Return the code that scores validation images in training: by the rule, whatever the amount of work.

    Parameters
    ----------
    network
        In training, on `device`; see `septum.nn.unet.for_prediction`.
    device
        Where the network is.
    """
    folded = for_prediction(network)
    if (_unsupported(network.settings, device) or slower(network.settings)) is None:
        verified = verified_engine(folded)
        if verified.right:
            return verified.engine
    return folded


def slower(shape: UNetSettings) -> str | None:
    """Return why the engine is not faster than PyTorch for a network on this processor; None if it is."""
    least = _least_width()
    if least is None:
        return "the speed of Septum's engine was not measured on this kind of processor"
    return f"Septum's engine is not faster below width {least}" if shape.width < least else None


def describe_rule() -> str:
    """Return the code that computes predictions on this CPU, for messages."""
    least = _least_width()
    if least is None:
        return "PyTorch (--engine septum for Septum's engine)"
    return f"Septum's engine for images and padded volumes from width {least} on if there is enough work, else PyTorch"


def _least_width() -> int | None:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return LEAST_WIDTH.get(torch.backends.cpu.get_cpu_capability()) if x86 else None


def _unsupported(shape: UNetSettings, device: Device) -> str | None:
    """Return why the engine cannot compute a network on a device; None if it can."""
    if device.torch.type != "cpu":
        return f"PyTorch computes on {device.name}"
    *planes, y, x = shape.depths
    if planes and shape.padding == "valid":
        return "PyTorch computes volumes without padding"
    unequal = y != x or (planes and planes[0] > y)
    return "PyTorch computes networks with unequal depths" if unequal else None


def _too_little(work: float) -> str | None:
    return "too little work to load Septum's engine" if work < LEAST_OPERATIONS else None


def _too_large(network: Network, room: float) -> str | None:
    """Return a reason if the engine and its weights take too much of the memory; does not load it to find that out."""
    loaded = "septum.cpu.inference" in sys.modules
    left = _MEMORY_SHARE * room - (0 if loaded else _LOADING_BYTES)
    if left > 0:
        from septum.cpu.inference import weight_bytes

        if len(members_of(network)) * weight_bytes(network.settings) <= left:
            return None
    return "Septum's engine and its weights would take too much of the memory limit"
