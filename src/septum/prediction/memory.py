"""Memory: of this process, its limit, and the need of the network for a tile.

`septum.prediction.settings` reads this module for the help text of the command: torch is imported inside functions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from septum.errors import UsageError

if TYPE_CHECKING:
    from septum.nn.unet import UNetSettings

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# Memory that a training keeps for the network, at most.
_NETWORK_BYTES = 4 << 30

# Share of the free memory that is used by default: other programs keep working.
_FREE_SHARE = 0.7

_FLOAT_BYTES = 4
# oneDNN computes convolutions of any memory layout on copies whose features are padded to a multiple of this.
_ONEDNN_LANES = 16
# Kernel scratch memory and rounding by the allocator, which the copies above do not explain. Measured with
# benchmarks/engine.py over widths, depths, ranks and paddings.
_SLACK_SHARE, _SLACK_BYTES = 0.35, 24_000_000
# The allocator rounds up the few blocks of the CPU engine.
_ENGINE_SLACK_BYTES = 8_000_000
# Feature maps that training keeps of each convolution: its output, that of the normalization, and its part of a
# concatenation. Copies of each weight in training: the value, its gradient, the two moments of the optimizer and the
# mean of the last steps; and all but the gradient once more, in the state to go back to after a loss that is no number.
_KEPT_MAPS, _WEIGHT_COPIES = 3, 9


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as ``2G``, ``800M``, ``1.5 GB`` or ``2GiB``; K, M, G, T are powers of 1024.

    Raises
    ------
    UsageError
        If `text` is not a size, or has no unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:I?B)?|B)", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--max-memory {text}", "a size with its unit, such as 2G or 800M", "write --max-memory 2G")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the largest memory that this process has held since its start."""
    import psutil

    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # getrusage would include the program that started this process
        with suppress(OSError, IndexError):
            return int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) << 10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)


def usual_limit() -> int:
    """Return the default memory limit of this process: the memory it holds and most of the free memory.

    Free is the least that the machine, the container or batch job (control group) and the process limit leave.
    """
    import psutil

    free = min([int(psutil.virtual_memory().available), *_group_free(), *_process_free()])
    return resident_bytes() + int(_FREE_SHARE * max(0, free))


