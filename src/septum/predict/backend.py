"""Which code computes a network on the processor: Septum's engine where it is faster and right, PyTorch elsewhere.

How fast both are is measured once for a processor, its threads, the versions of what computes, and a shape of networks,
and kept in the user's cache folder. Whether the engine is right is looked at for every network.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter

from septum.errors import FileError, UsageError
from septum.io.atomic import whole_file
from septum.nn.device import Device
from septum.nn.ensemble import Ensemble, Network, members_of
from septum.nn.rounding import TOLERANCE
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.predict.network_memory import operations, tile_bytes
from septum.version import __version__

Wanted = Literal["auto", "torch", "septum"]
Name = Literal["torch", "septum"]

# Compiling takes about five seconds, once for a machine. PyTorch needs as long for so many operations.
_WORTH_COMPILING = 1_500_000_000_000
# Loading what is compiled takes so long and so much memory, once for a process.
_LOADING_S, _LOADING_BYTES = 0.6, 100_000_000
# Of the memory that is left the engine may have this share before it computes: the rest is for images and tiles.
_ROOM = 1 / 3
# A measurement may cost so much of the work that it is for.
_WORTH_MEASURING = 0.3
_MEASURED_SIDE = 96  # output pixels
_REPEATS = 3

# In training nothing is measured, as a training must repeat: the engine scores from this width on, where it was faster
# on all processors that were tried.
_SURELY_FASTER = 8

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_MEASUREMENTS = TypeAdapter(dict[str, dict[str, tuple[_Seconds, _Seconds]]])


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine and how far its probabilities may be from PyTorch's, if it computes usual images itself."""

    engine: Network
    difference: float

    @property
    def right(self) -> bool:
        """Whether that is rounding."""
        return self.difference <= TOLERANCE


@dataclass(frozen=True)
class Choice:
    """What computes a network, and why."""

    name: Name
    why: str

    @property
    def code(self) -> str:
        """The name for people."""
        return {"torch": "PyTorch", "septum": "Septum's engine"}[self.name]


@dataclass(frozen=True)
class Speed:
    """Seconds that a tile took."""

    torch_s: float
    engine_s: float

    @property
    def text(self) -> str:
        """The comparison for people."""
        ratio = self.torch_s / self.engine_s
        if ratio > 1:
            return f"measured here to be {ratio:.1f} times faster than PyTorch"
        return f"measured here to be {1 / ratio:.1f} times slower than PyTorch"


def verified_engine(network: Network) -> VerifiedEngine:
    """Make the engine of a network from `septum.nn.unet.for_prediction`, which measures its rounding."""
    from septum.cpu.inference import Engine

    engines = [Engine(member) for member in members_of(network) if isinstance(member, UNet)]
    engine: Network = engines[0] if len(engines) == 1 else Ensemble(engines)
    return VerifiedEngine(engine, max(one.rounding.difference for one in engines))


def select_backend(
    network: Network,
    device: Device,
    *,
    wanted: Wanted = "auto",
    work: float = inf,
    room: float = inf,
    make: Callable[[], VerifiedEngine] | None = None,
) -> Choice:
    """Choose what computes a network.

    Parameters
    ----------
    network
        For prediction, on `device`.
    device
        Where it is.
    wanted
        What a person asked for; ``"auto"`` takes what is faster.
    work
        Operations that are to be done: for few nothing is compiled or measured.
    room
        Bytes that are left: for the engine, its weights and measuring, and for all that a prediction takes.
    make
        Makes the engine; `verified_engine` where not given.

    Raises
    ------
    UsageError
        If the engine is asked for and cannot compute this network here, or computes it wrongly.
    """
    refusal = _refusal(network.settings, device)
    make = make or (lambda: verified_engine(network))
    if wanted == "torch" or (wanted == "auto" and refusal):
        return Choice("torch", refusal or "asked for")
    if wanted == "septum":
        if refusal is None and not (found := make()).right:
            refusal = _wrong(found)
        if refusal is not None:
            raise UsageError(f"--engine septum: {refusal}", "a network that it computes", "leave --engine out")
        return Choice("septum", "asked for")
    speed = known_speed(network.settings)
    if speed is None and (refusal := _not_worth(network.settings, work)) is not None:
        return Choice("torch", refusal)
    if speed is not None and speed.torch_s <= speed.engine_s:
        return Choice("torch", f"Septum's engine was {speed.text}")
    if speed is not None and not _loaded() and _saved_s(speed, network, work) < _LOADING_S:
        return Choice("torch", "too little to do for loading Septum's engine")
    if not _fits(network, room, measuring=speed is None):
        return Choice("torch", "Septum's engine and its weights would take too much of the memory that may be taken")
    found = make()
    if not found.right:
        return Choice("torch", _wrong(found))
    if speed is None:
        speed = measure(members_of(network)[0], members_of(found.engine)[0])
        _keep(network.settings, speed)
    better = speed.engine_s < speed.torch_s
    return Choice("septum", speed.text) if better else Choice("torch", f"Septum's engine was {speed.text}")


