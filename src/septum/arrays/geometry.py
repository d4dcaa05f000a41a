"""Sides and context of a U-Net, in integers, one axis at a time.

A U-Net of depth ``d`` along an axis pools that axis ``d`` times. Each level has two convolutions of side 3 on the
contracting path and two on the expanding path. Without padding the network maps a side ``n`` to ``n - 2 c``; the paper
has ``d = 4``, ``c = 92``, 572 -> 388. An axis may be shallower than the network (``d`` smaller than the number of
levels): its finest levels then neither pool nor convolve along it, which is how thin stacks and anisotropic volumes are
processed. ``d = 0`` leaves only the two convolutions at the bottom.

All other sizes (the network, the tiles, the memory) follow from these functions; the network checks itself against
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Padding = Literal["valid", "same"]


def smallest_input(depth: int) -> int:
    """Return the smallest input side of a network without padding: 188 for the paper's depth 4."""
    # The first side 2**depth * k - 4 that is larger than twice the context, 12 * 2**depth - 8.
    return {0: 5, 1: 18}.get(depth, 12 * (1 << depth) - 4)


def context(depth: int, padding: Padding = "valid") -> int:
    """Return the margin of image that a tile needs around its output, on each side.

    Without padding this is half of the difference between input and output: ``6 * 2**depth - 4`` (92 at depth 4). A
    single pixel may depend on pixels up to ``2**depth - 1`` further to one side, towards the other end of its pooling
    cell, never outside of its tile. With padding it is the reach of the receptive field from any place of the pooling
    grid, rounded up to a multiple of ``2**depth`` so that a tile with its context begins on that grid.
    """
    if padding == "valid":
        return 6 * (1 << depth) - 4
    grid = 1 << depth
    reach = max(max(a - lo, hi - a) for a in range(grid) for lo, hi in [_needed(a, a, depth)])
    return -(-reach // grid) * grid


def _needed(lo: int, hi: int, depth: int) -> tuple[int, int]:
    """Return the input interval that the output interval lo..hi depends on, with the pooling grid at even positions."""
    if depth == 0:
        return lo - 2, hi + 2
    lo, hi = lo - 2, hi + 2
    below_lo, below_hi = _needed(lo // 2, hi // 2, depth - 1)
    return min(lo, 2 * below_lo) - 2, max(hi, 2 * below_hi + 1) + 2


def is_valid_input(side: int, depth: int, padding: Padding = "valid") -> bool:
    """Return True if a network accepts this input side.

    Without padding these are ``2**depth * k - 4`` from `smallest_input` on (16 k + 60 >= 188 in the paper); with
    padding the multiples of ``2**depth``.
    """
    if padding == "same":
        return side >= (1 << depth) and side % (1 << depth) == 0
    return side >= smallest_input(depth) and (side + 4) % (1 << depth) == 0


def output_side(side: int, depth: int, padding: Padding = "valid") -> int:
    """Return the output side for a valid input side; raise `ValueError` for any other."""
    if not is_valid_input(side, depth, padding):
        raise ValueError(
            f"side {side} does not fit depth {depth}; the next that does is {next_input(side, depth, padding)}"
        )
    return side if padding == "same" else side - 2 * context(depth)


def next_input(side: int, depth: int, padding: Padding = "valid") -> int:
    """Return the smallest valid input side that is at least `side`."""
    grid = 1 << depth
    if padding == "same":
        return max(grid, -(-side // grid) * grid)
    side = max(side, smallest_input(depth))
    return -(-(side + 4) // grid) * grid - 4


def input_for_output(wanted: int, depth: int, padding: Padding = "valid") -> int:
    """Return the smallest valid input side that gives at least `wanted` output pixels with their whole context."""
    return next_input(wanted + 2 * context(depth, padding), depth, padding)


@dataclass(frozen=True)
class Geometry:
    """Depth per axis and padding of one network.

    Parameters
    ----------
    depths
        Poolings along each spatial axis, ``(Y, X)`` or ``(Z, Y, X)``.
    padding
        ``"valid"``: unpadded convolutions, as in the paper. ``"same"``: zero padding.
    """

    depths: tuple[int, ...]
    padding: Padding = "valid"

    @property
    def contexts(self) -> tuple[int, ...]:
        """Context per axis in pixels."""
        return tuple(context(d, self.padding) for d in self.depths)

    @property
    def grid(self) -> tuple[int, ...]:
        """Side of the coarsest pooling cell per axis: outputs placed at its multiples see the same pooling grid."""
        return tuple(1 << d for d in self.depths)

    @property
    def crop(self) -> tuple[int, ...]:
        """Position, per axis, of the first output pixel with its whole context in the network's output."""
        return self.contexts if self.padding == "same" else (0,) * len(self.depths)

    def output(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Return the network's output sides for these input sides; raise `ValueError` if one does not fit."""
        return tuple(output_side(n, d, self.padding) for n, d in zip(sides, self.depths, strict=True))

    def input_for(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest input sides that give at least these output sides with their whole context."""
        return tuple(input_for_output(n, d, self.padding) for n, d in zip(wanted, self.depths, strict=True))