def bytes_for_images(limit: int) -> int:
    """Return the bytes of a limit that a training may hold images in, with what it makes of them.

    Up to half of what this process leaves of the limit is kept for the network, at most 4 GB.
    """
    free = max(0, limit - resident_bytes())
    return free - min(free // 2, _NETWORK_BYTES)


def total_bytes() -> int:
    """Return the memory of the machine, or of the container or batch job (control group) if that is less."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _groups())])


def _group_free() -> list[int]:
    """Return the free memory of each control group of this process that has a limit."""
    return [limit - used for limit, used in _groups()]


def _groups() -> list[tuple[int, int]]:
    """Return limit and use, in bytes, of each control group of this process that has a limit."""
    groups = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kinds, inside = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            base = Path("/sys/fs/cgroup/memory" if kinds else "/sys/fs/cgroup")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
            own = base / inside.lstrip("/")
            for folder in [own, *own.parents]:
                if not folder.is_relative_to(base):
                    break
                with suppress(OSError, ValueError):  # "max" is not a number: no limit
                    limit, used = (int((folder / name).read_text(encoding="utf-8")) for name in names)
                    if limit < 1 << 60:
                        groups.append((limit, used))
    return groups


def _process_free() -> list[int]:
    """Return the address space that the limit of this process leaves free, if there is a limit."""
    if sys.platform == "win32":
        return []
    import resource

    import psutil

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if soft == resource.RLIM_INFINITY else [soft - int(psutil.Process().memory_info().vms)]


@dataclass(frozen=True)
class _Step:
    """One operation of the network.

    Parameters
    ----------
    taps
        Input pixels that one output pixel depends on.
    inside, before
        Features and pixels of the input.
    outside, after
        Features and pixels of the output.
    held
        float32 values of other feature maps that are alive at the same time.
    """

    taps: int
    inside: int
    before: int
    outside: int
    after: int
    held: int


def tile_bytes(settings: UNetSettings, sides: Sequence[int], *, members: int = 1, engine: bool = False) -> int:
    """Return an upper bound of the working memory of one tile, without the weights.

    Parameters
    ----------
    settings
        The network's shape.
    sides
        Input sides of the tile, valid for `Geometry.output`.
    members
        Number of networks that are applied one after the other (`septum.nn.ensemble`).
    engine
        The CPU engine (`septum.cpu.inference`) computes the tile; otherwise PyTorch does.

    Returns
    -------
    int
        Bytes for a batch of one: input, feature maps, copies made by kernels, logits.

    Raises
    ------
    ValueError
        If the sides do not fit the network.
    """
    written = settings.classes * prod(settings.geometry.output(sides))
    # The sum of the first networks is held while the next one runs; adding to it takes three more maps.
    summed = written if members > 1 else 0
    if engine:
        import torch

        from septum.cpu.inference import working_bytes

        one = working_bytes(settings, tuple(sides), torch.get_num_threads()) + _ENGINE_SLACK_BYTES
        return members * one + 4 * summed * _FLOAT_BYTES  # each member has an engine with its own memory
    peak = max(
        step.held
        + step.inside * step.before
        + step.outside * step.after
        + _padded(step.inside) * step.before
        + _padded(step.outside) * step.after
        for step in _steps(settings, sides)
    )
    peak = max(peak + summed, 4 * summed)
    return int(peak * _FLOAT_BYTES * (1 + _SLACK_SHARE)) + _SLACK_BYTES


def operations(settings: UNetSettings, sides: Sequence[int]) -> int:
    """Return the number of additions and multiplications of one tile: 301e9 for the paper's network at 572 x 572."""
    return sum(2 * step.taps * step.inside * step.outside * step.after for step in _steps(settings, sides))


def training_bytes(settings: UNetSettings, sides: Sequence[int], batch: int) -> int:
    """Estimate the memory of a training step: an upper bound of the tensors kept for the gradients.

    Parameters
    ----------
    settings
        The network's shape.
    sides
        Input sides of a tile, valid for `Geometry.output`.
    batch
        Number of tiles in the batch of one process.

    Returns
    -------
    int
        Bytes of the outputs of convolutions and normalizations, of copies of inputs, and of the weights with all that
        training holds of each.

    Raises
    ------
    ValueError
        If the sides do not fit the network.
    """
    settings.geometry.output(sides)
    steps = list(_steps(settings, sides))
    kept = settings.channels * prod(sides) + sum(_KEPT_MAPS * step.outside * step.after for step in steps)
    kernel = int(3 ** len(settings.depths))
    weights = sum(step.inside * step.outside * kernel for step in steps)
    return _FLOAT_BYTES * (batch * kept + _WEIGHT_COPIES * weights) + _SLACK_BYTES


def _padded(features: int) -> int:
    return -(-features // _ONEDNN_LANES) * _ONEDNN_LANES


def _steps(settings: UNetSettings, sides: Sequence[int]) -> Iterator[_Step]:
    """Yield the operations of the forward pass, in order; sizes in float32 values."""
    levels, width, same = max(settings.depths), settings.width, settings.padding == "same"
    now, held, features = list(sides), settings.channels * prod(sides), settings.channels

    def begun(level: int) -> list[bool]:
        return [level >= levels - depth for depth in settings.depths]

    def convolved(level: int) -> int:
        for axis, deep in enumerate(begun(level)):
            now[axis] -= 2 * (deep and not same)
        return prod(now)

    def block(level: int, outside: int) -> Iterator[_Step]:
        nonlocal features
        before = prod(now)
        first = features * before  # the input of the block stays alive until its end
        middle = convolved(level)
        taps = 3 ** sum(begun(level))
        yield _Step(taps, features, before, outside, middle, held)
        yield _Step(taps, outside, middle, outside, convolved(level), held + first)
        features = outside

    skips = []
    for level in range(levels):
        yield from block(level, width << level)
        skips.append(features * prod(now))
        held += skips[-1]
        now = [n // 2 if deep else n for n, deep in zip(now, begun(level), strict=True)]
    yield from block(levels, width << levels)
    for level in reversed(range(levels)):
        before = prod(now)
        now = [n * 2 if deep else n for n, deep in zip(now, begun(level), strict=True)]
        yield _Step(1, features, before, width << level, prod(now), held)
        features = 2 * width << level
        held += (width << level) * prod(now)  # the output of the up-convolution, beside the concatenation
        yield from block(level, width << level)
        held -= (width << level) * prod(
            [n + 4 * (deep and not same) for n, deep in zip(now, begun(level), strict=True)]
        )
    yield _Step(1, features, prod(now), settings.classes, prod(now), held)
