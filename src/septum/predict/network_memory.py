"""Working memory of the network on one tile, from its settings and the tile's sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from septum.nn.unet import UNetSettings

_FLOAT = 4  # bytes
# oneDNN computes convolutions of any layout on copies whose features are padded to a multiple of this.
_LANES = 16
# What the copies above do not explain: scratch of single kernels and the allocator's rounding. Measured with
# benchmarks/engine.py over widths, depths, ranks and paddings.
_SLACK_SHARE, _SLACK_BYTES = 0.35, 24_000_000
# Of each convolution in training: its output, that of the normalization, and the part of a concatenation.
_KEPT, _MOMENTS = 3, 4

# What the allocator keeps and rounds up of the engine's few blocks.
_ENGINE_SLACK = 8_000_000


@dataclass(frozen=True)
class _Step:
    """One operation of the network.

    Parameters
    ----------
    taps
        Input pixels of one output pixel.
    inside, before, outside, after
        Features and pixels of its input and output.
    held
        What else is alive then.
    """

    taps: int
    inside: int
    before: int
    outside: int
    after: int
    held: int


def tile_bytes(settings: UNetSettings, sides: Sequence[int], *, members: int = 1, engine: bool = False) -> int:
    """Return an upper bound of the working memory of one tile, beside the weights.

    Parameters
    ----------
    settings
        The network's shape.
    sides
        Input sides of the tile; `Geometry.output` takes them.
    members
        Networks that are applied one after the other (`septum.nn.ensemble`).
    engine
        For the engine of `septum.cpu.inference`; otherwise for the network in PyTorch.

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
    # Of several networks the sum so far is held while the next one runs; three more maps are made to add to it.
    summed = written if members > 1 else 0
    if engine:
        from septum.cpu.inference import working_bytes

        one = working_bytes(settings, tuple(sides), torch.get_num_threads()) + _ENGINE_SLACK
        return members * one + 4 * summed * _FLOAT  # each engine keeps its memory
    peak = max(
        step.held
        + step.inside * step.before
        + step.outside * step.after
        + _padded(step.inside) * step.before
        + _padded(step.outside) * step.after
        for step in _steps(settings, sides)
    )
    peak = max(peak + summed, 4 * summed)
    return int(peak * _FLOAT * (1 + _SLACK_SHARE)) + _SLACK_BYTES


def operations(settings: UNetSettings, sides: Sequence[int]) -> int:
    """Return the additions and multiplications of one tile of these input sides: 301e9 in the paper at 572."""
    return sum(2 * step.taps * step.inside * step.outside * step.after for step in _steps(settings, sides))


def training_bytes(settings: UNetSettings, sides: Sequence[int], batch: int) -> int:
    """Return about how much memory a training step takes: an upper bound of what it keeps for the gradients.

    Parameters
    ----------
    settings
        The network's shape.
    sides
        Input sides of a tile; `Geometry.output` takes them.
    batch
        Tiles of one process.

    Returns
    -------
    int
        Bytes: each convolution's output, its normalization's and its input's copies, and of each weight its value,
        gradient and two moments.

    Raises
    ------
    ValueError
        If the sides do not fit the network.
    """
    settings.geometry.output(sides)
    steps = list(_steps(settings, sides))
    kept = settings.channels * prod(sides) + sum(_KEPT * step.outside * step.after for step in steps)
    kernel = int(3 ** len(settings.depths))
    weights = sum(step.inside * step.outside * kernel for step in steps)
    return _FLOAT * (batch * kept + _MOMENTS * weights) + _SLACK_BYTES


def _padded(features: int) -> int:
    return -(-features // _LANES) * _LANES


def _steps(settings: UNetSettings, sides: Sequence[int]) -> Iterator[_Step]:
    """Follow the network's forward pass; numbers of float32 values."""
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
        first = features * before  # the block's input stays alive until its end
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
        held += (width << level) * prod(now)  # the up-convolution's output beside the concatenation
        yield from block(level, width << level)
        held -= (width << level) * prod(
            [n + 4 * (deep and not same) for n, deep in zip(now, begun(level), strict=True)]
        )
    yield _Step(1, features, prod(now), settings.classes, prod(now), held)