def for_scores(network: UNet, device: Device) -> Network:
    """Return what computes a network in training when held-out images are scored.

    It is the same each time, whatever is measured: a training repeats exactly.

    Parameters
    ----------
    network
        In training, on `device`; see `septum.nn.unet.for_prediction`.
    device
        Where it is.
    """
    folded = for_prediction(network)
    if _refusal(network.settings, device) is None and network.settings.width >= _SURELY_FASTER:
        found = verified_engine(folded)
        if found.right:
            return found.engine
    return folded


def measure(network: Network, engine: Network) -> Speed:
    """Time both on a tile, taking turns; the least of a few times each."""
    x = _noise(network.settings, _measured_sides(network.settings))

    def seconds(compute: Network) -> float:
        begin = time.perf_counter()
        compute(x)
        return time.perf_counter() - begin

    with torch.inference_mode():
        times = [(seconds(network), seconds(engine)) for _ in range(_REPEATS)]
    return Speed(*map(min, zip(*times, strict=True)))


def known_speed(settings: UNetSettings) -> Speed | None:
    """Return what was measured on this machine for networks of this shape; None if nothing was."""
    found = _read().get(_machine(), {}).get(_shape(settings))
    return None if found is None else Speed(*found)


def known_speeds() -> dict[str, Speed]:
    """Return all that was measured on this machine, by the shape of the network."""
    return {shape: Speed(*found) for shape, found in sorted(_read().get(_machine(), {}).items())}


def _refusal(settings: UNetSettings, device: Device) -> str | None:
    """Say why the engine does not compute a network; None if it can."""
    if device.torch.type != "cpu":
        return f"PyTorch computes on {device.name}"
    if len(settings.depths) != 2:
        return "PyTorch computes volumes"
    if settings.depths[0] != settings.depths[1]:
        return "PyTorch computes networks whose depths differ"
    return None


def _wrong(found: VerifiedEngine) -> str:
    return f"Septum's engine differs from PyTorch by up to {found.difference:.1g} in a probability here"


def _not_worth(settings: UNetSettings, work: float) -> str | None:
    """Say why it does not pay to measure for so much work; None if it does."""
    both = 2 * _REPEATS * operations(settings, _measured_sides(settings))
    if work * _WORTH_MEASURING < both:
        return "too little to do for measuring whether Septum's engine is faster; `septum info MODEL` measures it"
    if work < _WORTH_COMPILING and not known_speeds():
        return "too little to do for compiling Septum's engine, once for this machine; `septum info MODEL` does it"
    return None


def _loaded() -> bool:
    return "septum.cpu.inference" in sys.modules


def _saved_s(speed: Speed, network: Network, work: float) -> float:
    """Return by how many seconds the engine is faster with so many operations."""
    measured = operations(network.settings, _measured_sides(network.settings))
    return (speed.torch_s - speed.engine_s) * work / measured


def _fits(network: Network, room: float, *, measuring: bool) -> bool:
    """Say whether the engine leaves enough of the memory, and do not load it to find that it does not."""
    left = _ROOM * room - (0 if _loaded() else _LOADING_BYTES)
    if left <= 0:
        return False
    from septum.cpu.inference import weight_bytes

    settings = network.settings
    measured = tile_bytes(settings, _measured_sides(settings)) if measuring else 0
    return len(members_of(network)) * weight_bytes(settings) + measured <= left


def _measured_sides(settings: UNetSettings) -> tuple[int, ...]:
    return settings.geometry.input_for((_MEASURED_SIDE,) * len(settings.depths))


def _noise(settings: UNetSettings, sides: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, settings.channels, *sides, generator=generator)


def _shape(settings: UNetSettings) -> str:
    return f"width {settings.width}, depth {max(settings.depths)}, padding {settings.padding}"


def _machine() -> str:
    """Return what a measurement depends on beside the network."""
    return f"{_processor()}; {torch.get_num_threads()} threads; {_versions()}"


@lru_cache(maxsize=1)
def _processor() -> str:
    said: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            said.setdefault(name.strip(), value.strip())  # of the first core
    wanted = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    return " ".join([platform.machine(), platform.processor(), *(said[name] for name in wanted if name in said)])


@lru_cache(maxsize=1)
def _versions() -> str:
    found = {"septum": __version__, "torch": torch.__version__}
    for package in ("numba", "llvmlite"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return ", ".join(f"{name} {value}" for name, value in found.items())


def cache_file() -> Path:
    """Return where measurements are kept: in the folder that the system has for such files."""
    usual = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(f"~/{usual}")  # noqa: PTH111 - Path's may raise
    return Path(folder) / "septum" / "engine.json"


def _read() -> dict[str, dict[str, tuple[float, float]]]:
    """Return all measurements by machine and shape; what is damaged counts as not there."""
    with suppress(OSError, ValueError):
        return _MEASUREMENTS.validate_json(cache_file().read_bytes())
    return {}


def _keep(settings: UNetSettings, speed: Speed) -> None:
    """Keep a measurement for later; where that is not possible it is made again."""
    found = _read()
    found.setdefault(_machine(), {})[_shape(settings)] = (speed.torch_s, speed.engine_s)
    with suppress(OSError, FileError):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        with whole_file(cache_file()) as temporary:
            temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
